"""The table of methods: method = views x positives x region x memory x bound. Frozen values; no torch here.

Adding a method is adding a row. Names are the field's: instance discrimination (IR, arXiv 1805.01978), SimCLR (arXiv
2002.05709), negatives from a ring around the anchor (the annulus of arXiv 2005.13149 and 2010.02037).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Everything:
    """Every other row may be a negative."""


@dataclass(frozen=True)
class Ring:
    """Rows ranked by similarity to the anchor, from the `inner` to the `outer` share of all rows: 0 is the nearest.

    Shares are of the whole bank (absolute), not of one another. `inner` 0 gives the ball.
    """

    inner: float = 0.01
    outer: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.inner < self.outer <= 1:
            raise ValueError(f"a ring needs 0 <= inner < outer <= 1, got inner {self.inner}, outer {self.outer}")


@dataclass(frozen=True)
class Batch:
    """No memory: positives and negatives are views of the batch, over all processes."""


@dataclass(frozen=True)
class Bank:
    """One stored embedding per image: the anchor's own row is its positive, rows of the region are its negatives.

    Args:
        momentum: share of the old row kept at each visit (.5 in arXiv 1805.01978; 0 in the ring release).
        negatives: K - 1, how many rows the region should hold: sets how many candidates are drawn from a large bank.
    """

    momentum: float = 0.5
    negatives: int = 4095

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the bank's momentum must lie in [0, 1), got {self.momentum}")


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE (arXiv 1807.03748, eq. 4) with the positive in the denominator."""

    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True)
class Method:
    """One row of the table. `recipe` is a name of pipeline.recipe.RECIPES.

    `learning_rate` is the peak that suits SGD with momentum at batch 256: at a temperature of .07 gradients are three times
    those at .2, and the sources take .03.
    """

    recipe: str
    region: Everything | Ring
    memory: Batch | Bank
    bound: InfoNCE
    learning_rate: float


METHODS = {
    "simclr": Method("simclr", Everything(), Batch(), InfoNCE(temperature=0.2), learning_rate=0.12),
    "ir": Method("instance", Everything(), Bank(), InfoNCE(temperature=0.07), learning_rate=0.03),
    "ring": Method("instance", Ring(), Bank(), InfoNCE(temperature=0.07), learning_rate=0.03),
}

MIN_CANDIDATES = 16_384  # below, the sampled edges of a 1..10 % ring blur: KS to the exact ring .009 at this size


def candidate_count(method: Method, rows: int) -> int:
    """How many bank rows to draw for a step, shared by the batch; 0 where all rows take part (or there is no bank).

    M = (K - 1) / (outer - inner) rows hold K - 1 in the ring; a bank under twice that is taken whole, exactly.
    """
    if isinstance(method.memory, Batch):
        return 0
    if isinstance(method.region, Ring):
        wanted = max(MIN_CANDIDATES, -(-method.memory.negatives // (method.region.outer - method.region.inner)))
    else:
        wanted = method.memory.negatives
    return 0 if rows <= 2 * wanted else int(wanted)

"""The parts that methods are made of: frozen values. No torch here.

method = views x positives x region x memory x bound x terms; `methods.py` has the table. Names are the field's: anchor,
positive, negative, view, bank, region, ring (the annulus of arXiv 2005.13149).
"""

from dataclasses import dataclass
from typing import Literal

from .schedules import Schedule


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


# Regions: which rows on offer may be negatives of an anchor


@dataclass(frozen=True)
class Everything:
    """Every other row. From a large bank K - 1 are drawn: `shared` by the batch, or for each image (64 times as slow)."""

    shared: bool = True


@dataclass(frozen=True)
class Anneal:
    """How a ring's outer edge comes in from `start`, a share of all rows, to where the ring has it.

    Kinds and units are those of `schedules.Schedule`; the adaptive ones follow the loss (`schedules.adapt_`).
    """

    kind: Literal["linear", "step", "exponential", "exponential-release", "adaptive", "adaptive-release"] = "linear"
    start: float = 1.0
    over: float = 100.0
    unit: Literal["epochs", "steps"] = "epochs"

    def __post_init__(self) -> None:
        self.to(0.1)  # a schedule refuses what it cannot be
        _check(0 < self.start <= 1, f"an outer edge starts at a share of the rows, above 0 and at most 1, got {self.start}")

    def to(self, outer: float) -> Schedule:
        """The schedule that ends at `outer`."""
        return Schedule(self.kind, start=self.start, stop=outer, over=self.over, unit=self.unit)


@dataclass(frozen=True)
class Ring:
    """Rows ranked by similarity to the anchor, from the `inner` to the `outer` share of all rows: 0 is the nearest.

    `inner` 0 gives the ball. `inner` is a share of all rows, or of the rows within `outer` where `relative`.
    With `anneal` the outer edge comes in from farther away, and `outer` is where it ends.
    """

    inner: float = 0.01
    outer: float = 0.1
    relative: bool = False
    anneal: Anneal | None = None

    def __post_init__(self) -> None:
        inner = self.inner * self.outer if self.relative else self.inner
        _check(
            0 <= inner < self.outer <= 1,
            f"a ring needs 0 <= inner < outer <= 1, got inner {self.inner}{' of' if self.relative else ','} "
            f"outer {self.outer}",
        )

        lowest = 0.0 if self.relative else self.inner
        _check(
            self.anneal is None or self.anneal.start > lowest,
            f"a ring's outer edge must start beyond the inner one at {self.inner}, got {self.anneal and self.anneal.start}",
        )

    def edges(self, outer: float) -> tuple[float, float]:
        """Inner and outer share of all rows while the outer edge stands at `outer`."""
        return self.inner * outer if self.relative else self.inner, outer


@dataclass(frozen=True)
class Nearest:
    """The `count` nearest rows, whatever the size of the bank (local aggregation's background, arXiv 1903.12355)."""

    count: int = 4096

    def __post_init__(self) -> None:
        _check(self.count >= 1, f"nearest needs a count of at least 1, got {self.count}")


@dataclass(frozen=True)
class SameCluster:
    """The K - 1 nearest of the rows that share a k-means cluster with the anchor's own row, in any clustering."""


Region = Everything | Ring | Nearest | SameCluster


# Positives


@dataclass(frozen=True)
class Own:
    """The image's own row, or its other view."""


@dataclass(frozen=True)
class Neighbours:
    """The own row and the rows nearer than the ring's inner edge, as a mean of critic values or their log-sum-exp.

    The mean of valid bounds is one where each positive stands in the denominator; the log-sum-exp is none.
    `among_negatives`: the neighbours are negatives too, so that these come from the whole ball (simplified LA), else from
    the ring alone (CAVE, whose loss can fall below 0).
    """

    numerator: Literal["mean", "logsumexp"] = "logsumexp"
    among_negatives: bool = False

    def __post_init__(self) -> None:
        known = self.numerator in ("mean", "logsumexp")
        _check(known, f"a numerator is mean or logsumexp, got {self.numerator!r}")


@dataclass(frozen=True)
class Clusters:
    """The own row and those negatives that share its k-means cluster, in any of `clusterings` (arXiv 1903.12355, eq. 3).

    `rows_per_cluster` 43 gives the paper's 30,000 clusters on ImageNet. Clusters are found anew every `every` epochs.
    """

    clusterings: int = 10
    rows_per_cluster: float = 43.0
    every: int = 1

    def __post_init__(self) -> None:
        _check(self.clusterings >= 1, f"clusterings must be at least 1, got {self.clusterings}")
        _check(self.rows_per_cluster >= 1, f"rows_per_cluster must be at least 1, got {self.rows_per_cluster}")
        _check(self.every >= 1, f"clusters are found anew every 1 or more epochs, got {self.every}")


# Memories: where positives and negatives come from


@dataclass(frozen=True)
class Batch:
    """No memory: positives and negatives are views of the batch, over all processes."""


@dataclass(frozen=True)
class Bank:
    """One stored embedding per image: the anchor's own row is its positive, rows of the region are its negatives.

    Args:
        momentum: share of the old row kept at each visit (.5 in arXiv 1805.01978; 0 in the ring release).
        negatives: K - 1, how many rows of the region take part; fewer where the region holds fewer.
        exact: rank all rows of a large bank, not a sample of them.
        unvisited: what an image is drawn to while its row has never been written: "random" is the direction that the row
            began with, of which `momentum` stays in it at each visit (as released); "own" is what is about to be written
            there, the other view's embedding, and where that is the anchor itself the image waits for its next visit.
    """

    momentum: float = 0.5
    negatives: int = 4095
    exact: bool = False
    unvisited: Literal["random", "own"] = "random"

    def __post_init__(self) -> None:
        known = self.unvisited in ("random", "own")
        _check(known, f"a row before its first visit is random or own, got {self.unvisited!r}")
        _check(0 <= self.momentum < 1, f"the bank's momentum must lie in [0, 1), got {self.momentum}")
        _check(self.negatives >= 1, f"negatives must be at least 1, got {self.negatives}")


@dataclass(frozen=True)
class Queue:
    """The last `size` keys of a momentum encoder (MoCo, arXiv 1911.05722); all of the region's take part."""

    size: int = 65_536

    def __post_init__(self) -> None:
        _check(self.size >= 1, f"a queue needs a size of at least 1, got {self.size}")


# Bounds: critic values -> a loss


def _temperature(value: float) -> None:
    _check(0 < value < float("inf"), f"temperature must be above 0, got {value}")


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE (arXiv 1807.03748, eq. 4); without the positive in the denominator it is no bound."""

    temperature: float = 0.07
    positive_in_denominator: bool = True

    def __post_init__(self) -> None:
        _temperature(self.temperature)


@dataclass(frozen=True)
class NCE:
    """Binary noise-contrastive estimation, as IR and CMC were published. Z: fixed, of the first batch, or a moving mean.

    The fixed one is that of random directions at temperature .07 in 128 dimensions, and of no use elsewhere.
    """

    temperature: float = 0.07
    partition: Literal["fixed", "first", "moving"] = "moving"
    decay: float = 0.99

    def __post_init__(self) -> None:
        _temperature(self.temperature)
        _check(
            self.partition in ("fixed", "first", "moving"), f"partition is fixed, first or moving, got {self.partition!r}"
        )
        _check(0 < self.decay < 1, f"decay must lie in (0, 1), got {self.decay}")


@dataclass(frozen=True)
class Decoupled:
    """Decoupled contrast (Yeh, arXiv 2110.06848): no positive in the denominator. `sigma` above 0 weights the positives."""

    temperature: float = 0.1
    sigma: float = 0.0

    def __post_init__(self) -> None:
        _temperature(self.temperature)
        _check(self.sigma >= 0, f"sigma must be 0 or more, got {self.sigma}")


@dataclass(frozen=True)
class HardNegatives:
    """Debiased contrast (Chuang, arXiv 2007.00224), with a `concentration` on hard negatives HCL (arXiv 2010.04592)."""

    temperature: float = 0.5
    positive_share: float = 0.1
    concentration: float = 0.0

    def __post_init__(self) -> None:
        _temperature(self.temperature)
        _check(0 <= self.positive_share < 1, f"positive_share must lie in [0, 1), got {self.positive_share}")
        _check(0 <= self.concentration < 100, f"concentration must lie in [0, 100), got {self.concentration}")


Bound = InfoNCE | NCE | Decoupled | HardNegatives

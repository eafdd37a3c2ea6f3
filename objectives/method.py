"""What a method is: one frozen value of parts, and what follows from it. No torch here."""

from dataclasses import dataclass, replace
from typing import Literal

from .parts import Bank, Batch, Bound, Clusters, Everything, InfoNCE, Neighbours, Own, Pair, Queue, Region, Ring
from .schedules import Moment
from .terms import (
    Bootstrap,
    BoundedGaussian,
    FixedGaussian,
    Head,
    Momentum,
    OwnReconstruction,
    Superfluous,
    Term,
    VonMisesFisher,
)

HEADS = {  # which distributions an estimator of superfluous information knows
    "conditional-kl": (FixedGaussian, BoundedGaussian, VonMisesFisher),
    "variational": (FixedGaussian, BoundedGaussian),
    "ceb": (VonMisesFisher,),
}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        recipe: a name of pipeline.recipe.RECIPES, or one of the user's with the same groups of views.
        contrast: which embeddings are contrasted; () where the terms are all there is.
        learning_rate: the peak that suits SGD with momentum at batch 256: at a temperature of .07 gradients are three times
            those at .2, and the sources take .03.
        network: "shared" is one encoder for all views; "colour" one for each half of a split view (CMC); "jigsaw" one with
            a second head on nine patches (PIRL).
        head: makes features random; None for a plain encoder.
        target: the momentum encoder; None where there is none.
        warm_start: epochs of instance discrimination (everything may be a negative, the own row is the positive) before
            region and positives come into force; the bank is handed over.
        source: where it was published.
    """

    recipe: str
    source: str
    contrast: tuple[Pair, ...] = ()
    positives: Own | Neighbours | Clusters = Own()
    region: Region = Everything()
    memory: Batch | Bank | Queue = Batch()
    bound: Bound = InfoNCE()
    terms: tuple[Term, ...] = ()
    network: Literal["shared", "colour", "jigsaw"] = "shared"
    head: Head | None = None
    target: Momentum | None = None
    warm_start: float = 0.0
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        if not self.contrast and not self.terms:
            raise ValueError("a method needs a contrast or a term")
        if isinstance(self.memory, Queue) and self.target is None:
            raise ValueError("a queue holds keys of a momentum encoder: give the method a target")
        if isinstance(self.positives, Neighbours) and not (isinstance(self.region, Ring) and self.region.inner > 0):
            raise ValueError("neighbours are the rows within a ring's inner edge: give the method a ring with inner above 0")
        if isinstance(self.positives, Clusters) and not isinstance(self.memory, Bank):
            raise ValueError("clusters are found in a bank: give the method one")
        for term in self.terms:
            if isinstance(term, Superfluous) and not isinstance(self.head, HEADS[term.estimator]):
                kinds = " or ".join(head.__name__ for head in HEADS[term.estimator])
                raise ValueError(f"the {term.estimator} estimator needs random features: give the method a {kinds} head")
        if self.warm_start < 0:
            raise ValueError(f"warm_start must be 0 or more epochs, got {self.warm_start}")

    @property
    def views(self) -> int:
        """How many embeddings of each image the method asks for."""
        return 1 + max((view for pair in self.contrast for view in (pair.anchor, pair.key)), default=1)

    @property
    def online_views(self) -> int:
        """How many of them, the first ones, pass the encoder that learns; with a queue the rest are keys alone."""
        if isinstance(self.memory, Queue) and not self.terms:
            return 1 + max(pair.anchor for pair in self.contrast)
        return self.views

    @property
    def target_views(self) -> tuple[int, ...]:
        """Which of them pass the momentum encoder, in the order of `target_VBD`."""
        if self.target is None:
            return ()
        return tuple(sorted({pair.key for pair in self.contrast})) if self.contrast else tuple(range(self.views))

    @property
    def banks(self) -> int:
        """How many banks there are; bank i is written from view i."""
        return 1 + max(pair.key for pair in self.contrast) if isinstance(self.memory, Bank) else 0

    @property
    def samples_embedding(self) -> bool:
        """Whether randomness enters behind the projector, on the unit sphere, as the "ceb" estimator has it."""
        return isinstance(self.head, VonMisesFisher) and any(
            isinstance(term, Superfluous) and term.estimator == "ceb" for term in self.terms
        )

    @property
    def predicts(self) -> bool:
        """Whether a predictor stands on the projector."""
        return any(isinstance(term, Bootstrap) for term in self.terms)

    @property
    def decodes_other(self) -> bool:
        """Whether a decoder makes the other view out of one view's representation."""
        return any(isinstance(term, Superfluous) and term.decode_first + term.decode_second > 0 for term in self.terms)

    @property
    def decodes_own(self) -> bool:
        """Whether a decoder makes a view out of its own representation."""
        return any(isinstance(term, OwnReconstruction) for term in self.terms)

    def at(self, moment: Moment) -> "Method":
        """The method that holds at `moment`: instance discrimination while a warm start lasts."""
        if moment.epoch >= self.warm_start:
            return self
        return replace(self, positives=Own(), region=Everything(), warm_start=0.0)


MIN_CANDIDATES = 16_384  # below, the sampled edges of a 1..10 % ring blur: KS to the exact ring .009 at this size


def candidate_count(method: Method, rows: int) -> int:
    """How many bank rows to draw for a step; 0 where all rows are on offer (or there is no bank).

    Of everything, K - 1. In a ring M = (K - 1) / (outer - inner) rows hold K - 1; a bank under twice that is taken whole,
    exactly. M stays the same while the ring's outer edge comes in.
    """
    if not isinstance(method.memory, Bank) or not method.contrast:
        return 0
    match method.region:
        case Everything():
            return method.memory.negatives if rows > method.memory.negatives else 0
        case Ring() as ring if not method.memory.exact:
            inner, outer = ring.edges(ring.outer)
            wanted = max(MIN_CANDIDATES, int(-(-method.memory.negatives // (outer - inner))))
        case _:  # counted, not shares: a sample of the bank would hold others
            return 0
    return 0 if rows <= 2 * wanted else wanted

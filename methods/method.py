"""What a method is: one frozen value of parts, and what follows from it. No torch here."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from .pairing import Contrast, Pair, pairs_of
from .parts import (
    NCE,
    Bank,
    Batch,
    Bound,
    Clusters,
    Everything,
    InfoNCE,
    Neighbours,
    Own,
    Queue,
    Region,
    Ring,
    SameCluster,
)
from .schedules import Moment
from .terms import (
    BarlowTwins,
    Bootstrap,
    BoundedGaussian,
    FixedGaussian,
    Head,
    Momentum,
    OwnReconstruction,
    Superfluous,
    Term,
    VICReg,
    VonMisesFisher,
)

Views = Literal["shared", "colour", "jigsaw"]  # by which encoder each passes
ESTIMATED = {  # which distributions an estimator of superfluous information knows
    "conditional-kl": (FixedGaussian, BoundedGaussian, VonMisesFisher),
    "variational": (FixedGaussian, BoundedGaussian),
    "ceb": (VonMisesFisher,),
}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        recipe: a name of pipeline.recipe.RECIPES, or one of the user's with the same groups of views.
        contrast: which views are contrasted with which; () where the terms are all there is.
        learning_rate: the peak that suits SGD with momentum at batch 256: at a temperature of .07 gradients are three times
            those at .2, and the sources take .03.
        network: "shared" is one encoder for all views; "colour" one for each part of a split view (CMC); "jigsaw" one with
            a second head on nine patches (PIRL).
        head: makes features random; None for a plain encoder.
        target: the momentum encoder; None where there is none.
        warm_start: epochs of instance discrimination (everything may be a negative, the own row is the positive) before
            region and positives come into force; the bank is handed over.
        ranked_share: of the anchors, how many must have their own row within the region's edge before the warm start is
            over; 0 where the clock alone tells.
        latest: share of the run after which the warm start is over whatever the ranking is worth.
        source: where it was published.
    """

    recipe: str
    source: str
    contrast: Contrast = ()
    positives: Own | Neighbours | Clusters = Own()
    region: Region = Everything()
    memory: Batch | Bank | Queue = Batch()
    bound: Bound = InfoNCE()
    terms: tuple[Term, ...] = ()
    network: Views = "shared"
    head: Head | None = None
    target: Momentum | None = None
    warm_start: float = 0.0
    ranked_share: float = 0.0
    latest: float = 0.75
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        for holds, message in (*self._sound(), *self._asked_for()):
            if not holds:
                raise ValueError(message)

    def _sound(self) -> Iterator[tuple[bool, str]]:
        """What must hold for the parts to fit each other."""
        bank, info_nce = isinstance(self.memory, Bank), isinstance(self.bound, InfoNCE)
        clustered, own_cluster = isinstance(self.positives, Clusters), isinstance(self.region, SameCluster)
        shared = not isinstance(self.region, Everything) or self.region.shared
        yield bool(self.contrast or self.terms), "a method needs a contrast or a term"
        yield (
            self.target is not None or not isinstance(self.memory, Queue),
            "a queue holds keys of a momentum encoder: give the method a target",
        )
        yield (
            not isinstance(self.positives, Neighbours) or (isinstance(self.region, Ring) and self.region.inner > 0),
            "neighbours are the rows within a ring's inner edge: give the method a ring with inner above 0",
        )
        yield bank or not (clustered or own_cluster), "clusters are found in a bank: give the method one"
        yield not (clustered and own_cluster), "clusters are either what is drawn near or what is pushed away, not both"
        yield bank or shared, "only from a bank are negatives drawn for each image: leave region.shared true"
        yield (
            info_nce or isinstance(self.positives, Own),
            f"several positives make a numerator, which InfoNCE alone has, not {type(self.bound).__name__}",
        )
        yield (
            not isinstance(self.bound, NCE) or (bank and isinstance(self.region, Everything)),
            "NCE's Z is a sum over all rows of a bank: give the method a bank, and everything as its region",
        )
        views = self.views
        yield bank or not any(pair.anchor == pair.key for pair in self.pairs), "only a bank has a view's own key to offer"
        yield self.network != "jigsaw" or views == 2, f"a jigsaw has two views, the image and its patches, not {views}"
        yield self.network != "colour" or views <= 3, f"an image has at most three colour parts, not {views}"
        yield not self.decodes_other or views == 2, f"a decoder makes the one other view of two, not of {views}"
        for term in self.terms:
            two = not isinstance(term, VICReg | BarlowTwins | Bootstrap) or views == 2
            yield two, f"the term {type(term).__name__} is of two views, not of {views}"
        yield 0 <= self.warm_start < math.inf, f"warm_start must be 0 or more epochs, got {self.warm_start}"
        yield 0 <= self.ranked_share <= 1, f"ranked_share is a share of the anchors, 0 to 1, got {self.ranked_share}"
        yield 0 < self.latest <= 1, f"latest is a share of the run, above 0 and at most 1, got {self.latest}"
        for term in self.terms:
            if isinstance(term, Superfluous):
                heads = " or ".join(head.__name__ for head in ESTIMATED[term.estimator])
                fits = isinstance(self.head, ESTIMATED[term.estimator])
                yield fits, f"the {term.estimator} estimator needs random features: give the method a {heads} head"
                cold = term.estimator == "ceb" and self.bound.temperature < 1e-6
                yield not cold, "the ceb estimator needs a temperature of 1e-6 or more"

    def _asked_for(self) -> Iterator[tuple[bool, str]]:
        """No part may stand there without effect."""
        parts = (self.positives, self.region, self.memory)
        yield (
            bool(self.contrast) or parts == (Own(), Everything(), Batch()),
            "without a contrast there are no negatives: region, positives and memory change nothing",
        )
        yield (
            self.target is None or isinstance(self.memory, Queue) or self.predicts,
            "nothing asks for a momentum encoder: only a queue and BYOL's term do",
        )
        plain = isinstance(self.region, Everything) and isinstance(self.positives, Own)
        waits = self.warm_start > 0 or self.ranked_share > 0
        yield not (waits and plain), "a warm start is of everything and the own row, which is all there is here"
        yield self.head is None or self.network != "jigsaw", "a network with a jigsaw has no random head"

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of the contrast, in the order in which they are logged."""
        return pairs_of(self.contrast)

    @cached_property
    def views(self) -> int:
        """How many embeddings of each image the method asks for."""
        return 1 + max((view for pair in self.pairs for view in (pair.anchor, pair.key)), default=1)

    @cached_property
    def key_views(self) -> tuple[int, ...]:
        """Which views are somebody's key; their embeddings are on offer as negatives where there is no memory."""
        return tuple(sorted({pair.key for pair in self.pairs}))

    @property
    def online_views(self) -> int:
        """How many of them, the first ones, pass the encoder that learns; with a queue the rest are keys alone."""
        if isinstance(self.memory, Queue) and not self.terms:
            return 1 + max(pair.anchor for pair in self.pairs)
        return self.views

    @property
    def target_views(self) -> tuple[int, ...]:
        """Which of them pass the momentum encoder, in the order of `target_VBD`."""
        if self.target is None:
            return ()
        return self.key_views or tuple(range(self.views))

    @property
    def banks(self) -> int:
        """How many banks there are; bank i is written from view i."""
        return 1 + max(self.key_views) if isinstance(self.memory, Bank) else 0

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

    def first_step(self, steps_per_epoch: int) -> int:
        """The first step after the warm start, where the clock alone tells."""
        return math.ceil(round(self.warm_start * steps_per_epoch, 9))

    def last_step(self, moment: Moment) -> int:
        """The step at which a warm start that waits for the ranking is over at the latest."""
        return max(self.first_step(moment.steps_per_epoch), math.ceil(round(self.latest * moment.steps, 9)))

    def at(self, moment: Moment, *, first: int | None = None) -> "Method":
        """The method that holds at `moment`: instance discrimination while a warm start lasts.

        `first` is the step that ends it, where the clock alone does not tell.
        """
        if moment.step >= (self.first_step(moment.steps_per_epoch) if first is None else first):
            return self
        return replace(self, positives=Own(), region=Everything(), warm_start=0.0, ranked_share=0.0)


def bounded(method: Method, *, rows: int) -> Method:
    """The method with a queue that is no longer than the data set.

    A longer one holds several keys of each image: no more images to be told apart, but so many terms in the denominator that
    the positive hardly counts there, and log K of them less the loss is no bound on information (docs/methods/moco.md).
    """
    if not isinstance(method.memory, Queue) or method.memory.size <= rows:
        return method
    return replace(method, memory=replace(method.memory, size=rows))


MIN_CANDIDATES = 16_384  # below, the sampled edges of a 1..10 % ring blur: KS to the exact ring .009 at this size
MIN_INNER = 100  # ranks within the inner edge, below which it would be an accident of the draw where it lies


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
            edge = MIN_INNER / inner if inner > 0 else 0
            wanted = math.ceil(max(MIN_CANDIDATES, edge, method.memory.negatives / (outer - inner)))
        case _:  # counted, not shares: a sample of the bank would hold others
            return 0
    return 0 if rows <= 2 * wanted else wanted

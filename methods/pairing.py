"""Which views of an image are contrasted with which: lists of pairs, and graphs over any number of views. No torch here.

A pair has an anchor and a key. A view that is nobody's key is an anchor alone: it costs a pass of the encoder and no place
among the negatives (the small views of multi-crop, arXiv 2006.09882).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

VIEWS = 64  # of an image, at most: as many as a recipe has


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class Pair:
    """The embedding of view `anchor` is drawn to what `key` names: that view's embedding, or the bank it is written to."""

    anchor: int = 0
    key: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        inside = min(self.anchor, self.key) >= 0 and max(self.anchor, self.key) < VIEWS
        _check(inside, f"a pair is of views 0 to {VIEWS - 1}, got {self.anchor} and {self.key}")
        _check(0 < self.weight < float("inf"), f"a pair's weight must be above 0, got {self.weight}")


@dataclass(frozen=True)
class Graph:
    """Pairs of `views` views, both ways each: an edge of the graph is two pairs.

    Args:
        kind: "full" has an edge between any two views, "core" between the first view and each other one (the two graphs of
            CMC, arXiv 1906.05849, section 3.3), "chain" between neighbours in the order of the recipe.
        keys: so many views, the first ones, are keys; the others are anchors alone. 0: every view is a key.
        own: each key is paired with itself too: of a bank that is the row which the epoch before has written.
        total: the loss is the mean or the sum over the pairs, and with InfoNCE the value logged the mean of their bounds.
    """

    kind: Literal["full", "core", "chain"] = "full"
    views: int = 4
    keys: int = 0
    own: bool = False
    total: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        _check(self.kind in ("full", "core", "chain"), f"a graph is full, core or chain, got {self.kind!r}")
        _check(self.total in ("mean", "sum"), f"total is mean or sum, got {self.total!r}")
        _check(2 <= self.views <= VIEWS, f"a graph has 2 to {VIEWS} views, got {self.views}")
        _check(0 <= self.keys <= self.views, f"of {self.views} views 0 (all) to {self.views} can be keys, got {self.keys}")
        _check(bool(list(self._edges())), f"a {self.kind} graph whose first {self.keys} views are keys has no pair")

    def _edges(self) -> Iterator[tuple[int, int]]:
        for anchor in range(self.views):
            for key in range(self.keys or self.views):
                if self._joined(anchor, key):
                    yield anchor, key

    def _joined(self, anchor: int, key: int) -> bool:
        if anchor == key:
            return self.own
        return self.kind == "full" or (0 in (anchor, key) if self.kind == "core" else abs(anchor - key) == 1)

    def pairs(self) -> tuple[Pair, ...]:
        """Its pairs, by anchor and then by key, with the weights that make `total`."""
        edges = list(self._edges())
        weight = 1 / len(edges) if self.total == "mean" else 1.0
        return tuple(Pair(anchor, key, weight) for anchor, key in edges)


@dataclass(frozen=True)
class Listed:
    """Pairs one by one, "ANCHOR-KEY" or "ANCHOR-KEY:WEIGHT", with commas between them: "0-1,1-0,2-0:0.5"."""

    listed: str = "0-1:0.5,1-0:0.5"

    def __post_init__(self) -> None:
        found = self.pairs()
        twice = {(pair.anchor, pair.key) for pair in found}
        _check(len(twice) == len(found), f"a pair is there twice: {self.listed}")

    def pairs(self) -> tuple[Pair, ...]:
        """The pairs; raises ValueError for a text that is no list of them."""
        return tuple(_read(text.strip()) for text in self.listed.split(","))


def _read(text: str) -> Pair:
    ends, _, weight = text.partition(":")
    try:
        anchor, key = map(int, ends.split("-"))
        return Pair(anchor, key, float(weight) if weight else 1.0)
    except ValueError as error:
        if str(error).startswith("a pair"):
            raise
        raise ValueError(f"a pair is written ANCHOR-KEY or ANCHOR-KEY:WEIGHT, as 0-1:0.5, got {text!r}") from None


Contrast = tuple[Pair, ...] | Graph | Listed
"""() where nothing is contrasted."""


def pairs_of(contrast: Contrast) -> tuple[Pair, ...]:
    """The pairs of a contrast, in the order in which they are logged."""
    return contrast if isinstance(contrast, tuple) else contrast.pairs()

"""A quantity over the steps of a run in little memory: of a long log the lowest and the highest of neighbouring readings."""

import math
from typing import Any, NamedTuple

Point = tuple[float, float | None]
"""Step and value; None where the value was not finite."""


class Bin(NamedTuple):
    """Neighbouring readings: where they begin, the lowest and the highest, whether one was not finite."""

    step: float
    low: Point | None
    high: Point | None
    gap: bool


class Curve:
    """Readings of one quantity; no more than `bins` bins are kept, two points of each, so that a spike of one step stays."""

    def __init__(self, bins: int = 512) -> None:
        self.count = 0
        """Readings that are numbers."""
        self.total = 0.0
        self.first: float | None = None
        self.last: float | None = None
        self.low: Point | None = None
        self.high: Point | None = None
        self._limit, self._each, self._held = bins, 1, 0
        self._bins: list[Bin] = []

    def add(self, step: float, value: float | None) -> None:
        """Take in a reading; None is one that was not finite."""
        point = (step, value)
        found = None if value is None else point
        if value is not None:
            self.count, self.total, self.last = self.count + 1, self.total + value, value
            self.first = value if self.first is None else self.first
        own = Bin(step, found, found, value is None)
        self.low, self.high = _lower(self.low, found), _higher(self.high, found)
        if 0 < self._held < self._each:
            self._bins[-1] = _merged(self._bins[-1], own)
            self._held += 1
            return
        if len(self._bins) >= self._limit:
            self._bins = [_merged(*self._bins[at : at + 2]) for at in range(0, len(self._bins), 2)]
            self._each *= 2
        self._bins.append(own)
        self._held = 1

    @property
    def mean(self) -> float | None:
        """Of all readings that are numbers."""
        return self.total / self.count if self.count else None

    def points(self) -> list[Point]:
        """The curve from left to right, with a None where something was not finite."""
        found: list[Point] = []
        for item in sorted(self._bins, key=lambda each: each.step):
            found += sorted({point for point in (item.low, item.high) if point is not None})
            found += [(item.step, None)] if item.gap else []
        return found


def _merged(one: Bin, other: Bin | None = None) -> Bin:
    if other is None:
        return one
    return Bin(one.step, _lower(one.low, other.low), _higher(one.high, other.high), one.gap or other.gap)


def _lower(one: Point | None, other: Point | None) -> Point | None:
    return min((point for point in (one, other) if point is not None), key=_value, default=None)


def _higher(one: Point | None, other: Point | None) -> Point | None:
    return max((point for point in (one, other) if point is not None), key=_value, default=None)


def _value(point: Point) -> float:
    return 0.0 if point[1] is None else point[1]


def number(value: Any) -> float | None:
    """`value` as a finite float; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return None
    return found if math.isfinite(found) else None

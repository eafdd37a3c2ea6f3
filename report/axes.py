"""Where a value stands on an axis, and what is written beside it."""

import math
from collections.abc import Iterable
from typing import NamedTuple

DECADES = 2.0  # an axis of positive values that span more is logarithmic


class Axis(NamedTuple):
    """An axis from `low` to `high`, drawn from `begin` to `end` in units of the picture."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where `value` stands."""
        low, high, value = (_log(part) if self.log else part for part in (self.low, self.high, value))
        if not math.isfinite(high - low):  # the largest floats have no difference
            low, high, value = low / 2, high / 2, value / 2
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self, count: int = 4) -> list[float]:
        """Round values on the axis, about `count`."""
        if self.log:
            return _decades(self.low, self.high, count)
        return _round(self.low, self.high, count)


def axis(values: Iterable[float], begin: float, end: float, *, zero: bool = False, log: bool = False) -> Axis:
    """The axis that `values` need, with a little room; with `zero` it begins there, and with `log` it may be logarithmic."""
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    if log and low > 0 and math.log10(high) - math.log10(low) > DECADES:
        return Axis(low / 1.1, high * 1.1, begin, end, log=True)
    low = min(0.0, low) if zero else low
    room = (high / 20 - low / 20) or abs(high) / 10 or 0.5
    room = room if math.isfinite(high + room) and math.isfinite(low - room) else 0.0
    return Axis(low if zero and low == 0 else low - room, high + room, begin, end)


def steps_axis(values: Iterable[float], begin: float, end: float) -> Axis:
    """The axis of the steps, without room to the left and right; of a single step, that step in the middle."""
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    return Axis(low, high, begin, end) if high > low else Axis(low - 1, high + 1, begin, end)


def _log(value: float) -> float:
    return math.log10(max(value, 1e-300))


def _round(low: float, high: float, count: int) -> list[float]:
    raw = high / count - low / count
    if not (raw > 0 and math.isfinite(raw)):
        return [low]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next((unit * part for part in (1, 2, 2.5, 5, 10) if unit * part >= raw * 0.999), unit * 10)
    first = math.ceil(low / step - 1e-9)
    found = [round((first + index) * step, 12 - math.floor(math.log10(step))) + 0.0 for index in range(3 * count)]
    return [value for value in found if value <= high + step * 1e-9]


def _decades(low: float, high: float, count: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / (count + 1)))
    return [10.0**power for power in range(first, last + 1, every)]


def label(value: float) -> str:
    """A tick in few letters: 0.25, 1500, 20k, 3M, 1e-5."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e12:
        mantissa, _, power = f"{value:.2g}".partition("e") if "e" in f"{value:.2g}" else f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            scale = 1e3 if unit == "k" else least
            return f"{value / scale:.4g}{unit}"
    return f"{value:.6g}" if size >= 1000 else f"{value:.4g}"

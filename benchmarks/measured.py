"""A measurement, and the limit that the project holds itself to."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """What was found, each time that it was measured."""

    name: str
    unit: str
    found: Sequence[float]
    least: float | None = None
    """The median is to be at least this."""
    most: float | None = None
    """The median is to be at most this."""
    note: str = ""

    @property
    def limit(self) -> str:
        """The limit in words; "" for none."""
        return " and ".join(
            f"at {word} {number:g}" for word, number in (("least", self.least), ("most", self.most)) if number is not None
        )

    @property
    def holds(self) -> bool | None:
        """Whether the median keeps to the limit; None where there is none."""
        if not self.limit:
            return None
        low, high = (float("-inf") if self.least is None else self.least, float("inf") if self.most is None else self.most)
        return low <= statistics.median(self.found) <= high

    def line(self) -> dict[str, Any]:
        """The measurement as it is printed."""
        numbers = {"median": statistics.median(self.found), "lowest": min(self.found), "highest": max(self.found)}
        return {
            "name": self.name,
            "unit": self.unit,
            **{name: significant(number) for name, number in numbers.items()},
            "n": len(self.found),
            "limit": self.limit,
            "holds": self.holds,
            "note": self.note,
        }

    def row(self) -> tuple[str, ...]:
        """The measurement as a line of the table."""
        line = self.line()
        judged = {None: "", True: "yes", False: "NO"}[self.holds]
        spread = f"{line['lowest']:,} to {line['highest']:,}" if line["n"] > 1 else ""
        return (self.name, f"{line['median']:,} {self.unit}", spread, str(line["n"]), self.limit, judged, self.note)


def significant(number: float) -> float:
    """To four digits, or whole where it has more."""
    return round(number) if abs(number) >= 1000 else float(f"{number:.4g}")


def percent(part: float, whole: float) -> float:
    """By how many per cent `part` lies below `whole`."""
    return 100 * (1 - part / whole)

"""The screen: a live view of the log on a terminal, plain lines elsewhere. Nothing is shown that the log does not hold."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TextIO

from rich.console import Console

from ...console import is_live, say
from .panel import Passed, Progressed, bound_line, frame, mean, passed_line, plain_line
from .region import region

__all__ = ["Progressed", "Screen", "bound_line", "dashboard"]

PLAIN_INTERVAL_S = 10.0
HISTORY = 256  # values of a curve, which is as long as the run: past it neighbours are averaged
REMEMBERED = ("bound", "ceiling", "probe", "neighbours", "memory_bytes", "saved_step", "saved_age_s")


class Screen(NamedTuple):
    """What a training shows: readings, how far it is between them, and warnings, each text said once and then counted."""

    show: Callable[[Progressed], None]
    warn: Callable[[str], None]
    passed: Callable[[Passed], None]


@contextmanager
def dashboard(title: str, *, visible: bool) -> Iterator[Screen]:
    """Yields the screen of a training: live on a terminal, a line every 10 s elsewhere, mute where not `visible`."""
    if not visible:
        yield Screen(lambda now: None, lambda text: None, lambda now: None)
    elif is_live(sys.stderr):
        with _live(title, sys.stderr) as screen:
            yield screen
    else:
        with _plain() as screen:
            yield screen


@contextmanager
def _live(title: str, terminal: TextIO) -> Iterator[Screen]:
    console = Console(file=terminal, force_terminal=True, highlight=False)
    plain = not console.encoding.lower().startswith("utf")
    now, read_at = None, time.monotonic()
    losses, counts = History(), Counter[str]()

    def draw(width: int, height: int) -> list[str]:
        state = {"age_s": time.monotonic() - read_at, "width": width, "height": height, "plain": plain}
        with console.capture() as captured:
            console.print(frame(title, now, losses.values(), list(counts.items()), **state), width=width)
        return captured.get().splitlines()[:height]

    with region(terminal, draw) as painted:

        def show(reading: Progressed) -> None:
            nonlocal now, read_at
            losses.add(reading.loss)
            now, read_at = _remembering(now, reading, time.monotonic() - read_at), time.monotonic()

        def warn(text: str) -> None:
            counts[text] = counts.pop(text, 0) + 1  # the newest stands last
            painted.paint()

        def passed(far: Passed) -> None:
            nonlocal now, read_at
            if now is not None:
                now, read_at = _further(now, far, time.monotonic() - read_at), time.monotonic()

        yield Screen(show, warn, passed)


def _further(now: Progressed, far: Passed, passed_s: float) -> Progressed:
    """`now` as far as the run has come since, `passed_s` later."""
    age = None if now.saved_age_s is None else now.saved_age_s + passed_s
    return now._replace(**far._asdict(), saved_age_s=age)


def _remembering(before: Progressed | None, now: Progressed, passed_s: float) -> Progressed:
    """`now`, with what was not observed this time as it was the last time."""
    if before is None:
        return now
    known = {name: getattr(before, name) for name in REMEMBERED if getattr(now, name) is None}
    if known.get("saved_age_s") is not None:
        known["saved_age_s"] += passed_s
    return now._replace(**known)


class History:
    """A curve of any length in at most HISTORY values, each the mean of equally many readings."""

    def __init__(self) -> None:
        self._values: list[float | None] = []
        self._open: list[float | None] = []
        self._each = 1

    def add(self, value: float | None) -> None:
        """Append a reading; None leaves a gap."""
        self._open.append(value)
        if len(self._open) < self._each:
            return
        self._values.append(mean(self._open))
        self._open = []
        if len(self._values) >= HISTORY:
            self._values = [mean(self._values[at : at + 2]) for at in range(0, HISTORY, 2)]
            self._each *= 2

    def values(self) -> list[float | None]:
        """The curve, oldest first."""
        return [*self._values, mean(self._open)] if self._open else list(self._values)


@contextmanager
def _plain() -> Iterator[Screen]:
    last, left, steps, counts = -PLAIN_INTERVAL_S, None, 0, Counter[str]()

    def show(now: Progressed) -> None:
        nonlocal last, left, steps
        left, steps = now, now.steps
        if now.step >= now.steps or time.monotonic() - last >= PLAIN_INTERVAL_S:
            last, left = time.monotonic(), None
            say(plain_line(now))

    def warn(text: str) -> None:
        counts[text] += 1
        if str(counts[text]).strip("0") == "1":  # 1, 10, 100: a fault of every step does not fill a disk
            say(f"warning: {text}" + f" ({counts[text]:,} times)" * (counts[text] > 1))

    def passed(far: Passed) -> None:
        nonlocal last
        if steps and time.monotonic() - last >= PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(passed_line(far, steps))

    try:
        yield Screen(show, warn, passed)
    finally:
        if left is not None:
            say(plain_line(left))

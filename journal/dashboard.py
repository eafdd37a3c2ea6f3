"""The screen: a live view of the log on a terminal, plain lines elsewhere. Nothing is shown that the log does not hold."""

import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .panel import Progressed, bound_line, duration, frame, mean, plain_line
from .region import region

__all__ = ["Progressed", "Screen", "bars", "bound_line", "counting", "dashboard", "duration", "opening", "say", "table"]

PLAIN_INTERVAL_S = 10.0
HISTORY = 256  # values of a curve, which is as long as the run: past it neighbours are averaged
LOG_COLUMNS = 100  # of a plan that is printed into a file
REMEMBERED = ("bound", "ceiling", "probe", "neighbours", "memory_bytes", "saved_step", "saved_age_s")


class Screen(NamedTuple):
    """What a training shows: readings, and warnings, of which each text is said once and then counted."""

    show: Callable[[Progressed], None]
    warn: Callable[[str], None]


@contextmanager
def dashboard(title: str, *, visible: bool) -> Iterator[Screen]:
    """Yields the screen of a training: live on a terminal, a line every 10 s elsewhere, mute where not `visible`."""
    if not visible:
        yield Screen(lambda now: None, lambda text: None)
    elif is_live(sys.stderr):
        with _live(title, sys.stderr) as screen:
            yield screen
    else:
        with _plain() as screen:
            yield screen


def is_live(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


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

        yield Screen(show, warn)


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
    last, left, counts = -PLAIN_INTERVAL_S, None, Counter[str]()

    def show(now: Progressed) -> None:
        nonlocal last, left
        left = now
        if now.step >= now.steps or time.monotonic() - last >= PLAIN_INTERVAL_S:
            last, left = time.monotonic(), None
            say(plain_line(now))

    def warn(text: str) -> None:
        counts[text] += 1
        if str(counts[text]).strip("0") == "1":  # 1, 10, 100: a fault of every step does not fill a disk
            say(f"warning: {text}" + f" ({counts[text]:,} times)" * (counts[text] > 1))

    try:
        yield Screen(show, warn)
    finally:
        if left is not None:
            say(plain_line(left))


def opening(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Say what a run is about to do: a title, and a line of name and value for each of `rows`, folded at the terminal."""
    columns = LOG_COLUMNS
    if sys.stderr.isatty():
        with suppress(OSError):
            columns = max(20, min(os.get_terminal_size(sys.stderr.fileno()).columns, LOG_COLUMNS))
    wide = max((len(name) for name, _ in rows), default=0) + 2
    say(textwrap.fill(title, columns, break_on_hyphens=False))
    for name, value in rows:
        indent = " " * min(wide + 2, columns // 2)
        first = f"  {name:<{wide}}"
        say(textwrap.fill(value or "-", columns, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False))


def say(text: str) -> None:
    """One plain line for the person at the screen; results go to standard output, everything else here.

    Where nobody can read it any more (a closed terminal, a full disk) it is dropped: that ends no training.
    """
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`: a bar with a count and the time left on a terminal, from its first call on."""
    console = Console(stderr=True)
    rate = _Rate()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not is_live(sys.stderr))

    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last < 0.1:  # an update takes 30 us, more than many an image
            return
        last = time.monotonic()
        if not bar.tasks:
            bar.add_task(escape(title))
            bar.start()
        bar.update(bar.tasks[0].id, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """How many a second."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def bars(title: str, bins: Sequence[tuple[str, int]], *, limit: int = 20) -> None:
    """Print a histogram to standard output; of more than `limit` lines the first ones."""
    most = max(count for _, count in bins)
    console = Console()
    block = "█" if console.encoding.lower().startswith("utf") else "#"
    shown = Table(show_header=False, box=None, pad_edge=False)
    for name, count in bins[:limit]:
        shown.add_row(escape(name), f"{count:,}", block * max(1, round(40 * count / most)) if count else "")
    if len(bins) > limit:
        shown.add_row(f"and {len(bins) - limit} more", f"{sum(count for _, count in bins[limit:]):,}", "")
    shown.columns[1].justify = "right"
    console.print(f"[bold]{escape(title)}[/bold]", shown, sep="\n")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result table to standard output."""
    shown = Table(show_header=any(head))
    for index, name in enumerate(head):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*map(escape, row))  # a path may hold what rich takes for markup
    console = Console()
    # a pipe has no width of its own, and rich would fold the columns at 80
    console = Console(width=console.width if console.is_terminal else 140)
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)  # rich's own titles fold at the width of the table
    console.print(shown)

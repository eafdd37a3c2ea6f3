"""The screen: a live view of the log on a terminal, plain lines elsewhere. Nothing is shown that the log does not hold."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_INTERVAL_S = 10.0
HISTORY = 48
BLOCKS = "▁▂▃▄▅▆▇█"


class Progressed(NamedTuple):
    """One reading of a training run. Times in seconds; `wait` is the share of time spent waiting for data."""

    step: int
    steps: int
    epoch: float
    loss: float
    bound: float | None
    ceiling: float | None
    learning_rate: float
    images_per_s: float
    wait: float
    left_s: float


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def sparkline(values: Sequence[float]) -> str:
    """The values as eight heights of a block, lowest to highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def bound_line(now: Progressed) -> str:
    """The bound beside its ceiling; a dash where a run stopped between two observations."""
    return "-" if now.bound is None or now.ceiling is None else f"{now.bound:.3f} of {now.ceiling:.3f} nats"


def plain_line(now: Progressed) -> str:
    """One reading as one line of text."""
    return (
        f"step {now.step}/{now.steps}  epoch {now.epoch:.2f}  loss {now.loss:.3f}  "
        f"bound {bound_line(now)}  {now.images_per_s:.0f} images/s  "
        f"data {now.wait:.0%}  left {duration(now.left_s)}"
    )


def panel(title: str, now: Progressed, losses: Sequence[float]) -> Panel:
    """One reading as a panel."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row("step", f"{now.step} / {now.steps}", "time left", duration(now.left_s))
    grid.add_row("epoch", f"{now.epoch:.2f}", "images/s", f"{now.images_per_s:,.0f}")
    grid.add_row("loss", f"{now.loss:.4f}", "waiting for data", f"{now.wait:.1%}")
    grid.add_row("bound", bound_line(now), "learning rate", f"{now.learning_rate:.4g}")
    whole = Table.grid(expand=True)
    whole.add_row(ProgressBar(total=now.steps, completed=now.step))
    whole.add_row(grid)
    whole.add_row(f"[cyan]{sparkline(losses)}[/cyan]")
    return Panel(whole, title=escape(title), width=78)


@contextmanager
def dashboard(title: str, *, visible: bool) -> Iterator[Callable[[Progressed], None]]:
    """Yields the function to show readings with: live on a terminal, a line every 10 s elsewhere, mute on other ranks."""
    console = Console(stderr=True)
    if not visible:
        yield lambda now: None
    elif not console.is_terminal:
        yield _plain()
    else:
        losses: list[float] = []
        with Live(console=console, refresh_per_second=4, transient=False) as live:

            def show(now: Progressed) -> None:
                losses.append(now.loss)
                live.update(panel(title, now, losses[-HISTORY:]))

            yield show


def _plain() -> Callable[[Progressed], None]:
    last = 0.0

    def show(now: Progressed) -> None:
        nonlocal last
        if now.step == now.steps or time.monotonic() - last >= PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(plain_line(now))

    return show


def say(text: str) -> None:
    """One plain line for the person at the screen; results go to standard output, everything else here."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`: a bar with a count and the time left on a terminal, from its first call on."""
    console = Console(stderr=True)
    rate = _Rate()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)

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
    shown = Table(show_header=False, box=None, pad_edge=False)
    for name, count in bins[:limit]:
        shown.add_row(escape(name), f"{count:,}", "█" * max(1, round(40 * count / most)) if count else "")
    if len(bins) > limit:
        shown.add_row(f"and {len(bins) - limit} more", f"{sum(count for _, count in bins[limit:]):,}", "")
    shown.columns[1].justify = "right"
    Console().print(f"[bold]{escape(title)}[/bold]", shown, sep="\n")


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

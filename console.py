"""Text to a person: remarks on standard error, results on standard output; nothing that either does ends a command.

Text from files (class names, paths, keys of tensors, messages of libraries) is foreign: `printable` shows what would move a
terminal's cursor, colour it or turn the direction of writing as the code that it is. Everything here passes through it.
"""

import io
import os
import re
import select
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_S = 10.0  # from one line of progress to the next, where there is no terminal
LOG_COLUMNS = 100  # of what is printed into a file
# Controls but for the end of a line and the tab; DEL and C1; line and paragraph separators; marks that turn the direction
# of writing (CVE-2021-42574); halves of pairs, which no encoding takes.
FOREIGN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with every character that does more than be seen as its code: an escape is shown as \\x1b."""
    return FOREIGN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def unboxed(text: str) -> str:
    """What stands in a box that was drawn for a terminal, in one line."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())


def in_line(text: str) -> str:
    """The same where a line's end has no place: a cell, a name in a sentence."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


class _Lenient(io.FileIO):
    """A stream that nobody may be reading any more: what it does not take is dropped, which is said once of a full disk."""

    lost = False

    def write(self, data: object) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            while (taken := super().write(data)) is None:  # pyright: ignore[reportArgumentType]
                select.select((), (self,), ())  # a pipe that another program has made one that does not wait
            return taken
        except OSError as error:
            if not self.lost and not isinstance(error, BrokenPipeError) and self.fileno() != 2:
                say(f"standard output takes no more ({error.strerror}): what follows is not shown")
            self.lost = True
            return len(memoryview(data))  # pyright: ignore[reportArgumentType]


def settle_streams() -> None:
    """Make standard output and error ones that end nothing, whatever they are: closed, a pipe without a reader, a full disk.

    What an encoding cannot show is shown by its code. A stream that was closed when the program began is the null device
    from here on: otherwise the next file that is opened would take its number, and be written to.
    """
    for number in (0, 1, 2):
        _fill(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # what has that number by now, if it was not filled above, is somebody else's file
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
            continue
        if type(_raw(stream)) is not io.FileIO:
            continue  # a test's, or settled already
        with suppress(OSError):
            stream.flush()
        raw = _Lenient(number, "w", closefd=False)
        lines = number == 2 or stream.isatty() or stream.write_through
        settled = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=lines
        )
        setattr(sys, name, settled)
        if number == 2:
            sys.excepthook, warnings.showwarning = _trace, _warning


def _trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python says at the end that an error makes: messages hold names from files."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    say(warnings.formatwarning(message, category, filename, lineno, "").rstrip("\n"))


def _fill(number: int) -> None:
    """Open the null device as `number`, for this process and its children, unless that is open."""
    try:
        os.fstat(number)
    except OSError:
        nothing = os.open(os.devnull, os.O_RDWR)
        if nothing != number:
            os.dup2(nothing, number)
            os.close(nothing)
        os.set_inheritable(number, True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the block writes to standard error goes through `say`: a parser's errors repeat what was typed, or pasted."""
    written = io.StringIO()
    try:
        with redirect_stderr(written):
            yield
    finally:
        if text := written.getvalue().rstrip("\n"):
            say(text)


def _raw(stream: TextIO) -> object:
    """What a stream writes to at last; without buffers (PYTHONUNBUFFERED) it is that which otherwise is the buffer."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def say(text: str) -> None:
    """One plain line for the person at the screen; results go to standard output, everything else here.

    Where nobody can read it any more (a closed terminal, a full disk) it is dropped: that ends no training.
    """
    with suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def answer(text: str) -> None:
    """A result as it is to be read by a program, or by a person who has asked for it: to standard output."""
    with suppress(OSError, ValueError):
        print(printable(text), flush=True)  # noqa: T201


def is_live(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def duration(seconds: float) -> str:
    """2:03, 1:02:03 or 4 d 1:02:03."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def opening(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Say what a run is about to do: a title, and a line of name and value for each of `rows`, folded at the terminal."""
    columns = LOG_COLUMNS
    if sys.stderr.isatty():
        with suppress(OSError):
            columns = max(20, min(os.get_terminal_size(sys.stderr.fileno()).columns, LOG_COLUMNS))
    wide = max((len(name) for name, _ in rows), default=0) + 2
    say(textwrap.fill(in_line(title), columns, break_on_hyphens=False))
    for name, value in rows:
        indent = " " * min(wide + 2, columns // 2)
        first = f"  {name:<{wide}}"
        value = in_line(value) or "-"
        say(textwrap.fill(value, columns, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False))


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`: a bar with a count and the time left on a terminal, from its first call on.

    Elsewhere, in a log say, it is a line every LINE_S seconds.
    """
    if not is_live(sys.stderr):
        yield _lines(title)
        return
    console = Console(stderr=True)
    rate = _Rate()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    bar = Progress(*columns, console=console)
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last < 0.1:  # an update takes 30 us, more than many an image
            return
        last = time.monotonic()
        if not bar.tasks:
            bar.add_task(escape(in_line(title)))
            bar.start()
        bar.update(bar.tasks[0].id, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()


def _lines(title: str) -> Callable[[int, int], None]:
    """A progress that says where it is every LINE_S seconds; the rate is that since the line before."""
    at, before = 0.0, -1

    def progress(done: int, total: int) -> None:
        nonlocal at, before
        now = time.monotonic()
        if before < 0:  # what was done before the first call, and how long that took, tells nothing of what is to come
            at, before = now, done
        if done >= total or now - at < LINE_S:
            return
        rate = (done - before) / (now - at)
        left = f", {duration((total - done) / rate)} left" if rate else ""
        say(f"{in_line(title)}: {done:,} of {total:,}, {rate:,.{0 if rate >= 10 else 1}f}/s{left}")
        at, before = now, done

    return progress


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
        shown.add_row(escape(in_line(name)), f"{count:,}", block * max(1, round(40 * count / most)) if count else "")
    if len(bins) > limit:
        shown.add_row(f"and {len(bins) - limit} more", f"{sum(count for _, count in bins[limit:]):,}", "")
    shown.columns[1].justify = "right"
    console.print(f"[bold]{escape(in_line(title))}[/bold]", shown, sep="\n")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result table to standard output."""
    shown = Table(show_header=any(head))
    for index, name in enumerate(head):
        shown.add_column(escape(in_line(name)), justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*(escape(in_line(cell)) for cell in row))  # a path may hold what rich takes for markup
    console = Console()
    # a pipe has no width of its own, and rich would fold the columns at 80
    console = Console(width=console.width if console.is_terminal else 140)
    console.print(
        f"[bold]{escape(in_line(title))}[/bold]", soft_wrap=True
    )  # rich's own titles fold at the width of the table
    console.print(shown)

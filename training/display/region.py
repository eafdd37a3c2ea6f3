"""Lines at the foot of a terminal that are repainted in place, with everything that is printed meanwhile above them."""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.cells import cell_len

REPAINT_S = 0.5
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

Draw = Callable[[int, int], list[str]]


class Region:
    """The region of a terminal; `draw(width, height)` makes its lines, none of them wider or more than that.

    A frame is one write, and nothing is erased that is written again, so it does not flicker. A terminal that is gone
    (an ssh session that broke off) is written to no more; the run goes on.
    """

    def __init__(self, terminal: TextIO, draw: Draw) -> None:
        self._terminal, self._draw, self._lock = terminal, draw, threading.RLock()
        self._lines: list[str] = []
        self._width, self._gone = 0, False

    def paint(self, above: str = "") -> None:
        """Draw the lines where they have changed, below the text `above`, which ends with a line's end."""
        with self._lock:
            if self._gone:
                return
            try:
                size = os.get_terminal_size(self._terminal.fileno())
                # the last column stays empty: terminals differ in what comes after a character there
                lines = self._draw(max(1, size.columns - 1), max(1, size.lines - 1))
                same = size.columns == self._width
                if above or not same or lines != self._lines:
                    self._terminal.write(self._repainted(lines, above, size.columns, same=same))
                    self._terminal.flush()
            except (OSError, ValueError):
                self._gone = True
                return
            self._lines, self._width = lines, size.columns

    def close(self) -> None:
        """The last frame stays, the cursor stands below."""
        self.paint()
        with self._lock, suppress(OSError, ValueError):
            if not self._gone:
                self._terminal.write("\n\x1b[?25h")
                self._terminal.flush()
            self._gone = True

    def _repainted(self, lines: list[str], above: str, columns: int, *, same: bool) -> str:
        # a terminal that became narrower has folded the lines that stood there
        rows = sum(max(1, -(-cell_len(ESCAPES.sub("", line)) // columns)) for line in self._lines)
        begin = "\x1b[?25l\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "")
        if above or not same or len(lines) < len(self._lines):
            return f"{begin}\x1b[J{above}" + "\n".join(lines)
        return begin + "\n".join(f"{line}\x1b[K" for line in lines)


class _Above:
    """What is printed, line by line, above a region."""

    def __init__(self, stream: TextIO, region: Region) -> None:
        self._stream, self._region, self._rest = stream, region, ""

    def write(self, text: str) -> int:
        whole, end, self._rest = (self._rest + text).rpartition("\n")
        if end:
            self._region.paint(whole + end)
        return len(text)

    def flush(self) -> None:
        pass  # a line that has no end yet would be painted over

    def finish(self) -> None:
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def region(terminal: TextIO, draw: Draw) -> Iterator[Region]:
    """Yields a region at the foot of `terminal` while standard output and error, where they are terminals, go above it."""
    made, stop = Region(terminal, draw), threading.Event()

    def repaint() -> None:
        while not stop.wait(REPAINT_S):
            made.paint()

    thread = threading.Thread(target=repaint, name="screen", daemon=True)
    stdout, stderr = sys.stdout, sys.stderr
    replaced = [(name, _Above(stream, made)) for name, stream in (("stdout", stdout), ("stderr", stderr)) if stream.isatty()]
    for name, stream in replaced:
        setattr(sys, name, stream)
    made.paint()
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()
        for _, stream in replaced:
            stream.finish()
        made.close()
        sys.stdout, sys.stderr = stdout, stderr

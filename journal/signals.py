"""Stopping early without losing anything: a signal only sets a flag, which the loop reads at the end of a step."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .dashboard import say

# 130: interrupted by the user. 75 (EX_TEMPFAIL): stopped with a good checkpoint, a scheduler may start it again.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Yields a function that returns 0, or the exit code that the received signal asks for.

    A second Ctrl-C does not wait for the checkpoint: it interrupts at once.
    """
    code = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal code
        if code:
            raise KeyboardInterrupt
        code = EXIT_CODES[signal.Signals(number)]
        say(f"{signal.Signals(number).name}: finishing this step, then a checkpoint (once more to stop at once)")

    earlier = {number: signal.signal(number, note) for number in EXIT_CODES}
    try:
        yield lambda: code
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)

"""Stopping early without losing anything: a signal only sets a flag, which the loop reads at the end of a step."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# 130: interrupted by the user. 75 (EX_TEMPFAIL): stopped with a good checkpoint, a scheduler may start it again.
# SIGUSR1 is what Slurm is asked to send ahead of the end (--signal=USR1@180), SIGHUP what a lost terminal sends.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75}
AGAIN_S = 1.0  # a launcher passes on what the terminal has sent already: only later is a Ctrl-C a second one


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Yields a function that returns 0, or the exit code that the first received signal asks for.

    A second Ctrl-C, a second or more later, does not wait for the checkpoint: it interrupts at once. What is ignored (SIGHUP
    under nohup) stays ignored.
    """
    code, since = 0, 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal code, since
        if not code:
            code, since = EXIT_CODES[signal.Signals(number)], time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - since > AGAIN_S:
            raise KeyboardInterrupt

    heeded = [number for number in EXIT_CODES if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: code
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"torch/distributed")
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def end_with_launcher() -> bool:
    """Have the kernel send SIGTERM to this process when the launcher that started it dies; whether that was done.

    Accelerate 1.15 dies of SIGTERM without a word to its one process, and torchrun of SIGUSR1: both leave orphans that
    train on. A process that was started from a shell is left alone, or nohup would no longer hold.
    """
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/cmdline", "rb") as file:
            command = file.read()
        if not any(name in command for name in LAUNCHERS):
            return False
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):  # no Linux
        return False
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)
    return True

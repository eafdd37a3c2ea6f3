"""A command of viewmill as a process of its own, which ends with the study: by itself, with a checkpoint."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import Refused
from ..files.opening import descriptor_to_change
from ..training.run_folder import locked
from ..training.signals import EXIT_CODES, PR_SET_PDEATHSIG

PROGRAM = Path(__file__).resolve().parent.parent / "run.py"
POLL_S = 0.1
PATIENCE_S = 60.0
GUARD = f"""
import ctypes, os, sys
getattr(ctypes.CDLL(None), "prctl", lambda *asked: 0)({PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})
if os.getppid() != int(sys.argv[1]):
    os._exit({EXIT_CODES[signal.SIGTERM]})
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Has the kernel send SIGTERM when the study dies, be it of kill -9, and becomes the command: that outlives an exec."""


class Ended(NamedTuple):
    """How a command ended, and what it wrote to standard output."""

    code: int
    said: str


Call = Callable[[Sequence[str], Path, Callable[[], int]], Ended]
"""Runs `viewmill` with arguments, adds what it says to a file, and passes on what a signal has asked this process for."""


def called(arguments: Sequence[str], output: Path, asked: Callable[[], int]) -> Ended:
    """Run a command to its end. `asked` is 0, or the exit code that a signal asks this process for, which is passed on once.

    Standard error is added to `output`. A command that a signal ended has the code which that signal asks for.
    """
    with _added_to(output) as errors, tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, "-ISc", GUARD, str(os.getpid()), str(PROGRAM), *arguments]
        errors.write(f"$ viewmill {' '.join(arguments)}\n".encode())
        errors.flush()
        streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": errors}
        process = subprocess.Popen(command, **streams)
        told = False
        try:
            while process.poll() is None:
                if asked() and not told:
                    process.send_signal(signal.SIGINT if asked() == EXIT_CODES[signal.SIGINT] else signal.SIGTERM)
                    told = True
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:  # a second Ctrl-C
                process.kill()
                process.wait()
        said.seek(0)
        text = said.read()
        errors.write(text.encode())
    code = process.returncode
    return Ended(EXIT_CODES.get(signal.Signals(-code), 1) if code < 0 else code, text)


def _added_to(output: Path) -> BinaryIO:
    return os.fdopen(descriptor_to_change(output, os.O_WRONLY | os.O_APPEND), "ab")


def await_free(run: Path) -> None:
    """Wait until nobody holds the run's folder: what a killed study had under way ends by itself, with a checkpoint.

    Raises Refused where it is held for longer than a minute.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            with locked(run):
                return
        except Refused:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)

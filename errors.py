"""What ends a command without a trace: input that is refused, and a run that cannot go on."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

MISSING = os.strerror(errno.ENOENT)  # the kernel's words, not ours


class Refused(ValueError):
    """Input that cannot be used; the message names it, the limit and the remedy. Exit code 2."""

    said = False
    """Whether the person has been told: of several processes only one does that."""


class Failed(RuntimeError):
    """A run that cannot go on, for a reason that needs no trace; the message names step, cause and remedy. Exit code 1."""


class Unsound(Failed):
    """A run that has come to numbers that are not finite."""


@contextmanager
def refusing() -> Iterator[None]:
    """Around what reads a user's input: its ValueErrors and OSErrors are refusals (exit code 2), not failures."""
    try:
        yield
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} does not exist" if error.strerror == MISSING else str(error)) from error
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error

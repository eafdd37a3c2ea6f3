"""The one way to hold a file against other processes: a lock that the kernel lets go of at any death."""

import errno
import fcntl
import os
from contextlib import suppress

from ..console import say

OTHERS = "see to it that no other process writes there"
_said = set[str]()


def hold(descriptor: int, path: str | os.PathLike[str], *, wait: bool = False, unheld: str = OTHERS) -> bool:
    """Lock the open file `path` for this process alone, until `descriptor` is closed; returns whether it is held.

    Some file systems know no locks (Lustre without `flock`, NFS without its daemon). That is said once of each place, with
    what it asks of the person (`unheld`), and the work goes on. Without `wait`, raises BlockingIOError where another
    process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if isinstance(error, BlockingIOError) or error.errno == errno.EBADF:
            raise
        if (place := os.fspath(path)) not in _said:
            _said.add(place)
            say(f"{place} cannot be locked ({error.strerror or error}): {unheld}")
        return False
    return True


def mark_used(path: str | os.PathLike[str]) -> int | None:
    """Let other processes see, for as long as the descriptor that is returned is open, that this one reads `path`.

    None where it cannot be marked: the file is gone, or its file system knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_unused(path: str | os.PathLike[str]) -> bool:
    """Whether no process has marked `path` as used; False too where that cannot be known."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(descriptor)
    return False

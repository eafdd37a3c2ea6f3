"""What a file's bytes are known by; that they were found to be the right ones is remembered in the user's cache."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from ...files.locking import hold
from ...files.opening import descriptor_to_change, descriptor_to_read

READ_SIZE = 1 << 22


def file_sha256(
    path: Path, *, keep_cached: bool = True, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """The sha256 of a file; `progress(done, total)` counts MiB. Without `keep_cached` its pages are let go of again."""
    digest = sha256()
    with os.fdopen(descriptor_to_read(path), "rb", buffering=0) as file:
        total, done = os.fstat(file.fileno()).st_size, 0
        buffer = bytearray(READ_SIZE)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            if not keep_cached:
                os.posix_fadvise(file.fileno(), done, count, os.POSIX_FADV_DONTNEED)
            done += count
            progress(done >> 20, total >> 20)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where this program keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "viewmill")


def seal_of(status: os.stat_result, digest: str) -> Path:
    """The file whose being there says that a file of this inode, size and time was found to have this sha256."""
    facts = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {digest}"
    return cache_folder() / "verified" / sha256(facts.encode()).hexdigest()[:32]


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """One process at a time: of the ranks of a node the first reads the file, the others find it known."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = descriptor_to_change(lock, os.O_WRONLY)
            stack.callback(os.close, descriptor)
            hold(descriptor, lock, wait=True, unheld="each process reads the file for itself")
        yield

"""File systems of a test's own, and programs that fill them."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(place: Path, kind: str, options: str) -> Iterator[Path]:
    """A file system of its own at `place`; skips where this user may not mount."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", kind, "-o", options, "none", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a {kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill_up(disk: Path, spare: int) -> None:
    """Another program takes all of a disk but `spare` bytes."""
    status = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - spare)

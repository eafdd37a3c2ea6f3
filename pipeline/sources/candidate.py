"""What a source offers: candidates for rows, each with a name, a label and the place where its bytes lie.

Places travel to the workers, which fetch the bytes themselves; so nothing is unpacked, and no archive's names become paths.
"""

import os
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ...files.opening import descriptor_to_read

MAX_BYTES = 1 << 28  # of one encoded image: 256 MiB, so that a file that only looks like an image fills no memory

UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # Python's file names hold undecodable bytes as lone surrogates

Label = str | int | None
"""A class by name, by number, or none."""
Stamp = tuple[int, int, int]
"""Inode, size and time of a file: whether it is still the one that was read."""


class Rejected(NamedTuple):
    """What did not become a row, and why."""

    path: str
    reason: str


class Remark(NamedTuple):
    """Something that a person should know of a file that is used, or of one that is passed over and is no loss."""

    path: str
    kind: str
    """In words that are the same for all of its kind: "12 files: {kind}" stands in the summary."""
    detail: str = ""
    """What is its own: numbers, what a library said."""


class Fetched(NamedTuple):
    """The content of a place: an encoded image, or pixels uint8 [H, W, 3]. `stamp` where it can be fetched again cheaply."""

    content: bytes | np.ndarray
    stamp: Stamp | None = None


class Place(Protocol):
    """Where an image lies. Small and picklable."""

    def fetch(self) -> Fetched:
        """Its content; raises ValueError or OSError with the reason where there is none."""
        ...


class Candidate(NamedTuple):
    """One image that may become a row."""

    path: str
    """What people call it: the source's path and the name."""
    name: str
    """Its name within the source."""
    place: Place
    label: Label
    size: int
    """Bytes it takes in the source, as far as is known: for the estimate."""
    facts: tuple[str, ...] = ()
    """Its values of the source's columns."""


Item = Candidate | Rejected | Remark
"""What a source lists."""


class Source(Protocol):
    """An opened source. Listing it twice gives the same candidates in the same order."""

    path: Path
    columns: Sequence[str]
    """Names of what it tells of each image beside the label."""
    classes: Sequence[str] | None
    """Its class names in their order, where the source fixes one."""
    heeds: Set[str]
    """The fields of a Reading that make a difference to it."""

    def items(self) -> Iterator[Item]:
        """Every candidate, what should be one and cannot, and remarks on what is passed over."""
        ...


class Span(NamedTuple):
    """A file, or a part of it (`size` -1: to its end)."""

    path: str
    offset: int = 0
    size: int = -1

    def fetch(self) -> Fetched:
        """See Place."""
        descriptor = descriptor_to_read(self.path)
        try:
            status = os.fstat(descriptor)
            size = status.st_size - self.offset if self.size < 0 else self.size
            if size > MAX_BYTES:
                raise ValueError(f"{size} bytes; an image may take {MAX_BYTES}")
            data = os.pread(descriptor, size, self.offset)
        finally:
            os.close(descriptor)
        if not data:
            raise ValueError("the file is empty")
        if len(data) != size:
            raise ValueError(f"ends after {len(data)} of {size} bytes")
        return Fetched(data, stamp_of(status))


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def outside(path: str, inside: str) -> bool:
    """Whether the real place of `path` lies outside of the real folder `inside`; loops of links lie outside."""
    return not Path(os.path.realpath(path)).is_relative_to(inside)


def unprintable(name: str) -> bool:
    """Whether a name was no valid UTF-8 or holds control characters: nothing that could be written to a table or a log."""
    return UNPRINTABLE.search(name) is not None

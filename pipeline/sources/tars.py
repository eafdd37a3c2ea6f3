"""What a tar holds, read where it lies: names and places of its files, of tars in it too. Nothing is extracted."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...files.opening import open_to_read
from .candidate import Span, unprintable
from .kinds import ending

PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"(\xb5/\xfd")  # gzip, bzip2, xz, zstd
PASSED_OVER = "hidden"


class Member(NamedTuple):
    """One file of a tar, or of a tar in it."""

    name: str
    place: Span
    inner: str = ""
    """The tar in the tar that it lies in."""
    fault: str = ""
    """Why it cannot be read."""


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        self._file, self._begin, self._size, self._at = file, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0 if whence == io.SEEK_SET else self._at if whence == io.SEEK_CUR else self._size)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._begin + self._at)
        self._at += len(data)
        return data


def refuse_packed(path: Path) -> None:
    """Raise ValueError for a compressed tar, with the remedy."""
    with open_to_read(path) as file:
        if file.read(6).startswith(PACKED):
            raise ValueError(
                f"{path} is compressed: gzip and the like gain nothing on images, and rows are read by offset; gunzip it"
            )


def members_of(path: Path) -> Iterator[Member]:
    """Every file in the tar, in order; where it is damaged, a last member that says so."""
    with open_to_read(path) as file:
        yield from _members(path, file, 0, os.fstat(file.fileno()).st_size, "")


def _members(path: Path, file: BinaryIO, begin: int, size: int, inner: str) -> Iterator[Member]:
    name, whole = "the beginning", Span(str(path), begin, size)
    try:
        with tarfile.open(fileobj=_Window(file, begin, size), mode="r:") as archive:
            while member := archive.next():
                # tarfile keeps every member: a shard of a million files would be kept in memory
                vars(archive)["members"].clear()
                if member.size < 0 or archive.offset <= member.offset:  # tarfile would walk in circles
                    raise tarfile.ReadError(f"{member.name!r} claims {member.size} bytes")
                name = member.name
                if member.isdir() or os.path.basename(name).startswith("."):
                    continue
                place = Span(str(path), begin + member.offset_data, member.size)
                if fault := _fault(member):
                    yield Member(name, place, inner, fault)
                elif ending(name) == "tar" and not inner:
                    yield from _members(path, file, place.offset, place.size, name)
                else:
                    yield Member(name, place, inner)
            end = read(Span(str(path), begin + archive.offset, max(0, min(tarfile.BLOCKSIZE, size - archive.offset))))
        if any(end) or not end:  # tarfile takes a broken header for the end
            raise tarfile.ReadError("no end-of-archive mark")
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
        told = f"the shard is damaged from here on: {error or type(error).__name__}"
        yield Member(f"(after {name})", whole, inner, told)


def _fault(member: tarfile.TarInfo) -> str:
    parts = member.name.split("/")
    if not member.isreg() or member.issparse():
        return "no regular file in the tar (a link, a device or a sparse file)"
    if member.name.startswith("/") or ".." in parts or unprintable(member.name):
        return "its name is absolute, leads upwards or cannot be decoded"
    return ""


def read(span: Span, limit: int = 1 << 20) -> bytes:
    """The bytes of a small member, cut at `limit`."""
    with open_to_read(span.path) as file:
        return os.pread(file.fileno(), min(span.size, limit), span.offset)

"""A WebDataset shard: a tar of consecutive files that share a key, the image being one of them.

Read where it lies: members are found by their headers and read by offset. Nothing is extracted, nothing is unpickled, and
only the extensions listed here are ever looked at.
"""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...files.opening import open_to_read
from .candidate import Candidate, Label, Rejected, Span, as_label, unprintable

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif", "avif", "jp2")
CLASS, FACTS, TEXT = "cls", "json", "txt"
MAX_SIDE_BYTES = 1 << 20  # of a .cls, .json or .txt member


class Shard:
    """One tar file. `.cls` holds the label, a number or a name; `.txt` and the plain values of `.json` become columns."""

    classes: Sequence[str] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_to_read(path) as file:
            if file.read(2) == b"\x1f\x8b":
                raise ValueError(
                    f"{path} is compressed: gzip gains nothing on images, and rows are read by offset; gunzip it"
                )
        self.columns: Sequence[str] = list(
            dict.fromkeys(name for _, members, _ in self._groups() for name in self._facts(members))
        )

    def items(self) -> Iterator[Candidate | Rejected]:
        """See Source."""
        for key, members, fault in self._groups():
            path = f"{self.path}/{key}"
            image = next((members[kind] for kind in members if kind in IMAGES), None)
            if fault:
                yield Rejected(path, fault)
            elif image is None:
                yield Rejected(path, f"no image among its files ({', '.join(members)}); known are {', '.join(IMAGES)}")
            else:
                facts = self._facts(members)
                values = tuple(facts.get(name, "") for name in self.columns)
                yield Candidate(path, key, image, self._label(members), image.size, values)

    def _groups(self) -> Iterator[tuple[str, dict[str, Span], str]]:
        """Each key with its members by extension, and what is wrong with one of them."""
        key, members, fault = "", {}, ""
        for name, found in self._members():
            stem, kind = _split(name)
            if stem != key:
                if members or fault:
                    yield key, members, fault
                key, members, fault = stem, {}, ""
            if isinstance(found, str):
                fault = found
            else:
                members[kind] = found
        if members or fault:
            yield key, members, fault

    def _members(self) -> Iterator[tuple[str, Span | str]]:
        """Name and place of every file, or in the place's stead why it cannot be read."""
        name = "the beginning"
        try:
            with open_to_read(self.path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                while member := archive.next():
                    # tarfile keeps every member: a shard of a million files would be kept in memory
                    vars(archive)["members"].clear()
                    if member.size < 0 or archive.offset <= member.offset:  # tarfile would walk in circles
                        raise tarfile.ReadError(f"{member.name!r} claims {member.size} bytes")
                    name = member.name
                    if not member.isdir() and not os.path.basename(name).startswith("."):
                        yield name, _fault(member) or Span(str(self.path), member.offset_data, member.size)
                end = _read(Span(str(self.path), archive.offset, tarfile.BLOCKSIZE))
            if any(end) or not end:  # tarfile takes a broken header for the end
                raise tarfile.ReadError("no end-of-archive mark")
        except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
            yield f"(after {name})", f"the shard is damaged from here on: {error or type(error).__name__}"

    def _label(self, members: dict[str, Span]) -> Label:
        if CLASS not in members:
            return None
        text = _read(members[CLASS]).decode(errors="replace").strip()
        return as_label(text)

    def _facts(self, members: dict[str, Span]) -> dict[str, str]:
        facts = {}
        if TEXT in members:
            facts[TEXT] = _read(members[TEXT]).decode(errors="replace").strip()
        if FACTS in members:
            try:
                content = json.loads(_read(members[FACTS]))
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                plain = {name: value for name, value in content.items() if isinstance(value, str | int | float | bool)}
                facts |= {name: str(value) for name, value in plain.items() if name not in ("row", "file_name")}
        return facts


def _split(name: str) -> tuple[str, str]:
    """Key and extension: WebDataset cuts a name at the first dot after its last slash."""
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return folder + slash + stem, kind.lower()


def _fault(member: tarfile.TarInfo) -> str:
    parts = member.name.split("/")
    if not member.isreg() or member.issparse():
        return "no regular file in the tar (a link, a device or a sparse file)"
    if member.name.startswith("/") or ".." in parts or unprintable(member.name):
        return "its name is absolute, leads upwards or cannot be decoded"
    return ""


def _read(span: Span) -> bytes:
    """The bytes of a small member, cut at 1 MiB."""
    with open_to_read(span.path) as file:
        return os.pread(file.fileno(), min(span.size, MAX_SIDE_BYTES), span.offset)

"""The first directory of a TIFF, of which EXIF is one, read without a step to where its entries point."""

from typing import Literal, NamedTuple

Order = Literal["little", "big"]
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""TIFF's types of values, and the bytes of one."""
# Tags that make the pixels what they are: size, bits, compression, colours, order, places, tables, tiles.
# fmt: off
MAKE_PIXELS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 333,
               338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532}
# fmt: on
NO_KIND = b"\0\0"


class Entry(NamedTuple):
    """An entry of a TIFF directory. `value` is as it lies there: the value itself, or where it is."""

    place: int
    """In the file."""
    tag: int
    kind: int
    number: int
    value: bytes


class Directory(NamedTuple):
    """The first directory of a TIFF, as far as it is there."""

    entries: list[Entry]
    order: Order
    whole: bool


def directory(data: bytes) -> Directory:
    """The first directory of the TIFF `data`, of which EXIF is one."""
    skipped = 0
    while data.startswith(b"Exif\0\0"):
        data, skipped = data[6:], skipped + 6
    order: Order = "little" if data.startswith(b"II") else "big"
    if data[:2] not in (b"II", b"MM"):
        return Directory([], order, whole=False)

    def read(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    big = read(2, 2) == 43  # BigTIFF: nearly everything is twice as wide
    start, width, counted, step = (read(8, 8), 8, 8, 20) if big else (read(4, 4), 4, 2, 12)
    first = start + counted
    count = read(start, counted)
    there = min(count, max(0, len(data) - first) // step)
    places = range(first, first + step * there, step)
    value = 4 + width
    entries = [
        Entry(at + skipped, read(at, 2), read(at + 2, 2), read(at + 4, width), data[at + value : at + step]) for at in places
    ]
    return Directory(entries, order, whole=first <= len(data) and there == count)


def bare(data: bytes) -> bytes:
    """The TIFF `data` with those entries emptied that point out of it, or make no pixels and hold more than it."""
    mended = bytearray(data)
    found = directory(data)
    for entry in found.entries:
        size = entry.number * WIDTHS.get(entry.kind, 1)
        place = int.from_bytes(entry.value, found.order)
        if size > len(entry.value) and entry.tag not in MAKE_PIXELS and place + size > len(data):
            mended[entry.place + 2 : entry.place + 4] = NO_KIND  # every reader passes over a value of no known type
    return bytes(mended)

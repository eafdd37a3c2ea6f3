"""What stands in a JPEG stream before its first scan, read without decoding; and the stream without what is not needed.

A segment: FF, its kind, two bytes of length, which count themselves. APP1 holds EXIF or XMP, APP2 the colour profile or an
index of more pictures, APP14 how Adobe's programs mean the colours.
"""

from collections.abc import Iterator
from typing import NamedTuple

START, SCAN = b"\xff\xd8", 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
METADATA = {*range(0xE0, 0xF0), 0xFE}  # every APP, and comments
EXIF, XMP, ICC, INDEX = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0"
NAMES = {APP1: (EXIF, XMP), APP2: (ICC, INDEX)}
LEAST = {APP0: 11, APP14: 11}  # bytes up to the version, which Pillow reads unasked
MORE_PICTURES = "holds more pictures: the first is used"
A_VIDEO = "a motion photo: the video behind the picture is not used"


class Header(NamedTuple):
    """The metadata of a JPEG stream; empty where there is none."""

    exif: bytes
    xmp: bytes
    profile: bytes
    """The first piece of its colour profile, which holds the profile's name."""
    more: bool
    """Whether an index of more pictures stands in it, as two-lens cameras and many phones write it."""
    bits: int
    """Of a sample."""
    short: bool
    """Whether a segment is shorter than what it says it is, at which Pillow stumbles."""


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(kind, begin, end) of each segment up to the first scan, whose end is where the stream ends; stops at what is none."""
    at, size = 2, len(data)
    while at + 4 <= size and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # filling
            at += 1
            continue
        if kind == SCAN:
            yield kind, at, size
            return
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if end > size:
            return
        yield kind, at, end
        at = end


def is_plain(data: bytes) -> bool:
    """Whether nothing but what decoding needs, and JFIF's word, stands before the first scan, where `header` finds nothing.

    Most photographs in data sets are such, and this takes a small part of the time.
    """
    at, last = 2, len(data) - 4
    while at <= last and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == SCAN:
            return True
        size = data[at + 2] << 8 | data[at + 3]
        if kind > SCAN and kind not in (0xDB, 0xDD) and (kind != APP0 or size < 9):  # after SOS: tables, intervals, metadata
            return False
        at += 2 + size
    return False


def header(data: bytes) -> Header | None:
    """The metadata before the first scan of `data`; None where there is none, or something between that is no segment."""
    found: dict[bytes, list[bytes]] = {EXIF: [], XMP: [], ICC: [], INDEX: []}
    bits, short = 8, False
    for kind, begin, end in _segments(data):
        short |= end - begin < LEAST.get(kind, 0)
        for name in NAMES.get(kind, ()):
            if data.startswith(name, begin + 4):
                found[name].append(data[begin + 4 + len(name) : end])
        if kind in FRAMES:
            bits = data[begin + 4]
        elif kind == SCAN:
            pieces = found[ICC]
            short |= any(len(piece) < 2 for piece in pieces)
            profile = pieces[0][2:] if pieces else b""
            return Header(b"".join(found[EXIF]), b"".join(found[XMP]), profile, bool(found[INDEX]), bits, short)
    return None


def bare(data: bytes) -> bytes:
    """The stream `data` without its metadata, but for Adobe's word on colours, if that is whole."""
    parts = [(kind, data[begin:end]) for kind, begin, end in _segments(data)]
    return START + b"".join(part for kind, part in parts if kind not in METADATA or (kind == APP14 and len(part) >= 16))


def left_out(data: bytes, found: Header) -> str:
    """In words what a decoder does not look at behind the picture; "" for nothing."""
    if found.more:
        return MORE_PICTURES
    # A video ends otherwise than a picture does; Apple, Google and Samsung put it behind, as MP4 or QuickTime.
    return A_VIDEO if data[-2:] != b"\xff\xd9" and b"ftyp" in data[-(len(data) * 3 // 4) :] else ""

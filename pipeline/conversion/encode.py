"""One candidate -> what its row will hold, or the reason why it cannot be one.

A JPEG that needs no change keeps its bytes: no second loss of quality, and what was measured on the source holds for the
file. It must still decode strictly, by the decoder that training will use, so that training meets no surprise. Everything
else goes to reencode.py.
"""

import time

from ..engines import libffcv
from ..sources.candidate import Candidate, Rejected, Remark, Stamp
from . import jpeg
from .encoding import Encoded, Encoding, Notes, as_it_is, check_size, is_kept
from .icc import OTHER, is_srgb, name_of

PLAIN = jpeg.Header(exif=b"", xmp=b"", profile=b"", more=False, bits=8, short=False)


def encode(candidate: Candidate, encoding: Encoding) -> Encoded | Rejected:
    """What becomes of one candidate. Never raises for what a file can hold: Pillow alone raises eight kinds of error."""
    notes, started = Notes(), time.perf_counter()
    try:
        content, stamp = candidate.place.fetch()
        encoded = _unchanged(content, stamp, encoding, notes) if isinstance(content, bytes) else None
        if encoded is None:
            loading = time.perf_counter()
            from .reencode import redraw  # Pillow and its forty formats take .2 s to load: a folder of JPEG files needs none

            started += time.perf_counter() - loading
            encoded = redraw(content, stamp, encoding, notes)
    except ValueError as error:  # ours, and Pillow's own refusals
        return Rejected(candidate.path, str(error) or "ValueError")
    except Exception as error:
        return Rejected(candidate.path, f"{type(error).__name__}: {error}")
    remarks = tuple([Remark(candidate.path, kind, detail) for kind, detail in notes.items()]) if notes else ()
    return Encoded(*encoded[:5], remarks, time.perf_counter() - started)


def _unchanged(data: bytes, stamp: Stamp | None, encoding: Encoding, notes: Notes) -> Encoded | None:
    """The short way of a plain JPEG that is stored as it is, without Pillow: four times as fast on small photographs."""
    if not data.startswith(jpeg.START):
        return None
    header = PLAIN if jpeg.is_plain(data) else jpeg.header(data)
    if header is None or header.exif or header.more or header.short or (header.xmp and b"tiff:Orientation" in header.xmp):
        return None
    foreign = bool(header.profile) and not is_srgb(header.profile)
    frame = libffcv.jpeg_frame(data)
    if frame is None or frame.cmyk or (foreign and encoding.colours == "srgb"):
        return None
    width, height = frame.width, frame.height
    if not is_kept(width, height, encoding):
        return None
    check_size(width, height, encoding.max_pixels)
    if foreign:
        notes(OTHER, name_of(header.profile))
    if behind := jpeg.left_out(data, header):
        notes(behind)
    return as_it_is(data, stamp, width, height)

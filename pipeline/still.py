"""One candidate -> what its row will hold, or the reason why it cannot be one.

A JPEG that needs no change keeps its bytes: no second loss of quality, and what was measured on the source holds for the
file. It must still decode strictly, by the decoder that training will use, so that training meets no surprise. Everything
else goes to redraw.py.
"""

from . import native
from .encoding import Encoded, Encoding, as_it_is, check_size, is_kept
from .sources.candidate import Candidate, Rejected, Stamp

EXIF = b"Exif\0\0"


def encode(candidate: Candidate, encoding: Encoding) -> Encoded | Rejected:
    """What becomes of one candidate. Never raises for what a file can hold: Pillow alone raises eight kinds of error."""
    try:
        content, stamp = candidate.place.fetch()
        if isinstance(content, bytes) and (kept := _unchanged(content, stamp, encoding)):
            return kept
        from .redraw import redraw  # Pillow and its forty formats take .2 s to load: a folder of JPEG files needs none

        return redraw(content, stamp, encoding)
    except ValueError as error:  # ours, and Pillow's own refusals
        return Rejected(candidate.path, str(error) or "ValueError")
    except Exception as error:
        return Rejected(candidate.path, f"{type(error).__name__}: {error}")


def _unchanged(data: bytes, stamp: Stamp | None, encoding: Encoding) -> Encoded | None:
    """The short way of a plain JPEG that is stored as it is, without Pillow: four times as fast on small photographs."""
    if data[:2] != b"\xff\xd8" or EXIF in data:
        return None
    frame = native.jpeg_frame(data)
    if frame is None or frame.cmyk:
        return None
    width, height = frame.width, frame.height
    check_size(width, height)
    if not is_kept(width, height, encoding):
        return None
    return as_it_is(data, stamp, width, height)

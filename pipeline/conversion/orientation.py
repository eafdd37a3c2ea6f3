"""Which way up an image is to be seen: the EXIF orientation, found even where other metadata is broken.

Pillow's reading counts where it has one. It gives up a whole directory at the first tag that points outside of it; so the
one tag that matters is looked up here once more, which needs nothing of the others.
"""

from contextlib import suppress

from PIL import Image

from .encoding import Notes
from .tiff import directory

ORIENTATION = 0x0112  # the tag
NUMBERS = {3: 2, 4: 4, 8: 2, 9: 4}  # TIFF's types of whole numbers that a count may be of, and their bytes
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNREADABLE = "its EXIF cannot be read: stored as it lies"
FOUND = "its EXIF is damaged; the orientation in it was found and applied"
SENSELESS = "its EXIF orientation is none of 1 to 8: stored as it lies"


def orientation_in(exif: bytes) -> int | None:
    """The orientation in `exif`, 1 to 8; None where it is not in the first directory, or stands there as something else."""
    entries, order, _ = directory(exif)
    for entry in entries:
        if entry.tag == ORIENTATION and entry.number and (size := NUMBERS.get(entry.kind)):
            value = int.from_bytes(entry.value[:size], order)
            return value if 1 <= value <= 8 else None
    return None


def orientation_of(image: Image.Image, exif: bytes, notes: Notes) -> int:
    """The orientation of an opened image, 1 for none; `exif` is what is known of its EXIF beside Pillow.

    Takes its EXIF away from the image, which would stumble over tags that nobody asks for. A TIFF turns itself as it is
    loaded: for one it is 1.
    """
    value: object = None
    with suppress(Exception):  # struct, syntax, key and value errors have been seen
        value = image.getexif().get(ORIENTATION)
    known = next((number for number in range(1, 9) if value == number), None)
    turns_itself = image.format == "TIFF"
    _forget(image, but=ORIENTATION if turns_itself else None)
    if known or turns_itself:
        return 1 if turns_itself or known is None else known
    exif = exif or _exif_of(image)
    if found := orientation_in(exif):
        notes(FOUND, f"{found}")
        return found
    if value is None and exif and not directory(exif).whole:
        notes(UNREADABLE)
    elif value not in (None, 0):  # 0 is written by many for "not known"
        notes(SENSELESS, f"{value!r}"[:40])
    return 1


def _exif_of(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    return exif if isinstance(exif, bytes) else b""


def _forget(image: Image.Image, *, but: int | None) -> None:
    exif = image.getexif()  # after a failure that which could be read
    for tag in list(exif):
        if tag != but:
            del exif[tag]

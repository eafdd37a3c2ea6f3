"""Images that cannot be stored as they are: decoded by Pillow, brought upright and to 8-bit RGB, resized where asked, and
stored as JPEG or pixels.

What is wrong with metadata is remarked upon and costs no image: Pillow's warnings are collected, and where it does not open
a file at all, it is given the picture's own bytes alone.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..beton.reader import JPEG, RAW
from ..engines import libffcv
from ..sources.candidate import Stamp
from . import jpeg, png, tiff
from .decoder_messages import collected
from .encoding import Encoded, Encoding, Notes, as_it_is, check_decodes, check_size, check_stored, is_kept
from .greys import COLOURS_DARK, LIKELY_DARK, is_deep, to_eight_bits
from .icc import OTHER, is_srgb, name_of
from .orientation import TURNS, orientation_of
from .unreadable import kind_of, picture_of

Image.init()
FORMATS = sorted(set(Image.OPEN) - {"EPS", "WMF"})  # Pillow hands those two to other programs
UNKNOWN = "no image of a kind that Pillow knows"
A_PREVIEW = "its first picture is the preview of another, as in raw files of cameras (DNG, NEF): develop it first"
LEFT_ASIDE = "its metadata could not be read and is left aside"
SCALED = 4  # times as many pixels as are decoded may a JPEG have that is decoded at a half or less
DARK_COLOURS = 256 // LIKELY_DARK


def redraw(content: bytes | np.ndarray, stamp: Stamp | None, encoding: Encoding, notes: Notes) -> Encoded:
    """What a row will hold of an encoded image or of pixels; a JPEG with metadata may still turn out to need no change.

    Raises whatever Pillow raises, and that is more than OSError.
    """
    if isinstance(content, np.ndarray):
        return _store(Image.fromarray(content), encoding, encoding.fitted(content.shape[1], content.shape[0]))
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = SCALED // 2 * encoding.max_pixels  # Pillow refuses twice as many; before that we do
    try:
        with collected(notes, listen=not content.startswith(jpeg.START)):
            return _with_or_without_metadata(content, stamp, encoding, notes)
    except UnidentifiedImageError:  # its text holds a place in memory, another in every run
        raise ValueError(_why_unknown(content)) from None
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _with_or_without_metadata(data: bytes, stamp: Stamp | None, encoding: Encoding, notes: Notes) -> Encoded:
    tried = Notes()
    try:
        encoded = _convert(data, data, stamp, encoding, tried)
    except Exception as error:
        bare = _bare(data)
        if isinstance(error, MemoryError) or bare in (b"", data):
            raise
        tried = Notes()
        try:
            encoded = _convert(bare, data, stamp, encoding, tried)
        except Exception:
            raise error from None  # the one of the file as it is: a person can look that up
        notes(LEFT_ASIDE, "" if isinstance(error, UnidentifiedImageError) else str(error))
    notes.update(tried)
    return encoded


def _bare(data: bytes) -> bytes:
    """An image's bytes without its metadata; b"" where it is not known how to leave them out."""
    if data.startswith(jpeg.START):
        return jpeg.bare(data)
    if data.startswith(png.START):
        return png.bare(data)
    if data[:2] in (b"II", b"MM"):
        return tiff.bare(data)
    return data.replace(b"Exif", b"none") if data[4:8] == b"ftyp" else b""  # AVIF passes over what is of no known kind


def _convert(data: bytes, whole: bytes, stamp: Stamp | None, encoding: Encoding, notes: Notes) -> Encoded:
    """`data` is what Pillow opens: the image `whole`, or that without its metadata."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG stream with more pictures behind it
        header = jpeg.header(whole) if is_jpeg else None
        size = encoding.fitted(*image.size)
        scaled = is_jpeg and _draft(image, size, encoding)
        check_size(*image.size, encoding.max_pixels)
        exif = header.exif if header else png.exif(whole) if image.format == "PNG" else b""
        if image.format != "TIFF":  # a PNG may keep its EXIF behind its pixels; a second load() would not fail as the first
            image.load()
        orientation = orientation_of(image, exif, notes)
        if image.format == "TIFF":  # looks at its EXIF as it is loaded
            image.load()
            _check_tiff(image, whole)
        if behind := jpeg.left_out(whole, header) if header else _frames(image):
            notes(behind)
        native_frame = libffcv.jpeg_frame(whole) if is_jpeg else None  # None: the training's decoder cannot read it
        in_srgb = _in_srgb(image, encoding, notes)
        plain = image.mode in ("RGB", "L") and orientation == 1 and not scaled and in_srgb is None
        if plain and native_frame and native_frame[:2] == image.size and is_kept(*image.size, encoding):
            return as_it_is(data, stamp if data is whole else None, *image.size)
        rgb = _to_rgb(in_srgb or image, whole, encoding, notes)
    upright = rgb if orientation == 1 else rgb.transpose(TURNS[orientation])
    return _store(upright, encoding, (size[1], size[0]) if orientation > 4 else size)


def _draft(image: Image.Image, size: tuple[int, int], encoding: Encoding) -> bool:
    """Have a JPEG of more pixels than are decoded come at a half, a quarter or an eighth, if it is to be `size` in the end.

    Not a progressive one: all of its coefficients are kept in memory meanwhile, at any scale.
    """
    pixels = image.width * image.height
    if not encoding.max_pixels < pixels <= SCALED * encoding.max_pixels or "progressive" in image.info:
        return False
    return size != image.size and image.draft(None, size) is not None


def _check_tiff(image: Image.Image, data: bytes) -> None:
    """Raise ValueError where Pillow passed over what the pixels depend on, or where they are those of a thumbnail."""
    found = tiff.directory(data)
    if not found.whole or not found.entries:
        raise ValueError("truncated: the list of its tags breaks off")
    tags = getattr(image, "tag_v2", {})
    for tag in (entry.tag for entry in found.entries if entry.number and entry.tag in tiff.MAKE_PIXELS):
        if tag not in tags:
            raise ValueError(f"damaged: tag {tag} cannot be read, on which its pixels depend")
    if tags.get(254, 0) == 1:
        raise ValueError(A_PREVIEW)


def _frames(image: Image.Image) -> str:
    """In words what other pictures a file holds; a PSD's are the layers of the first."""
    return jpeg.MORE_PICTURES if getattr(image, "is_animated", False) and image.format != "PSD" else ""


def _in_srgb(image: Image.Image, encoding: Encoding, notes: Notes) -> Image.Image | None:
    """The image by its profile, where that was asked for and makes a difference."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or image.mode == "LAB":  # which Pillow itself converts by LittleCMS
        return None
    if encoding.colours == "srgb":
        from .profiles import converted  # LittleCMS: 20 ms

        return converted(image, notes)
    if not is_srgb(profile):
        notes(OTHER, name_of(profile))
    return None


def _to_rgb(image: Image.Image, data: bytes, encoding: Encoding, notes: Notes) -> Image.Image:
    """8-bit RGB by fixed rules: deep greys are scaled (greys.py), alpha is dropped as torchvision does."""
    if is_deep(image):
        return to_eight_bits(image, encoding.grey_range, notes).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # on the straight way to RGB Pillow warns of a palette with alpha
    rgb = image.convert("RGB")
    if _is_deep_colour(image, data) and 0 < np.asarray(rgb).max() < DARK_COLOURS:
        notes(COLOURS_DARK)
    return rgb


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG or TIFF of colours has 16 bits, of which Pillow has read the upper 8."""
    bits = getattr(image, "tag_v2", {}).get(258)
    return (isinstance(bits, tuple) and len(bits) > 1 and bits[0] == 16) or (
        data.startswith(png.START) and png.is_deep_colour(data)
    )


def _store(image: Image.Image, encoding: Encoding, size: tuple[int, int]) -> Encoded:
    """An upright RGB image at its stored size, as pixels or as JPEG."""
    check_stored(*size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)  # Pillow's is the antialiased triangle filter
    if encoding.as_pixels(*size):
        return Encoded(RAW, *size, image.tobytes())
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=encoding.quality, subsampling=0)
    check_decodes(encoded.getvalue(), *size)
    return Encoded(JPEG, *size, encoded.getvalue())


def _why_unknown(data: bytes) -> str:
    if data.startswith(jpeg.START) and (found := jpeg.header(data)) and found.bits != 8:
        return f"a JPEG of {found.bits} bits a sample, which Pillow does not read: make one of 8 bits first"
    if name := picture_of(data):
        return f"damaged: {name}, of whose beginning Pillow makes nothing"
    kind = kind_of(data)
    return f"{UNKNOWN}: {kind}" if kind else UNKNOWN

"""One image file -> the sample that stands for it in a .beton, or the reason why it cannot.

A JPEG that needs no change keeps its bytes: no second loss of quality, and what was measured on the source holds for the
file. It must still decode strictly, once by Pillow and once by the decoder that training will use, so that training meets
no surprise. Everything else is decoded, brought upright (EXIF) and to 8-bit RGB, and encoded anew.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from . import native
from .beton import JPEG, MAX_SIDE, Sample

MAX_PIXELS = 100_000_000  # checked on the header, before decoding: a 420 kB PNG can hold 144 million
ORIENTATION = 0x0112  # the EXIF tag
Image.init()
FORMATS = sorted(set(Image.OPEN) - {"EPS", "WMF"})  # Pillow hands those two to other programs


class Rejected(NamedTuple):
    """A file that did not become a sample."""

    path: str
    reason: str


def encode(path: Path, label: int, *, quality: int) -> Sample | Rejected:
    """The sample of one image file. Never raises for what a file can hold: Pillow alone raises eight kinds of error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of truncated TIFFs
            warnings.filterwarnings("ignore", "Corrupt EXIF data")  # good pixels under bad metadata: ImageNet has some
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            return _encode(path, label, quality)
    except UnidentifiedImageError:  # its text holds a place in memory, another in every run
        return Rejected(str(path), "no image of a kind that Pillow knows")
    except Exception as error:
        return Rejected(str(path), f"{type(error).__name__}: {error}")


def _encode(path: Path, label: int, quality: int) -> Sample:
    data = path.read_bytes()
    if not data:
        raise ValueError("the file is empty")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise ValueError(f"{width}x{height} pixels; at most {MAX_PIXELS} and {MAX_SIDE} a side")
        image.load()
        upright = _orientation(image) == 1
        # MPO is what many phones write: a JPEG stream, with more pictures behind it that no decoder looks at
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and upright:
            _check_decodes(data, width, height)
            return Sample(JPEG, width, height, label, data)
        return _reencode(to_rgb(image if upright else ImageOps.exif_transpose(image)), label, quality)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


def _reencode(image: Image.Image, label: int, quality: int) -> Sample:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling=0)
    _check_decodes(encoded.getvalue(), *image.size)
    return Sample(JPEG, *image.size, label, encoded.getvalue())


def _check_decodes(data: bytes, width: int, height: int) -> None:
    try:
        readable = native.decodes(data, height=height, width=width)
    except native.EngineUnavailable:
        return  # this machine trains with another engine, which decodes as Pillow does
    if not readable:
        raise ValueError("libjpeg-turbo reports damaged data")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB by fixed rules: 16-bit and float greys are scaled to 0..255, alpha is dropped as torchvision does."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        grey = np.asarray(image).astype(np.float64)
        scale = 65535 if image.mode == "I" else 1.0
        if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > scale:
            raise ValueError(f"{image.mode} pixels from {grey.min()} to {grey.max()}; expected 0 to {scale}")
        return Image.fromarray((grey * 255 / scale).round().astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # on the straight way to RGB Pillow warns of a palette with alpha
    return image.convert("RGB")

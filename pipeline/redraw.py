"""Images that cannot be stored as they are: decoded by Pillow, brought upright and to 8-bit RGB, resized where asked, and
stored as JPEG or pixels.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from . import native
from .beton import JPEG, RAW
from .encoding import Encoded, Encoding, as_it_is, check_decodes, check_size, is_kept
from .sources.candidate import Stamp

ORIENTATION = 0x0112  # the EXIF tag
Image.init()
FORMATS = sorted(set(Image.OPEN) - {"EPS", "WMF"})  # Pillow hands those two to other programs


def redraw(content: bytes | np.ndarray, stamp: Stamp | None, encoding: Encoding) -> Encoded:
    """What a row will hold of an encoded image or of pixels; a JPEG with metadata may still turn out to need no change.

    Raises whatever Pillow raises, and that is more than OSError.
    """
    if isinstance(content, np.ndarray):
        return _store(Image.fromarray(content), encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow only warns of truncated TIFFs
        warnings.filterwarnings("ignore", "Corrupt EXIF data")  # good pixels under bad metadata: ImageNet has some
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
        try:
            return _convert(content, stamp, encoding)
        except UnidentifiedImageError:  # its text holds a place in memory, another in every run
            raise ValueError("no image of a kind that Pillow knows") from None


def _convert(data: bytes, stamp: Stamp | None, encoding: Encoding) -> Encoded:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        check_size(width, height)
        image.load()
        upright = _orientation(image) == 1
        # MPO is what many phones write: a JPEG stream, with more pictures behind it that no decoder looks at
        plain = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and upright
        frame = native.jpeg_frame(data)  # None: the training's decoder cannot read it, though Pillow can
        if plain and frame and (frame.width, frame.height) == (width, height) and is_kept(width, height, encoding):
            return as_it_is(data, stamp, width, height)
        return _store(to_rgb(image if upright else ImageOps.exif_transpose(image)), encoding)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


def _store(image: Image.Image, encoding: Encoding) -> Encoded:
    """An upright RGB image at its stored size, as pixels or as JPEG."""
    size = encoding.fitted(*image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)  # Pillow's is the antialiased triangle filter
    if encoding.as_pixels(*size):
        return Encoded(RAW, *size, image.tobytes())
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=encoding.quality, subsampling=0)
    check_decodes(encoded.getvalue(), *size)
    return Encoded(JPEG, *size, encoded.getvalue())


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

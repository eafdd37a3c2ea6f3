"""How images are stored, what a row will hold, and the checks that every image passes."""

from typing import Literal, NamedTuple

from ..beton.reader import JPEG, MAX_PIXELS, MAX_SIDE
from ..engines import libffcv
from ..sources.candidate import Remark, Stamp

Range = tuple[float, float]


class Notes(dict[str, str]):
    """What there is to remark on one image: kind -> detail, each kind once."""

    def __call__(self, kind: str, detail: str = "") -> None:
        """Note it, unless it was."""
        self.setdefault(kind, detail)


class Encoding(NamedTuple):
    """How images are stored."""

    mode: Literal["jpg", "raw", "smart"] = "jpg"
    """jpg: JPEG, bytes kept where possible; raw: pixels; smart: pixels of images of at most `smart_bytes`, else JPEG."""
    quality: int = 95
    """JPEG quality of what has to be encoded, chroma at full resolution."""
    side: int = 0
    """Larger images are resized to this shorter side; 0: not."""
    max_resolution: int = 0
    """Larger images are resized to this longer side; 0: not."""
    smart_bytes: int = 16_384
    """64x64 pixels and a third: there a JPEG saves little room and costs most of a small view's time."""

    max_pixels: int = MAX_PIXELS
    """Images of more pixels are not decoded."""
    grey_range: Range | None = None
    """What becomes black and white of greys of more than 8 bits; None: what their kind of number says (greys.py)."""
    colours: Literal["stored", "srgb"] = "stored"
    """stored: colours as they lie in the file; srgb: by their profile, where they have one."""

    def fitted(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as stored: the shape is kept, nothing is enlarged."""
        if not (self.side or self.max_resolution):
            return width, height
        scale = 1.0
        if self.side:
            scale = min(scale, self.side / min(width, height))
        if self.max_resolution:
            scale = min(scale, self.max_resolution / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def as_pixels(self, width: int, height: int) -> bool:
        """Whether an image of this size is stored as pixels."""
        return self.mode == "raw" or (self.mode == "smart" and width * height * 3 <= self.smart_bytes)


class Encoded(NamedTuple):
    """What a row will hold. `data` None: the bytes of its place as they are, if that still bears `stamp`."""

    mode: int
    width: int
    height: int
    data: bytes | None
    stamp: Stamp | None = None
    remarks: tuple[Remark, ...] = ()
    seconds: float = 0.0
    """That it took."""


def is_kept(width: int, height: int, encoding: Encoding) -> bool:
    """Whether a JPEG of this size is stored as it is."""
    return not encoding.as_pixels(width, height) and encoding.fitted(width, height) == (width, height)


def check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raise ValueError for more pixels than are decoded; called before decoding, since a 420 kB PNG can hold 144 million."""
    if width * height > most or max(width, height) > MAX_SIDE:
        remedy = "raise --max-pixels, or have a JPEG made smaller as it is decoded by --side or --max-resolution"
        raise ValueError(f"{width}x{height} pixels; at most {most} and {MAX_SIDE} a side are decoded: {remedy}")


def check_stored(width: int, height: int) -> None:
    """Raise ValueError for an image that no reader of the file would take."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        at_most = f"at most {MAX_PIXELS} and {MAX_SIDE} a side are stored"
        raise ValueError(f"{width}x{height} pixels; {at_most}: make it smaller by --side or --max-resolution")


def as_it_is(data: bytes, stamp: Stamp | None, width: int, height: int) -> Encoded:
    """A JPEG whose bytes are kept; raises ValueError where the training's decoder does not read them."""
    check_stored(width, height)
    check_decodes(data, width, height)
    return Encoded(JPEG, width, height, data if stamp is None else None, stamp)


def check_decodes(data: bytes, width: int, height: int) -> None:
    """Raise ValueError for a JPEG that the decoder of the training does not read without a complaint."""
    try:
        readable = libffcv.decodes(data, height=height, width=width, eighths=1)
    except libffcv.EngineUnavailable:
        return  # this machine trains with another engine, which decodes as Pillow does
    if not readable:
        raise ValueError("libjpeg-turbo reports damaged data")

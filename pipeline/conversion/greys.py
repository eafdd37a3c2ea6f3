"""Greys of more than 8 bits -> 8 bits, by one rule for all of a data set, so that two images stay as bright as they are.

White is what the kind of number says: 65,535 of 16 bits and of integers, 1 of floats; of a TIFF of fewer bits, what those
can hold. What fills less than a sixteenth of that is remarked upon: it may be 10 or 12 bits in a container of 16, and
nothing in the file says so. --grey-range says it, for every image alike. A guess image by image would make dark ones bright.
"""

import numpy as np
from PIL import Image

from .encoding import Notes, Range

LIKELY_DARK = 16
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE, SMAX_SAMPLE = 258, 262, 281, 341  # TIFF's tags
DARK = "greys that fill less than a sixteenth of their range are almost black: if they hold fewer bits, see --grey-range"
CLIPPED = "greys outside of --grey-range became black or white"
STATED = "greys of fewer bits than 16, as the file itself says: scaled by that"
COLOURS_DARK = "colours of 16 bits that fill less than a sixteenth of them are almost black: 8-bit images are needed"


def is_deep(image: Image.Image) -> bool:
    """Whether an image has greys of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_eight_bits(image: Image.Image, asked: Range | None, notes: Notes) -> Image.Image:
    """An image of mode L. Raises ValueError for numbers outside of the range, if none was asked for, and for NaN."""
    grey = np.asarray(image).astype(np.float32 if image.mode.startswith("I;16") else np.float64)
    least, most = float(grey.min()), float(grey.max())
    if not np.isfinite(grey).all():
        raise ValueError(f"{image.mode} pixels from {least} to {most}, not all of them finite numbers")
    low, high = asked or (0.0, _white(image, grey, notes))
    if asked is None and (least < 0 or most > high):
        told = f"{image.mode} pixels from {least:g} to {most:g}; expected 0 to {high:g}"
        raise ValueError(f"{told}: say by --grey-range what is black and what is white")
    if asked is None and 0 < most < high / LIKELY_DARK:
        notes(DARK, f"{least:g} to {most:g} of {high:g}")
    if least < low or most > high:
        notes(CLIPPED, f"{least:g} to {most:g}")
    scaled = ((grey.clip(low, high) - low) * (255 / (high - low))).round().astype(np.uint8)
    white_is_zero = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0  # Pillow turns only 8 bits round
    return Image.fromarray(255 - scaled if white_is_zero else scaled)


def _white(image: Image.Image, grey: np.ndarray, notes: Notes) -> float:
    """What a file says is white, or what its kind of number says."""
    if image.mode == "F":
        return 1.0
    if not image.mode.startswith("I;16"):
        return 65535.0
    bits = _stated_bits(image)
    if not 8 < bits < 16 or grey.max() >= 1 << bits:
        return 65535.0
    notes(STATED, f"{bits} bits")
    return float((1 << bits) - 1)


def _stated_bits(image: Image.Image) -> int:
    """How many bits a TIFF says that it has, 16 without a word; its largest value counts where it is all ones.

    PNG's sBIT says nothing here: such values are spread over all 16 bits, as the specification has it.
    """
    tags = getattr(image, "tag_v2", {})
    try:
        bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
        stated = [tags[tag] for tag in (SMAX_SAMPLE, MAX_SAMPLE) if tag in tags]
        values = [int(value[0] if isinstance(value, tuple) else value) for value in stated]
    except (TypeError, ValueError, LookupError):
        return 16
    return min([bits, *(value.bit_length() for value in values if value & (value + 1) == 0)])

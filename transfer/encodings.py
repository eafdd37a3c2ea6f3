"""Masks as run lengths: what an annotation says of a region, checked before compiled code reads it.

Shape suffixes: H, W = height and width, R = runs of equal pixels, C = characters.
"""

import math
from typing import Any

import numpy as np

REACH = 1.0
"""How far outside its image a polygon may lie, in longer sides: the compiled code takes memory for every pixel it passes."""


def coco_masks() -> Any:
    """The module pycocotools.mask; ValueError with the line that installs it where it is missing."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ValueError('masks and average precision need pycocotools: pip install "viewmill[transfer]"') from None
    return mask


def encoded(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """A COCO segmentation as a compressed run-length encoding; None where it is no region of this image.

    Polygons of fewer than three points, and those with a point that is not finite or lies more than a side outside the
    image, are left out; what remains is joined. Encodings may be compressed or not; they must be of this size and fill
    it, since the compiled code trusts them.
    """
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return None
    counts = segmentation.get("counts")
    if isinstance(counts, str | bytes):
        run_R = unpacked(counts)
        runs = None if run_R is None else run_R.tolist()
    else:
        runs = counts
    if (
        not isinstance(runs, list)
        or not all(isinstance(run, int) and run >= 0 for run in runs)
        or sum(runs) != height * width
    ):
        return None
    if not any(runs[1::2]):
        return None
    return coco_masks().frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _of_polygons(polygons: list[Any], height: int, width: int) -> dict[str, Any] | None:
    kept = [polygon for polygon in polygons if is_polygon(polygon, height, width)]
    if not kept:
        return None
    coco = coco_masks()
    parts = coco.frPyObjects(kept, height, width)
    whole = coco.merge(parts) if len(parts) > 1 else parts[0]
    return whole if coco.area(whole) else None


def is_polygon(polygon: Any, height: int, width: int) -> bool:
    """Whether a part of a segmentation can be drawn: x, y, x, y ... of three points or more, in or near the image."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not set(map(type, polygon)) <= {int, float}:
        return False
    side = max(height, width)
    low, high = -REACH * side, (1 + REACH) * side
    # in this order: a sum of numbers within limits does not overflow, and is no number where one of them is none
    return low <= min(polygon) and max(polygon) <= high and math.isfinite(sum(polygon))


def unpacked(counts: str | bytes) -> np.ndarray | None:
    """The run lengths, int64, in a compressed string; None where it is not one.

    Five bits a character, the sixth says that more follow; from the fourth number on, differences to the last but one
    (rleToString in pycocotools' maskApi.c).
    """
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    digit_C = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(digit_C) or digit_C.min() < 0 or digit_C.max() > 63 or digit_C[-1] & 32:
        return None
    end_R = np.flatnonzero(digit_C & 32 == 0)
    begin_R = np.concatenate([[0], end_R[:-1] + 1])
    length_R = end_R - begin_R + 1
    if length_R.max() > 7:  # 35 bits: no image is that large, and more would not fit
        return None
    place_C = np.arange(len(digit_C)) - np.repeat(begin_R, length_R)
    run_R = np.add.reduceat((digit_C & 31) << 5 * place_C, begin_R)
    run_R -= np.where(digit_C[end_R] & 16, 1 << 5 * length_R, 0)
    run_R[1::2], run_R[2::2] = run_R[1::2].cumsum(), run_R[2::2].cumsum()
    return run_R


def decoded(encoding: dict[str, Any]) -> np.ndarray:
    """The mask of a compressed encoding, bool [H, W].

    As pycocotools' own decode, which warns of what numpy will not allow.
    """
    (height, width), run_R = encoding["size"], unpacked(encoding["counts"])
    if run_R is None or (run_R < 0).any() or run_R.sum() != height * width:
        raise ValueError(f"a mask of {width} x {height} pixels is damaged: its run lengths do not fill it")
    ends = run_R.cumsum()
    flat = np.zeros(height * width, bool)
    # a slice a run: 20 times faster than np.repeat, which copies byte by byte
    for begin, end in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=False):
        flat[begin:end] = True
    return flat.reshape(width, height).T


def of_mask(mask_HW: np.ndarray) -> dict[str, Any]:
    """The encoding of a mask, bool [H, W]."""
    return coco_masks().encode(np.asfortranarray(mask_HW, np.uint8))

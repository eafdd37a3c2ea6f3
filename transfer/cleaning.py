"""Objects of an image as an annotation file says them -> those that can be trained on, and a count of what was mended.

Shape suffixes: N = objects of one image, K = keypoints, 4 = left, top, right, bottom, 3 = x, y, visibility.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .encodings import coco_masks
from .scene import Instances, Task

Notes = dict[str, list[str]]
"""What was mended or left out, by kind: where."""
OUTSIDE = 1.0
"""Pixels by which a box may pass its image's edge before that is worth a note: tools round outwards."""
SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}


class Raw(NamedTuple):
    """An object as it was read."""

    where: str
    """What to call it in a message."""
    box_4: Any
    """Left, top, right, bottom; None where only the mask says it; () where it cannot be read."""
    label: int
    crowd: bool
    area: Any = None
    rle: dict[str, Any] | None = None
    points_K3: Any = None


def note(notes: Notes, kind: str, where: str) -> None:
    """Count one more of `kind`."""
    notes.setdefault(kind, []).append(where)


def lines(notes: Notes) -> tuple[str, ...]:
    """A line a kind, with its count and the first."""
    return tuple(f"{kind}: {len(places)}, the first is {places[0]}" for kind, places in notes.items())


def instances(raws: Sequence[Raw], height: int, width: int, *, task: Task, keypoints: int, notes: Notes) -> Instances:
    """The objects of an image that have a box in it (and a mask, where the task asks for masks), in their order."""
    kept = [(raw, box) for raw in raws if (box := _mended(raw, height, width, task, notes)) is not None]
    box_N4 = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
    side_N2 = box_N4[:, 2:].astype(np.float64) - box_N4[:, :2]
    area_N = [_area(raw, float(side.prod())) for (raw, _), side in zip(kept, side_N2, strict=True)]
    points = [_points(raw, keypoints, notes) for raw, _ in kept] if task == "keypoints" else None
    return Instances(
        box_N4=box_N4,
        label_N=np.array([raw.label for raw, _ in kept], np.int64),
        crowd_N=np.array([raw.crowd for raw, _ in kept], bool),
        area_N=np.array(area_N, np.float32),
        rle_N=tuple(raw.rle for raw, _ in kept if raw.rle is not None) if task == "segmentation" else None,
        keypoint_NK3=None if points is None else np.array(points, np.float32).reshape(-1, keypoints, 3),
    )


def _mended(raw: Raw, height: int, width: int, task: Task, notes: Notes) -> np.ndarray | None:
    """The box inside the image, float32 [4]; None where nothing is left of the object."""
    if task == "segmentation" and raw.rle is None:
        return note(notes, "objects left out since they have no mask", raw.where)
    box = raw.box_4
    if box is None and raw.rle is not None:
        left, top, across, down = coco_masks().toBbox(raw.rle).tolist()
        box = (left, top, left + across, top + down)
    if box is None or len(box) != 4 or not all(is_number(number) for number in box):
        return note(notes, "objects left out since their box is not four finite numbers", raw.where)
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return note(notes, "objects left out since their box has no area", raw.where)
    inside = np.array(
        [min(max(left, 0), width), min(max(top, 0), height), max(min(right, width), 0), max(min(bottom, height), 0)],
        np.float32,  # in which a sliver far from 0 may vanish
    )
    if not (inside[2:] > inside[:2]).all():
        return note(notes, "objects left out since their box lies outside the image", raw.where)
    if left < -OUTSIDE or top < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
        note(notes, "boxes cut at the edge of their image", raw.where)
    return inside


def is_number(value: Any) -> bool:
    """Whether a value from a file is a finite number (in JSON, true is none, NaN is allowed by Python)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) < 1e12)


def _area(raw: Raw, of_box: float) -> float:
    if is_number(raw.area) and raw.area > 0:
        return float(raw.area)
    return float(coco_masks().area(raw.rle)) if raw.rle is not None else of_box


def _points(raw: Raw, keypoints: int, notes: Notes) -> np.ndarray:
    """float32 [K, 3]; what is not finite is not there, and a visibility above 2 is 2."""
    if raw.points_K3 is None:
        return np.zeros((keypoints, 3), np.float32)
    points_K3 = np.array(raw.points_K3, np.float32).reshape(keypoints, 3)
    finite_K = np.isfinite(points_K3).all(axis=1)
    if not finite_K.all() or (points_K3[:, 2] > 2).any():
        note(notes, "objects with a keypoint that is not finite (counted as none) or has a visibility above 2", raw.where)
    points_K3[~finite_K] = 0
    points_K3[:, 2] = np.clip(points_K3[:, 2], 0, 2)
    return points_K3


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """Where each keypoint goes in a mirrored image: the word left becomes right; without a partner it stays itself."""
    place = {name: k for k, name in enumerate(names)}
    other = [re.sub("left|right|Left|Right|LEFT|RIGHT", lambda found: SIDES[found.group()], name) for name in names]
    return tuple(place.get(name, k) for k, name in enumerate(other))

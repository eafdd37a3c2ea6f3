"""Average precision as Pascal VOC's own kit counts it, which differs from COCO's in its rules and in its mean.

Shape suffixes: D = detections of a class, R = points of a curve.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .scene import Found, SceneSet

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class VocPrecision(NamedTuple):
    """Means over the classes that have objects, in 0..1; -1 where none has."""

    ap: float
    """Mean over the thresholds .50 to .95, as Detectron2 reports it of VOC, and papers after it."""
    ap50: float
    """What VOC calls average precision."""
    ap75: float
    by_category: dict[str, float]
    """AP50 by name."""


def voc_precision(truth: SceneSet, found: Sequence[Found], *, eleven: bool) -> VocPrecision:
    """Average precision of boxes by the rules of VOC: `eleven` points of the curve (2007), or the area under it (from 2010).

    A detection belongs to the object of its class that it overlaps most, and counts where it overlaps that by at least
    the threshold and is the surest that does. Difficult objects count neither for nor against. A box that VOC says by its
    first and last pixel is here as long as its pixels, so overlaps are the kit's.
    Source: the development kits' VOCevaldet.m.
    """
    table = [_curves(truth, found, label, eleven) for label in range(1, len(truth.categories) + 1)]
    counted = np.array([row for row in table if row is not None]).reshape(-1, len(THRESHOLDS))
    names = [category.name for category in truth.categories]
    by_category = {name: -1.0 if row is None else row[0] for name, row in zip(names, table, strict=True)}
    if not len(counted):
        return VocPrecision(-1.0, -1.0, -1.0, by_category)
    mean = counted.mean(axis=0)
    return VocPrecision(float(mean.mean()), float(mean[0]), float(mean[THRESHOLDS.index(0.75)]), by_category)


def _curves(truth: SceneSet, found: Sequence[Found], label: int, eleven: bool) -> list[float] | None:
    """AP of a class at every threshold; None where it has no objects that count."""
    objects = {}
    for scene in truth.scenes:
        of_class = scene.instances.label_N == label
        objects[scene.image_id] = (scene.instances.box_N4[of_class].astype(float), scene.instances.crowd_N[of_class])
    positives = sum(int((~crowd).sum()) for _, crowd in objects.values())
    if not positives:
        return None
    rows = [(each.score_N[n], each, n) for each in found for n in np.flatnonzero(each.label_N == label)]
    rows.sort(key=lambda row: -row[0])
    nearest = [(each.image_id, *_nearest(each.box_N4[n].astype(float), objects[each.image_id][0])) for _, each, n in rows]
    return [_average(*_judged(nearest, objects, threshold), positives, eleven) for threshold in THRESHOLDS]


def _nearest(box_4: np.ndarray, box_N4: np.ndarray) -> tuple[int, float]:
    """The object that a box overlaps most, and by how much; -1 where there is none."""
    if not len(box_N4):
        return -1, 0.0
    side_N2 = np.minimum(box_4[2:], box_N4[:, 2:]) - np.maximum(box_4[:2], box_N4[:, :2])
    inside_N = side_N2.clip(0).prod(axis=1)
    overlap_N = inside_N / ((box_4[2:] - box_4[:2]).prod() + (box_N4[:, 2:] - box_N4[:, :2]).prod(axis=1) - inside_N)
    return int(overlap_N.argmax()), float(overlap_N.max())


def _judged(nearest: Sequence[tuple[int, int, float]], objects: dict, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """bool [D] right, and wrong; a detection of a difficult object is neither."""
    right_D, wrong_D, taken = np.zeros(len(nearest), bool), np.zeros(len(nearest), bool), set()
    for d, (image_id, n, overlap) in enumerate(nearest):
        if overlap >= threshold and objects[image_id][1][n]:
            continue
        right_D[d] = overlap >= threshold and (image_id, n) not in taken
        wrong_D[d] = not right_D[d]
        if right_D[d]:
            taken.add((image_id, n))
    return right_D, wrong_D


def _average(right_D: np.ndarray, wrong_D: np.ndarray, positives: int, eleven: bool) -> float:
    recall_D, wrong_D = right_D.cumsum() / positives, wrong_D.cumsum()
    precision_D = right_D.cumsum() / np.maximum(right_D.cumsum() + wrong_D, 1)
    if eleven:
        points = np.arange(0.0, 1.1, 0.1)  # as Detectron2: 0.3, 0.6 and 0.7 are a hair larger so
        return float(np.mean([precision_D[recall_D >= point].max(initial=0.0) for point in points]))
    recall_R, precision_R = np.array([0.0, *recall_D, 1.0]), np.array([0.0, *precision_D, 0.0])
    precision_R = np.maximum.accumulate(precision_R[::-1])[::-1]
    return float((np.diff(recall_R) * precision_R[1:]).sum())

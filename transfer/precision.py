"""Average precision of detections, counted by pycocotools itself from objects in memory.

Shape suffixes: N = detections of an image, K = keypoints, 4 = left, top, right, bottom, 3 = x, y, visibility or score.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, Literal, NamedTuple

import numpy as np

from .scene import Found, Scene, SceneSet

Kind = Literal["bbox", "segm", "keypoints"]
KINDS: dict[str, Kind] = {"detection": "bbox", "segmentation": "segm", "keypoints": "keypoints"}
"""What is counted for each task, besides boxes, which are counted for all."""
COCO_PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)


class Precision(NamedTuple):
    """Average precisions and recall in 0..1; -1 where the truth has no object that counts, as pycocotools says it."""

    kind: Kind
    ap: float
    """Mean over the thresholds .50, .55, ... .95 of overlap (or of keypoint similarity)."""
    ap50: float
    ap75: float
    ap_small: float
    """Of objects under 32 x 32 square pixels; -1 for keypoints, which COCO does not count there."""
    ap_medium: float
    ap_large: float
    """Of objects over 96 x 96 square pixels."""
    ar: float
    """Average recall at 100 detections an image (20 of keypoints)."""
    by_category: dict[str, float]
    """AP by the names of the categories."""
    stats: tuple[float, ...]
    """COCOeval.stats as it is: 12 numbers, 10 for keypoints."""


def average_precision(
    truth: SceneSet, found: Sequence[Found], *, kind: Kind, sigmas: Sequence[float] | None = None
) -> Precision:
    """Average precision of `found` as COCO defines it.

    Images of the truth that `found` does not name count as images without detections. What was left out of the truth
    when it was opened (see its notes) is not counted. Keypoint similarity needs a `sigma` for each keypoint: those
    given, else those of the set's file, else COCO's own where the keypoints are its 17.

    Raises:
        ValueError: where detections are of another set, are not finite, lack what `kind` needs, where there are no sigmas
            for these keypoints, or pycocotools is not installed.
    """
    coco, evaluator = _pycocotools()
    _check(truth, found, kind)
    with redirect_stdout(io.StringIO()):
        judge = evaluator(_truth(coco, truth, kind), _results(coco, truth, found, kind), iouType=kind)
        if kind == "keypoints" and (chosen := _sigmas(truth, sigmas)) is not None:
            judge.params.kpt_oks_sigmas = np.array(chosen)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    stats = tuple(float(number) for number in judge.stats)
    small, medium, large, recall = (-1.0, *stats[3:5], stats[5]) if kind == "keypoints" else (*stats[3:6], stats[8])
    order = {category: k for k, category in enumerate(sorted(category.id for category in truth.categories))}
    by_category = {
        category.name: _mean(judge.eval["precision"][:, :, order[category.id], 0, -1]) for category in truth.categories
    }
    return Precision(kind, stats[0], stats[1], stats[2], small, medium, large, recall, by_category, stats)


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ValueError('average precision needs pycocotools: pip install "viewmill[transfer]"') from None
    return COCO, COCOeval


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(np.mean(counted)) if counted.size else -1.0


def _sigmas(truth: SceneSet, given: Sequence[float] | None) -> Sequence[float] | None:
    """One for each keypoint; None for COCO's own."""
    chosen = given if given is not None else truth.sigma_K
    if not len(chosen):
        if truth.keypoints == COCO_PERSON:
            return None
        raise ValueError(
            f"these {len(truth.keypoints)} keypoints are not COCO's 17: give a sigma for each, as sigmas= here or as "
            '"sigmas" beside "keypoints" in the annotations (COCO uses .025 for eyes to .107 for hips)'
        )
    if len(chosen) != len(truth.keypoints) or not all(0 < sigma < np.inf for sigma in chosen):
        raise ValueError(f"{len(truth.keypoints)} keypoints need as many sigmas above 0, got {list(chosen)}")
    return chosen


def _check(truth: SceneSet, found: Sequence[Found], kind: Kind) -> None:
    """Raise ValueError where detections cannot be those of this set."""
    if kind not in KINDS.values():
        raise ValueError(f"kind must be one of {', '.join(KINDS.values())}, got {kind!r}")
    lacking = {"segm": "masks", "keypoints": "keypoints"}.get(kind)
    known, seen = {scene.image_id for scene in truth.scenes}, set()
    if lacking and any(_part(scene.instances, kind) is None for scene in truth.scenes):
        raise ValueError(f"the truth was opened without {lacking}: open it with the task that has them")
    for each in found:
        if each.image_id not in known:
            raise ValueError(f"detections of image {each.image_id}, which the truth does not have: they are of another set")
        if each.image_id in seen:
            raise ValueError(f"image {each.image_id} has detections twice: hand each image over once")
        seen.add(each.image_id)
        if lacking and _part(each, kind) is None:
            raise ValueError(f"the detections of image {each.image_id} have no {lacking}")
        numbers = (each.box_N4, each.score_N, each.keypoint_NK3 if kind == "keypoints" else None)
        if not all(number is None or np.isfinite(number).all() for number in numbers):
            raise ValueError(f"the detections of image {each.image_id} are not finite")
        if len(each.label_N) and not 1 <= each.label_N.min() <= each.label_N.max() <= len(truth.categories):
            raise ValueError(f"image {each.image_id} has labels outside 1..{len(truth.categories)}")


def _part(instances: Any, kind: Kind) -> Any:
    return instances.rle_N if kind == "segm" else instances.keypoint_NK3


def _corner_and_size(box_4: Sequence[float]) -> list[float]:
    left, top, right, bottom = box_4
    return [left, top, right - left, bottom - top]


def _truth(coco: Any, truth: SceneSet, kind: Kind) -> Any:
    # COCOeval takes a match with annotation 0 for none, so numbers begin at 1 whatever those of the file were
    annotations = [row for scene in truth.scenes for row in _annotations(scene, truth, kind)]
    categories = [category._asdict() for category in truth.categories]
    return _indexed(
        coco, _images(truth), categories, [{"id": number, **row} for number, row in enumerate(annotations, start=1)]
    )


def _images(truth: SceneSet) -> list[dict[str, int]]:
    return [{"id": scene.image_id, "height": scene.height, "width": scene.width} for scene in truth.scenes]


def _annotations(scene: Scene, truth: SceneSet, kind: Kind) -> Iterator[dict[str, Any]]:
    items = scene.instances
    for n, box in enumerate(items.box_N4.astype(np.float64).tolist()):
        row = {
            "image_id": scene.image_id,
            "category_id": truth.categories[int(items.label_N[n]) - 1].id,
            "bbox": _corner_and_size(box),
            "area": float(items.area_N[n]),
            "iscrowd": int(items.crowd_N[n]),
        }
        if kind == "segm" and items.rle_N is not None:
            row["segmentation"] = items.rle_N[n]
        if kind == "keypoints" and items.keypoint_NK3 is not None:
            points_K3 = items.keypoint_NK3[n].astype(np.float64)
            row |= {"keypoints": points_K3.ravel().tolist(), "num_keypoints": int((points_K3[:, 2] > 0).sum())}
        yield row


def _results(coco: Any, truth: SceneSet, found: Sequence[Found], kind: Kind) -> Any:
    """What COCO.loadRes makes of a file of results, which it does not of an empty one."""
    rows: list[dict[str, Any]] = []
    for each in found:
        labels, scores = each.label_N.tolist(), each.score_N.astype(np.float64).tolist()
        boxes = each.box_N4.astype(np.float64).tolist()
        for n, (label, score) in enumerate(zip(labels, scores, strict=True)):
            row = {"image_id": each.image_id, "category_id": truth.categories[label - 1].id, "score": score}
            if kind == "segm" and each.rle_N is not None:
                row["segmentation"] = each.rle_N[n]
            elif kind == "keypoints" and each.keypoint_NK3 is not None:
                row["keypoints"] = each.keypoint_NK3[n].astype(np.float64).ravel().tolist()
            else:
                row["bbox"] = _corner_and_size(boxes[n])
            rows.append(row)
    whole = _indexed(coco, _images(truth), [category._asdict() for category in truth.categories], [])
    return whole.loadRes(rows) if rows else whole


def _indexed(coco: Any, images: list[Any], categories: list[Any], annotations: list[Any]) -> Any:
    made = coco()
    made.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    made.createIndex()
    return made

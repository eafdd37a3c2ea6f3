"""Schedules of a fine-tuning as values: steps, learning rate, warm-up, and where the rate falls."""

from dataclasses import dataclass, replace
from typing import Literal

from ..training.learning_rate import rate_at

# what is judged of each task, by the names that results have and as pycocotools calls it
JUDGED: dict[str, dict[str, Literal["bbox", "segm", "keypoints"]]] = {
    "detection": {"boxes": "bbox"},
    "segmentation": {"boxes": "bbox", "masks": "segm"},
    "keypoints": {"boxes": "bbox", "keypoints": "keypoints"},
}
FALLS_TO = 0.1  # of what it was, at each drop


@dataclass(frozen=True)
class Course:
    """A schedule: a linear rise over `warmup` steps to `learning_rate`, which falls to a tenth at each of `drops`, and
    between them as `shape` says."""

    steps: int
    drops: tuple[int, ...]
    warmup: int
    learning_rate: float = 0.02
    batch: int = 16
    """Images of a step over all processes, for which the learning rate is meant."""
    shape: str = "constant"

    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        fallen = FALLS_TO ** sum(step >= drop for drop in self.drops)
        return fallen * rate_at(step, steps=self.steps, warmup=self.warmup, peak=self.learning_rate, shape=self.shape)


@dataclass(frozen=True)
class Preset:
    """A published schedule with the sizes of its images in px."""

    course: Course
    sides: tuple[int, ...]
    """One of these is drawn for each training image: the length of its shorter side."""
    side: int
    """Of the images that are tested on."""
    longest: int


COCO_SIDES = (640, 672, 704, 736, 768, 800)
# Detectron2's Base-RCNN-FPN.yaml and its 1x and 2x schedules (its WARMUP_ITERS is 1,000 unless said otherwise), and
# pascal_voc_R_50_C4_24k of MoCo (arXiv 1911.05722, appendix)
PRESETS = {
    "coco-1x": Preset(Course(90_000, (60_000, 80_000), 1_000), COCO_SIDES, 800, 1333),
    "coco-2x": Preset(Course(180_000, (120_000, 160_000), 1_000), COCO_SIDES, 800, 1333),
    "voc-24k": Preset(Course(24_000, (18_000, 22_000), 100), (480, 512, 544, 576, 608, *COCO_SIDES), 800, 1333),
}


def course_of(
    name: str,
    *,
    steps: int = 0,
    batch: int = 0,
    learning_rate: float | None = None,
    scale_rate: bool = False,
    warmup: int | None = None,
) -> Course:
    """The schedule `name` with what is asked for instead: 0 and None for its own.

    Of other `steps`, drops and warm-up stand at the same shares. The learning rate stays that of the preset's batch unless
    `scale_rate` asks for the linear rule (arXiv 1706.02677): rate x batch / 16. Raises ValueError for what cannot be.
    """
    if name not in PRESETS:
        raise ValueError(f"no schedule is called {name!r}: use {', '.join(PRESETS)}, with --steps for another length")
    course = PRESETS[name].course
    if steps:
        drops = tuple(max(1, round(drop * steps / course.steps)) for drop in course.drops)
        course = replace(course, steps=steps, drops=drops, warmup=round(course.warmup * steps / course.steps))
    if warmup is not None:
        course = replace(course, warmup=warmup)
    rate, taken = learning_rate or course.learning_rate, batch or course.batch
    return replace(course, learning_rate=rate * taken / course.batch if scale_rate else rate, batch=taken)

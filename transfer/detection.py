"""Detection as a task of the loop: losses of a detector, and its average precision on images that it has not seen.

Shape suffixes: N = detections of an image, H, W = pixels.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from ..console import counting
from ..errors import Failed
from ..files.opening import replacing
from .batches import Batch, Feed, one_by_one
from .drawing import prediction_grid
from .precision import Precision, average_precision
from .presets import JUDGED
from .scene import Found, Scene, SceneSet, coco_masks

Item = TypeVar("Item")
Wanted = Literal["detection", "segmentation", "keypoints"]
MASK_FROM = 0.5  # the probability from which a pixel is the object's: arXiv 1703.06870, section 3.1


@dataclass(frozen=True)
class Detection:
    """The task of `tuning.py`: `feed` is learnt from, `truth` is judged by."""

    module: GeneralizedRCNN
    feed: Feed
    truth: SceneSet
    wanted: Wanted
    out: Path
    accelerator: Accelerator

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.feed.per_epoch

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """What steps `start` to `stop` learn from; raises Failed for an image that cannot be read."""
        with closing(self.feed.batches(start, stop)) as source:
            for batch in _readable(source):
                yield batch.to(self.accelerator.device)

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the detector's losses, and each of them."""
        losses = model(batch.images, batch.targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum(), {k: v.detach() for k, v in losses.items()}

    def evaluate(self, asked: Callable[[], int]) -> dict[str, Any] | None:
        """Average precisions by what is judged; writes OUT/detections.json. None where a signal came in between."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        # in float32 whatever it was trained in: accelerate has put its precision around the module's own forward
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        found = detect(self.module, self.truth.scenes[rank::world], device=self.accelerator.device, asked=asked)
        if world > 1:
            gathered = gather_object([found])
            whole = None if None in gathered else [each for part in gathered for each in part]
        else:
            whole = found
        if whole is None:
            return None
        told: list[Any] = [None]
        if self.accelerator.is_main_process:
            place = {scene.image_id: number for number, scene in enumerate(self.truth.scenes)}
            whole.sort(key=lambda each: place[each.image_id])
            write_detections(self.out / "detections.json", self.truth, whole)
            draw(self.out / "predictions.png", self.truth, whole)
            kinds = JUDGED[self.wanted]
            told = [{name: _numbers(average_precision(self.truth, whole, kind=kind)) for name, kind in kinds.items()}]
        return broadcast_object_list(told)[0]


def _readable(source: Iterator[Item]) -> Iterator[Item]:
    """`source`, whose ValueErrors, which name an image, end a run without a trace: it may have run for days."""
    try:
        yield from source
    except ValueError as error:
        raise Failed(f"{error}; the checkpoints are intact: start again to continue") from error


def _numbers(precision: Precision) -> dict[str, Any]:
    """As results.json has them: None where there was nothing to count, which pycocotools calls -1."""
    told = {name: value for name, value in precision._asdict().items() if name not in ("kind", "stats")}
    return {
        name: {key: None if part < 0 else part for key, part in value.items()}
        if isinstance(value, dict)
        else (None if value < 0 else value)
        for name, value in told.items()
    }


@torch.no_grad()
def detect(
    module: GeneralizedRCNN, scenes: Sequence[Scene], *, device: torch.device, asked: Callable[[], int] = lambda: 0
) -> list[Found] | None:
    """Detections of each scene by `module` in evaluation mode, which it keeps; None where `asked` stops it.

    One image at a time: what is found must not depend on the padding that others would give it.
    """
    module.eval()
    found = []
    with counting("detecting") as progress, closing(one_by_one(scenes)) as source:  # pyright: ignore[reportArgumentType]
        for scene, image_3HW in _readable(source):
            output = module([image_3HW.to(device).float().div_(255)])[0]
            found.append(found_of(scene, {name: value.float().cpu() for name, value in output.items()}))
            progress(len(found), len(scenes))
            if asked():
                return None
    return found


def found_of(scene: Scene, output: dict[str, Tensor]) -> Found:
    """A detector's output for one image, sorted by score, as numbers and run-length encodings."""
    order = torch.argsort(output["scores"], descending=True, stable=True)
    sorted_by = {name: value[order].numpy() for name, value in output.items()}
    encodings = None
    if "masks" in sorted_by:
        mask_NHW = (sorted_by["masks"][:, 0] > MASK_FROM).astype(np.uint8)
        fortran_HWN = np.asfortranarray(mask_NHW.transpose(1, 2, 0))
        encodings = tuple(coco_masks().encode(fortran_HWN)) if len(order) else ()
    return Found(
        scene.image_id,
        sorted_by["boxes"].astype(np.float32).reshape(-1, 4),
        sorted_by["scores"].astype(np.float32),
        sorted_by["labels"].astype(np.int64),
        encodings,
        sorted_by["keypoints"].astype(np.float32) if "keypoints" in sorted_by else None,
    )


def write_detections(path: Path, truth: SceneSet, found: Sequence[Found]) -> None:
    """Write detections as COCO's servers and pycocotools' loadRes take them, whole or not at all.

    Ids are those of the file that `truth` was read from, matched by name: it is what they are compared with. What is found
    of classes that it does not list is left out.
    """
    given = {category.name: category.id for category in truth.own or truth.categories}
    ids = [given.get(category.name) for category in truth.categories]
    rows = []
    for each in found:
        for n, (left, top, right, bottom) in enumerate(each.box_N4.astype(np.float64).tolist()):
            if (category := ids[int(each.label_N[n]) - 1]) is None:
                continue
            row: dict[str, Any] = {
                "image_id": each.image_id,
                "category_id": category,
                "bbox": [left, top, right - left, bottom - top],
                "score": float(each.score_N[n]),
            }
            if each.rle_N is not None:
                counts = each.rle_N[n]["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                row["segmentation"] = {"size": [int(side) for side in each.rle_N[n]["size"]], "counts": text}
            if each.keypoint_NK3 is not None:
                row["keypoints"] = each.keypoint_NK3[n].astype(np.float64).ravel().tolist()
            rows.append(row)
    with replacing(path) as partial:
        partial.write_text(json.dumps(rows) + "\n", encoding="utf-8")


def draw(path: Path, truth: SceneSet, found: Sequence[Found]) -> None:
    """Write a picture of some images, each with its truth and with what was found, whole or not at all."""
    # detectors place every keypoint and do not tell which are hidden: torchvision says 1, which would be drawn as hidden
    seen = [
        each if each.keypoint_NK3 is None else each._replace(keypoint_NK3=each.keypoint_NK3 * (1, 1, 2)) for each in found
    ]
    with replacing(path) as partial:
        Image.fromarray(prediction_grid(truth, seen)).save(partial, format="PNG")

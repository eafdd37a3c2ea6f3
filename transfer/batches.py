"""Annotated images -> batches for a detector: a pure function of (seed, step), decoded ahead of the training.

Shape suffixes: B = images of a batch, N = objects of an image, K = keypoints, H, W = pixels; 4 = left, top, right, bottom;
3 = x, y, visibility.
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pipeline import counter
from ..pipeline.order import permutation, share, steps_per_epoch
from ..pipeline.prefetch import prefetch
from .scene import Scene, SceneSet, masks, pixels

DRAWS = 4  # a purpose of its own beside those of counter.py: a flip and a side are not a view's draws
AHEAD = 3  # batches


class Batch(NamedTuple):
    """Images, uint8 [3, H, W], and what is in each: boxes, labels, masks and keypoints as torchvision's detectors take
    them, and `side`, an int, to which the shorter side is to be scaled."""

    images: list[Tensor]
    targets: list[dict[str, Any]]

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`, with images as float32 in 0..1."""
        images = [image.to(device, non_blocking=True).float().div_(255) for image in self.images]
        moved = [
            {name: value.to(device) if isinstance(value, Tensor) else value for name, value in target.items()}
            for target in self.targets
        ]
        return Batch(images, moved)


@dataclass(frozen=True)
class Feed:
    """Which images of a training set make up each step.

    Args:
        batch: images of a step over all processes.
        flip: probability that an image is mirrored.
        sides: one is drawn for each image, to which its shorter side is scaled.
        masks, keypoints: whether targets have them.
        threads: that decode.
    """

    scenes: SceneSet
    batch: int
    sides: Sequence[int]
    seed: int = 0
    flip: float = 0.5
    masks: bool = False
    keypoints: bool = False
    rank: int = 0
    world: int = 1
    threads: int = 1

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; raises ValueError where not even one fits."""
        return steps_per_epoch(len(self.scenes.scenes), self.batch)

    def rows(self, step: int) -> np.ndarray:
        """int64 [B]: this process's images of `step`, of a global sequence that does not depend on the processes."""
        epoch, within = divmod(step, self.per_epoch)
        order = permutation(len(self.scenes.scenes), seed=self.seed, epoch=epoch)
        return order[within * self.batch : (within + 1) * self.batch][share(self.batch, rank=self.rank, world=self.world)]

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """The batches of steps `start` to `stop`, made ahead by threads; raises ValueError for an image that is damaged."""
        with ThreadPoolExecutor(self.threads, "viewmill-scenes") as pool:

            def make(step: int) -> Batch:
                row_B = self.rows(step)
                drawn_4B = counter.uniform(counter.Key(self.seed, DRAWS, step // self.per_epoch), row_B)
                flips = drawn_4B[0] < self.flip
                sides = np.asarray(self.sides)[(drawn_4B[1] * len(self.sides)).astype(int)]
                scenes = [self.scenes.scenes[row] for row in row_B]
                made = list(pool.map(self.example, scenes, flips.tolist(), sides.tolist()))
                return Batch([image for image, _ in made], [target for _, target in made])

            with closing(prefetch(make, range(start, stop), AHEAD)) as source:  # pyright: ignore[reportArgumentType]
                yield from source

    def example(self, scene: Scene, flipped: bool, side: int) -> tuple[Tensor, dict[str, Any]]:
        """An image and what is to be learnt from it: not its crowds, which stand for more objects than can be told."""
        image_HW3, objects = pixels(scene), scene.instances
        width = image_HW3.shape[1]
        box_N4 = objects.box_N4
        kept = ~objects.crowd_N & (box_N4[:, 2] > box_N4[:, 0]) & (box_N4[:, 3] > box_N4[:, 1])
        box_N4 = box_N4[kept]
        if flipped:
            image_HW3 = image_HW3[:, ::-1]
            box_N4 = np.stack((width - box_N4[:, 2], box_N4[:, 1], width - box_N4[:, 0], box_N4[:, 3]), axis=1)
        target: dict[str, Any] = {
            "boxes": torch.from_numpy(np.ascontiguousarray(box_N4, np.float32)),
            "labels": torch.from_numpy(objects.label_N[kept].astype(np.int64)),
            "side": side,
        }
        if self.masks:
            mask_NHW = masks(scene)[kept]
            mask_NHW = mask_NHW[:, :, ::-1] if flipped else mask_NHW
            target["masks"] = torch.from_numpy(mask_NHW.astype(np.uint8))
        if self.keypoints and objects.keypoint_NK3 is not None:
            point_NK3 = objects.keypoint_NK3[kept]
            point_NK3 = mirrored(point_NK3, width, self.scenes.flip_K) if flipped else point_NK3
            target["keypoints"] = torch.from_numpy(np.ascontiguousarray(point_NK3, np.float32))
        return torch.from_numpy(np.ascontiguousarray(image_HW3.transpose(2, 0, 1))), target


def mirrored(point_NK3: np.ndarray, width: int, flip_K: Sequence[int]) -> np.ndarray:
    """Keypoints of an image of `width` px that is mirrored: a left eye becomes a right one; unknown ones stay 0, 0, 0."""
    turned_NK3 = np.zeros_like(point_NK3)
    for old, new in enumerate(flip_K):
        turned_NK3[:, new] = point_NK3[:, old]
    turned_NK3[..., 0] = np.where(turned_NK3[..., 2] > 0, width - turned_NK3[..., 0], 0)
    turned_NK3[..., 1] = np.where(turned_NK3[..., 2] > 0, turned_NK3[..., 1], 0)
    return turned_NK3


def one_by_one(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, Tensor]]:
    """Each scene with its image, uint8 [3, H, W], read ahead by a thread."""

    def read(place: int) -> tuple[Scene, Tensor]:
        image_HW3 = pixels(scenes[place])
        return scenes[place], torch.from_numpy(np.ascontiguousarray(image_HW3.transpose(2, 0, 1)))

    return prefetch(read, range(len(scenes)), AHEAD)

"""Frozen features of every image of a .beton, in row order, through the training pipeline's weak recipe.

Shape suffixes: N = rows, B = rows of a batch, F = features.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader, ViewBatch, every_row
from ..pipeline.views.recipe import RandomCrop, Recipe, View, weak

BATCH = 256
RAW_PIXELS = "raw pixels"
PIXELS_SIDE = 32
"""Side in pixels up to which raw pixels are compared: at 224 px their 150,528 numbers an image are no floor, but a week."""
SMALL = 64  # pixels: images up to this side are taken whole, and their random crops are milder
Progress = Callable[[int, int], None]


def unseen(done: int, total: int) -> None:
    """Nobody watches the progress."""


class Features(NamedTuple):
    """Features and labels of the rows that could be decoded."""

    feature_NF: Tensor
    label_N: Tensor
    row_N: Tensor


class Shown(NamedTuple):
    """An encoder and what it is shown."""

    model: nn.Module
    recipe: Recipe
    identity: str = ""
    """What tells this encoder from any other; features of one without are never kept."""


class Pair(NamedTuple):
    """One encoder's features of the images whose neighbours vote, and of those to be told."""

    known: Features
    asked: Features


class Pixels(nn.Module):
    """The raw-pixel floor: an "encoder" that hands its image on, less the image's mean.

    Their cosine is then the correlation of two images: on CIFAR-10 .396 by kNN (k=200, T=.1, 20,000 training images) against
    .361 with the mean left in. A floor should be the best that pixels can do.
    """

    def forward(self, image_B3SS: Tensor) -> Tensor:
        """[B, 3*S*S]."""
        pixels = image_B3SS.flatten(1)
        return pixels - pixels.mean(dim=1, keepdim=True)


def raw_pixels(size: int) -> Shown:
    """The raw-pixel floor for images of `size` pixels."""
    return Shown(Pixels(), weak(min(size, PIXELS_SIDE)))


def mild(recipe: Recipe) -> Recipe:
    """The augmentation of a linear probe: a random crop and a flip, in the size and colours of `recipe`'s view.

    Up to 64 px crops of half the area and more; above, torchvision's .08 and more, which is ImageNet's protocol.
    """
    view = recipe.views[0]
    crop = RandomCrop((0.5, 1.0) if view.size <= SMALL else (0.08, 1.0))
    return Recipe((View(view.size, crop=crop, flip=0.5, space=view.space, mean=view.mean, std=view.std),))


@torch.no_grad()
def batches(shown: Shown, beton: Beton, *, device: torch.device, engine_name: str = "auto") -> Iterator[Features]:
    """Features of every row, batch by batch, in float32 and by the encoder in evaluation mode; its mode is put back."""
    with _evaluating(shown.model) as model:
        for batch in every_row(beton, shown.recipe, batch=BATCH, device=device, engine_name=engine_name):
            yield _featured(model, batch)


def extract(
    shown: Shown, beton: Beton, *, device: torch.device, engine_name: str = "auto", progress: Progress = unseen
) -> Features:
    """Features of every row; raises ValueError where no image could be decoded."""
    parts, done = [], 0
    for part in batches(shown, beton, device=device, engine_name=engine_name):
        parts.append(part)
        done = min(done + BATCH, len(beton))
        progress(done, len(beton))
    found = Features(*(torch.cat(part) for part in zip(*parts, strict=True)))
    if not len(found.row_N):
        raise ValueError(f"none of the {len(beton)} images of {beton.path} could be decoded: convert its source again")
    return found


@torch.no_grad()
def augmented(
    shown: Shown, beton: Beton, *, copies: int, seed: int, device: torch.device, engine_name: str, progress: Progress
) -> list[Tensor]:
    """`copies` times the features [N, F] of every row under `mild` views, another draw each time, rows as in `extract`."""
    found = []
    options = {"seed": seed, "device": device, "engine_name": engine_name}
    with (
        closing(BetonLoader(beton, mild(shown.recipe), batch=len(beton), **options)) as loader,
        _evaluating(shown.model) as model,
    ):
        for copy in range(copies):
            parts = []
            for first in range(0, len(beton), BATCH):
                row_B = torch.arange(first, min(first + BATCH, len(beton))).numpy()
                parts.append(_featured(model, loader.batch_of(row_B, epoch=copy)).feature_NF)
                progress(copy * len(beton) + int(row_B[-1]) + 1, copies * len(beton))
            found.append(torch.cat(parts))
    return found


def _featured(model: nn.Module, batch: ViewBatch) -> Features:
    keep = batch.valid_B
    return Features(model(batch.views[0]).float()[keep].cpu(), batch.label_B[keep].cpu(), batch.row_B[keep].cpu())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards in the one that it had."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)

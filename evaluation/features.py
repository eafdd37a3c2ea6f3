"""Frozen features of every image of a .beton, in row order, through the training pipeline's weak recipe.

Shape suffixes: N = rows, F = features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..pipeline.beton import Beton
from ..pipeline.loader import every_row
from ..pipeline.recipe import Recipe, View, weak

BATCH = 256
RAW_PIXELS = "raw pixels"


class Features(NamedTuple):
    """Features and labels of the rows that could be decoded."""

    feature_NF: Tensor
    label_N: Tensor
    row_N: Tensor


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


@torch.no_grad()
def extract(
    encoder: nn.Module, beton: Beton, recipe: Recipe, *, device: torch.device, engine_name: str = "auto"
) -> Features:
    """Features of every row by `encoder` in evaluation mode, in float32, as `recipe` shows it; its mode is put back."""
    training = encoder.training
    encoder.eval()
    parts = []
    for batch in every_row(beton, recipe, batch=BATCH, device=device, engine_name=engine_name):
        keep = batch.valid_B
        parts.append((encoder(batch.views[0]).float()[keep].cpu(), batch.label_B[keep].cpu(), batch.row_B[keep].cpu()))
    encoder.train(training)
    return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))


def extract_pairs(
    encoders: dict[str, nn.Module],
    train: Beton,
    test: Beton,
    *,
    colours: View,
    device: torch.device,
    engine_name: str = "auto",
) -> dict[str, Pair]:
    """Features of both files by each encoder and, as the last, by the raw-pixel floor, extracted once.

    `colours` has the size, the colour space and the normalisation that the encoders know; the floor sees RGB.
    """
    options = {"device": device, "engine_name": engine_name}
    models = [(name, model, weak(colours.size, colours)) for name, model in encoders.items()]
    models.append((RAW_PIXELS, Pixels(), weak(colours.size)))
    return {
        name: Pair(*(extract(model, beton, recipe, **options) for beton in (train, test))) for name, model, recipe in models
    }

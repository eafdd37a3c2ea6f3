"""Pictures of what the mill does: an image and the views that a recipe makes of it, exactly as a network sees them."""

from collections.abc import Collection, Sequence
from contextlib import closing

import numpy as np
import torch
from PIL import Image

from .beton import Beton
from .loader import BetonLoader
from .recipe import CentreCrop, Recipe, View

GAP, WIDE_GAP = 2, 10  # pixels


def view_grid(beton: Beton, recipe: Recipe, *, rows: Sequence[int], epochs: int, seed: int, scale: int = 1) -> Image.Image:
    """One line per image of `rows`: the whole image, then its views of the first group over `epochs` epochs."""
    row_B = np.array(rows)
    columns = [originals(beton, row_B, size=recipe.views[0].size)]
    for epoch in range(epochs):
        columns += list(_pixels(beton, recipe, row_B, epoch=epoch, seed=seed))
    return mosaic(columns, gaps_after=(0,), scale=scale)


def originals(beton: Beton, row_B: np.ndarray, *, size: int) -> np.ndarray:
    """uint8 [B, S, S, 3]: the centred square of each image, resized."""
    whole = Recipe((View(size=size, crop=CentreCrop(1.0), flip=0.0),))
    return _pixels(beton, whole, row_B, epoch=0, seed=0)[0]


def mosaic(columns: Sequence[np.ndarray], *, gaps_after: Collection[int], scale: int) -> Image.Image:
    """A picture of columns, each uint8 [B, S, S, 3]; a wide gap follows the columns of `gaps_after`."""
    count, size = columns[0].shape[:2]
    side = size * scale
    lefts, left = [], 0
    for index in range(len(columns)):
        lefts.append(left)
        left += side + (WIDE_GAP if index in gaps_after else GAP)
    canvas = Image.new("RGB", (lefts[-1] + side, count * (side + GAP) - GAP), "white")
    for left, column in zip(lefts, columns, strict=True):
        for row, tile in enumerate(column):
            picture = Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, row * (side + GAP)))
    return canvas


def _pixels(beton: Beton, recipe: Recipe, row_B: np.ndarray, *, epoch: int, seed: int) -> np.ndarray:
    """uint8 [V, B, S, S, 3]: the first group's views with their normalisation undone."""
    with closing(BetonLoader(beton, recipe, batch=len(row_B), seed=seed, device=torch.device("cpu"))) as loader:
        views_N3SS = loader.batch_of(row_B, epoch=epoch).views[0]
    view = recipe.views[recipe.groups[0][0]]
    mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
    pixels = ((views_N3SS * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).unflatten(0, (-1, len(row_B))).numpy()

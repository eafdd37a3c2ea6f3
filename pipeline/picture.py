"""Pictures of what the mill does: an image and the views that a recipe makes of it, exactly as a network sees them."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from PIL import Image

from .beton import Beton
from .loader import BetonLoader
from .recipe import CentreCrop, Recipe, View

GAP = 4  # pixels


def view_grid(beton: Beton, recipe: Recipe, *, rows: Sequence[int], epochs: int, seed: int, scale: int = 1) -> Image.Image:
    """One line per image of `rows`: the image's centre, then its views of the first group over `epochs` epochs."""
    row_B = np.array(rows)
    lines = [_pixels(beton, _whole(recipe), row_B, epoch=0, seed=seed)]
    lines += [_pixels(beton, recipe, row_B, epoch=epoch, seed=seed) for epoch in range(epochs)]
    tiles = np.concatenate(lines)  # [1 + epochs * V, B, S, S, 3]
    columns, count, size = tiles.shape[:3]
    size *= scale
    canvas = Image.new("RGB", (columns * (size + GAP) + GAP, count * (size + GAP) - GAP), "white")
    for column, line in enumerate(tiles):
        for row, tile in enumerate(line):
            picture = Image.fromarray(tile).resize((size, size), Image.Resampling.NEAREST)
            canvas.paste(picture, (column * (size + GAP) + (GAP if column else 0), row * (size + GAP)))
    return canvas


def _whole(recipe: Recipe) -> Recipe:
    first = recipe.views[0]
    return Recipe((View(size=first.size, crop=CentreCrop(1.0), flip=0.0, mean=first.mean, std=first.std),))


def _pixels(beton: Beton, recipe: Recipe, row_B: np.ndarray, *, epoch: int, seed: int) -> np.ndarray:
    """uint8 [V, B, S, S, 3]: the first group's views with their normalisation undone."""
    with closing(BetonLoader(beton, recipe, batch=len(row_B), seed=seed, device=torch.device("cpu"))) as loader:
        views_N3SS = loader.batch_of(row_B, epoch=epoch).views[0]
    view = recipe.views[recipe.groups[0][0]]
    mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
    pixels = ((views_N3SS * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).unflatten(0, (-1, len(row_B))).numpy()

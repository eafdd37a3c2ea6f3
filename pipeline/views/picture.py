"""Pictures of what the pipeline does: an image and the views that a recipe makes of it, exactly as a network sees them."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...files.opening import replacing
from ..beton.reader import Beton
from ..loader import BetonLoader
from .plan import ORDERS, ViewPlan
from .recipe import CentreCrop, Recipe, View

GAP, WIDE_GAP = 2, 10  # pixels


def view_grid(beton: Beton, recipe: Recipe, *, rows: Sequence[int], epochs: int, seed: int, scale: int = 1) -> Image.Image:
    """One line per image of `rows`: the whole image, then all its views in each of `epochs` epochs, in RGB."""
    row_B = np.array(rows)
    columns = [originals(beton, row_B, size=max(view.size for view in recipe.views))]
    for epoch in range(epochs):
        columns += list(as_seen(beton, recipe, row_B, epoch=epoch, seed=seed))
    count = len(recipe.views)
    return mosaic(columns, gaps_after=range(0, len(columns), count) if epochs > 1 or count > 1 else (0,), scale=scale)


def save(picture: Image.Image, target: Path) -> None:
    """Write `picture` whole or not at all, in the format that the ending says."""
    with replacing(target) as partial:
        picture.save(partial, format=Image.registered_extensions()[target.suffix.lower()])


def plan_lines(plan: ViewPlan, row_B: np.ndarray) -> Iterator[dict[str, Any]]:
    """What `plan` does to each view of each image, as it would be said in JSON."""
    for b, row in enumerate(row_B.tolist()):
        for v, view in enumerate(plan.recipe.views):
            drawn = {name[:-3]: part[v, b].item() for name, part in plan._asdict().items() if name.endswith("_VB")}
            order = [("brightness", "contrast", "saturation", "hue")[step] for step in ORDERS[drawn["order"]]]
            drawn = {name: round(value, 4) if isinstance(value, float) else value for name, value in drawn.items()}
            yield {"row": row, "view": v, "size": view.size, "box": plan.box_VB4[v, b].tolist(), **drawn, "order": order}


def originals(beton: Beton, row_B: np.ndarray, *, size: int) -> np.ndarray:
    """uint8 [B, S, S, 3]: the centred square of each image, resized."""
    whole = Recipe((View(size=size, crop=CentreCrop(1.0), flip=0.0),))
    return next(as_seen(beton, whole, row_B, epoch=0, seed=0))


def mosaic(columns: Sequence[np.ndarray], *, gaps_after: Collection[int], scale: int) -> Image.Image:
    """A picture of columns, each uint8 [B, S, S, 3] of its own S; a wide gap follows the columns of `gaps_after`."""
    lefts, left = [], 0
    for index, column in enumerate(columns):
        lefts.append(left)
        left += column.shape[1] * scale + (WIDE_GAP if index in gaps_after else GAP)
    tall = max(column.shape[1] for column in columns) * scale
    canvas = Image.new("RGB", (lefts[-1] + columns[-1].shape[1] * scale, len(columns[0]) * (tall + GAP) - GAP), "white")
    for left, column in zip(lefts, columns, strict=True):
        side = column.shape[1] * scale
        for row, tile in enumerate(column):
            picture = Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, row * (tall + GAP) + (tall - side) // 2))
    return canvas


def as_seen(beton: Beton, recipe: Recipe, row_B: np.ndarray, *, epoch: int, seed: int) -> Iterator[np.ndarray]:
    """uint8 [B, S, S, 3] of each view in the recipe's order, before normalisation and change of space."""
    plain = [
        dataclasses.replace(view, space="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), split=(3,))
        for view in recipe.views
    ]
    shown = Recipe(tuple(plain))
    with closing(BetonLoader(beton, shown, batch=len(row_B), seed=seed, device=torch.device("cpu"))) as loader:
        batch = loader.batch_of(row_B, epoch=epoch)
    place = {v: (group, slot) for group, members in enumerate(shown.groups) for slot, v in enumerate(members)}
    for v in range(len(shown.views)):
        group, slot = place[v]
        view_B3SS = batch.views[group].unflatten(0, (-1, len(row_B)))[slot]
        yield (view_B3SS * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()

"""A run's images and its encoder, where both are still there: the views it was trained on, and features of a sample.

Shape suffixes: N = sampled rows, B = rows of a batch, F = features, S = side.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..checkpoint.migration import of_repr
from ..pipeline.beton.manifest import classes_of as named_classes
from ..pipeline.beton.manifest import sidecars
from ..pipeline.beton.reader import Beton
from ..pipeline.conversion.cache import cached_path
from ..pipeline.datasets import open_images
from ..pipeline.loader import BetonLoader, ViewBatch
from ..pipeline.order import steps_per_epoch
from ..pipeline.sources.opened import is_source
from ..pipeline.views.picture import as_seen, originals
from ..pipeline.views.recipe import RECIPES, Recipe, weak
from ..pipeline.views.recipe_file import recipe_from
from ..training.resume import load_encoders
from .curve import number
from .read import Run

BATCH = 128
COLUMNS = 6  # views of an image, over as many epochs as that takes


class Gone(ValueError):
    """Why images, views or features of a run cannot be shown; the page says so and goes on."""


class Sample(NamedTuple):
    """Features of unit length of some rows, and their classes, -1 where there are none."""

    row_N: np.ndarray
    label_N: np.ndarray
    feature_NF: torch.Tensor


def images_of(run: Run, given: Path | None) -> Beton:
    """The images that `run` was trained on: those of `given`, or where its log says they were; raises Gone."""
    wanted = run.config.get("data_fingerprint")
    path = given or run.data
    if path is None:
        raise Gone("the log does not say where the images lie: name them with --data")
    try:
        if given is None and is_source(path) and not sidecars(cached_path(path))["manifest"].exists():
            raise Gone(f"the images of {path} are no longer converted: name them with --data to convert them again")
        beton = open_images(path)
    except OSError as error:
        raise Gone(f"{path} cannot be read ({error}): name the images with --data") from None
    except Gone:
        raise
    except ValueError as error:  # refused, or a source that can no longer be read as it was
        raise Gone(f"the images are not to be had ({error}): name them with --data") from None
    if wanted is not None and beton.fingerprint != wanted:
        raise Gone(
            f"{path} holds other images than the run was trained on ({beton.fingerprint[:12]}, not {str(wanted)[:12]}): "
            "name its own with --data"
        )
    return beton


def classes_of(beton: Beton) -> dict[int, str]:
    """The classes that occur, by their number: their names, or the number where the manifest has none."""
    try:
        names = list(named_classes(beton))
    except ValueError:
        names = list[str]()
    numbers = np.unique(beton.label_N[beton.label_N >= 0]).tolist()
    return {number: names[number] if number < len(names) else str(number) for number in numbers}


def recipe_of_run(run: Run, recipes: Mapping[str, str]) -> Recipe:
    """The recipe of the run's views: from its configuration, or its method's own, by `recipes`; raises Gone."""
    written, size = run.config.get("recipe"), run.config.get("size")
    try:
        if written:
            where = "config.json: recipe"
            return recipe_from(of_repr(written, where=where) if isinstance(written, str) else written, where=where)
        return RECIPES[recipes[str(run.config.get("method"))]](int(size))  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, ValueError) as error:
        raise Gone(f"the recipe of its views is not known here ({type(error).__name__})") from None


class Seen(NamedTuple):
    """Images, and what the views of a recipe made of them: uint8 [B, S, S, 3]."""

    row_B: np.ndarray
    originals: np.ndarray
    views: list[tuple[str, np.ndarray]]
    """Which view in which epoch, and its pixels."""
    epochs: range


def views_of(run: Run, beton: Beton, recipe: Recipe, *, images: int = 6) -> Seen:
    """Views as the network saw them in the run's last epochs, made again from their plan: some six of each image."""
    row_B = np.unique(np.linspace(0, len(beton) - 1, images).round().astype(np.int64))
    seed, batch = (int(number(run.config.get(name)) or 0) for name in ("seed", "batch"))
    steps = min(run.told.step, run.steps) or 1
    last = (steps - 1) // steps_per_epoch(len(beton), batch) if 0 < batch <= len(beton) else 0
    epochs = range(max(0, last + 1 - max(1, COLUMNS // len(recipe.views))), last + 1)
    views = [
        (f"view {v + 1}, epoch {epoch}", pixels)
        for epoch in epochs
        for v, pixels in enumerate(as_seen(beton, recipe, row_B, epoch=epoch, seed=seed))
    ]
    return Seen(row_B, originals(beton, row_B, size=max(view.size for view in recipe.views)), views, epochs)


@torch.no_grad()
def sample_of(run: Run, beton: Beton, *, images: int, progress: Callable[[int, int], None]) -> Sample:
    """Features of at most `images` rows, spread evenly, by the encoder of the run's newest checkpoint; raises Gone."""
    try:
        loaded = load_encoders(run.folder)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:  # a stranger's config.json
        raise Gone(f"its encoder cannot be loaded: {error}") from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = loaded.trained.to(device).eval()
    row_N = np.unique(np.linspace(0, len(beton) - 1, min(images, len(beton))).round().astype(np.int64))
    rows, parts = [], []
    for begin, batch in _batches(beton, weak(loaded.colours.size, loaded.colours), row_N, device):
        feature_BF = encoder(batch.views[0]).float()
        keep_B = batch.valid_B & feature_BF.isfinite().all(dim=1) & (feature_BF.norm(dim=1) > 0)
        parts.append(torch.nn.functional.normalize(feature_BF[keep_B], dim=1).cpu())
        rows.append(batch.row_B[keep_B].cpu().numpy())
        progress(min(begin + BATCH, len(row_N)), len(row_N))
    kept_N = np.concatenate(rows)
    if len(kept_N) < 2:
        raise Gone("fewer than two of its images can be read and have finite features")
    return Sample(kept_N, beton.label_N[kept_N], torch.cat(parts))


def _batches(beton: Beton, recipe: Recipe, row_N: np.ndarray, device: torch.device) -> Iterator[tuple[int, ViewBatch]]:
    with closing(BetonLoader(beton, recipe, batch=BATCH, seed=0, device=device)) as loader:
        for begin in range(0, len(row_N), BATCH):
            yield begin, loader.batch_of(row_N[begin : begin + BATCH], epoch=0)

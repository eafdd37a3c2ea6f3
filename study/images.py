"""The images of a study: rendered where it asks for that, opened, and found fit for what is to be trained and told."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from ..console import counting, say
from ..pipeline import factors
from ..pipeline.beton.manifest import read_columns, sidecars
from ..pipeline.beton.reader import Beton
from ..pipeline.conversion.convert import convert
from ..pipeline.datasets import open_images
from .data import Data, Figures, expanded
from .flags import nearest
from .plan import Plan


def opened(plan: Plan) -> dict[str, Beton]:
    """The study's images by part (Data.parts); raises ValueError for files that are missing or do not do."""
    from ..pipeline.order import steps_per_epoch

    data = plan.data
    if data.figures is not None and not _stands(data):
        _render(data, data.figures)
    found = {}
    for part, path in data.parts():
        if not expanded(path).exists():
            raise ValueError(f"{plan.file}: [data] {part} does not exist: {path}; convert or link it there, or name another")
        found[part] = open_images(path)
    for contender in plan.contenders:
        try:
            steps_per_epoch(len(found["train"]), contender.train.optimisation.batch)
        except ValueError as error:
            raise ValueError(f"{plan.file}: the method {contender.name!r}: {error}") from None
    columns = plan.evaluate.get("columns", ())
    for path, beton in zip(dict(data.parts()).values(), found.values(), strict=True):
        if not columns and not (len(beton) and beton.label_N.min() >= 0):
            raise ValueError(f"{path} has images without a class: name columns in [evaluate], or give images with classes")
        there = list(read_columns(beton)) if columns else []
        for column in columns:
            if column not in there:
                advice = nearest(column, there) if there else "it has no table"
                raise ValueError(f"{plan.file}: {path} has no column {column!r}: {advice}")
    return found


def _stands(data: Data) -> bool:
    """Whether both parts are whole: a manifest is written last."""
    return all(sidecars(path)["manifest"].exists() and path.exists() for path in (data.train, data.test))


def _render(data: Data, figures: Figures) -> None:
    """Render and convert both parts; another start of the study may do the same meanwhile: the first one counts."""
    folder = data.train.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"rendering {figures.train:,} and {figures.test:,} images of {figures.size} px: {folder}")
    with TemporaryDirectory(dir=folder.parent, prefix=".rendering-") as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        for place, (path, count) in enumerate(((data.train, figures.train), (data.test, figures.test))):
            images = factors.write_folder(Path(scratch, path.stem), count, seed=2 * figures.seed + place, size=figures.size)
            with counting(f"converting {path.name}") as progress:
                convert([images], made / path.name, progress=progress)
        try:
            os.rename(made, folder)
        except OSError:
            if not _stands(data):
                raise ValueError(f"{folder} is in the way and lacks a part of the images: remove it") from None

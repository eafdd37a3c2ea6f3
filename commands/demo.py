"""The main job on the embedded default: render images, convert them, train on them, ask what was learned, draw it.

The factors data show what a representation keeps. Shape is the task; colours, place, scale and texture were drawn
independently of it. Raw pixels know colours; an encoder trained without labels has to come to know shapes.
"""

import shutil
import time
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..console import counting, duration, say, table
from ..errors import Refused, refusing
from ..evaluation.classes import class_task
from ..evaluation.features import RAW_PIXELS, Pair, Shown, extract, raw_pixels
from ..evaluation.protocols import Options, measure
from ..evaluation.scores import Score
from ..evaluation.tasks import Task, column_task
from ..files.opening import check_output, open_to_read, replacing
from ..pipeline import factors
from ..pipeline.beton.manifest import sidecars
from ..pipeline.beton.reader import Beton, open_beton
from ..pipeline.conversion.convert import convert
from ..pipeline.engines.engine import choose
from ..pipeline.threads import usable_cores
from ..pipeline.views.picture import mosaic, originals, view_grid
from ..pipeline.views.recipe import simclr, weak
from ..settings import Demo, Train
from ..settings.parts import made
from ..training.resume import load_encoders
from .train import train

TRAIN_IMAGES, TEST_IMAGES, SIZE = 4000, 1000, 24
OPTIONS = Options(("knn",), k=(20,))
SCALE = 3  # pixels of a picture for one of a view
NUISANCES = ("hue", "luma", "background_luma", "x", "scale", "texture")
CPU = torch.device("cpu")
MARK = "viewmill demo"  # in its pictures: the next demo makes them anew unasked


def demo(config: Demo) -> int:
    """Run every step under `config.out`; the images are made once per seed, the training starts afresh each time."""
    started = time.perf_counter()
    views, neighbours = config.out / "views.png", config.out / "neighbours.png"
    for path in (views, neighbours):
        _check(path, overwrite=config.overwrite)
    data = config.out / f"data-{config.seed}"
    train_set = _prepare(data / "train", TRAIN_IMAGES, seed=2 * config.seed)
    test_set = _prepare(data / "test", TEST_IMAGES, seed=2 * config.seed + 1)
    grid = view_grid(
        train_set, simclr(SIZE), rows=range(0, TRAIN_IMAGES, TRAIN_IMAGES // 8), epochs=4, seed=config.seed, scale=SCALE
    )
    _save(grid, views)
    run = config.out / f"run-{config.seed}"
    _clear(run)
    code = train(training(train_set.path, run, seed=config.seed))
    if code:
        return code
    encoders = load_encoders(run)
    tasks = [class_task(train_set, test_set, name="shape")]
    tasks += [column_task(name, train_set, test_set) for name in NUISANCES]
    recipe = weak(SIZE, encoders.colours)
    models = {"trained": Shown(encoders.trained, recipe), "untrained": Shown(encoders.untrained, recipe)}
    models[RAW_PIXELS] = raw_pixels(SIZE)
    pairs = {
        name: Pair(*(extract(shown, beton, device=CPU) for beton in (train_set, test_set))) for name, shown in models.items()
    }
    scores = {name: [measure(pair, task, OPTIONS)[0].score for task in tasks] for name, pair in pairs.items()}
    shown = [pairs["trained"], pairs[RAW_PIXELS]]
    _save(_neighbours(shown, train_set, test_set), neighbours)
    _show(tasks, scores)
    say(f"pictures: {views}, {neighbours}")
    say(f"done in {duration(time.perf_counter() - started)}; next: viewmill train --data YOUR_FOLDER --out runs/first")
    return 0


def training(data: Path, run: Path, *, seed: int) -> Train:
    """The demo's training: SimCLR, a narrow ResNet-18, 24 px.

    AdamW and small batches, since the colours of these images are a shortcut, and what gets past it is the number of steps
    at a high rate: after 8 epochs at batch 128 neighbours told the shape of .13 of the test images with SGD (rate .5), of
    .23 with AdamW; of .40 after 13; of .48 after 10 at batch 64 (at 32 px, one seed each; untrained .17).
    At 24 px an epoch takes .6 of the time at 32 px, and 15 epochs tell .58 / .52 / .58 (seeds 0, 1, 2; untrained .20).
    """
    return made(
        Train,
        data=data,
        out=run,
        width=16,
        size=SIZE,
        batch=64,
        epochs=15,
        optimiser="adamw",
        weight_decay=1e-4,
        engine="ffcv" if choose("auto") == "ffcv" else "torch",  # to measure the engines would take as long as two epochs
        seed=seed,
    )


def _prepare(folder: Path, count: int, *, seed: int) -> Beton:
    """Render and convert `count` images, unless that was done before."""
    target = folder.with_suffix(".beton")
    if not (target.exists() and sidecars(target)["manifest"].exists()):
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted demo left half rendered
        say(f"rendering and converting {count} images: {target}")
        factors.write_folder(folder, count, seed=seed)
        with counting("converting") as progress:
            convert([folder], target, overwrite=True, workers=usable_cores(), progress=progress)
    return open_beton(target)


def _check(path: Path, *, overwrite: bool) -> None:
    """Refuse a picture's place where something stands that no demo has made, unless it is to be replaced."""
    if not path.exists():
        return
    with refusing():
        try:
            with open_to_read(path) as file, Image.open(file) as picture:
                ours = picture.info.get("Software") == MARK
        except (OSError, ValueError, SyntaxError):
            ours = False
        check_output(path, overwrite=overwrite or ours)


def _save(picture: Image.Image, path: Path) -> None:
    told = PngInfo()
    told.add_text("Software", MARK)
    with replacing(path) as partial:
        picture.save(partial, format="PNG", pnginfo=told)


def _clear(run: Path) -> None:
    """Remove the last demo's run; anything else that stands there is the user's."""
    if not run.exists():
        return
    if not (run / "config.json").exists():
        raise Refused(f"{run} is no run of the demo: choose another --out")
    shutil.rmtree(run)


def _show(tasks: list[Task], scores: dict[str, list[Score]]) -> None:
    rows = [
        [task.name, *(f"{found[place].top1.value:.3f}" for found in scores.values()), f"{1 / len(task.classes):.3f}"]
        for place, task in enumerate(tasks)
    ]
    rows[0][0] = "shape (the task)"
    title = f"{scores['trained'][0].protocol}, {SIZE} px, {TRAIN_IMAGES} train, {TEST_IMAGES} test"
    table(title, ["what the neighbours tell", *scores, "chance"], rows)


def _neighbours(pairs: list[Pair], train_set: Beton, test_set: Beton) -> Image.Image:
    """One line per query: the query, and its six nearest training images by each of the `pairs` of features."""
    queries, nearest = torch.arange(8) * (TEST_IMAGES // 8) + torch.arange(8), []
    for known, asked in pairs:
        known_NF = torch.nn.functional.normalize(known.feature_NF, dim=1)
        asked_QF = torch.nn.functional.normalize(asked.feature_NF[queries], dim=1)
        nearest.append((asked_QF @ known_NF.T).topk(6, dim=1).indices)
    columns = [originals(test_set, queries.numpy(), size=SIZE)]
    columns += [originals(train_set, index.numpy(), size=SIZE) for found in nearest for index in found.T]
    return mosaic(columns, gaps_after=(0, 6), scale=SCALE)

"""`viewmill evaluate`: what a run's frozen encoder is worth on labelled images, beside the floors that it has to beat."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from ..console import counting, duration, say
from ..errors import refusing
from ..evaluation.classes import class_task
from ..evaluation.features import RAW_PIXELS, Features, Pair, Shown, augmented, extract, raw_pixels
from ..evaluation.floors import SPEED, within
from ..evaluation.protocols import PROTOCOLS, Options, Size, Told, measure
from ..evaluation.store import digest_of, identity_of, kept, scores_of
from ..evaluation.tasks import Task, column_task
from ..pipeline.beton.overlap import overlap, overlap_in_words
from ..pipeline.beton.reader import Beton
from ..pipeline.datasets import open_images
from ..pipeline.engines.engine import choose
from ..pipeline.views.recipe import weak
from ..settings import Evaluate
from ..training.resume import Encoders, load_encoders
from .evaluation_results import CLASS, DataSet, Record, Result, show, show_transfer

UNTRAINED = "untrained encoder"
PARTS = ("train", "training", "test", "val")  # what a part of a data set is called: its folder has the name
LONG_S = 30.0  # from which on it is said how long a protocol will take


def evaluate(config: Evaluate) -> int:
    """Print a table for each task, with several data sets one of all of them; add the results to the run's file."""
    chosen = (config.protocols, config.k, config.temperature, config.probe_epochs, config.shots, config.draws, config.seed)
    options = Options(*chosen)
    with refusing():
        options.check()
        if len(config.train) != len(config.test):
            counts = f"{len(config.train)} and {len(config.test)}"
            raise ValueError(f"each --train needs its --test: got {counts}; name as many, in the same order")
        encoders = load_encoders(config.run, ema=config.ema)
        pairs = zip(config.train, config.test, strict=True)
        sets = [_opened(train, test, config) for train, test in pairs]
    results, record = list[Result](), Record(config, encoders)
    contenders = _contenders(config, encoders)
    with refusing():
        for data in sets:
            of_set = list[Result]()
            for result in _told_of(config, options, contenders, data):
                record.add(result)
                of_set.append(result)
            for task in data.tasks if not config.json else ():
                show([result for result in of_set if result.task is task])
            results += of_set
    if len(sets) > 1 and not config.json:
        show_transfer(results)
    record.close()
    return 0


def _opened(train: Path, test: Path, config: Evaluate) -> DataSet:
    train_set, test_set = open_images(train), open_images(test)
    name = _name_of(train)
    tasks = [column_task(column, train_set, test_set) for column in config.columns]
    chosen = {"by": config.classes_by, "labelled_only": config.labelled_only}
    tasks = tasks or [class_task(train_set, test_set, name=CLASS, **chosen)]
    share = overlap(train_set, test_set)
    for note in filter(None, (overlap_in_words(share, train, test), *(note for task in tasks for note in task.notes))):
        say(f"{name}: {note}")
    return DataSet(name, train_set, test_set, tasks, _name_of(test), share)


def _name_of(path: Path) -> str:
    """What a data set is called: its file or folder, or the folder above where that is called a part."""
    name = path.stem if path.is_file() else path.resolve().name
    return path.resolve().parent.name if name.lower() in PARTS else name


def _told_of(config: Evaluate, options: Options, contenders: dict[str, Shown], data: DataSet) -> Iterator[Result]:
    """The results of a data set as they come: all that the run itself reaches before any floor.

    Features are extracted once, encoder by encoder, and used for all tasks.
    """
    for name, shown in contenders.items():
        pair, copies = _features(config, name, shown, data)
        for task in data.tasks:
            for protocol in options.protocols:
                chosen = options._replace(protocols=(protocol,))
                for told in _told_by(config, chosen, name, pair, copies, task):
                    yield Result(data, task, name, told)


def _told_by(
    config: Evaluate, options: Options, name: str, pair: Pair, copies: list[torch.Tensor], task: Task
) -> list[Told]:
    """What one encoder reaches by one protocol; the floor of raw pixels in a time that is bounded."""
    (protocol,), pooled, rows = options.protocols, "", len(pair.known.row_N)
    if name == RAW_PIXELS and not copies:
        pair, pooled = within(config.floor_seconds, pair, protocol, options, classes=len(task.classes))
    features = pair.known.feature_NF.shape[1]
    takes = PROTOCOLS[protocol].work(Size(rows, features, len(task.classes)), options) / SPEED
    title = f"{task.name}, {protocol}: {name}"
    with counting(title) as progress:

        def make() -> list[Told]:
            if takes > LONG_S:
                size = f"{rows:,} images x {features:,} features x {len(task.classes):,} classes"
                say(f"{title}: about {duration(takes)} of one core ({size}){f', {pooled}' if pooled else ''}")
            return measure(pair, task, options, copies=copies, progress=progress)

        digest = digest_of(pair) if config.cache and not copies else ""
        found = scores_of(protocol, digest, task, options, make) if digest else make()
    if not pooled:
        return found
    return [told._replace(score=told.score._replace(protocol=f"{told.score.protocol}, {pooled}")) for told in found]


def _contenders(config: Evaluate, encoders: Encoders) -> dict[str, Shown]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = weak(encoders.colours.size, encoders.colours)
    description = json.dumps(encoders.settings["architecture"])
    models = {str(config.run): encoders.trained}
    if config.floors:
        models[UNTRAINED] = encoders.untrained
    named = {name: Shown(model.to(device), recipe, identity_of(model, description)) for name, model in models.items()}
    return named | ({RAW_PIXELS: raw_pixels(encoders.colours.size)} if config.floors else {})


def _features(config: Evaluate, name: str, shown: Shown, data: DataSet) -> tuple[Pair, list[torch.Tensor]]:
    """The features of both files, and where asked for of augmented copies of the training images."""
    device = next(iter(shown.model.parameters()), torch.empty(0)).device
    options = {"device": device, "engine_name": choose("auto")}

    def of(beton: Beton) -> Features:
        with counting(f"features of {beton.path.name}: {name}") as progress:
            return extract(shown, beton, **options, progress=progress)

    found = [
        kept(shown, beton, lambda beton=beton: of(beton), engine_name=options["engine_name"]) if config.cache else of(beton)
        for beton in (data.train, data.test)
    ]
    copies = []
    if config.augment:
        with counting(f"augmented features of {data.train.path.name}: {name}") as progress:
            copies = augmented(shown, data.train, copies=config.augment, seed=config.seed, **options, progress=progress)
    return Pair(*found), copies

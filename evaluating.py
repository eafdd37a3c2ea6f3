"""`viewmill evaluate`: what a run's frozen encoder is worth on labelled images, beside the floors that it has to beat."""

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from .commands import Evaluate
from .console import answer, counting, say, table
from .datasets import open_images, refusing
from .evaluation.features import RAW_PIXELS, Features, Pair, Shown, augmented, extract, raw_pixels
from .evaluation.protocols import Options, Told, measure
from .evaluation.store import digest_of, identity_of, kept, scores_of
from .evaluation.tasks import Task, class_task, column_task, same_images
from .files.opening import descriptor_to_change
from .pipeline.beton import Beton
from .pipeline.engine import choose
from .pipeline.recipe import weak
from .resume import Encoders, load_encoders

UNTRAINED = "untrained encoder"
RESULTS = "evaluation.jsonl"
"""In the run's folder: one JSON object a result, the only thing there that an evaluation adds to."""
CONFUSION = 200  # classes: the matrix of more has over 40,000 numbers, and is left out of the results file
CLASS = "class"
PARTS = ("train", "training", "test", "val")  # what a part of a data set is called: its folder has the name
FIRST = 3  # confusions that are named


class DataSet(NamedTuple):
    """Images to learn from and images to be told, and what is to be told of them."""

    name: str
    train: Beton
    test: Beton
    tasks: list[Task]


class Result(NamedTuple):
    """One score: whose, of what, and by which protocol."""

    data: DataSet
    task: Task
    encoder: str
    told: Told

    @property
    def top1(self) -> float:
        """A share of 1."""
        return self.told.score.top1.value


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
        sets = [_opened(train, test, config.columns) for train, test in pairs]
    results, kept = [], 0
    contenders = _contenders(config, encoders)
    with refusing():
        for data in sets:
            for task_results in _of_data_set(config, options, contenders, data):
                results += task_results
                lines = [_line(result, config, encoders) for result in task_results]
                kept += _keep(config.run, lines)  # before anything is shown: nobody may be there to see it
                if config.json:
                    for line in lines:
                        answer(json.dumps(line))
                else:
                    _show(task_results)
    if len(sets) > 1 and not config.json:
        _show_transfer(results)
    if kept:
        say(f"added to {config.run / RESULTS}: {kept} results")
    return 0


def _opened(train: Path, test: Path, columns: Sequence[str]) -> DataSet:
    train_set, test_set = open_images(train), open_images(test)
    name = train.stem if train.is_file() else train.resolve().name
    name = train.resolve().parent.name if name.lower() in PARTS else name
    tasks = [column_task(column, train_set, test_set) for column in columns]
    tasks = tasks or [class_task(train_set, test_set, name=CLASS)]
    for note in (*same_images(train_set, test_set), *(note for task in tasks for note in task.notes)):
        say(f"{name}: {note}")
    return DataSet(name, train_set, test_set, tasks)


def _of_data_set(config: Evaluate, options: Options, contenders: dict[str, Shown], data: DataSet) -> list[list[Result]]:
    """The results of each task: features are extracted once, encoder by encoder, and used for all of them."""
    found: list[list[Result]] = [[] for _ in data.tasks]
    for name, shown in contenders.items():
        pair, copies = _features(config, name, shown, data)
        digest = digest_of(pair) if config.cache and not copies else ""
        for place, task in enumerate(data.tasks):
            with counting(f"{data.name}, {task.name}: {name}") as progress:
                for done, protocol in enumerate(options.protocols, 1):
                    make = partial(measure, pair, task, options._replace(protocols=(protocol,)), copies=copies)
                    told = scores_of(protocol, digest, task, options, make) if digest else make()
                    found[place] += [Result(data, task, name, each) for each in told]
                    progress(done, len(options.protocols))
    return found


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


def _show(results: list[Result]) -> None:
    """A table of one task: a line a protocol, with what the floors reach by the same; then the protocols in full."""
    data, task = results[0].data, results[0].task
    own = [result for result in results if result.encoder == results[0].encoder]
    floors = list(dict.fromkeys(result.encoder for result in results))[1:]
    top1 = {(result.encoder, result.told.name): result.top1 for result in results}
    rows = []
    for result in own:
        name, score = result.told
        interval, top5 = f"{score.top1.low:.3f} to {score.top1.high:.3f}", "" if score.top5 is None else f"{score.top5:.3f}"
        beside = [f"{top1[floor, name]:.3f}" if (floor, name) in top1 else "" for floor in floors]
        rows.append((name, f"{score.top1.value:.3f}", interval, top5, f"{score.per_class:.3f}", *beside))
    split = f"{len(data.train):,} training and {len(data.test):,} test images, 95 % intervals over these"
    title = f"{data.name}: {task.name}, {len(task.classes)} classes, {split}"
    table(title, ("protocol", "top-1", "from to", "top-5", "per class", *floors), rows)
    told = set[str]()
    for result in own:
        kind = result.told.name.split(",")[0]
        if kind not in told and result.told.score.protocol != result.told.name:
            words = result.told.score.protocol.removeprefix(f"{kind}, ")
            say(f"{kind}: {words[words.index('ridge') :] if kind == 'low-shot' else words}")
        told.add(kind)
    if confused := _confusions(own[0]):
        say(f"most often wrong ({own[0].told.name}): {', '.join(confused)}")


def _confusions(result: Result) -> list[str]:
    """The most frequent errors in words."""
    classes, wrong_CC = result.task.classes, result.told.score.confusion_CC.clone().fill_diagonal_(0)
    counts, places = wrong_CC.flatten().topk(min(FIRST, wrong_CC.numel()))
    pairs = [(count, *divmod(place, len(classes))) for count, place in zip(counts.tolist(), places.tolist(), strict=True)]
    return [f"{classes[true]} told as {classes[told]} ({count})" for count, true, told in pairs if count]


def _show_transfer(results: list[Result]) -> None:
    """Top-1 on every data set beside one another, and their mean."""
    lines: dict[tuple[str, str], dict[str, float]] = {}
    for result in results:
        lines.setdefault((result.encoder, result.told.name), {})[_called(result)] = result.top1
    names = list(dict.fromkeys(map(_called, results)))
    rows = [
        (*key, *(f"{line[name]:.3f}" if name in line else "" for name in names), f"{fmean(line.values()):.3f}")
        for key, line in lines.items()
    ]
    table("transfer, top-1", ("encoder", "protocol", *names, "mean"), rows)


def _called(result: Result) -> str:
    """What a result is of, in a word or two."""
    return result.data.name if result.task.name == CLASS else f"{result.data.name}: {result.task.name}"


def _line(result: Result, config: Evaluate, encoders: Encoders) -> dict[str, Any]:
    """A result as it is kept and printed."""
    (name, score), data = result.told, result.data
    files = {
        part: {"path": str(beton.path), "rows": len(beton), "fingerprint": beton.fingerprint}
        for part, beton in (("train", data.train), ("test", data.test))
    }
    return {
        "time": time.time(),
        "run": str(config.run),
        "step": encoders.step,
        "weights": "ema" if config.ema else "model",
        "task": _called(result),
        "encoder": "run" if result.encoder == str(config.run) else result.encoder,
        "kind": name,
        "protocol": score.protocol,
        "size": encoders.settings["size"],
        "top1": round(score.top1.value, 6),
        "top5": None if score.top5 is None else round(score.top5, 6),
        "mean_per_class": round(score.per_class, 6),
        "interval": [round(score.top1.low, 6), round(score.top1.high, 6)],
        "classes": list(result.task.classes),
        "confusion": score.confusion_CC.tolist() if len(result.task.classes) <= CONFUSION else None,
        "data": files,
        "overlap": 1.0 if same_images(data.train, data.test) else 0.0,
    }


def _keep(run: Path, lines: list[dict[str, Any]]) -> int:
    """Add results to the run's file, whole lines even where another evaluation writes at the same time; returns how many."""
    path = run / RESULTS
    try:
        descriptor = descriptor_to_change(path, os.O_WRONLY | os.O_APPEND)
        try:
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            if os.write(descriptor, data) != len(data):
                raise OSError(f"{path} took only a part of the results")
        finally:
            os.close(descriptor)
    except OSError as error:
        say(f"the results are not in {path} ({error.strerror or error}): copy them from here")
        return 0
    return len(lines)

"""What an evaluation tells: a line as a result comes, tables at the end, and the run's own file of results."""

import json
import os
import time
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..console import answer, say, table
from ..evaluation.protocols import Told
from ..evaluation.scores import worst
from ..evaluation.tasks import Task
from ..files.opening import descriptor_to_change
from ..pipeline.beton.reader import Beton
from ..settings import Evaluate
from ..training.resume import Encoders

RESULTS = "evaluation.jsonl"
"""In the run's folder: one JSON object a result, the only thing there that an evaluation adds to."""
CONFUSION = 200  # classes: the matrix of more has over 40,000 numbers, and the results file has the worst pairs in its place
PAIRS = 200
CLASS = "class"
FIRST = 3  # confusions that are named


class DataSet(NamedTuple):
    """Images to learn from and images to be told, and what is to be told of them."""

    name: str
    train: Beton
    test: Beton
    tasks: list[Task]
    test_name: str
    """Of what is told, beside `name`, that of what is learned from."""
    overlap: float
    """Share of the test images that stand among the training images too."""


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


def show(results: list[Result]) -> None:
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
    split = f"{len(data.train):,} training and {len(data.test):,} test images ({data.test_name}), 95 % intervals over these"
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
    classes = result.task.classes
    pairs = worst(result.told.score.confusion_P3, FIRST)
    return [f"{classes[true]} told as {classes[told]} ({count})" for true, told, count in pairs]


def show_transfer(results: list[Result]) -> None:
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


class Record:
    """The results of one evaluation: each is added to the run's file at once, then shown in a line."""

    def __init__(self, config: Evaluate, encoders: Encoders) -> None:
        self._config, self._encoders = config, encoders
        self._path, self._fault, self._count = config.run / RESULTS, "", 0

    def add(self, result: Result) -> None:
        """Keep a result and say it; where the file cannot be written the evaluation goes on."""
        line = _line(result, self._config, self._encoders)
        try:
            _append(self._path, line)
            self._count += 1
        except OSError as error:
            self._fault = str(error.strerror or error)
        if self._config.json:
            answer(json.dumps(line))
            return
        interval = f"{line['interval'][0]:.3f} to {line['interval'][1]:.3f}"
        say(f"{_called(result)}, {result.encoder}, {result.told.name}: top-1 {result.top1:.3f} ({interval})")

    def close(self) -> None:
        """Say where the results are."""
        if self._fault:
            say(f"the results are not in {self._path} ({self._fault}): copy them from here")
        else:
            say(f"added to {self._path}: {self._count} results")


def _append(path: Path, line: dict[str, Any]) -> None:
    """Add a whole line, even where another evaluation writes at the same time; raises OSError where it cannot be."""
    descriptor = descriptor_to_change(path, os.O_WRONLY | os.O_APPEND)
    try:
        data = (json.dumps(line) + "\n").encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path} took only a part of a result")
    finally:
        os.close(descriptor)


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
        **_confusion_of(result),
        "data": files,
        "test": data.test_name,
        "overlap": round(data.overlap, 6),
    }


def _confusion_of(result: Result) -> dict[str, Any]:
    """The matrix of confusions, or of many classes the pairs that are confused most, each with its number of images."""
    classes, score = result.task.classes, result.told.score
    if len(classes) <= CONFUSION:
        return {"confusion": score.confusion_CC.tolist()}
    pairs = worst(score.confusion_P3, PAIRS)
    return {"confusion": None, "confused": [[classes[true], classes[told], count] for true, told, count in pairs]}

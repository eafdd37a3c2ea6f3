"""The results of a study: JSON lines that are committed, one a training.

An array's jobs each write a file of their own beside it (NAME.part-2-of-8.jsonl): appending is whole and in order on a local
disk, but not between the clients of a network file system (open(2) on NFS and O_APPEND). Once all results are there they
become one file.
"""

import glob
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..console import say
from ..files.locking import hold
from ..files.opening import LARGE, descriptor_to_change, read_bytes, replacing
from ..files.typed import Misfit, fitted, of_json
from ..pipeline.beton.reader import Beton
from ..settings.ranges import FromOne, FromZero, Seed, Share
from ..training.run_folder import read_config
from .axes import OWN
from .matched import digest_of, other, settings_of
from .plan import Job, Plan

Line = dict[str, Any]
NO_SCALARS = (
    "step",
    "steps",
    "time",
    "epoch",
    "learning_rate",
    "images_per_s",
    "wait",
    "left_s",
    "saved_step",
    "saved_age_s",
)
TOLD = ("task", "encoder", "kind", "protocol", "top1", "interval")


class Told(Struct, frozen=True):
    """What is read of a score in a study's result."""

    task: str
    encoder: str
    kind: str
    top1: Share


class Result(Struct, frozen=True):
    """What is read of a line of a study's results."""

    name: str
    seed: Seed
    settings: dict[str, Any]
    evaluations: list[Told]
    training_s: Annotated[float, Meta(ge=0)]


class Ran(Struct, frozen=True):
    """What is read of a run's configuration."""

    method: str
    steps: FromZero
    batch: FromOne
    engine: str | None = None


def part_of(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8), "" as (1, 1); raises ValueError for what is no share."""
    number, slash, count = (text or "1/1").partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--part must be a number and how many parts there are, as 2/8, got {text!r}")
    return int(number), int(count)


def file_of(path: Path, part: tuple[int, int]) -> Path:
    """Where a start that makes this part writes."""
    return path if part[1] == 1 else path.with_name(f"{path.stem}.part-{part[0]}-of-{part[1]}.jsonl")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.part-*-of-*.jsonl"))


def read(path: Path) -> list[Line]:
    """Every result in the file `path` and in its parts. A last line that a crash has cut off is passed over.

    Raises ValueError for any other line that is no result.
    """
    lines = []
    for file in (path, *_parts(path)):
        texts = read_bytes(file, limit=LARGE).split(b"\n") if file.exists() else []
        for number, text in enumerate(texts, 1):
            line = _parsed(text)
            if line is not None:
                lines.append(line)
            elif text and number == len(texts):
                say(f"{file}: line {number} was cut off and is passed over: its training counts as not made")
            elif text.strip():
                raise ValueError(f"{file}: line {number} is no result of a study: remove it, and its result is made again")
    return lines


def _parsed(text: bytes) -> Line | None:
    try:
        line = of_json(text, Line, where="a line")
        fitted(line, Result)
    except Misfit:
        return None
    return line


def append(path: Path, line: Line) -> None:
    """Add a result, whole and on the disk, after what a crash cut off has been cut away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = descriptor_to_change(path, os.O_RDWR | os.O_APPEND)
    try:
        hold(descriptor, path, wait=True)
        held = read_bytes(path, limit=LARGE)
        tail = held[held.rfind(b"\n") + 1 :]
        begin = b"\n" if tail and _parsed(tail) is not None else b""
        if tail and not begin:
            os.ftruncate(descriptor, len(held) - len(tail))
        data = begin + json.dumps(line, allow_nan=False).encode() + b"\n"
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path} took only a part of a result: make room there")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def gather(path: Path, lines: Sequence[Line]) -> None:
    """Make one file of `lines`, all that a finished study has, and remove the parts."""
    if parts := _parts(path):
        with replacing(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for part in parts:
            part.unlink(missing_ok=True)


def of_plan(plan: Plan, lines: Sequence[Line], fingerprints: Mapping[str, str]) -> dict[tuple[str, int], Line]:
    """The result of each job, by name and seed, in the order of the jobs; of repeated ones the first.

    Raises ValueError where a result was made with other settings, naming the first that differs.
    """
    found = dict[tuple[str, int], Line]()
    for job in plan.jobs():
        settings = settings_of(job, plan, fingerprints)
        for line in lines:
            if (line["name"], line["seed"]) != job.key:
                continue
            if differs := other(settings, line["settings"]):
                raise ValueError(
                    f"{plan.results} has a result of {job.name} with {differs}: remove that line to make it again, or name "
                    "another file in `results`"
                )
            found.setdefault(job.key, line)
    return found


def beside(path: Path) -> list[tuple[Line, Path]]:
    """The results of studies in the same folder as the file `path`, each with its file."""
    files = sorted(set(path.parent.glob("*.jsonl")) - {path, *_parts(path)})
    return [
        (line, file) for file in files for line in filter(None, map(_parsed, read_bytes(file, limit=LARGE).split(b"\n")))
    ]


def of_settings(
    job: Job, plan: Plan, fingerprints: Mapping[str, str], others: Sequence[tuple[Line, Path]]
) -> tuple[Line, Path] | None:
    """The first result of `others` that was made with the same settings, under this job's name, and its file."""
    settings = settings_of(job, plan, fingerprints)
    for line, path in others:
        same = line["seed"] == job.seed and set(line["settings"]) <= set(settings) and not other(settings, line["settings"])
        told = [score for score in line["evaluations"] if job.floors or score["encoder"] == OWN]
        if same and (len({score["encoder"] for score in told}) > 1) == job.floors:
            names = {"study": plan.file.stem, "name": job.contender.name, "base": job.contender.base}
            return {**line, **names, "evaluations": told}, path
    return None


def result(job: Job, plan: Plan, run: Path, told: Sequence[Line], evaluation_s: float, images: Mapping[str, Beton]) -> Line:
    """What is kept of a run that has been trained and evaluated; `told` is what the evaluation printed."""
    config, records = fitted(read_config(run), Ran, where=str(run / "config.json")), _records(run / "log.jsonl")
    fingerprints = {part: beton.fingerprint for part, beton in images.items()}
    settings = settings_of(job, plan, fingerprints)
    start = next((record for record in reversed(records) if record["event"] == "start"), {})
    seconds = _seconds(records)
    return {
        "study": plan.file.stem,
        "name": job.contender.name,
        "base": job.contender.base,
        "method": config.method,
        "set": list(job.contender.train.set),
        "seed": job.seed,
        "digest": digest_of(settings),
        "steps": config.steps,
        "training_s": round(seconds, 2),
        "evaluation_s": round(evaluation_s, 2),
        "images_per_s": round(config.steps * config.batch / max(seconds, 1e-9), 1),
        "last_epoch": last_epoch(records),
        "evaluations": [_told(line, alone=not plan.data.others) for line in told],
        "images": {part: len(beton) for part, beton in images.items()},
        "engine": config.engine,
        "versions": start.get("versions", {}),
        "hardware": {**start.get("hardware", {}), "device": start.get("device")},
        "time": round(time.time(), 3),
        "settings": settings,
    }


def _told(line: Line, *, alone: bool) -> Line:
    """One score, and among how many classes; a task of one pair of files needs no name of the files in it."""
    task = line["task"].rpartition(": ")[2] if alone else line["task"]
    return {name: line[name] for name in TOLD} | {"task": task, "classes": len(line["classes"])}


def _records(log: Path) -> list[Line]:
    found = []
    for text in read_bytes(log, limit=LARGE).splitlines():
        with suppress(Misfit):  # what a crash tore; a later start has taken its step again
            found.append(of_json(text, Line, where=str(log)))
    return [record for record in found if "event" in record and isinstance(record.get("time"), int | float)]


def _seconds(records: Sequence[Line]) -> float:
    """How long a training took, over all of its starts, without what was lost between them."""
    starts = [place for place, record in enumerate(records) if record["event"] == "start"]
    return sum(records[last - 1]["time"] - records[first]["time"] for first, last in pairwise([*starts, len(records)]))


def last_epoch(records: Sequence[Line]) -> dict[str, float]:
    """Every scalar of a training's records, as its mean over the last epoch; `masked` is of all epochs."""
    steps = [record for record in records if record["event"] == "step"]
    if not steps:
        return {}
    late = [record for record in steps if record["epoch"] > steps[-1]["epoch"] - 1]
    found = {}
    for name in dict.fromkeys(name for record in late for name in record if name not in NO_SCALARS):
        given = [record.get(name) for record in late]
        numbers = [value for value in given if isinstance(value, int | float) and not isinstance(value, bool)]
        numbers = [value for value in numbers if math.isfinite(value)]
        if numbers:
            found[name] = float(f"{fmean(numbers):.6g}")
    return found | ({"masked": steps[-1]["masked"]} if "masked" in steps[-1] else {})

"""`viewmill study`: every training of a study and its evaluation, one after another; the same command goes on."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from msgspec import Struct

from ..console import duration, say
from ..errors import Refused, refusing
from ..files.opening import LARGE, read_text
from ..files.typed import of_json, read_json
from ..pipeline.beton.reader import Beton
from ..settings.parts import words_of
from ..settings.ranges import FromZero
from ..settings.study import Study
from ..study import results
from ..study.images import opened
from ..study.matched import budgets, settings_of, trained_as
from ..study.page import check, show, write
from ..study.plan import Job, Plan, read_plan, slug
from ..study.process import Call, await_free, called
from ..training.signals import deferred

STAYS = ("config.json", "log.jsonl", "evaluation.jsonl")
STOPPED = (75, 130)
LAST = 3  # lines of a failed command that are said


class Ended(Struct, frozen=True):
    """What is read of a run's exit.json."""

    code: int
    step: FromZero
    steps: FromZero


class Making(NamedTuple):
    """What all jobs of a start have in common."""

    plan: Plan
    images: Mapping[str, Beton]
    target: Path
    """Where results are added."""
    call: Call
    asked: Callable[[], int]
    keep_checkpoints: bool
    sharing: bool
    """Whether results of other studies count: not where everything is made a second time."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the images, by part."""
        return {part: beton.fingerprint for part, beton in self.images.items()}

    def run(self, job: Job) -> Path:
        """The folder of a job's training; other settings of it have another."""
        digest = trained_as(settings_of(job, self.plan, self.fingerprints))
        return self.plan.runs / f"{slug(job.contender.name)}-{job.seed}-{digest[:8]}"


def study(config: Study, *, call: Call = called) -> int:
    """Make what is missing of a study's results, then table and picture; `call` runs a command.

    Returns 0; 1 where a training or an evaluation failed, after all others; 75 or 130 where a signal ended it.
    """
    with refusing():
        part = results.part_of(config.part)
        plan = read_plan(config.file, results=config.results)
        check(plan)
        if config.table:
            return _finish(plan)
        images = opened(plan)
        plan.runs.mkdir(parents=True, exist_ok=True)
        with deferred() as asked:
            target = results.file_of(plan.results, part)
            making = Making(plan, images, target, call, asked, config.keep_checkpoints, config.results is None)
            code = _make(making, plan.jobs()[part[0] - 1 :: part[1]])
        if code in STOPPED:
            return code
        there = results.of_plan(plan, results.read(plan.results), making.fingerprints)
        if part[1] > 1 and len(there) < len(plan.jobs()):
            say(f"the rest is for the other parts; once they have ended: viewmill study {plan.file} --table")
            return code
        return _finish(plan) or code if there else code


def _finish(plan: Plan) -> int:
    """Table and picture from what is there; raises ValueError where there is nothing."""
    lines = results.read(plan.results)
    there = results.of_plan(plan, lines, {})
    if not there:
        raise ValueError(f"{plan.results} holds no result of {plan.file}: run viewmill study {plan.file} first")
    keys = {(line["name"], line["seed"]) for line in lines}
    if strange := sorted(f"{name}, seed {seed}" for name, seed in keys if (name, seed) not in there):
        say(f"not in the table, since the study does not ask for them: {'; '.join(strange)}")
    if len(there) == len(plan.jobs()):
        results.gather(plan.results, list(there.values()))
    write(plan, there)
    show(plan, there)
    return 0


def _make(making: Making, jobs: Sequence[Job]) -> int:
    """Train and evaluate what has no result yet; returns the exit code of the study."""
    plan = making.plan
    there = results.of_plan(plan, results.read(plan.results), making.fingerprints)
    others = results.beside(plan.results) if making.sharing else []
    missing = [job for job in jobs if job.key not in there and not _taken(making, job, others)]
    done = f", {len(jobs) - len(missing)} of them made before" if len(missing) < len(jobs) else ""
    say(f"{plan.title}: {len(plan.contenders)} methods, {len(plan.seeds)} seeds; {len(jobs)} trainings{done}")
    for note in budgets(plan.contenders):
        say(f"not matched: {note}")
    if find_spec("matplotlib") is None:
        say('no picture will be drawn, since matplotlib is missing: pip install "viewmill[bench]"')
    for job in jobs:
        if job not in missing:
            _clear(making, job)  # an earlier start may have ended in between
    failed, took = list[str](), list[float]()
    for place, job in enumerate(missing):
        left = f", about {duration(fmean(took) * (len(missing) - place))} left" if took else ""
        say(f"{place + 1} of {len(missing)}: {job.name}{left}")
        began = time.monotonic()
        code = making.asked() or _job(making, job)
        if code in STOPPED:
            say(f"stopped before {job.name} was evaluated: the same command goes on")
            return code
        took.append(time.monotonic() - began)
        failed += [job.name] if code else []
    if failed:
        say(f"{len(failed)} of {len(missing)} failed ({'; '.join(failed)}): the same command tries them again")
    return 1 if failed else 0


def _taken(making: Making, job: Job, others: Sequence[tuple[results.Line, Path]]) -> bool:
    """Whether a result of `others`, another study's, has been taken over for the job."""
    found = results.of_settings(job, making.plan, making.fingerprints, others)
    if found is not None:
        line, path = found
        results.append(making.target, line)
        say(f"{job.name}: as in {path.name}, which has a result of the same settings")
    return found is not None


def _job(making: Making, job: Job) -> int:
    """One training and its evaluation, until its result is kept; returns 0, 1 where it failed, or what a signal asks for."""
    run, train = making.run(job), job.contender.train
    try:
        await_free(run)
    except Refused as error:
        say(f"{job.name}: {error}")
        return 1
    output = run.with_name(f"{run.name}.output")
    if not _trained(run):
        given = dict(job.contender.given)
        if given.get("engine", "auto") == "auto":
            from ..pipeline.engines.engine import choose

            given["engine"] = choose("auto")  # the same for all; to measure which one is faster takes seconds, every time
        chosen = words_of(
            {"data": str(making.images["train"].path), "out": str(run), "seed": job.seed, **given, "set": train.set}
        )
        code = _called(making, job, ["train", train.method, *chosen], output)[0]
        if code:
            return code
    files = {
        part: [str(beton.path) for name, beton in making.images.items() if name.endswith(part)] for part in ("train", "test")
    }
    asked = words_of({**files, "json": True, "floors": job.floors, "floor_seconds": 0, **making.plan.evaluate})
    began = time.monotonic()
    code, said = _called(making, job, ["evaluate", str(run), *asked], output)
    if code:
        return code
    try:
        told = [of_json(text.encode(), results.Line, where="evaluate") for text in said.splitlines() if text.strip()]
        line = results.result(job, making.plan, run, told, time.monotonic() - began, making.images)
        results.append(making.target, line)
    except (ValueError, LookupError, OSError) as error:
        say(f"{job.name} has no result ({type(error).__name__}: {error}): see {output}")
        return 1
    scores = (
        f"{score['task']}, {score['kind']} {score['top1']:.1%}" for score in line["evaluations"] if score["encoder"] == "run"
    )
    say(f"{job.name}: trained in {duration(line['training_s'])}; {'; '.join(scores)}")
    _clear(making, job)
    return 0


def _called(making: Making, job: Job, arguments: Sequence[str], output: Path) -> tuple[int, str]:
    """The code 0, 1, or what a signal asks for, and what the command printed."""
    if code := making.asked():
        return code, ""
    code, said = making.call(arguments, output, making.asked)
    code = code and (making.asked() or code)
    if code in STOPPED or not code:
        return code, said
    lines = read_text(output, limit=LARGE, errors="replace").splitlines() if output.exists() else []
    lines = [line for line in lines if not line.startswith("$ ")]  # the command itself
    say(f"{job.name}: `{arguments[0]}` failed with code {code}: {' / '.join(lines[-LAST:])}; see {output}")
    return 1, said


def _trained(run: Path) -> bool:
    """Whether a training ended there and its checkpoints are left."""
    try:
        ended = read_json(run / "exit.json", Ended)
        return ended.code == 0 and ended.step == ended.steps and any((run / "checkpoints").iterdir())
    except (OSError, ValueError):
        return False


def _clear(making: Making, job: Job) -> None:
    """Leave of an evaluated run what is small; of what is no run, everything."""
    run = making.run(job)
    if making.keep_checkpoints or not (run / "config.json").exists():
        return
    for path in run.iterdir():
        if path.name not in STAYS:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

"""viewmill: from folders of images to representations.

    viewmill                                             the demo: render, convert, train, evaluate, draw
    viewmill convert PHOTOS photos.beton                 images of any kind -> one .beton
    viewmill inspect photos.beton --deep --grid a.png    what it holds, whether it is sound, a picture
    viewmill subset photos.beton few.beton --fraction .1 some of its rows; `split` writes the others too
    viewmill methods                                     what can be trained, and each method's settings
    viewmill train simclr --data photos.beton --out RUN  pretrain; the same command again continues
    viewmill evaluate RUN --train a.beton --test b.beton kNN and probes of the frozen features, beside their floors
    viewmill finetune RUN --train a.beton --test b.beton --out OUT   all of it trained with labels
    viewmill transfer RUN --train a.json --test b.json --out OUT     detection, segmentation, keypoints
    viewmill embed RUN PHOTOS photos.parquet             features of any images
    viewmill export RUN OUT --format timm                the encoder for torchvision, timm, transformers, ONNX, Detectron2
    viewmill report RUN... --out page.html               a page about one or several runs
    viewmill study STUDY.toml                            methods x seeds: one table, one picture
    viewmill doctor                                      what works on this machine

`python run.py ...` and `accelerate launch run.py ...` are the same program. Two processes on one CPU:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 run.py train ...

Exit codes: 0 done, 1 failed, 2 refused input, 75 stopped early with a good checkpoint, 130 interrupted (checkpoint written).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script (or re-imported by a conversion worker): make this folder the package `viewmill`, whatever its name,
    # so that every class has one identity. See docs/decisions/0002-one-identity.md.
    import importlib.util

    _here = Path(__file__).resolve().parent
    _spec = importlib.util.spec_from_file_location(
        "viewmill", _here / "__init__.py", submodule_search_locations=[str(_here)]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["viewmill"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["viewmill"])
    __package__ = "viewmill"
    if __name__ == "__main__":
        from viewmill.run import main  # pyright: ignore[reportMissingImports]

        raise SystemExit(main())

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from . import commands
from .answers import doctor, methods
from .commands import Bench, Demo, Train
from .commands.line import by_name, in_order
from .console import plain_errors, say, settle_streams, unboxed
from .distributed import rendezvous
from .errors import Failed, Refused, Unsound, refusing
from .files.typed import check_settings
from .methods.method import Method
from .methods.overrides import values
from .methods.schedules import Moment
from .pipeline.views.recipe_file import data_of
from .training.announce import plan
from .training.display.clock import Clock
from .training.launch import REASONS, Start, at_its_end, left_out, shared, standing, starting
from .training.loaders import colours_of, open_loader
from .training.options import FREE, MAY_DIFFER, for_images, method_of
from .training.progress import Job, Report, Taken, doubted, observed, reporting
from .training.run_config import FORMAT, recorded, settle_config
from .training.signals import deferred

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from .pipeline.beton.reader import Beton
    from .pipeline.loader import BetonLoader, ViewBatch
    from .training.state import Learner, Settings
    from .training.update import Part


def train(config: Train) -> int:
    """Train, or continue; returns the exit code, which also stands in RUN/exit.json."""
    from .datasets import open_images
    from .pipeline.sources.opened import is_source

    with starting(config.out, timeout=config.timeout) as start:
        with refusing():
            method = method_of(config)
            if config.track:
                from .training.display.trackers import installed

                installed(config.track)
            # a bad file is refused before torch loads
            beton = None if is_source(config.data) else open_images(config.data)
            if beton is not None:
                from .pipeline.order import steps_per_epoch

                steps_per_epoch(len(beton), config.batch)
        accelerator = start.meet(lambda: told_of(config, method, beton), precision=config.precision)
        config = dataclasses.replace(config, precision=accelerator.mixed_precision)  # what "auto" has come to be
        if beton is None:
            beton = converted(config.data)
        asked = start.stack.enter_context(deferred())  # from here on: a conversion may be longer than a scheduler waits
        with refusing():
            job = prepare(config, method, beton, accelerator, start.stack)
        start.ended |= {"step": job.first, "steps": job.steps, "reason": "it failed"}
        start.ended |= loop(job, asked, start)
    return start.ended["code"]


def told_of(config: Train, method: Method, beton: Beton | None) -> dict[str, Any]:
    """What every process of a training must have been started with: all but where things lie, and how it goes about them."""
    from .datasets import told_apart

    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in MAY_DIFFER}
    data = {"data": "images, to be converted"} if beton is None else {"data": "a .beton file", **told_apart(beton)}
    return {"command": "train", **data, **own, **dict(values(method))}


def converted(data: Path) -> Beton:
    """Images as a data set: the main process converts them, however long it takes, the others find what it has made."""
    from .datasets import open_images

    made: list[Beton] = []
    rendezvous.current().of_main("converted", lambda: made.append(open_images(data)), seconds=rendezvous.FOR_EVER_S)
    return made[0] if made else open_images(data)


def prepare(config: Train, method: Method, beton: Beton, accelerator: Accelerator, stack: ExitStack) -> Job:
    """Loader and learner of a run, continued where it stands; raises ValueError for what does not fit."""
    from .checkpoint.writer import check_room
    from .models.weights import fingerprint
    from .training.resume import begun, parts_of, restore_
    from .training.state import build

    method = for_images(config, method, rows=len(beton), earlier=recorded(config.out))
    loader = stack.enter_context(closing(open_loader(config, method, beton, accelerator)))
    settings = describe(config, method, beton, loader)
    # what a run began with is in its checkpoints: the file may be gone, or be of a run that has gone on
    goes_on = begun(config.out)
    init = None if goes_on else config.init
    settings["init"] = recorded(config.out).get("init") if goes_on else init and fingerprint(init)
    learner, given = build(
        settings,
        method,
        beton,
        accelerator,
        sides=[view.size for view in loader.recipe.views],
        init=init,
        recompute=config.recompute,
        compiled=config.compile,
        agreed=lambda: rendezvous.current().agree("configuration", lambda: settings),
    )
    if accelerator.is_main_process:  # what was refused until here leaves no configuration behind
        settle_config(config.out, settings)
    step, passed_over = restore_(config.out, learner)
    every = config.checkpoint_every or min(len(loader), 1000)
    job = Job(config, method, settings, beton, loader, learner, accelerator, step, every)
    if accelerator.is_main_process:
        for fault in passed_over:
            say(f"passed over: {fault}")
        if step:
            say(f"continuing {config.out} at step {step} of {settings['steps']}")
        if step < settings["steps"]:
            tight = check_room(config.out / "checkpoints", parts_of(learner), keep=config.keep)
            plan(job, given)
            say(tight) if tight else None
    return job


def describe(config: Train, method: Method, beton: Beton, loader: BetonLoader) -> Settings:
    """What makes a run this run, as it stands in config.json."""
    from .training.state import architecture

    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    steps = config.steps or config.epochs * len(loader)
    data = {"rows": len(beton), "data_fingerprint": beton.fingerprint}
    views = {"recipe": config.recipe and data_of(loader.recipe), "engine": loader.engine_name, "placement": loader.placement}
    network = dataclasses.asdict(architecture(own, method))
    made_of = {
        "objective": dict(values(method)),
        "architecture": {name: value for name, value in network.items() if name != "recompute"},
        "colours": colours_of(loader.recipe.views[0]),
    }
    described = {"format": FORMAT, **own, **views, "steps": steps, **data, **made_of}
    return json.loads(json.dumps(described))  # as a later start will read it: JSON knows no tuples


def take_step(
    learner: Learner,
    method: Method,
    batch: ViewBatch,
    moment: Moment,
    accelerator: Accelerator,
    *,
    part: Part,
    observe: bool,
    asked: int = 0,
) -> Taken:
    """One batch of training; nothing of it waits for the device. Without `observe` the loss is the only scalar.

    `asked` is the exit code that this process has been asked for, of which an update's verdict tells every process.
    """
    import torch

    from .objectives import memory, objective
    from .training.state import advance_, forward, seed_step, watch_
    from .training.update import backward

    seed_step(learner.settings, moment)
    images = objective.Images(batch.row_B, batch.valid_B, batch.candidate_M, learner.label_N, batch.views)
    learner.statistics.keep()
    with nullcontext() if part.last else accelerator.no_sync(learner.model):
        outputs = forward(learner, method, batch, moment, accelerator)
        loss, scalars, pending = objective.loss(method, outputs, learner.memory, images, moment, observe=observe)
        backward(loss, learner.guard, part)
    learner.statistics.mend_()
    verdict = None
    if part.last:
        tell = (torch.full_like(loss.detach(), asked), batch.valid_B.any())
        verdict = advance_(learner, method, moment, tell=tell)
    memory.write_(method, learner.memory, outputs, images, moment, pending)
    scalars |= watch_(learner, outputs, batch, moment, observe=observe)
    return Taken(scalars, outputs.mean_VBF.detach(), verdict)


def loss_of(method: Method, batch: ViewBatch, moment: Moment, accelerator: Accelerator, learner: Learner) -> torch.Tensor:
    """The loss of a batch, of which nothing is learnt or remembered."""
    from .objectives import objective
    from .training.state import forward

    images = objective.Images(batch.row_B, batch.valid_B, batch.candidate_M, learner.label_N, batch.views)
    outputs = forward(learner, method, batch, moment, accelerator)
    return objective.loss(method, outputs, learner.memory, images, moment, observe=False)[0]


def loop(job: Job, asked: Callable[[], int], start: Start) -> dict[str, Any]:
    """Steps until the end or a signal; what a person or a later start needs is on disk when it returns how it ended."""
    from accelerate.utils import gather_object

    from .checkpoint.writer import Writer
    from .distributed import collectives
    from .objectives import memory
    from .pipeline.loader import batches
    from .training.optimisers import set_learning_rate_
    from .training.resume import is_sound, save
    from .training.update import Late, part_of

    config, method, learner, accelerator = job.config, job.method, job.learner, job.accelerator
    step, code, rate, due, late, sound = job.first, 0, 0.0, False, Late(), True
    learner.model.train()
    with ExitStack() as stack:
        report = stack.enter_context(reporting(job))
        writer = stack.enter_context(Writer(config.out / "checkpoints", keep=config.keep, keep_every=config.keep_every))
        stack.enter_context(standing(start, writer, report.event, first=job.first, init=True))
        source = stack.enter_context(closing(batches(job.loader, start=step, stop=job.steps)))
        start.ready()
        clock = Clock(config.batch, len(job.loader), job.steps, first=step)
        for batch in clock.timed(source):
            moment = job.moment(step)
            part = part_of(step, steps=job.steps, per_epoch=len(job.loader), accumulate=config.accumulate)
            earlier, rate = rate, job.rate(step)
            set_learning_rate_(learner.optimiser, rate)
            if memory.refresh_(method, learner.memory, moment):
                report.event("clusters", step=step)
            step += 1
            due = due or job.keeps(step)  # a checkpoint waits for the end of its update
            observe = job.observes(step) or memory.listens(method, learner.memory, moment) or (due and part.last)
            taken = take_step(learner, method, batch, moment, accelerator, part=part, observe=observe, asked=asked())
            report.passed(clock, step=step)
            if taken.verdict is not None:
                code = heed(late.bring(taken.verdict.numbers()), report, job, step=step - part.batches, rate=earlier)
                code = code or (asked() if accelerator.num_processes == 1 else 0)
            if observe or code:
                numbers = observed(job, taken, moment)
                memory.hear_(method, learner.memory, numbers["loss"], moment)
                report.reading(numbers, clock, step=step, rate=rate, saved=writer.saved)
            if part.last and (due or code):
                due = False
                sound = is_sound(learner, partial(loss_of, method, batch, moment, accelerator))
                save(writer, start.hold, learner, accelerator, step=step, sound=sound)
                report.pictures(batch, taken, step=step)
            report.faults(writer.take_faults(), step=step)
            if code:
                break
        heed(late.rest(), report, job, step=step, rate=rate)
        if not (code or sound):
            raise Unsound(at_its_end(learner, step=step))
        writer.wait()
        report.faults(lost := writer.take_faults(), step=step)
        written = step == job.first or (writer.saved is not None and writer.saved.step == step)
        if not collectives.of_main(written):
            raise Failed(f"the checkpoint of step {step} could not be written: {'; '.join(lost)}; start again to continue")
        seconds = time.perf_counter() - clock.started
        unreadable = sorted(set().union(*gather_object([job.loader.unreadable])))
        doubts = report.doubts(step=step)
        report.event("end", step=step, code=code, seconds=round(seconds, 3), unreadable=unreadable, alarms=doubts)
    if accelerator.is_main_process:
        report.summarise(clock, writer.saved, unreadable, code, step=step, seconds=seconds)
    return {"code": code, "step": step, "reason": REASONS[code] + doubted(doubts)}


def heed(told: list[float] | None, report: Report, job: Job, *, step: int, rate: float) -> int:
    """What the verdict of the update at `step` asks for: an exit code that any process was asked for, or 0.

    The same on every process, since it is read from what they have told one another. Raises Failed where too many updates in
    a row were left out, or where no process could read an image.
    """
    if told is None:
        return 0
    _, _, code, readable, *_ = told
    if not readable:
        raise Failed(f"no image of step {step} could be read: is {job.config.data} still whole? `viewmill inspect` tells")
    if fault := left_out(told, step=step, rate=rate, most=job.config.max_masked, precision=job.config.precision):
        report.fault("masked", fault, step=step)
    return int(code)


def demo(config: Demo) -> int:
    """The main job on rendered images; ends with a table and two pictures."""
    from .demo import run_demo

    return run_demo(config, train=train)


def bench(config: Bench) -> int:
    """Measure speeds."""
    if config.what == "step":
        from .benchmarks.prepared import Engine
        from .benchmarks.step import bench as measure_steps
        from .checkpoint.writer import Writer
        from .training.resume import facts_of, parts_of, restore_
        from .training.state import advance_, forward, seed_step, watch_
        from .training.update import Part

        of_a_step = (take_step, advance_, forward, seed_step, watch_, Part(1, last=True))
        return measure_steps(config, Engine(prepare, *of_a_step, Writer, parts_of, facts_of, restore_))
    if config.what == "objective":
        from .benchmarks.objective import bench as measure
    else:
        from .benchmarks.pipeline import bench as measure

    return measure(config)


def report(config: commands.Report) -> int:
    """Make a page about runs; a configuration does not say which recipe is its method's own."""
    from .methods.table import METHODS
    from .objectives.alarms import judged
    from .report.command import report as make

    return make(config, recipes={name: method.recipe for name, method in METHODS.items()}, judge=judged)


def elsewhere(room: str, name: str) -> Callable[[Any], int]:
    """The function `name` of `room`, a module that is loaded when it is called: most of them load torch."""

    def run(config: Any) -> int:
        return getattr(import_module(f".{room}", __package__), name)(config)

    return run


COMMANDS: dict[type, Callable[[Any], int]] = {
    commands.Demo: demo,
    commands.Convert: elsewhere("converting", "convert"),
    commands.Inspect: elsewhere("datasets", "inspect"),
    commands.Subset: elsewhere("datasets", "subset"),
    commands.Split: elsewhere("datasets", "split"),
    commands.Methods: methods,
    commands.Train: train,
    commands.Evaluate: elsewhere("evaluating", "evaluate"),
    commands.Finetune: elsewhere("transfer.finetune", "finetune"),
    commands.Transfer: elsewhere("transfer.command", "transfer"),
    commands.Embed: elsewhere("embedding", "embed"),
    commands.Export: elsewhere("export.command", "export"),
    commands.Report: report,
    commands.Study: elsewhere("study.command", "study"),
    commands.Bench: bench,
    commands.Doctor: doctor,
}


def parsed(arguments: list[str]) -> Any:
    """The command line as a command; of several processes one that cannot read its own tells the others."""

    def read() -> Any:
        words = in_order(arguments, by_name(list(COMMANDS)))
        return tyro.cli(commands.Command, prog="viewmill", description=__doc__, args=words)

    if rendezvous.current().world == 1:
        return read()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return read()
    except Refused as refusal:
        shared(refusal)
        raise
    except SystemExit as error:
        if not error.code:
            raise
        shared(refusal := Refused(unboxed(told.getvalue())))
        raise refusal from None


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line (the demo where it is empty), run the command, return the exit code."""
    settle_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with plain_errors():
            command = parsed(arguments or ["demo"])
        if not isinstance(command, Train | commands.Finetune | commands.Transfer):  # which note it in their folder
            with refusing():
                check_settings(command)
        return COMMANDS[type(command)](command)
    except Refused as error:
        if not error.said:
            say(f"viewmill: {error}")
        return 2
    except KeyboardInterrupt:
        say("viewmill: interrupted")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

"""viewmill: from folders of images to representations.

    viewmill                                             the demo: render, convert, train, evaluate, draw
    viewmill convert PHOTOS photos.beton                 images of any kind -> one .beton
    viewmill inspect photos.beton --deep --grid a.png    what it holds, whether it is sound, a picture
    viewmill subset photos.beton few.beton --fraction .1 some of its rows; `split` writes the others too
    viewmill methods                                     what can be trained, and each method's settings
    viewmill train simclr --data photos.beton --out RUN  pretrain; the same command again continues
    viewmill evaluate RUN --train a.beton --test b.beton kNN of the frozen features, beside its floors
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

import dataclasses
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import tyro

from .answers import doctor, evaluate, methods
from .commands import (
    Bench,
    Command,
    Convert,
    Demo,
    Doctor,
    Evaluate,
    Inspect,
    Methods,
    Split,
    Subset,
    Train,
)
from .datasets import convert, inspect, open_images, refusing, split, subset
from .journal.clock import Clock
from .journal.dashboard import Progressed, bound_line, dashboard, duration, say, table
from .journal.folder import Refused, locked, settle_config, write_json
from .journal.log import Log
from .journal.signals import deferred
from .limits import FREE, method_of, peak_rate
from .objectives.alarms import alarms
from .objectives.method import Method
from .objectives.schedules import Moment
from .pipeline.sources.opened import is_source
from .settings import values
from .views import colours_of, open_loader

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from .learner import Learner, Settings
    from .pipeline.beton import Beton
    from .pipeline.loader import BetonLoader, ViewBatch


def train(config: Train) -> int:
    """Train, or continue; returns the exit code, which also stands in RUN/exit.json."""
    with refusing():
        method = method_of(config)
        # a bad file is refused before torch loads
        beton = None if is_source(config.data) else open_images(config.data)
        if beton is not None:
            from .pipeline.order import steps_per_epoch

            steps_per_epoch(len(beton), config.batch)

    import torch
    from accelerate import Accelerator

    from .learner import build, labels_of, restore_

    with ExitStack() as stack:
        with refusing():
            if config.precision == "fp16" and not torch.cuda.is_available():
                raise ValueError("fp16 needs a GPU (its gradients are scaled there): use --precision bf16")
            accelerator = Accelerator(mixed_precision=config.precision)
            if accelerator.is_main_process:
                stack.enter_context(locked(config.out))
        if beton is None:
            with accelerator.main_process_first():
                beton = open_images(config.data)
        with refusing():
            loader = open_loader(config, method, beton, accelerator)
            stack.enter_context(closing(loader))
            settings = describe(config, method, beton, loader)
            learner = build(settings, method, accelerator)._replace(label_N=labels_of(beton, accelerator))
            if accelerator.is_main_process:  # what was refused until here leaves no configuration behind
                settle_config(config.out, settings)
            step, passed_over = restore_(config.out, learner, accelerator)
        if accelerator.is_main_process:
            for fault in passed_over:
                say(f"passed over: {fault}")
        code = 1
        try:
            code = loop(config, method, loader, learner, accelerator, step=step, settings=settings)
            # together: a process that ends while gloo's threads still serve the other one is aborted at times
            accelerator.wait_for_everyone()
            accelerator.end_training()
        finally:
            if accelerator.is_main_process:
                write_json(config.out / "exit.json", {"code": code})
        return code


def describe(config: Train, method: Method, beton: Beton, loader: BetonLoader) -> Settings:
    """What makes a run this run, as it stands in config.json."""
    from .learner import architecture

    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    steps = config.steps or config.epochs * len(loader)
    data = {"rows": len(beton), "data_fingerprint": beton.fingerprint}
    views = {"recipe": config.recipe and repr(loader.recipe), "engine": loader.engine_name, "placement": loader.placement}
    made_of = {
        "objective": dict(values(method)),
        "architecture": dataclasses.asdict(architecture(own, method)),
        "colours": colours_of(loader.recipe.views[0]),
    }
    described = {"format": 1, **own, **views, "steps": steps, **data, **made_of}
    return json.loads(json.dumps(described))  # as a later start will read it: JSON knows no tuples


def batches(loader: BetonLoader, *, start: int, stop: int) -> Generator[ViewBatch]:
    """The batches of steps `start` to `stop`, over as many epochs as it takes."""
    while start < stop:
        epoch, skip = divmod(start, len(loader))
        with closing(loader.epoch(epoch, skip=skip)) as source:
            yield from islice(source, stop - start)
        start = (epoch + 1) * len(loader)


def take_step(
    learner: Learner, method: Method, batch: ViewBatch, moment: Moment, accelerator: Accelerator, *, observe: bool
) -> dict[str, torch.Tensor]:
    """One step of training; returns scalars that still lie on the device, only the loss unless asked to `observe`."""
    from .learner import follow, forward
    from .objectives import memory, objective

    outputs = forward(learner, method, batch, moment, accelerator)
    images = objective.Images(batch.row_B, batch.valid_B, batch.candidate_M, learner.label_N, batch.views)
    loss, scalars, pending = objective.loss(method, outputs, learner.memory, images, moment, observe=observe)
    accelerator.backward(loss)
    learner.optimiser.step()
    learner.optimiser.zero_grad(set_to_none=True)
    follow(learner, method, moment, accelerator)
    memory.write_(method, learner.memory, outputs, images, moment, pending)
    return scalars


def loop(
    config: Train,
    method: Method,
    loader: BetonLoader,
    learner: Learner,
    accelerator: Accelerator,
    *,
    step: int,
    settings: Settings,
) -> int:
    """Steps until the end or a signal; everything a person or a later start needs is on disk when it returns."""
    from .learner import save
    from .models.optimise import cosine, set_learning_rate_
    from .objectives import memory

    first, steps, code, now = step, settings["steps"], 0, None
    told = set[str]()
    peak = peak_rate(config, method)
    every = config.checkpoint_every or min(len(loader), 1000)
    title = f"{config.method} on {config.data.name}, {loader.engine_name} engine, {accelerator.device.type}"
    learner.model.train()
    with ExitStack() as stack:
        stop = stack.enter_context(deferred())
        log = stack.enter_context(open_log(config, accelerator, step=step, settings=settings))
        show = stack.enter_context(dashboard(title, visible=accelerator.is_main_process))
        source = stack.enter_context(closing(batches(loader, start=step, stop=steps)))
        clock = Clock(config.batch, len(loader), steps, first=step)
        for batch in clock.timed(source):
            rate = cosine(step, steps=steps, warmup=round(config.warmup * steps), peak=peak)
            set_learning_rate_(learner.optimiser, rate)
            moment = Moment(step, steps, len(loader))
            if memory.refresh_(method, learner.memory, moment):
                log("clusters", step=step)
            listening = memory.listens(method, learner.memory, moment)
            step += 1
            saving = step % every == 0 or step == steps
            observed = saving or step % config.log_every == 0 or step == first + 1 or listening
            scalars = take_step(learner, method, batch, moment, accelerator, observe=observed)
            code = agreed(stop(), step, config, accelerator)
            saving = saving or code != 0
            if saving or observed:
                values = observe(scalars, method, learner, moment, config, accelerator)
                memory.hear_(method, learner.memory, values["loss"], moment)
                now = clock.read(step, values, rate)
                log("step", **(now._asdict() | values))
                warn(values, config, log, told, step=step, visible=accelerator.is_main_process)
                show(now)
            if saving and accelerator.is_main_process:
                save(config.out, learner, accelerator, step=step, settings=settings)
            if code:
                break
        seconds = time.perf_counter() - clock.started
        log("end", step=step, code=code, seconds=round(seconds, 3), unreadable=sorted(loader.unreadable))
    if loader.unreadable:
        shown = ", ".join(map(str, sorted(loader.unreadable)[:10]))
        advice = f"`viewmill inspect {config.data} --deep` lists them all"
        say(f"{len(loader.unreadable)} images could not be decoded and took no part (rows {shown}): {advice}")
    if accelerator.is_main_process:
        summarise(config, clock, now, code, step=step, first=first, seconds=seconds)
    return code


@contextmanager
def open_log(config: Train, accelerator: Accelerator, *, step: int, settings: Settings) -> Iterator[Callable[..., None]]:
    """Yields the function that writes a record; on other processes than the main one it writes nothing."""
    if not accelerator.is_main_process:
        yield lambda event, **facts: None
        return
    with Log(config.out / "log.jsonl", resumed_step=step) as log:
        device = str(accelerator.device)
        log.started(step=step, config=settings, data=str(config.data), processes=accelerator.num_processes, device=device)
        if step:
            say(f"continuing {config.out} at step {step} of {settings['steps']}")
        yield log.write


def observe(
    scalars: dict[str, torch.Tensor],
    method: Method,
    learner: Learner,
    moment: Moment,
    config: Train,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Read the step's scalars and histograms, the one place where the host waits for the device.

    Raises RuntimeError for a loss that is not finite: no checkpoint of it is ever written.
    """
    from .objectives.losses import derived
    from .objectives.memory import outer_edge

    values = {name: value.tolist() for name, value in accelerator.reduce(scalars, "mean").items()}
    if not math.isfinite(values["loss"]):
        rate = learner.optimiser.param_groups[0]["lr"]
        raise RuntimeError(
            f"the loss is {values['loss']} at step {moment.step + 1} (learning rate {rate:.4g}); the last checkpoint is "
            "intact: start again with another --out and a lower --learning-rate"
        )
    edge = outer_edge(method, learner.memory, moment)
    return values | derived(method, values, config.embedding) | ({} if edge is None else {"outer": edge})


def warn(
    values: dict[str, Any], config: Train, log: Callable[..., None], told: set[str], *, step: int, visible: bool
) -> None:
    """Say what looks wrong in a reading, each kind of fault once a start."""
    for kind, text in alarms(values, step=step, most_rank=min(config.batch, config.embedding)).items():
        if kind not in told and visible:
            log("alarm", step=step, kind=kind, text=text)
            say(f"step {step}: {text}")
        told.add(kind)


def agreed(code: int, step: int, config: Train, accelerator: Accelerator) -> int:
    """The largest exit code that any process has been asked for; several processes ask each other every `log_every`."""
    import torch

    if accelerator.num_processes == 1:
        return code
    if step % config.log_every:
        return 0
    codes: Any = accelerator.gather(torch.tensor([code], device=accelerator.device))
    return int(codes.max())


def summarise(
    config: Train, clock: Clock, now: Progressed | None, code: int, *, step: int, first: int, seconds: float
) -> None:
    """The closing table of a training."""
    if now is None:
        say(f"{config.out} was complete already: {step} steps")
        return
    rate = (step - first) * config.batch / seconds
    rows = [
        ("steps", f"{step} of {now.steps}"),
        ("time", duration(seconds)),
        ("images/s", f"{rate:,.0f}"),
        ("waiting for data", f"{clock.waited_total / seconds:.1%}"),
        ("loss", f"{now.loss:.4f}"),
        ("bound", bound_line(now)),
        ("checkpoint", str(config.out / "checkpoints" / f"step-{step:08d}")),
    ]
    table(f"{config.method}: {'stopped early' if code else 'done'}", ("", ""), rows)


def demo(config: Demo) -> int:
    """The main job on rendered images; ends with a table and two pictures."""
    from .demo import run_demo

    return run_demo(config, train=train)


def bench(config: Bench) -> int:
    """Measure speeds."""
    if config.what == "objective":
        from .benchmarks.objective import bench as measure
    else:
        from .benchmarks.pipeline import bench as measure

    return measure(config)


COMMANDS: dict[type, Callable[[Any], int]] = {
    Demo: demo,
    Convert: convert,
    Inspect: inspect,
    Subset: subset,
    Split: split,
    Methods: methods,
    Train: train,
    Evaluate: evaluate,
    Bench: bench,
    Doctor: doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line (the demo where it is empty), run the command, return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = tyro.cli(Command, prog="viewmill", description=__doc__, args=arguments or ["demo"])
    try:
        return COMMANDS[type(command)](command)
    except Refused as error:
        say(f"viewmill: {error}")
        return 2
    except KeyboardInterrupt:
        say("viewmill: interrupted")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

"""A training that stands ready, for measurements within this process."""

import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from ..commands import Train
from ..methods.table import METHODS
from ..pipeline.beton.reader import Beton
from ..training.precision import fastest


class Engine(NamedTuple):
    """What is measured, handed over by run.py, which nothing imports."""

    prepare: Callable[..., Any]
    take_step: Callable[..., Any]
    advance_: Callable[..., Any]
    forward: Callable[..., Any]
    seed_step: Callable[..., None]
    watch_: Callable[..., Any]
    part: Any
    """Of an update: all of it."""
    writer: Callable[..., Any]
    parts_of: Callable[..., Any]
    facts_of: Callable[..., Any]
    restore_: Callable[..., Any]


@contextmanager
def opened(engine: Engine, data: Beton, folder: Path, /, **settings: Any) -> Iterator[Any]:
    """A training that has been prepared in a new folder, ready for its first step."""
    config = Train(data=data.path, out=Path(tempfile.mkdtemp(dir=folder)), **settings)
    if config.precision == "auto":
        config = dataclasses.replace(config, precision=fastest())
    accelerator = Accelerator(mixed_precision=config.precision)
    with ExitStack() as stack:
        with redirect_stderr(io.StringIO()):  # its plan
            job = engine.prepare(config, METHODS[config.method], data, accelerator, stack)
        job.learner.model.train()
        yield job


def step(engine: Engine, job: Any, batch: Any, learner: Any = None) -> Any:
    """One step, with the learning rate 0 that an optimiser begins with."""
    about = (learner or job.learner, job.method, batch, job.moment(0), job.accelerator)
    return engine.take_step(*about, part=engine.part, observe=False)


def clock(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, with what it has the device do."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

"""A training that stands ready, for measurements within this process."""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..methods.table import METHODS
from ..pipeline.beton.reader import Beton
from ..settings import Train
from ..settings.parts import made, replaced
from ..training.precision import fastest
from ..training.prepare import prepare
from ..training.step import take_step
from ..training.update import Part


@contextmanager
def opened(data: Beton, folder: Path, /, **settings: Any) -> Iterator[Any]:
    """A training that has been prepared in a new folder, ready for its first step."""
    config = made(Train, data=data.path, out=Path(tempfile.mkdtemp(dir=folder)), **settings)
    if config.optimisation.precision == "auto":
        config = replaced(config, precision=fastest())
    accelerator = Accelerator(mixed_precision=config.optimisation.precision)
    with ExitStack() as stack:
        with redirect_stderr(io.StringIO()):  # its plan
            job = prepare(config, METHODS[config.method], data, accelerator, stack)
        job.state.model.train()
        yield job


def step(job: Any, batch: Any, state: Any = None) -> Any:
    """One step, with the learning rate 0 that an optimiser begins with."""
    about = (state or job.state, job.method, batch, job.moment(0), job.accelerator)
    return take_step(*about, part=Part(1, last=True), observe=False)


def clock(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, with what it has the device do."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

"""A pretraining as the loop takes it: what a step is, when it is logged and saved, and what its numbers are."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..methods.method import Method
from ..methods.schedules import Moment
from ..objectives import memory
from ..objectives.losses import derived
from ..objectives.memory import outer_edge
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader, ViewBatch, batches
from ..settings import Train
from .learning_rate import rate_at
from .loop import StepOutput
from .options import peak_rate
from .progress import Report, reporting
from .state import Settings, TrainState
from .step import loss_of, take_step
from .update import Part


class Pretraining(NamedTuple):
    """A pretraining with all that it is made of: a `Run` of the loop. `first` is the step at which this start begins."""

    config: Train
    method: Method
    settings: Settings
    beton: Beton
    loader: BetonLoader
    state: TrainState
    accelerator: Accelerator
    first: int
    every: int
    """Steps between checkpoints."""

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.settings["steps"]

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.loader)

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.config.out

    @property
    def data(self) -> Path:
        """What it learns from."""
        return self.config.data

    @property
    def batch(self) -> int:
        """Images of a step, over all processes."""
        return self.config.batch

    @property
    def accumulate(self) -> int:
        """Batches whose gradients make one update."""
        return self.config.accumulate

    @property
    def keep(self) -> int:
        """Checkpoints that stay."""
        return self.config.keep

    @property
    def keep_every(self) -> int:
        """Steps between checkpoints that stay for good; 0 for none."""
        return self.config.keep_every

    @property
    def max_masked(self) -> int:
        """Updates in a row that may be left out."""
        return self.config.max_masked

    @property
    def takes_init(self) -> bool:
        """Another run could begin with its weights."""
        return True

    def moment(self, step: int) -> Moment:
        """Where the run stands before `step` (from 0)."""
        return Moment(step, self.steps, len(self.loader))

    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        peak, warmup = peak_rate(self.config, self.method), round(self.config.warmup * self.steps)
        return rate_at(step, steps=self.steps, warmup=warmup, peak=peak, shape=self.config.schedule)

    def keeps(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done % self.every == 0 or done == self.steps

    def observes(self, done: int, *, due: bool) -> bool:
        """Whether the step that makes so many is logged with all that is to be known of it."""
        listens = memory.listens(self.method, self.state.memory, self.moment(done - 1))
        return done % self.config.log_every == 0 or done == self.first + 1 or listens or due

    def reporting(self) -> AbstractContextManager[Report]:
        """Log, screen and trackers."""
        return reporting(self)

    def batches(self) -> Generator[ViewBatch]:
        """The views of the steps from `first` on."""
        return batches(self.loader, start=self.first, stop=self.steps)

    def refresh_(self, step: int) -> str:
        """Cluster the bank anew where the method does so before `step`."""
        return "clusters" if memory.refresh_(self.method, self.state.memory, self.moment(step)) else ""

    def take_step(self, batch: ViewBatch, *, step: int, part: Part, observe: bool, asked: int) -> StepOutput:
        """One batch of training."""
        about = (self.state, self.method, batch, self.moment(step), self.accelerator)
        return take_step(*about, part=part, observe=observe, asked=asked)

    def read(self, output: StepOutput, *, step: int) -> dict[str, Any]:
        """The step's scalars and histograms, of which an adaptive schedule hears the loss."""
        moment = self.moment(step)
        numbers = observed(self, output, moment)
        memory.hear_(self.method, self.state.memory, numbers["loss"], moment)
        return numbers

    def loss(self, batch: ViewBatch, step: int, state: TrainState) -> Tensor:
        """The loss of a batch, of which nothing is learnt or remembered."""
        return loss_of(self.method, batch, self.moment(step), self.accelerator, state)


def observed(run: Pretraining, output: StepOutput, moment: Moment) -> dict[str, Any]:
    """The step's scalars and histograms: the one place where the host waits for the device. Every process calls it."""
    values: dict[str, Any] = {name: value.tolist() for name, value in run.accelerator.reduce(output.scalars, "mean").items()}
    edge = outer_edge(run.method, run.state.memory, moment)
    values |= derived(run.method, values, run.config.embedding) | ({} if edge is None else {"outer": edge})
    if output.verdict is not None:
        values["grad_norm"] = output.verdict.norm.item()
    if run.config.precision == "fp16":
        values["scale"] = run.state.scaler["scale"].item()
    return values | {"masked": int(run.state.scaler["masked"]), "memory_bytes": _memory_bytes(run.accelerator.device)}


def _memory_bytes(device: torch.device) -> int:
    """What this process has at most taken of the device's memory; on a CPU, what it holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096

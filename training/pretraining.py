"""A pretraining as the loop takes it: what a step is, when it is logged and saved, and what its numbers are."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..methods.method import Method
from ..methods.schedules import Moment
from ..objectives import memory, warm_start
from ..objectives.losses import derived
from ..objectives.memory import outer_edge
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader, ViewBatch, batches
from ..settings.training import Logging, Optimisation
from .learning_rate import rate_at
from .loop import Run, StepOutput
from .options import peak_rate
from .progress import Report, reporting
from .state import Settings, TrainState
from .step import loss_of, take_step
from .update import Part


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretraining(Run):
    """A pretraining with all that it is made of."""

    optimisation: Optimisation
    logging: Logging
    method: Method
    settings: Settings
    beton: Beton
    loader: BetonLoader

    def moment(self, step: int) -> Moment:
        """Where the run stands before `step` (from 0)."""
        return Moment(step, self.steps, self.per_epoch)

    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        peak, warmup = peak_rate(self.optimisation, self.method), round(self.optimisation.warmup * self.steps)
        return rate_at(step, steps=self.steps, warmup=warmup, peak=peak, shape=self.optimisation.schedule)

    def observes(self, done: int, *, due: bool) -> bool:
        """Before a checkpoint too, and where a schedule is to hear the loss, or a warm start what the ranking is worth."""
        return (
            super().observes(done, due=due)
            or memory.listens(self.method, self.state.memory, self.moment(done - 1))
            or warm_start.waits(self.method, self.state.memory, self.moment(done - 1))
            or due
        )

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
        warm_start.judge_(self.method, self.state.memory, numbers.get("ranked"), moment)
        return numbers

    def loss(self, batch: ViewBatch, step: int, state: TrainState) -> Tensor:
        """The loss of a batch, of which nothing is learnt or remembered."""
        return loss_of(self.method, batch, self.moment(step), self.accelerator, state)


def observed(run: Pretraining, output: StepOutput, moment: Moment) -> dict[str, Any]:
    """The step's scalars and histograms: the one place where the host waits for the device. Every process calls it."""
    values: dict[str, Any] = {name: value.tolist() for name, value in run.accelerator.reduce(output.scalars, "mean").items()}
    edge = outer_edge(run.method, run.state.memory, moment)
    values |= derived(run.method, values, run.settings["embedding"]) | ({} if edge is None else {"outer": edge})
    if "ranked" in run.state.memory:
        values["in_force"] = int(warm_start.in_force(run.method, run.state.memory, moment) is run.method)
    if output.verdict is not None:
        values["grad_norm"] = output.verdict.norm.item()
    if run.optimisation.precision == "fp16":
        values["scale"] = run.state.scaler["scale"].item()
    return values | {"masked": int(run.state.scaler["masked"]), "memory_bytes": _memory_bytes(run.accelerator.device)}


def _memory_bytes(device: torch.device) -> int:
    """What this process has at most taken of the device's memory; on a CPU, what it holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096

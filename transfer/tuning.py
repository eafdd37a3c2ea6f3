"""Fine-tuning with labels, as the loop of a training takes it, for any task.

A task is what changes: a module, its batches, its loss, and how it is judged. Everything else is the training's own.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoint.writer import check_room
from ..console import say
from ..distributed import collectives
from ..distributed.steps import autocast, seed_step
from ..training import update
from ..training.launch import REASONS, Start
from ..training.loop import StepOutput, loop
from ..training.optimisers import OPTIMISERS
from ..training.resume import parts_of, restore_
from ..training.state import Settings, TrainState
from ..training.update import Part, Statistics
from .presets import Course
from .records import Journal, journalling


class Task(Protocol):
    """What is learnt. Batches of a step are the same however often a run was stopped before it."""

    @property
    def module(self) -> nn.Module:
        """What is trained and saved."""
        ...

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        ...

    def batches(self, start: int, stop: int) -> Generator[Any]:
        """What steps `start` to `stop` learn from, on this process."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch by `model`, the module as accelerate has wrapped it, and scalars: means over its images."""
        ...

    def evaluate(self, asked: Callable[[], int]) -> dict[str, Any] | None:
        """How good the module is, the same on every process; None where `asked` has stopped it with an exit code."""
        ...


@dataclass(frozen=True)
class Habits:
    """How updates are made, and what a start may choose anew (from `checkpoint_every` on)."""

    optimiser: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 0.0
    seed: int = 0
    precision: str = "no"
    checkpoint_every: int = 1000
    keep: int = 2
    log_every: int = 20
    max_masked: int = 20


class FineTuning(NamedTuple):
    """A fine-tuning under way, a `Run` of the loop: `first` is the step at which this start begins."""

    task: Task
    course: Course
    habits: Habits
    state: TrainState
    accelerator: Accelerator
    out: Path
    data: Path
    first: int

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.course.steps

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.task.per_epoch

    @property
    def batch(self) -> int:
        """Images of a step, over all processes."""
        return self.course.batch

    @property
    def accumulate(self) -> int:
        """Every batch makes an update."""
        return 1

    @property
    def keep(self) -> int:
        """Checkpoints that stay."""
        return self.habits.keep

    @property
    def keep_every(self) -> int:
        """None stays for good."""
        return 0

    @property
    def max_masked(self) -> int:
        """Updates in a row that may be left out."""
        return self.habits.max_masked

    @property
    def takes_init(self) -> bool:
        """Nothing begins with its weights by --init."""
        return False

    def reporting(self) -> AbstractContextManager[Journal]:
        """log.jsonl and plain lines."""
        device = {"processes": self.accelerator.num_processes, "device": str(self.accelerator.device)}
        facts = {**device, "config": self.state.settings}
        return journalling(self.out, first=self.first, visible=self.accelerator.is_main_process, **facts)

    def batches(self) -> Generator[Any]:
        """What the steps from `first` on learn from."""
        return self.task.batches(self.first, self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        return self.course.rate(step)

    def refresh_(self, step: int) -> str:
        """Nothing is computed between steps."""
        return ""

    def keeps(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done % self.habits.checkpoint_every == 0 or done == self.steps

    def observes(self, done: int, *, due: bool) -> bool:
        """Whether the step that makes so many is logged."""
        return done % self.habits.log_every == 0 or done in (self.first + 1, self.steps)

    def take_step(self, batch: Any, *, step: int, part: Part, observe: bool, asked: int) -> StepOutput:
        """One update from one batch."""
        return take_step(self, batch, step=step, asked=asked)

    def read(self, output: StepOutput, *, step: int) -> dict[str, Any]:
        """The step's scalars as numbers, means over the processes."""
        values: dict[str, Any] = {
            name: value.item() for name, value in self.accelerator.reduce(output.scalars, "mean").items()
        }
        if output.verdict is not None:
            values["grad_norm"] = output.verdict.norm.item()
        return values | {"masked": int(self.state.scaler["masked"])}

    def loss(self, batch: Any, step: int, state: TrainState) -> Tensor:
        """The loss of a batch, of which nothing is learnt."""
        with autocast(self.accelerator):
            return self.task.loss(state.model, batch)[0]


def train(run: FineTuning, asked: Callable[[], int], start: Start) -> dict[str, Any]:
    """The loop, unless all its steps were taken before: then there is nothing to write, and its module is ready."""
    if run.first >= run.steps:
        start.ready()
        return {"code": 0, "step": run.first, "reason": REASONS[0]}
    return loop(run, asked, start)


def prepared(
    task: Task, course: Course, habits: Habits, settings: Settings, accelerator: Accelerator, *, out: Path, data: Path
) -> FineTuning:
    """The run as it stands on the disk: its newest checkpoint that verifies is put into the task's module.

    `settings` need `batch` and `data_fingerprint`, which stand in checkpoints too. Raises ValueError where a checkpoint is
    of another run, none verifies, or there is no room for one.
    """
    module = task.module.to(accelerator.device)
    state = TrainState(
        model=accelerator.prepare(module),
        target=None,
        average=None,
        optimiser=OPTIMISERS[habits.optimiser](module, momentum=habits.momentum, weight_decay=habits.weight_decay),
        memory={},
        scaler=update.start(scaled=habits.precision == "fp16", device=accelerator.device),
        statistics=Statistics((module,)),
        online_probe={},
        settings=settings,
        label_N=None,
    )
    step, passed_over = restore_(out, state)
    if accelerator.is_main_process:
        for fault in passed_over:
            say(f"passed over: {fault}")
        if step < course.steps and (tight := check_room(out / "checkpoints", parts_of(state), keep=habits.keep)):
            say(tight)
    return FineTuning(task, course, habits, state, accelerator, out, data, step)


def take_step(run: "FineTuning", batch: Any, *, step: int, asked: int) -> StepOutput:
    """One update from one batch; what it tells stays on the device. Random numbers are a function of seed, step and rank."""
    state, habits, rank = run.state, run.habits, run.accelerator.process_index
    seed_step(habits.seed, step)
    state.statistics.keep()
    with autocast(run.accelerator):
        loss, scalars = run.task.loss(state.model, batch)
    update.backward(loss, state.scaler, Part(1, last=True))
    state.statistics.mend_()
    verdict = update.update_(
        state.optimiser,
        state.scaler,
        clip=habits.clip,
        scaled=habits.precision == "fp16",
        rank=rank,
        to_agree=(torch.full_like(loss.detach(), asked), torch.ones_like(loss.detach())),
        most=collectives.most,
    )
    return StepOutput({"loss": loss.detach(), **scalars}, verdict)

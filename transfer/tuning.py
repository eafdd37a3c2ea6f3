"""Fine-tuning with labels, as the loop of a training takes it, for any task.

A task is what changes: a module, its batches, its loss, and how it is judged. Everything else is the training's own.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..console import say
from ..distributed import rendezvous
from ..distributed.steps import autocast, seed_step
from ..settings.parts import flat
from ..training import update
from ..training.launch import REASONS, Start
from ..training.loop import Run, StepOutput, loop
from ..training.optimisers import OPTIMISERS
from ..training.resume import take_up_
from ..training.run_config import settle_config
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


@dataclass(frozen=True, kw_only=True, eq=False)
class FineTuning(Run):
    """A fine-tuning under way."""

    task: Task
    course: Course
    habits: Habits

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

    def observes(self, done: int, *, due: bool) -> bool:
        """The last step too."""
        return super().observes(done, due=due) or done == self.steps

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
    config: Any, task: Task, course: Course, settings: Settings, accelerator: Accelerator, *, data: Path
) -> FineTuning:
    """The run as it stands on the disk, once all processes agree on `settings`: they are written down, and its newest
    checkpoint that verifies is put into the task's module.

    `config` has `out`, and the fields of Habits that its command offers; `settings` need `batch` and `data_fingerprint`,
    which stand in checkpoints too. Raises ValueError where a checkpoint is of another run, none verifies, or there is no
    room for one, and Refused where processes differ or another run stands there.
    """
    habits = Habits(**{name: value for name, value in flat(config).items() if name in Habits.__annotations__})
    rendezvous.current().agree("configuration", lambda: settings | {"source": ""})
    if accelerator.is_main_process:  # what was refused until here leaves no configuration behind
        settle_config(config.out, settings)
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
    step, tight = take_up_(config.out, state, steps=course.steps, keep=habits.keep)
    if tight:
        say(tight)
    return FineTuning(
        task=task,
        course=course,
        habits=habits,
        state=state,
        accelerator=accelerator,
        out=config.out,
        data=data,
        first=step,
        steps=course.steps,
        per_epoch=task.per_epoch,
        batch=course.batch,
        every=habits.checkpoint_every,
        keep=habits.keep,
        log_every=habits.log_every,
        max_masked=habits.max_masked,
    )


def take_step(run: "FineTuning", batch: Any, *, step: int, asked: int) -> StepOutput:
    """One update from one batch; what it tells stays on the device. Random numbers are a function of seed, step and rank."""
    state, habits = run.state, run.habits
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
        to_agree=(torch.full_like(loss.detach(), asked), torch.ones_like(loss.detach())),
    )
    return StepOutput({"loss": loss.detach(), **scalars}, verdict)

"""Fine-tuning with labels: the steps, checkpoints and signals of a training, for any task.

A task is what changes: a module, its batches, its loss, and how it is judged. Everything else is the training's own:
updates that nothing that is not finite survives, checkpoints that verify, records, exit codes.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoint.writer import Writer, check_room
from ..console import duration, say
from ..distributed import collectives
from ..errors import Failed, Unsound
from ..training import update
from ..training.display.clock import Clock
from ..training.launch import REASONS, Start, at_its_end, left_out, standing
from ..training.optimisers import OPTIMISERS, set_learning_rate_
from ..training.resume import is_sound, parts_of, restore_, save
from ..training.state import Learner, Settings
from ..training.update import Late, Part, Statistics, Verdict
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


class Job(NamedTuple):
    """A fine-tuning under way: `first` is the step at which this start begins."""

    task: Task
    course: Course
    habits: Habits
    learner: Learner
    accelerator: Accelerator
    out: Path
    first: int


def prepared(task: Task, course: Course, habits: Habits, settings: Settings, accelerator: Accelerator, *, out: Path) -> Job:
    """The job as it stands on the disk: its newest checkpoint that verifies is put into the task's module.

    `settings` need `batch` and `data_fingerprint`, which stand in checkpoints too. Raises ValueError where a checkpoint is
    of another run, none verifies, or there is no room for one.
    """
    module = task.module.to(accelerator.device)
    learner = Learner(
        model=accelerator.prepare(module),
        target=None,
        average=None,
        optimiser=OPTIMISERS[habits.optimiser](module, momentum=habits.momentum, weight_decay=habits.weight_decay),
        memory={},
        guard=update.start(scaled=habits.precision == "fp16", device=accelerator.device),
        statistics=Statistics((module,)),
        watcher={},
        settings=settings,
        label_N=None,
    )
    step, passed_over = restore_(out, learner)
    if accelerator.is_main_process:
        for fault in passed_over:
            say(f"passed over: {fault}")
        if step < course.steps and (tight := check_room(out / "checkpoints", parts_of(learner), keep=habits.keep)):
            say(tight)
    return Job(task, course, habits, learner, accelerator, out, step)


def take_step(job: Job, batch: Any, *, step: int, asked: int) -> tuple[dict[str, Tensor], Verdict]:
    """One update from one batch; what it tells stays on the device. Random numbers are a function of seed, step and rank."""
    learner, habits, rank = job.learner, job.habits, job.accelerator.process_index
    key = f"{habits.seed} {step} {rank}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1)
    learner.statistics.keep()
    with autocast(job.accelerator):
        loss, scalars = job.task.loss(learner.model, batch)
    update.backward(loss, learner.guard, Part(1, last=True))
    learner.statistics.mend_()
    verdict = update.update_(
        learner.optimiser,
        learner.guard,
        clip=habits.clip,
        scaled=habits.precision == "fp16",
        rank=rank,
        tell=(torch.full_like(loss.detach(), asked), torch.ones_like(loss.detach())),
        most=collectives.most,
    )
    return {"loss": loss.detach(), **scalars}, verdict


def autocast(accelerator: Accelerator) -> contextlib.AbstractContextManager[Any]:
    """accelerate's own, but for fp16 on a CPU, where it has none."""
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        return torch.autocast("cpu", torch.float16)
    return accelerator.autocast()


def loss_of(job: Job, batch: Any, learner: Learner) -> Tensor:
    """The loss of a batch, of which nothing is learnt."""
    with autocast(job.accelerator):
        return job.task.loss(learner.model, batch)[0]


def train(job: Job, asked: Callable[[], int], start: Start) -> dict[str, Any]:
    """Steps until the end or a signal; what a later start needs is on disk when it returns how it ended: `code`, `step`,
    `reason`. Raises Failed where too many updates in a row were not finite, or the last checkpoint could not be written.
    """
    task, course, habits, learner, accelerator = job.task, job.course, job.habits, job.learner, job.accelerator
    step, code, rate, late, sound = job.first, 0, 0.0, Late(), True
    if step >= course.steps:
        start.ready()
        return {"code": 0, "step": step, "reason": REASONS[0]}
    learner.model.train()
    with ExitStack() as stack:
        facts = {"processes": accelerator.num_processes, "device": str(accelerator.device), "config": learner.settings}
        visible = accelerator.is_main_process
        journal = stack.enter_context(journalling(job.out, first=step, visible=visible, **facts))
        writer = stack.enter_context(Writer(job.out / "checkpoints", keep=habits.keep))
        stack.enter_context(standing(start, writer, journal.event, first=job.first))
        source = stack.enter_context(closing(task.batches(step, course.steps)))
        start.ready()
        clock = Clock(course.batch, task.per_epoch, course.steps, first=step)
        for batch in clock.timed(source):
            earlier, rate = rate, course.rate(step)
            set_learning_rate_(learner.optimiser, rate)
            scalars, verdict = take_step(job, batch, step=step, asked=asked())
            step += 1
            code = heed(late.bring(verdict.numbers()), job, journal, step=step - 1, rate=earlier)
            code = code or (asked() if accelerator.num_processes == 1 else 0)
            if step % habits.log_every == 0 or step in (job.first + 1, course.steps) or code:
                values = {name: value.item() for name, value in accelerator.reduce(scalars, "mean").items()}
                values |= {"grad_norm": verdict.norm.item(), "masked": int(learner.guard["masked"])}
                journal.reading(values, clock, step=step, rate=rate, saved=writer.saved)
            due = step % habits.checkpoint_every == 0 or step == course.steps or code
            if due:
                sound = is_sound(learner, partial(loss_of, job, batch))
                save(writer, start.hold, learner, accelerator, step=step, sound=sound)
            journal.faults(writer.take_faults(), step=step)
            if code:
                break
        heed(late.rest(), job, journal, step=step, rate=rate)
        if not (code or sound):
            raise Unsound(at_its_end(learner, step=step))
        writer.wait()
        journal.faults(lost := writer.take_faults(), step=step)
        if not collectives.of_main(writer.saved is not None and writer.saved.step == step):
            raise Failed(f"the checkpoint of step {step} could not be written: {'; '.join(lost)}; start again to continue")
        seconds = time.perf_counter() - clock.started
        journal.event("end", step=step, code=code, seconds=round(seconds, 3))
    if accelerator.is_main_process:
        say(f"{step - job.first:,} steps in {duration(seconds)}, {clock.waited_total / seconds:.0%} of it waiting for data")
    return {"code": code, "step": step, "reason": REASONS[code]}


def heed(told: list[float] | None, job: Job, journal: Journal, *, step: int, rate: float) -> int:
    """What the verdict of the update that made `step` asks for: an exit code that any process was asked for, or 0."""
    if told is None:
        return 0
    habits = job.habits
    if fault := left_out(told, step=step, rate=rate, most=habits.max_masked, precision=habits.precision):
        journal.fault("masked", fault, step=step)
    return int(told[2])

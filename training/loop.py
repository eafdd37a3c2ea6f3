"""The loop of every training: steps until the end or a signal, checkpoints, and what is said meanwhile.

What is trained is a `Run`: a pretraining (pretraining.py), or the fine-tuning of a classifier or detector
(transfer/tuning.py). The loop has what all of them promise: updates that nothing that is not finite survives, checkpoints
that verify, a step that waits for nothing, and an end of which every process knows.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from accelerate import Accelerator
from torch import Tensor

from ..checkpoint.writer import Saved, Writer
from ..distributed import collectives
from ..errors import Failed, Unsound
from .display.clock import Clock
from .launch import REASONS, Start, at_its_end, left_out, standing
from .optimisers import set_learning_rate_
from .resume import gives_finite_loss, save
from .state import TrainState
from .update import Agreed, DelayedRead, Part, Verdict, part_of


class StepOutput(NamedTuple):
    """What a step leaves on the device: scalars, the verdict of its update if it made one, and features [V, B, F]."""

    scalars: dict[str, Tensor]
    verdict: Verdict | None
    feature_VBF: Tensor | None = None


class Reporter(Protocol):
    """What a run writes and says; on other processes than the main one it is mute, but for what is collective."""

    def event(self, name: str, **facts: Any) -> None:
        """Write a record."""

    def fault(self, kind: str, text: str, *, step: int) -> None:
        """Write and say what went wrong."""

    def faults(self, texts: Sequence[str], *, step: int) -> None:
        """Write and say what went wrong with checkpoints."""

    def passed(self, clock: Clock, *, step: int) -> None:
        """Show that a step was taken, between two readings."""

    def reading(self, values: dict[str, Any], clock: Clock, *, step: int, rate: float, saved: Saved | None) -> None:
        """Write and show the numbers of a step."""

    def pictures(self, batch: Any, output: StepOutput, *, step: int) -> None:
        """Draw what there is to be seen at a checkpoint."""

    def end(self, code: int, *, step: int, seconds: float) -> str:
        """Write the last record; returns what an ending has to say beside its word. Every process calls it."""
        ...

    def summarise(self, clock: Clock, saved: Saved | None, code: int, *, step: int, seconds: float) -> None:
        """Tell the person how it ended."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run(ABC):
    """What is trained, and how often the loop does what. Batches of a step are the same however often it was stopped."""

    state: TrainState
    """Everything that a step changes."""
    accelerator: Accelerator
    out: Path
    data: Path
    """What it learns from, for a message."""
    first: int
    """The step at which this start begins."""
    steps: int
    """Of the whole run."""
    per_epoch: int
    batch: int
    """Images of a step, over all processes."""
    accumulate: int = 1
    """Batches whose gradients make one update."""
    every: int
    """Steps between checkpoints."""
    keep: int
    """Checkpoints that stay."""
    keep_every: int = 0
    """Steps between checkpoints that stay for good; 0 for none."""
    log_every: int
    max_masked: int
    """Updates in a row that may be left out."""
    takes_init: bool = False
    """Whether another run could begin with its weights by --init."""

    @abstractmethod
    def reporting(self) -> AbstractContextManager[Reporter]:
        """What it writes and says from now on."""

    @abstractmethod
    def batches(self) -> Generator[Any]:
        """What the steps from `first` on learn from, on this process."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""

    def refresh_(self, step: int) -> str:
        """What is computed anew before `step`, by the name of its record; "" for nothing."""
        return ""

    def keeps(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done % self.every == 0 or done == self.steps

    def observes(self, done: int, *, due: bool) -> bool:
        """Whether the step that makes so many is logged; `due` where a checkpoint follows it."""
        return done % self.log_every == 0 or done == self.first + 1

    @abstractmethod
    def take_step(self, batch: Any, *, step: int, part: Part, observe: bool, asked: int) -> StepOutput:
        """Forward, loss, backward and, in an update's last part, the update; nothing of it waits for the device."""

    @abstractmethod
    def read(self, output: StepOutput, *, step: int) -> dict[str, Any]:
        """The step's scalars as numbers: here the host waits for the device. Every process calls it."""

    @abstractmethod
    def loss(self, batch: Any, step: int, state: TrainState) -> Tensor:
        """The loss of a batch, of which nothing is learnt or remembered."""


def loop(run: Run, asked: Callable[[], int], start: Start) -> dict[str, Any]:
    """Steps until the end or a signal; what a person or a later start needs is on disk when it returns how it ended.

    Returns `code`, `step` and `reason` as exit.json has them. Raises Failed where no image could be read or the last
    checkpoint could not be written, and Unsound where too many updates in a row were not finite.
    """
    state, accelerator = run.state, run.accelerator
    step, code, rate, due, late, finite = run.first, 0, 0.0, False, DelayedRead(), True
    state.model.train()
    with ExitStack() as stack:
        report = stack.enter_context(run.reporting())
        writer = stack.enter_context(Writer(run.out / "checkpoints", keep=run.keep, keep_every=run.keep_every))
        stack.enter_context(standing(start, writer, report.event, first=run.first, init=run.takes_init))
        source = stack.enter_context(closing(run.batches()))
        start.ready()
        clock = Clock(run.batch, run.per_epoch, run.steps, first=step)
        for batch in clock.timed(source):
            # where this step stands: in its update, on the schedules
            at, part = step, part_of(step, steps=run.steps, per_epoch=run.per_epoch, accumulate=run.accumulate)
            earlier, rate = rate, run.rate(step)
            set_learning_rate_(state.optimiser, rate)
            if computed := run.refresh_(step):
                report.event(computed, step=step)
            # the step itself, on the device alone
            step += 1
            due = due or run.keeps(step)  # a checkpoint waits for the end of its update
            observe = run.observes(step, due=due and part.last)
            output = run.take_step(batch, step=at, part=part, observe=observe, asked=asked())
            report.passed(clock, step=step)
            # what processes have told one another in the update before, which the device has long finished
            if output.verdict is not None:
                agreed = late.bring(output.verdict.numbers())
                code = check_update(agreed, report, run, step=step - part.batches, rate=earlier)
                code = code or (asked() if accelerator.num_processes == 1 else 0)
            # what is logged and saved
            if observe or code:
                report.reading(run.read(output, step=at), clock, step=step, rate=rate, saved=writer.saved)
            if part.last and (due or code):
                due = False
                finite = gives_finite_loss(state, partial(run.loss, batch, at))
                save(writer, start.hold, state, accelerator, step=step, finite=finite)
                report.pictures(batch, output, step=step)
            report.faults(writer.take_faults(), step=step)
            if code:
                break
        # the end: nothing is done before it is on the disk, and all processes know
        check_update(late.rest(), report, run, step=step, rate=rate)
        if not (code or finite):
            raise Unsound(at_its_end(state, step=step))
        writer.wait()
        report.faults(lost := writer.take_faults(), step=step)
        written = step == run.first or (writer.saved is not None and writer.saved.step == step)
        if not collectives.of_main(written):
            raise Failed(f"the checkpoint of step {step} could not be written: {'; '.join(lost)}; start again to continue")
        seconds = time.perf_counter() - clock.started
        remark = report.end(code, step=step, seconds=seconds)
    if accelerator.is_main_process:
        report.summarise(clock, writer.saved, code, step=step, seconds=seconds)
    return {"code": code, "step": step, "reason": REASONS[code] + remark}


def check_update(numbers: Sequence[float] | None, report: Reporter, run: Run, *, step: int, rate: float) -> int:
    """What the verdict of the update at `step` asks for: an exit code that any process was asked for, or 0.

    The same on every process, since it is read from what they have told one another. Raises Failed where no process could
    read an image, and Unsound where too many updates in a row were left out.
    """
    if numbers is None:
        return 0
    agreed = Agreed(*numbers)
    if not agreed.readable:
        raise Failed(f"no image of step {step} could be read: is {run.data} still whole? `viewmill inspect` tells")
    precision = run.state.settings["precision"]
    if fault := left_out(agreed, step=step, rate=rate, most=run.max_masked, precision=precision):
        report.fault("masked", fault, step=step)
    return int(agreed.asked)

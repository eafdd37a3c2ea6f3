"""The loop: steps until the end or a signal, checkpoints, and what is said meanwhile."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from accelerate.utils import gather_object

from ..checkpoint.writer import Writer
from ..distributed import collectives
from ..errors import Failed, Unsound
from ..objectives import memory
from ..pipeline.loader import batches
from .display.clock import Clock
from .launch import REASONS, Start, at_its_end, left_out, standing
from .optimisers import set_learning_rate_
from .progress import Job, Report, doubted, observed, reporting
from .resume import is_sound, save
from .step import loss_of, take_step
from .update import Late, part_of


def loop(job: Job, asked: Callable[[], int], start: Start) -> dict[str, Any]:
    """Steps until the end or a signal; what a person or a later start needs is on disk when it returns how it ended."""
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

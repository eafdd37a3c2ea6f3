"""What a run tells: a record of each reading, what looks wrong, how it ended; on the main process alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..console import duration, say, table
from ..errors import Failed, Refused
from ..files.opening import Unusable
from ..methods.method import Method
from ..methods.schedules import Moment
from ..objectives.alarms import Watch, Watched, tells_nothing
from ..settings import Train
from .display.clock import Clock
from .display.dashboard import Progressed, Screen, bound_line, dashboard
from .learning_rate import rate_at
from .log import Log
from .options import peak_rate

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ..checkpoint.writer import Saved
    from ..pipeline.beton.reader import Beton
    from ..pipeline.loader import BetonLoader, ViewBatch
    from .state import Learner, Settings
    from .update import Verdict


class Job(NamedTuple):
    """A training with all that it is made of; `first` is the step at which this start begins."""

    config: Train
    method: Method
    settings: Settings
    beton: Beton
    loader: BetonLoader
    learner: Learner
    accelerator: Accelerator
    first: int
    every: int
    """Steps between checkpoints."""

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.settings["steps"]

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

    def observes(self, done: int) -> bool:
        """Whether the step that makes so many is logged with all that is to be known of it."""
        return done % self.config.log_every == 0 or done == self.first + 1


class Taken(NamedTuple):
    """What a step leaves on the device: scalars, features [V, B, F], and the verdict of its update if it made one."""

    scalars: dict[str, torch.Tensor]
    feature_VBF: torch.Tensor
    verdict: Verdict | None


class Report:
    """Log, screen and trackers as one; on other processes than the main one it says and writes nothing."""

    def __init__(self, job: Job, log: Log | None, screen: Screen, tracker: Any) -> None:
        self._job, self._log, self._screen, self._tracker = job, log, screen, tracker
        self._told, self._watch = set[str](), Watch(Watched.of(job.settings))
        self.last: Progressed | None = None

    def event(self, name: str, **facts: Any) -> None:
        """Write a record."""
        if self._log is not None:
            self._log.write(name, **facts)

    def fault(self, kind: str, text: str, *, step: int) -> None:
        """Write and show what went wrong."""
        self.event(kind, step=step, text=text)
        self._screen.warn(f"step {step}: {text}")

    def reading(self, values: dict[str, Any], clock: Clock, *, step: int, rate: float, saved: Saved | None) -> None:
        """Write and show the numbers of a step, and say what looks wrong in them, each kind of fault once a start."""
        self.last = now = clock.read(step, values, rate, saved=saved and (saved.step, saved.time))
        if self._log is None:
            return
        self.event("step", **(now._asdict() | values))
        self._screen.show(now)
        if self._tracker is not None:
            self._tracker.scalars({"learning_rate": rate, "images_per_s": now.images_per_s, "wait": now.wait} | values, step)
        self._alarm(self._watch.heard(values, step=step), step)

    def _alarm(self, found: Mapping[str, str], step: int) -> None:
        for kind, text in found.items():
            if kind not in self._told:
                self._told.add(kind)
                self.event("alarm", step=step, kind=kind, text=text)
                self._screen.warn(f"step {step}: {text}")

    def passed(self, clock: Clock, *, step: int) -> None:
        """Show that a step was taken, between two readings."""
        self._screen.passed(clock.passed(step))

    def doubts(self, *, step: int) -> list[str]:
        """Which kinds of alarm hold in the last readings; what has not been said of them is said."""
        found = self._watch.standing()
        self._alarm(found, step)
        return list(found)

    def faults(self, texts: Sequence[str], *, step: int) -> None:
        """Write and show what went wrong with checkpoints."""
        for text in texts:
            self.fault("checkpoint", text, step=step)

    def summarise(
        self, clock: Clock, saved: Saved | None, unreadable: Sequence[int], code: int, *, step: int, seconds: float
    ) -> None:
        """The closing table of a training."""
        config, now = self._job.config, self.last
        if unreadable:
            shown = ", ".join(map(str, unreadable[:10]))
            advice = f"`viewmill inspect {config.data} --deep` lists them all"
            say(f"{len(unreadable)} images could not be decoded and took no part (rows {shown}): {advice}")
        if now is None:
            say(f"{config.out} was complete already: {step} steps")
            return
        rows = [
            ("steps", f"{step} of {now.steps}"),
            ("time", duration(seconds)),
            ("images/s", f"{(step - self._job.first) * config.batch / seconds:,.0f}"),
            ("waiting for data", f"{clock.waited_total / seconds:.1%}"),
            ("loss", "-" if now.loss is None else f"{now.loss:.4f}"),
            ("bound", bound_line(now) + (" (tells nothing)" if tells_nothing(now.bound) else "")),
            *([("looks wrong", ", ".join(doubts))] if (doubts := list(self._watch.standing())) else []),
            *([("updates left out", f"{now.masked:,}")] if now.masked else []),
            *([("checkpoint", str(saved.path))] if saved is not None else []),
        ]
        ended = "stopped early" if code else "done"
        table(f"{config.method}: {ended}{doubted(doubts)}", ("", ""), rows)

    def pictures(self, batch: ViewBatch, taken: Taken, *, step: int) -> None:
        """Send views, neighbours and curves to the trackers."""
        if self._tracker is None:
            return
        from .display.pictures import curves, neighbour_grid, view_grid

        recipe, feature_BF = self._job.loader.recipe, taken.feature_VBF[0]
        drawn = {
            "views": lambda: view_grid(batch, recipe),
            "neighbours": lambda: neighbour_grid(batch, recipe, feature_BF),
            "curves": lambda: curves(self._job.config.out / "log.jsonl"),
        }
        self._tracker.pictures(drawn, step)


def doubted(kinds: Sequence[str]) -> str:
    """What an ending has to say beside its word, where alarms hold at the end."""
    return f", but it looks wrong: {', '.join(kinds)}" if kinds else ""


@contextmanager
def reporting(job: Job) -> Iterator[Report]:
    """The report of a start of a run."""
    config, accelerator = job.config, job.accelerator
    title = f"{config.method} on {config.data.name}, {job.loader.engine_name} engine, {accelerator.device.type}"
    with ExitStack() as stack:
        log = tracker = None
        screen = stack.enter_context(dashboard(title, visible=accelerator.is_main_process))
        if accelerator.is_main_process:
            try:
                log = stack.enter_context(Log(config.out / "log.jsonl", resumed_step=job.first, warn=screen.warn))
            except Unusable as error:
                raise Refused(str(error)) from None
            except OSError as error:
                raise Failed(f"{config.out / 'log.jsonl'} cannot be written ({error.strerror}): make room there") from error
            facts = {"data": str(config.data), "processes": accelerator.num_processes, "device": str(accelerator.device)}
            log.started(step=job.first, config=job.settings, **facts)
        if config.track:
            from .display.trackers import tracked

            about = (config.track, config.out, job.settings, accelerator)
            tracker = stack.enter_context(tracked(*about, step=job.first, warn=screen.warn))
        yield Report(job, log, screen, tracker)


def observed(job: Job, taken: Taken, moment: Moment) -> dict[str, Any]:
    """The step's scalars and histograms: the one place where the host waits for the device. Every process calls it."""
    from ..objectives.losses import derived
    from ..objectives.memory import outer_edge

    values: dict[str, Any] = {name: value.tolist() for name, value in job.accelerator.reduce(taken.scalars, "mean").items()}
    edge = outer_edge(job.method, job.learner.memory, moment)
    values |= derived(job.method, values, job.config.embedding) | ({} if edge is None else {"outer": edge})
    if taken.verdict is not None:
        values["grad_norm"] = taken.verdict.norm.item()
    if job.config.precision == "fp16":
        values["scale"] = job.learner.guard["scale"].item()
    return values | {"masked": int(job.learner.guard["masked"]), "memory_bytes": _memory_bytes(job.accelerator.device)}


def _memory_bytes(device: torch.device) -> int:
    """What this process has at most taken of the device's memory; on a CPU, what it holds."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096

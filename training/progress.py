"""What a run tells: a record of each reading, what looks wrong, how it ended; on the main process alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ..console import duration, say, table
from ..objectives.alarms import Watch, Watched, tells_nothing
from .display.clock import Clock
from .display.dashboard import Progressed, Screen, bound_line, dashboard
from .log import Log, Records, log_of

if TYPE_CHECKING:
    from ..checkpoint.writer import Saved
    from ..pipeline.loader import ViewBatch
    from .loop import StepOutput
    from .pretraining import Pretraining


class Report(Records):
    """Log, screen and trackers as one; on other processes than the main one it says and writes nothing."""

    def __init__(self, run: Pretraining, log: Log | None, screen: Screen, tracker: Any) -> None:
        super().__init__(log, screen.warn)
        self._run, self._screen, self._tracker = run, screen, tracker
        self._told, self._watch = set[str](), Watch(Watched.of(run.settings))
        self.last: Progressed | None = None
        self.unreadable: list[int] = []
        """Rows of images that no process could decode, once the run has ended."""

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

    def end(self, code: int, *, step: int, seconds: float) -> str:
        """Write the last record: which rows could not be read on any process, and which alarms hold at the end."""
        from accelerate.utils import gather_object

        self.unreadable = sorted(set().union(*gather_object([self._run.loader.unreadable])))
        found = self._watch.standing()
        self._alarm(found, step)
        facts = {"unreadable": self.unreadable, "alarms": list(found)}
        self.event("end", step=step, code=code, seconds=round(seconds, 3), **facts)
        return doubted(list(found))

    def summarise(self, clock: Clock, saved: Saved | None, code: int, *, step: int, seconds: float) -> None:
        """The closing table of a training."""
        run, now, unreadable = self._run, self.last, self.unreadable
        if unreadable:
            shown = ", ".join(map(str, unreadable[:10]))
            advice = f"`viewmill inspect {run.data} --deep` lists them all"
            say(f"{len(unreadable)} images could not be decoded and took no part (rows {shown}): {advice}")
        if now is None:
            say(f"{run.out} was complete already: {step} steps")
            return
        rows = [
            ("steps", f"{step} of {now.steps}"),
            ("time", duration(seconds)),
            ("images/s", f"{(step - run.first) * run.batch / seconds:,.0f}"),
            ("waiting for data", f"{clock.waited_total / seconds:.1%}"),
            ("loss", "-" if now.loss is None else f"{now.loss:.4f}"),
            ("bound", bound_line(now) + (" (tells nothing)" if tells_nothing(now.bound) else "")),
            *([("looks wrong", ", ".join(doubts))] if (doubts := list(self._watch.standing())) else []),
            *([("updates left out", f"{now.masked:,}")] if now.masked else []),
            *([("checkpoint", str(saved.path))] if saved is not None else []),
        ]
        ended = "stopped early" if code else "done"
        table(f"{run.settings['method']}: {ended}{doubted(doubts)}", ("", ""), rows)

    def pictures(self, batch: ViewBatch, output: StepOutput, *, step: int) -> None:
        """Send views, neighbours and curves to the trackers."""
        if self._tracker is None or output.feature_VBF is None:
            return
        from .display.pictures import curves, neighbour_grid, view_grid

        recipe, feature_BF = self._run.loader.recipe, output.feature_VBF[0]
        drawn = {
            "views": lambda: view_grid(batch, recipe),
            "neighbours": lambda: neighbour_grid(batch, recipe, feature_BF),
            "curves": lambda: curves(self._run.out / "log.jsonl"),
        }
        self._tracker.pictures(drawn, step)


def doubted(kinds: Sequence[str]) -> str:
    """What an ending has to say beside its word, where alarms hold at the end."""
    return f", but it looks wrong: {', '.join(kinds)}" if kinds else ""


@contextmanager
def reporting(run: Pretraining) -> Iterator[Report]:
    """The report of a start of a run."""
    accelerator = run.accelerator
    title = f"{run.settings['method']} on {run.data.name}, {run.loader.engine_name} engine, {accelerator.device.type}"
    with ExitStack() as stack:
        tracker, main = None, accelerator.is_main_process
        screen = stack.enter_context(dashboard(title, visible=main))
        facts = {"data": str(run.data), "processes": accelerator.num_processes, "device": str(accelerator.device)}
        about = {"config": run.settings, **facts}
        log = stack.enter_context(log_of(run.out, step=run.first, visible=main, warn=screen.warn, **about))
        if run.logging.track:
            from .display.trackers import tracked

            about = (run.logging.track, run.out, run.settings, accelerator)
            tracker = stack.enter_context(tracked(*about, step=run.first, warn=screen.warn))
        yield Report(run, log, screen, tracker)

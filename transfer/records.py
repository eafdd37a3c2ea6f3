"""What a fine-tuning writes and says while it runs: log.jsonl, and plain lines."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..console import duration, say
from ..training.display.clock import Clock
from ..training.log import Log, Records, log_of

LINE_EVERY_S = 10.0


class Journal(Records):
    """log.jsonl and plain lines, one in ten seconds at most; on other processes than the main one it is mute."""

    def __init__(self, log: Log | None) -> None:
        super().__init__(log, warned)
        self._said = -LINE_EVERY_S

    def reading(self, values: dict[str, Any], clock: Clock, *, step: int, rate: float, saved: Any) -> None:
        """Write the numbers of a step, and say the most important."""
        now = clock.read(step, values, rate, saved=saved and (saved.step, saved.time))
        empty = {name for name, value in now._asdict().items() if value is None}
        self.event("step", **({name: value for name, value in now._asdict().items() if name not in empty} | values))
        if self._log is None or (time.monotonic() - self._said < LINE_EVERY_S and step < now.steps):
            return
        self._said = time.monotonic()
        losses = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in values.items() if "loss" in name)
        say(
            f"step {step:,}/{now.steps:,}  {losses}  rate {rate:.2g}  {now.images_per_s:.1f} images/s  data {now.wait:.0%}  "
            f"left {duration(now.left_s)}" + (f"  masked {now.masked}" if now.masked else "")
        )

    def passed(self, clock: Clock, *, step: int) -> None:
        """Say nothing between two readings."""

    def pictures(self, batch: Any, output: Any, *, step: int) -> None:
        """Draw nothing."""

    def end(self, code: int, *, step: int, seconds: float) -> str:
        """Write the last record."""
        self.event("end", step=step, code=code, seconds=round(seconds, 3))
        return ""

    def summarise(self, clock: Clock, saved: Any, code: int, *, step: int, seconds: float) -> None:
        """Say how long it took."""
        waited = clock.waited_total / seconds
        say(f"{step - clock.first:,} steps in {duration(seconds)}, {waited:.0%} of it waiting for data")


@contextmanager
def journalling(out: Path, *, first: int, visible: bool, **facts: Any) -> Generator[Journal]:
    """The journal of a start of a run at step `first`; what comes after it in OUT/log.jsonl is cut."""
    with log_of(out, step=first, visible=visible, warn=say, **facts) as log:
        yield Journal(log)


def warned(text: str) -> None:
    """Say that something went wrong."""
    say(f"warning: {text}")

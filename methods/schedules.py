"""Numbers that change while a run goes on: pure functions of where it stands. No torch here.

Schedules of the ring's outer edge are those of the release of arXiv 2010.02037 (src/utils/policy.py of
mhw32/contrastive-ring-public): linear, in ten steps, exponential, and adaptive, the last by its own rule and by a calmer one
of ours. Every length has its unit beside it: the release decays exponentially per iteration, which is over after 50 of them.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

LEVELS = 10  # of the step schedule
KINDS = ("constant", "linear", "step", "exponential", "exponential-release", "adaptive", "adaptive-release")
ADAPTIVE = KINDS[-2:]  # those that follow the loss


class Moment(NamedTuple):
    """Where a run stands: `step` of `steps`, each epoch having `steps_per_epoch`."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction."""
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Schedule:
    """From `start` to `stop` in `over` units, and `stop` from then on; "constant" is `stop` all along.

    "exponential" is stop + (start - stop) * exp(-.1 t) with t in units, whatever `over`; "exponential-release" is the same
    until `over`, and `stop` from there on, as released: it falls the rest of the way at once. "adaptive" and
    "adaptive-release" follow the loss instead of the clock: see `adapt_`.
    """

    kind: Literal["constant", "linear", "step", "exponential", "exponential-release", "adaptive", "adaptive-release"] = (
        "constant"
    )
    start: float = 1.0
    stop: float = 0.1
    over: float = 100.0
    unit: Literal["epochs", "steps"] = "epochs"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a schedule is {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {self.kind!r}")
        if not self.over > 0:
            raise ValueError(f"a schedule takes more than 0 {self.unit}, got {self.over}")
        if self.unit not in ("epochs", "steps"):
            raise ValueError(f"a schedule's unit is epochs or steps, got {self.unit!r}")

    def at(self, moment: Moment) -> float:
        """The value at `moment`: `start` at its first step, `stop` at the last step of `over` and after."""
        if self.kind == "constant":
            return self.stop
        if self.kind in ADAPTIVE:
            return self.start
        per_unit = moment.steps_per_epoch if self.unit == "epochs" else 1
        if self.kind == "exponential-release" and moment.step >= self.over * per_unit:
            return self.stop
        if self.kind in ("exponential", "exponential-release"):
            return self.stop + (self.start - self.stop) * math.exp(-0.1 * moment.step / per_unit)
        last = max(1.0, self.over * per_unit - 1)  # step 0 is the first of `over` units
        done = min(1.0, moment.step / last)
        if self.kind == "step":
            done = min(1.0, math.floor(LEVELS * moment.step / (last + 1)) / (LEVELS - 1))
        return self.start + (self.stop - self.start) * done


class Remembering(Protocol):
    """What `adapt_` keeps between readings: a flat sequence of floats that can be changed in place."""

    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...
    def __len__(self) -> int: ...


DELTA, WINDOW = 0.01, 10  # of the release, for the loss
# steps: the loss is read there whatever the log asks for, so that nothing else changes the schedule
HEARD_EVERY = {"adaptive": 10, "adaptive-release": 1}
REMEMBERED = 2 + 2 * WINDOW  # value, readings so far, the last two windows of losses


def adapt_(state: Remembering, loss: float, schedule: Schedule) -> None:
    """One reading of the loss into the state of an adaptive schedule: [value, readings, 2 * WINDOW losses].

    "adaptive", after every WINDOW readings: where their mean lies below that of the window before, the task has become easy
    and the value goes DELTA towards `stop`; where it lies above, DELTA back towards `start`. "adaptive-release", after every
    reading but the first: the same where it lies below or above the mean of the WINDOW before it, as many as there are.
    """
    heard = int(state[1]) + 1
    state[1], state[2 + (heard - 1) % (2 * WINDOW)] = heard, loss
    losses = [state[2 + reading % (2 * WINDOW)] for reading in range(max(0, heard - 2 * WINDOW), heard)]
    if schedule.kind == "adaptive-release":
        newest, before = losses[-1:], losses[-1 - WINDOW : -1]
    else:
        newest, before = ([], []) if heard % WINDOW else (losses[WINDOW:], losses[:WINDOW])
    if not (newest and before):
        return
    now, then = sum(newest) / len(newest), sum(before) / len(before)
    low, high = sorted((schedule.start, schedule.stop))
    inward = math.copysign(DELTA, schedule.stop - schedule.start)
    moved = inward if now < then else -inward if now > then else 0.0
    state[0] = min(high, max(low, state[0] + moved))

"""How fast a run is, and what share of its time went into waiting for data."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .panel import Passed, Progressed

Item = TypeVar("Item")


class Clock:
    """Times the steps of one start of a run; `images` is the global batch. Rates are of the time since the last reading."""

    def __init__(self, images: int, steps_per_epoch: int, steps: int, *, first: int) -> None:
        self._images, self._per_epoch, self._steps, self.first = images, steps_per_epoch, steps, first
        self._last_step, self._waited, self.waited_total = first, 0.0, 0.0
        self.started = self._last_time = time.perf_counter()

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, with the time noted that each took to come."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            waited = time.perf_counter() - asked
            self._waited += waited
            self.waited_total += waited
            yield item

    def passed(self, step: int) -> Passed:
        """How far the run is after `step`; no reading begins anew by it."""
        now = time.perf_counter()
        rate = (step - self._last_step) * self._images / max(now - self._last_time, 1e-9)
        return Passed(step, self._epoch(step), rate, self._left_s(step, now))

    def _epoch(self, step: int) -> float:
        return round(step / max(self._per_epoch, 1), 4)

    def _left_s(self, step: int, now: float) -> float:
        done = step - self.first
        return (now - self.started) / done * (self._steps - step) if done > 0 else 0.0

    def read(
        self,
        step: int,
        values: Mapping[str, Any],
        learning_rate: float,
        *,
        saved: tuple[int, float] | None = None,
    ) -> Progressed:
        """A reading at `step`.

        Args:
            values: loss, bound, ceiling, grad_norm, masked, probe, neighbours, memory_bytes: None where one is missing or
                not finite, but `masked`, which is 0 then. Other keys are passed over.
            saved: step of the newest checkpoint, and time.monotonic() when it was complete.
        """
        now = time.perf_counter()
        elapsed, steps = max(now - self._last_time, 1e-9), step - self._last_step
        numbers = {name: _number(values, name) for name in ("loss", "bound", "ceiling", "grad_norm", "probe", "neighbours")}
        memory = _number(values, "memory_bytes")
        reading = Progressed(
            step=step,
            steps=self._steps,
            epoch=self._epoch(step),
            learning_rate=learning_rate,
            images_per_s=steps * self._images / elapsed,
            wait=min(self._waited / elapsed, 1.0),
            left_s=self._left_s(step, now),
            masked=int(_number(values, "masked") or 0),
            memory_bytes=None if memory is None else int(memory),
            saved_step=None if saved is None else saved[0],
            saved_age_s=None if saved is None else round(max(time.monotonic() - saved[1], 0.0), 3),
            **numbers,
        )
        self._last_time, self._last_step, self._waited = now, step, 0.0
        return reading


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if value is not None and math.isfinite(value) else None

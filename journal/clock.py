"""How fast a run is, and what share of its time went into waiting for data."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from .dashboard import Progressed

Item = TypeVar("Item")


class Clock:
    """Times the steps of one start of a run; `images` is the global batch. Rates are of the time since the last reading."""

    def __init__(self, images: int, steps_per_epoch: int, steps: int, *, first: int) -> None:
        self._images, self._per_epoch, self._steps, self._first = images, steps_per_epoch, steps, first
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

    def read(self, step: int, values: Mapping[str, float], learning_rate: float) -> Progressed:
        """A reading at `step`; `values` holds the loss, and bound and ceiling where they were observed."""
        now = time.perf_counter()
        elapsed, steps = now - self._last_time, step - self._last_step
        reading = Progressed(
            step=step,
            steps=self._steps,
            epoch=round(step / self._per_epoch, 4),
            loss=values["loss"],
            bound=values.get("bound"),
            ceiling=values.get("ceiling"),
            learning_rate=learning_rate,
            images_per_s=steps * self._images / elapsed,
            wait=self._waited / elapsed,
            left_s=(now - self.started) / (step - self._first) * (self._steps - step),
        )
        self._last_time, self._last_step, self._waited = now, step, 0.0
        return reading

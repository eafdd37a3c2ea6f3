"""Work done ahead of its consumer, by one thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], steps: range, ahead: int) -> Iterator[Item]:
    """`map(make, steps)`, run by a thread up to `ahead` items early; ends with its consumer, raises what it meets."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()

    def hand_over(item: Item | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                hand_over(make(step))
            hand_over(None)
        except BaseException as error:  # carried to the consumer's thread and raised there
            hand_over(error)

    thread = threading.Thread(target=produce, name="viewmill-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()

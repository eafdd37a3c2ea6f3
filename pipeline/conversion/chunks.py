"""Items in chunks on their way through the workers, and what became of them, handed on in order."""

from collections import deque
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import cast

from ..sources.candidate import Candidate, Item, Rejected, Remark
from .encoding import Encoded

TASK, TASK_BYTES = 64, 1 << 22  # images and their bytes in a task: at 32 px an image takes .1 ms
FIRST_TASK = 16  # images of the first tasks, so that a few dozen occupy every worker

Outcome = tuple[Candidate, Encoded] | Rejected | Remark


def outcome_of(item: Item, result: Encoded | Rejected | Remark) -> Outcome:
    """An item and what became of it."""
    return (item, result) if isinstance(item, Candidate) and isinstance(result, Encoded) else cast(Rejected | Remark, result)


class Chunk:
    """Consecutive items and what became of them."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.results: list[Encoded | Rejected | Remark | None] = [None if isinstance(i, Candidate) else i for i in items]
        self.held = 0
        self._next = 0

    def note(self, place: int, result: Encoded | Rejected) -> None:
        """What became of item `place`."""
        self.results[place] = result
        self.held += weight(result)

    def ready(self) -> Iterator[Outcome]:
        """What can be handed on, in order; nothing is kept of it."""
        while not self.emitted and (result := self.results[self._next]) is not None:
            self.results[self._next] = None
            self.held -= weight(result)
            self._next += 1
            yield outcome_of(self.items[self._next - 1], result)

    @property
    def emitted(self) -> bool:
        """Whether all of it has been handed on."""
        return self._next == len(self.items)


def weight(result: Encoded | Rejected | Remark) -> int:
    """Bytes that a result holds."""
    return len(result.data) if isinstance(result, Encoded) and result.data is not None else 0


def chunks_of(items: Iterator[Item]) -> Iterator[Chunk]:
    """`items` in chunks of FIRST_TASK, from the fifth on of TASK, and of not much more than TASK_BYTES."""
    chunk: list[Item] = []
    size = 0
    for count, item in enumerate(items):
        chunk.append(item)
        size += item.size if isinstance(item, Candidate) else 0
        if len(chunk) == (FIRST_TASK if count < TASK else TASK) or size > TASK_BYTES:
            yield Chunk(chunk)
            chunk, size = [], 0
    if chunk:
        yield Chunk(chunk)


class Task:
    """The items at `places` of a chunk, as far as no answer has come for them."""

    def __init__(self, chunk: Chunk, places: list[int]) -> None:
        self.chunk = chunk
        self.places = deque(places)

    def message(self) -> bytes:
        """What its worker is sent."""
        return bytes(ForkingPickler.dumps([self.chunk.items[place] for place in self.places]))

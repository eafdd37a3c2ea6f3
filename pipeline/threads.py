"""How engines share a batch among threads: in pieces that depend on the batch alone, so no result depends on the threads."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

PIECE = 8  # images a task at most: small enough to even out large and small images, 10 us of dispatch each


def usable_cores() -> int:
    """Cores this process may use: what Slurm or a container left it, not what the machine has."""
    return len(os.sched_getaffinity(0))


def in_pieces(pool: ThreadPoolExecutor, work: Callable[[int, int], None], count: int) -> None:
    """Run `work(begin, end)` over 0..count on `pool`; raises the first error of any piece."""
    piece = max(1, min(PIECE, count // 8))  # of few images each thread gets some
    for future in [pool.submit(work, begin, min(begin + piece, count)) for begin in range(0, count, piece)]:
        future.result()


class Scratch:
    """Buffers that a thread keeps, grown to the largest size they were asked for: fresh memory costs as much as using it."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def take(self, name: str, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """This thread's buffer `name`, of at least `size` elements, with whatever was left in it."""
        buffer = getattr(self._of_thread, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(int(size), dtype)
            setattr(self._of_thread, name, buffer)
        return buffer

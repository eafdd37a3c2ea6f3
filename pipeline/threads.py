"""How engines share a batch among threads: fixed-size pieces, so that no result depends on how many threads there are."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PIECE = 8  # images a task: small enough to even out large and small images, 10 us of dispatch each


def usable_cores() -> int:
    """Cores this process may use: what Slurm or a container left it, not what the machine has."""
    return len(os.sched_getaffinity(0))


def in_pieces(pool: ThreadPoolExecutor, work: Callable[[int, int], None], count: int) -> None:
    """Run `work(begin, end)` over 0..count on `pool`; raises the first error of any piece."""
    for future in [pool.submit(work, begin, min(begin + PIECE, count)) for begin in range(0, count, PIECE)]:
        future.result()

"""Which rows, in which order, on which rank: pure functions of (seed, epoch, step). Nothing to save, nothing to resume.

An epoch is one permutation of all rows, cut into global batches; a rank takes its slice of each. So the global sequence is
the same on 1, 2 or 64 ranks when the global batch is the same, and step s is found without walking through the ones before.
The tail that fills no global batch is dropped; another permutation drops others the next epoch.
"""

import numpy as np

from . import counter


def steps_per_epoch(rows: int, batch: int) -> int:
    """Global batches in an epoch; raises ValueError where not even one fits."""
    if batch > rows:
        raise ValueError(f"the batch of {batch} is larger than the data set of {rows} images: use --batch {rows} or less")
    return rows // batch


def permutation(rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """int64 [rows]: the order of an epoch, by sorting 64 random bits per row (ties, 1 in 10**7 at 1.3M rows, by row)."""
    return np.argsort(counter.wide(counter.Key(seed, counter.ORDER, epoch), np.arange(rows)), kind="stable")


def share(batch: int, *, rank: int, world: int) -> slice:
    """Which part of a global batch is `rank`'s; raises ValueError where it does not divide."""
    if batch % world:
        fitting = [str(number) for number in range(1, min(batch, 1024) + 1) if batch % number == 0]
        words = " or ".join(filter(None, [", ".join(fitting[:-1]), fitting[-1]]))
        raise ValueError(f"the global batch of {batch} does not divide over {world} processes: use {words} of them")
    return slice(rank * batch // world, (rank + 1) * batch // world)

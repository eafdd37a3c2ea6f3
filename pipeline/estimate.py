"""What a conversion will probably take, from encoding some of its images; and whether there is room for it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .beton import ALLOCATION, MIN_PAGE_SIZE, ROW
from .chunks import Outcome
from .sources.candidate import Rejected, Remark
from .survey import Survey


class Estimate(NamedTuple):
    """What a conversion will probably take, from encoding some images that are spread over the sources."""

    images: int
    classes: int
    size_bytes: int
    seconds: float
    target: Path


def estimate_of(found: Survey, outcomes: Iterator[Outcome], target: Path) -> Estimate:
    """From what became of `found.spread`; the first half is not timed, since it waits for the processes."""
    stored, started, timed, untimed = 0, 0.0, 0, len(found.spread) // 2
    for number, outcome in enumerate(outcomes, start=1):
        if number == untimed:
            started = time.perf_counter()
        timed = max(0, number - untimed)
        if not isinstance(outcome, Rejected | Remark):
            candidate, result = outcome
            stored += candidate.size if result.data is None else len(result.data)
    each = (time.perf_counter() - started) / timed if timed else 0.0
    size = stored * found.images // len(found.spread) + found.images * (ROW.itemsize + ALLOCATION.itemsize) + MIN_PAGE_SIZE
    classes = len(found.classes) or len(found.number.keys() - {None})
    return Estimate(found.images, classes, size, each * found.images, target)


def check_space(estimate: Estimate) -> None:
    """Raise OSError where the disk has less room than that."""
    folder = next(parent for parent in estimate.target.absolute().parents if parent.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and estimate.size_bytes > free:  # ramfs knows no size
        need = f"the {estimate.images} images need about {estimate.size_bytes}"
        raise OSError(f"{folder} has {free} bytes free; {need}: make room first")

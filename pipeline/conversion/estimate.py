"""What a conversion will probably take, from encoding some of its images; and whether there is room for it."""

import os
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..beton.reader import ALLOCATION, MIN_PAGE_SIZE, ROW
from ..sources.candidate import Candidate, Rejected, Remark
from ..threads import usable_cores
from .chunks import Outcome
from .encoding import Encoded
from .survey import Survey

EACH_S = 5e-5  # to list an image twice, read it again, write and hash it, beside decoding it
START_S = 0.5  # until processes work
LAID_OUT = 4096  # images whose place in pages is tried


class Estimate(NamedTuple):
    """What a conversion will probably take, from encoding some images that are spread over the sources."""

    images: int
    classes: int
    size_bytes: int
    off_bytes: int
    """By how much that may be off: two standard errors of the sample."""
    seconds: float
    target: Path


def estimate_of(found: Survey, outcomes: Iterator[Outcome], target: Path, *, workers: int) -> Estimate:
    """From what became of `found.spread`: in proportion to the bytes in the source, where those are known of all."""
    known = all(candidate.size > 0 for candidate in found.spread)
    pairs = list(zip(found.spread, (_result(outcome) for outcome in outcomes), strict=True))
    drawn_N = np.array([candidate.size if known else 1 for candidate, _ in pairs], np.float64)
    stored_N = np.array([_stored(candidate, result) for candidate, result in pairs], np.float64)
    seconds = [result.seconds for _, result in pairs if result is not None]
    whole = found.size_bytes if known else found.images
    ratio = stored_N.sum() / drawn_N.sum()
    count, images = len(pairs), found.images
    off = np.sqrt(((stored_N - ratio * drawn_N) ** 2).sum() / max(1, count - 1) / count * (1 - count / images)) * images
    pages = _in_pages(stored_N[stored_N > 0].astype(np.int64).tolist(), images, ratio * whole)
    size = pages + images * (ROW.itemsize + ALLOCATION.itemsize) + MIN_PAGE_SIZE
    work = sum(seconds) / max(1, len(seconds)) * (whole / drawn_N.mean()) / max(1, min(workers, usable_cores()))
    classes = len(found.classes) or len(found.number.keys() - {None})
    return Estimate(images, classes, size, round(2 * off), work + EACH_S * images + START_S * (workers > 0), target)


def _result(outcome: Outcome) -> Encoded | None:
    if isinstance(outcome, Rejected | Remark):
        return None
    return outcome[1]


def _stored(candidate: Candidate, result: Encoded | None) -> int:
    if result is None:
        return 0
    return candidate.size if result.data is None else len(result.data)


def _in_pages(sizes: Sequence[int], images: int, stored: float) -> int:
    """Bytes of pages for so many images of `stored` bytes in all, with sizes such as `sizes`: none lies in two pages."""
    if not sizes:
        return 0
    page = MIN_PAGE_SIZE
    while page < max(sizes):
        page *= 2
    tried = min(images, LAID_OUT)
    end = held = 0
    for size in islice(cycle(sizes), tried):
        if end // page != (end + size - 1) // page:
            end = -(-end // page) * page
        end += size
        held += size
    return -(-round(stored * end / held) // page) * page


def check_space(estimate: Estimate) -> None:
    """Raise OSError where the disk has less room than that."""
    folder = next(parent for parent in estimate.target.absolute().parents if parent.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and estimate.size_bytes > free:  # ramfs knows no size
        need = f"the {estimate.images:,} images need about {estimate.size_bytes:,}"
        raise OSError(f"{folder} has {free:,} bytes free; {need}: make room first")

"""Writing .beton files in row order, from one process, complete or not at all.

FFCV's DatasetWriter lets several processes book pages by race, so two runs differ, and hangs when one sample raises. This
one lays samples out in the order they come. Stock FFCV reads the result: its Reader and Loader are the oracle in the tests.
"""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .beton import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_TYPE,
    INT_TYPE,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    ROW,
    VERSION,
    Sample,
)


def write_beton(target: Path, samples: Iterable[Sample], *, capacity: int) -> int:
    """Write `samples` to `target` in the order they come and return their number, at most `capacity`.

    Pages start at 2 MiB and double when a sample needs it: a layout that crosses no multiple of p crosses none of 2p, so
    earlier samples stay legal. The bytes go to `target`.partial, locked against a second writer, and get their name only
    when complete and on disk.
    """
    partial = target.with_name(target.name + ".partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, partial, target)
        try:
            os.ftruncate(descriptor, 0)  # what a killed conversion left
            count = _write_open(descriptor, samples, capacity)
            os.fsync(descriptor)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)
    sync_folder(target.parent)
    return count


def _lock(descriptor: int, partial: Path, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A writer that ended between our open and our lock has made this file its result, or removed it.
        ours = os.path.samestat(os.fstat(descriptor), os.stat(partial))
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        raise BlockingIOError(f"{target} is being written by another conversion: wait, or choose another name")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_open(descriptor: int, samples: Iterable[Sample], capacity: int) -> int:
    fields = np.zeros(2, FIELD)
    fields["type_id"], fields["name"] = (IMAGE_TYPE, INT_TYPE), (b"image", b"label")
    rows, table = np.zeros(capacity, ROW), np.zeros(capacity, ALLOCATION)
    metadata_start = HEADER.itemsize + fields.nbytes
    page_size = MIN_PAGE_SIZE
    end = _round_up(metadata_start + rows.nbytes, page_size)
    count = 0
    for count, sample in enumerate(samples, start=1):
        size = len(sample.data)
        while page_size < size:
            page_size *= 2
        if page_size > MAX_PAGE_SIZE:
            raise ValueError(f"sample {count - 1} holds {size} bytes; a page holds at most {MAX_PAGE_SIZE}")
        if end // page_size != (end + size - 1) // page_size:
            end = _round_up(end, page_size)
        _write_all(descriptor, sample.data, end)
        rows[count - 1] = ((sample.mode, sample.width, sample.height, end), sample.label)
        table[count - 1] = (count - 1, end, size)
        end += size
    end = _round_up(end, page_size)
    header = np.array((VERSION, 2, page_size, count, end), HEADER)
    _write_all(descriptor, table[:count].tobytes(), end)
    _write_all(descriptor, fields.tobytes() + rows[:count].tobytes(), HEADER.itemsize)
    os.fsync(descriptor)  # the header, which says the file is whole, goes last
    _write_all(descriptor, header.tobytes(), 0)
    return count


def _round_up(offset: int, page_size: int) -> int:
    return -(-offset // page_size) * page_size


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

"""Writing .beton files in row order, from one process, complete or not at all.

FFCV's DatasetWriter lets several processes book pages by race, so two runs differ, and hangs when one sample raises. This
one lays samples out in the order they come. Stock FFCV reads the result: its Reader and Loader are the oracle in the tests.
"""

import errno
import os
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...files.locking import hold
from ...files.opening import descriptor_to_change, partial, settle_name
from .reader import ALLOCATION, FIELD, HEADER, IMAGE_TYPE, INT_TYPE, MAX_PAGE_SIZE, MIN_PAGE_SIZE, ROW, VERSION, Sample

WINDOW = 1 << 25


def write_beton(
    target: Path, samples: Iterable[Sample], *, capacity: int, publish: Callable[[Path, Path], None] = os.replace
) -> int:
    """Write `samples` to `target` in the order they come and return their number, at most `capacity`.

    Pages start at 2 MiB and double when a sample needs it: a layout that crosses no multiple of p crosses none of 2p, so
    earlier samples stay legal. The bytes go to `target`.partial, locked against a second writer, and get their name only
    when complete and on disk, by `publish(partial, target)`.
    """
    written = partial(target)
    descriptor = descriptor_to_change(written, os.O_RDWR)
    ours = False
    try:
        _lock(descriptor, written, target)
        ours = True
        os.ftruncate(descriptor, 0)  # what a killed conversion left
        count = _write_open(descriptor, samples, capacity)
        os.fsync(descriptor)
        publish(written, target)
    except BaseException:
        if ours:
            written.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    settle_name(target)
    return count


def _lock(descriptor: int, written: Path, target: Path) -> None:
    try:
        hold(descriptor, written)
        # A writer that ended between our open and our lock has made this file its result, or removed it.
        ours = os.path.samestat(os.fstat(descriptor), os.stat(written))
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        raise BlockingIOError(f"{target} is being written by another conversion: wait, or choose another name")


def _write_open(descriptor: int, samples: Iterable[Sample], capacity: int) -> int:
    fields = np.zeros(2, FIELD)
    fields["type_id"], fields["name"] = (IMAGE_TYPE, INT_TYPE), (b"image", b"label")
    metadata_start = HEADER.itemsize + fields.nbytes
    page_size = MIN_PAGE_SIZE
    end = _round_up(metadata_start + capacity * ROW.itemsize, page_size)
    page, clean = _Page(descriptor, end), end
    # Plain arrays while the number of rows is open: an assignment to a numpy record takes ten times as long.
    modes, widths, heights, labels = array("B"), array("H"), array("H"), array("q")
    pointers, sizes = array("Q"), array("Q")
    for sample in samples:
        size = len(sample.data)
        while page_size < size:
            page_size *= 2
        if page_size > MAX_PAGE_SIZE:
            raise ValueError(f"sample {len(sizes)} holds {size} bytes; a page holds at most {MAX_PAGE_SIZE}")
        if end // page_size != (end + size - 1) // page_size:
            end = _round_up(end, page_size)
            page.write()
            page = _Page(descriptor, end)
            clean = _let_go(descriptor, clean, end)
            _check_room(descriptor, page_size + len(sizes) * ALLOCATION.itemsize)
        page.add(sample.data)
        modes.append(sample.mode)
        widths.append(sample.width)
        heights.append(sample.height)
        labels.append(sample.label)
        pointers.append(end)
        sizes.append(size)
        end += size
    page.write()
    count = len(sizes)
    if count > capacity:
        raise ValueError(f"{count} samples came where {capacity} were announced: the source changed while it was read")
    end = _round_up(end, page_size)
    rows, table = np.zeros(count, ROW), np.zeros(count, ALLOCATION)
    image = rows["f0"]
    image["mode"], image["width"], image["height"], image["data_ptr"] = modes, widths, heights, pointers
    rows["f1"] = labels
    table["sample_id"], table["ptr"], table["size"] = np.arange(count), pointers, sizes
    header = np.array((VERSION, 2, page_size, count, end), HEADER)
    _write_all(descriptor, table.tobytes(), end)
    _write_all(descriptor, fields.tobytes() + rows.tobytes(), HEADER.itemsize)
    os.fsync(descriptor)  # the header, which says the file is whole, goes last
    _write_all(descriptor, header.tobytes(), 0)
    return count


def _let_go(descriptor: int, begin: int, end: int) -> int:
    """Bring what was written to the disk and out of memory, a window at a time; returns up to where that is done.

    A conversion does not need its pages again, and others need the room. It is faster too: 5 us for 10 kB in a virtual
    machine where fresh memory for them took 24.
    """
    if end - begin < WINDOW:
        return begin
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
    return end


class _Page:
    """Samples that follow one another in the file, written together: one call to the system for some hundred."""

    MOST_PARTS, MOST_BYTES = 512, 1 << 22  # IOV_MAX is 1,024

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor, self._start = descriptor, start
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Append `data`."""
        self._parts.append(data)
        self._size += len(data)
        if len(self._parts) == self.MOST_PARTS or self._size > self.MOST_BYTES:
            self.write()

    def write(self) -> None:
        """Bring what was added to the file."""
        if not self._parts:
            return
        written = os.pwritev(self._descriptor, self._parts, self._start)
        if written < self._size:  # a full disk, or the limit of one call
            _write_all(self._descriptor, b"".join(self._parts)[written:], self._start + written)
        self._start += self._size
        self._parts, self._size = [], 0


def _check_room(descriptor: int, need: int) -> None:
    """Stop before the disk is full, so that others on it can still work."""
    status = os.fstatvfs(descriptor)
    if status.f_blocks and status.f_bavail * status.f_frsize < need:  # ramfs knows no size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _round_up(offset: int, page_size: int) -> int:
    return -(-offset // page_size) * page_size


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

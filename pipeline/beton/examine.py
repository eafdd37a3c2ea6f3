"""What a .beton holds, in numbers, and which of its rows cannot be decoded."""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...files.opening import descriptor_to_read
from ..engines import libffcv
from .manifest import classes_of, read_manifest
from .reader import RAW, Beton

BINS = 8
AHEAD = 64  # rows in flight: bounds memory


class Bin(NamedTuple):
    """One line of a histogram."""

    name: str
    images: int


def summary(beton: Beton) -> dict[str, Any]:
    """Counts, sizes and classes of a file, as JSON could hold them."""
    manifest = read_manifest(beton.path)
    return {
        "rows": len(beton),
        "file_bytes": os.stat(beton.path).st_size,
        "page_bytes": beton.page_size,
        "jpeg_rows": int((beton.mode_N != RAW).sum()),
        "raw_rows": int((beton.mode_N == RAW).sum()),
        "image_bytes_median": int(np.median(beton.size_N)),
        "width_median": int(np.median(beton.width_N)),
        "height_median": int(np.median(beton.height_N)),
        "labelled_rows": int((beton.label_N >= 0).sum()),
        "fingerprint": beton.fingerprint,
        "manifest": manifest,
    }


def sides(beton: Beton) -> list[Bin]:
    """How many images have a shorter side in which range of pixels."""
    return _binned(np.minimum(beton.height_N, beton.width_N), " px")


def weights(beton: Beton) -> list[Bin]:
    """How many images take which range of bytes."""
    return _binned(beton.size_N, " B")


def labels(beton: Beton) -> list[Bin]:
    """How many images each class has, by label; -1 is none."""
    classes = classes_of(beton)
    numbers, counts = np.unique(beton.label_N, return_counts=True)
    return [
        Bin(f"{number} {classes[number]}" if 0 <= number < len(classes) else str(number), int(count))
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    ]


def _binned(value_N: np.ndarray, unit: str) -> list[Bin]:
    low, high = int(value_N.min()), int(value_N.max())
    if low == high:
        return [Bin(f"{low:,}{unit}", len(value_N))]
    edges = np.unique(np.geomspace(low, high + 1, BINS + 1).round().astype(np.int64))
    counts = np.histogram(value_N, edges)[0]
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [Bin(f"{a:,} to {b - 1:,}{unit}", int(count)) for (a, b), count in zip(spans, counts, strict=True)]


def undecodable(
    beton: Beton, *, threads: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[tuple[int, str]]:
    """The rows whose image cannot be decoded strictly, with the reason: every row is decoded once."""
    descriptor = descriptor_to_read(beton.path)

    def check(row: int) -> str:
        data, height, width = beton.read(descriptor, row), int(beton.height_N[row]), int(beton.width_N[row])
        if beton.mode_N[row] == RAW:
            return ""  # its size was checked with the structure
        try:
            libffcv.library()
        except libffcv.EngineUnavailable:
            return _check_with_pillow(data, width, height)
        frame = libffcv.jpeg_frame(data)
        if frame and (frame.width, frame.height) != (width, height):
            return "its JPEG is of another size"
        return "" if frame and libffcv.decodes(data, height=height, width=width) else "its JPEG is damaged"

    try:
        with ThreadPoolExecutor(threads) as pool:
            rows = iter(range(len(beton)))
            while batch := list(islice(rows, AHEAD * threads)):
                for row, fault in zip(batch, pool.map(check, batch), strict=True):
                    if fault:
                        yield row, fault
                progress(batch[-1] + 1, len(beton))
    finally:
        os.close(descriptor)


def _check_with_pillow(data: bytes, width: int, height: int) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return "" if image.size == (width, height) else "its JPEG is of another size"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

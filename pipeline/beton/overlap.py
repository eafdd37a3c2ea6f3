"""Which images that are to be told are learned from too: such a number tells what was learned by heart.

Shape suffixes: N = rows of a file, P = rows that are looked at.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...files.opening import open_to_read
from .reader import Beton

LOOKED_AT = 2000  # images to be told: of a hundredth that is shared it misses all once in 500 million times
PIECE = 4096  # bytes from the middle of an image: in two JPEG streams of one size they are the same only where all is


def overlap(train: Beton, test: Beton) -> float:
    """The share, 0 to 1, of the images in `test` whose stored bytes stand in `train` too, of at most 2,000 spread evenly.

    Images that are stored otherwise (resized, encoded anew) count as others. It costs some thousand short reads, whatever
    the size of the files, and where all images have one size a read for each row of `train`.
    """
    row_P = _spread(len(test))
    key_N, key_P = _keys(train), _keys(test)[row_P]
    shared = np.intersect1d(key_N, key_P)
    known = set(_pieces(train, np.flatnonzero(np.isin(key_N, shared))))
    return sum(piece in known for piece in _pieces(test, row_P[np.isin(key_P, shared)])) / len(row_P)


def overlap_of_files(train: Sequence[Path], test: Sequence[Path]) -> float:
    """The same of image files: those of one size and one middle are the same."""
    looked_at = [test[place] for place in _spread(len(test))]
    sizes = _sizes(looked_at)
    wanted = set(sizes.values())
    known = {_middle(path, size) for path, size in _sizes(train).items() if size in wanted}
    return sum(path in sizes and _middle(path, sizes[path]) in known for path in looked_at) / max(len(looked_at), 1)


def overlap_in_words(share: float, train: object, test: object) -> str:
    """A warning and no refusal, since learning a set by heart shows that it can be learned; "" where nothing is shared."""
    if not share:
        return ""
    many = "all" if share == 1 else f"{max(share, 0.001):.1%}"
    return f"{many} of the images in {test} stand in {train} too: their numbers tell what was learned by heart"


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(np.int64))


def _keys(beton: Beton) -> np.ndarray:
    """[N]: what two equal images have alike: how they are stored, sides and bytes."""
    kind = np.dtype([("mode", "u1"), ("height", "u2"), ("width", "u2"), ("size", "u8")])
    keys = np.empty(len(beton), kind)
    keys["mode"], keys["height"], keys["width"], keys["size"] = beton.mode_N, beton.height_N, beton.width_N, beton.size_N
    return keys


def _pieces(beton: Beton, row_P: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Of each row its size, and the middle of its bytes."""
    with open_to_read(beton.path) as file:
        for row in row_P:
            size = int(beton.size_N[row])
            yield size, _read(file.fileno(), int(beton.offset_N[row]), size)


def _read(descriptor: int, offset: int, size: int) -> bytes:
    return os.pread(descriptor, min(size, PIECE), offset + max(0, size - PIECE) // 2)


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Bytes of the files that are there."""
    found = dict[Path, int]()
    for path in paths:
        try:
            found[path] = os.stat(path).st_size
        except OSError:  # what is missing is told by whoever reads it
            continue
    return found


def _middle(path: Path, size: int) -> tuple[int, bytes]:
    with open_to_read(path) as file:
        return size, _read(file.fileno(), 0, size)

"""Random numbers without state: Philox 4x32-10 (Salmon et al., SC 2011), vectorised in numpy.

A number is a pure function of (seed, purpose, epoch, row, view, block). So there is no generator to save, share or order:
any rank, thread or resumed process computes the same draws. numpy's own Philox would give one stream per generator object
(32 us a view to construct); this gives all views of a batch at once, and its bits are fixed by the paper, not by a
library's version.
"""

from typing import NamedTuple

import numpy as np

VIEWS, ORDER, CANDIDATES, SUBSET = 0, 1, 2, 3  # purposes: what keeps streams apart

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


class Key(NamedTuple):
    """Whose numbers: a seed below 2**64, a purpose below 2**8, an epoch (or step) below 2**32."""

    seed: int
    purpose: int
    epoch: int


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four uint64 arrays holding 32 random bits each, for four counter words (uint64 below 2**32) and two key words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def bits(key: Key, row: np.ndarray, view: int | np.ndarray = 0, block: int = 0) -> np.ndarray:
    """uint64 [4, *row.shape], each 32 random bits: block `block` of the stream of (key, row, view)."""
    row = np.asarray(row).astype(np.uint64)
    lane = (np.asarray(view).astype(np.uint64) << np.uint64(8)) | np.uint64(block)
    words = (
        row & _LOW,
        np.broadcast_to(np.uint64(key.epoch), row.shape),
        np.broadcast_to(lane, row.shape),
        (row >> _SHIFT) | (np.uint64(key.purpose) << np.uint64(24)),
    )
    return np.stack(philox(words, (key.seed & 0xFFFFFFFF, key.seed >> 32)))


def uniform(key: Key, row: np.ndarray, view: int | np.ndarray = 0, block: int = 0) -> np.ndarray:
    """float64 [4, *row.shape], uniform in the open interval (0, 1)."""
    return (bits(key, row, view, block).astype(np.float64) + 0.5) * 2.0**-32


def wide(key: Key, row: np.ndarray) -> np.ndarray:
    """uint64 [*row.shape]: 64 random bits a row, what to sort by for a random order."""
    words = bits(key, row)
    return (words[0] << np.uint64(32)) | words[1]

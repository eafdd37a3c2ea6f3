"""Random numbers without state: Philox 4x32-10 (Salmon et al., SC 2011), compiled.

A number is a pure function of (seed, purpose, epoch, row, view, block). So there is no generator to save, share or order:
any rank, thread or resumed process computes the same draws. numpy's own Philox would give one stream per generator object
(32 us a view to construct); this takes 20 ns a block, and its bits are fixed by the paper, not by a library's version.
"""

from typing import NamedTuple

import numpy as np

from .compiled import compiled

VIEWS, ORDER, CANDIDATES, SUBSET = 0, 1, 2, 3  # purposes: what keeps streams apart

_ROUNDS = 10


class Key(NamedTuple):
    """Whose numbers: a seed below 2**64, a purpose below 2**8, an epoch (or step) below 2**32."""

    seed: int
    purpose: int
    epoch: int


@compiled()
def philox(c0, c1, c2, c3, k0, k1):
    """Four uint64 holding 32 random bits each, for four counter words and two key words below 2**32."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3, k0, k1 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3), np.uint64(k0), np.uint64(k1)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (product1 >> shift) ^ c1 ^ k0, product1 & low, (product0 >> shift) ^ c3 ^ k1, product0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3


@compiled()
def block_bits(key, row, view, block):
    """Four uint64 holding 32 random bits each: block `block` of the stream of (key, row, view); `key` as a plain tuple."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    seed, purpose, epoch = key
    seed, row, lane = np.uint64(seed), np.uint64(row), (np.uint64(view) << np.uint64(8)) | np.uint64(block)
    high = (row >> shift) | (np.uint64(purpose) << np.uint64(24))
    return philox(row & low, epoch, lane, high, seed & low, seed >> shift)


@compiled()
def block_uniform(key, row, view, block):
    """Four float64, uniform in the open interval (0, 1)."""
    a, b, c, d = block_bits(key, row, view, block)
    return (a + 0.5) * 2.0**-32, (b + 0.5) * 2.0**-32, (c + 0.5) * 2.0**-32, (d + 0.5) * 2.0**-32


@compiled()
def _fill(out_4N, key, row_N, view, block):
    for n in range(len(row_N)):
        bits = block_bits(key, row_N[n], view, block)
        out_4N[0, n], out_4N[1, n], out_4N[2, n], out_4N[3, n] = bits


def bits(key: Key, row_N: np.ndarray, view: int = 0, block: int = 0) -> np.ndarray:
    """uint64 [4, N], each 32 random bits: block `block` of the streams of (key, row, view)."""
    out_4N = np.empty((4, len(row_N)), np.uint64)
    _fill(out_4N, (np.uint64(key.seed), key.purpose, key.epoch), np.asarray(row_N), view, block)
    return out_4N


def uniform(key: Key, row_N: np.ndarray, view: int = 0, block: int = 0) -> np.ndarray:
    """float64 [4, N], uniform in the open interval (0, 1)."""
    return (bits(key, row_N, view, block) + 0.5) * 2.0**-32


@compiled()
def _below_one(key, row, limit):
    return np.int64((block_bits(key, row, 0, 0)[0] + 0.5) * 2.0**-32 * limit)


@compiled()
def _below(out_N, key, row_N, limit):
    for n in range(len(row_N)):
        out_N[n] = _below_one(key, row_N[n], limit)


@compiled()
def _mark(marked_L, key, count):
    row, left = 0, count
    while left > 0:
        number = _below_one(key, row, len(marked_L))
        if not marked_L[number]:
            marked_L[number] = True
            left -= 1
        row += 1


def below(key: Key, row_N: np.ndarray, limit: int) -> np.ndarray:
    """int64 [N], uniform from 0 to below `limit`, which is at most 2**32: of the streams of (key, row)."""
    out_N = np.empty(len(row_N), np.int64)
    _below(out_N, (np.uint64(key.seed), key.purpose, key.epoch), np.asarray(row_N), limit)
    return out_N


def distinct(key: Key, count: int, limit: int) -> np.ndarray:
    """int64 [count], sorted: the first `count` different numbers of `below` at rows 0, 1, 2 and so on.

    The cost follows `count` while that is at most half of `limit`: beyond, ever more draws are of numbers drawn before.
    Raises ValueError where `count` is above `limit`.
    """
    if count > limit:
        raise ValueError(f"{count} distinct numbers cannot be drawn below {limit}")
    marked_L = np.zeros(limit, bool)
    _mark(marked_L, (np.uint64(key.seed), key.purpose, key.epoch), count)
    return np.flatnonzero(marked_L)


def wide(key: Key, row_N: np.ndarray) -> np.ndarray:
    """uint64 [N]: 64 random bits a row, what to sort by for a random order."""
    words = bits(key, row_N)
    return (words[0] << np.uint64(32)) | words[1]

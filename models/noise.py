"""Random numbers without state, made on the device that uses them.

A number is a pure function of (seed, step, stream, row, column): no generator state to save, the same noise for an image on
any number of ranks and in any batch, and nothing to wait for. torch's generators give none of this: their numbers depend on
the shape of the draw and on the device. The integers are equal on every device; a normal goes through log, cos and sin,
whose last bit is the device's own.

Shape suffixes: B = images, C = columns.
"""

import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # 2**64 / golden ratio, odd, as an int64: steps of it visit every word once
_UNIFORM, _NORMAL = 0, 1  # what keeps apart the two draws of one stream


def uniform(row_B: Tensor, columns: int, *, seed: int, step: int, stream: int) -> Tensor:
    """float32 [B, columns] in the open interval (0, 1), one of the 2**23 midpoints; equal to the bit on every device.

    `row_B` int64 says which image of the data set, `stream` which use of it (view, head). A column's number does not
    depend on how many there are. Raises ValueError for a seed outside [0, 2**63), a step outside [0, 2**40], a stream
    outside [0, 2**21), no columns, and rows that are not int64 [B].
    """
    word_BC = _words(row_B, columns, _UNIFORM, seed=seed, step=step, stream=stream)
    # 23 bits, not 24: with 24 the midpoint next to 1 rounds to 1
    return _shifted(word_BC, 41).mul_(2).add_(1).to(torch.float32).mul_(2.0**-24)


def normal(row_B: Tensor, columns: int, *, seed: int, step: int, stream: int) -> Tensor:
    """float32 [B, columns], standard normal; arguments and errors are those of `uniform`, whose numbers it does not share.

    Box-Muller: one word yields the radius from 40 bits, hence up to 7.5 standard deviations, and the angle from 24.
    """
    word_BC = _words(row_B, (columns + 1) // 2, _NORMAL, seed=seed, step=step, stream=stream)
    rank_BC = _shifted(word_BC, 24).mul_(2).add_(1).to(torch.float32).mul_(2.0**-41)
    angle_BC = word_BC.bitwise_and_(2**24 - 1).to(torch.float32).mul_(math.tau * 2.0**-24)
    radius_BC = rank_BC.log_().mul_(-2).sqrt_()
    pair_BC2 = torch.stack((radius_BC * angle_BC.cos(), radius_BC * angle_BC.sin()), dim=2)
    return pair_BC2.flatten(1)[:, :columns]


def _words(row_B: Tensor, columns: int, kind: int, *, seed: int, step: int, stream: int) -> Tensor:
    """int64 [B, columns], 64 random bits each: a row's is the sequence of splitmix64 from a hash of all else.

    Host numbers are only ever added to tensors: hashed on the host they would not survive torch.compile, which makes
    symbols of numbers that change from call to call and has no room for their products.
    """
    for name, number, limit in (("seed", seed, 2**63), ("step", step, 2**40 + 1), ("stream", stream, 2**21)):
        if not 0 <= number < limit:
            raise ValueError(f"{name} {number} is outside [0, {limit}): take another")
    if columns < 1:
        raise ValueError(f"noise needs at least 1 column, got {columns}")
    if row_B.dtype != torch.int64 or row_B.dim() != 1:
        raise ValueError(f"rows must be int64 [B], got {row_B.dtype} {list(row_B.shape)}: convert them")
    moment = (stream * 2 + kind) * 2**41 + step  # injective, and below 2**63
    start_B = _mix_(_mix_(row_B * _GAMMA + seed) + moment)
    column_C = torch.arange(1, columns + 1, device=row_B.device) * _GAMMA
    return _mix_(start_B[:, None] + column_C)


def _mix_(word: Tensor) -> Tensor:
    """splitmix64's finaliser in place (Steele, Lea, Flood, OOPSLA 2014; Stafford's variant 13); products of int64 wrap."""
    word.bitwise_xor_(_shifted(word, 30)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    word.bitwise_xor_(_shifted(word, 27)).mul_(0x94D049BB133111EB - 2**64)
    return word.bitwise_xor_(_shifted(word, 31))


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own copies the sign bit."""
    return (word >> bits).bitwise_and_(2 ** (64 - bits) - 1)

"""Random numbers made where they are used: on the device, without a state, as a hash of whose number it is.

The host's draws (`pipeline.counter`) would have to be copied to the device each step. A number is a function of integers
alone (step, image, place), so it is the same on every rank, in any order of the images, and in a run that was resumed.
"""

import math
from typing import Any

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64 (Steele et al., 2014)
BITS = 24  # of a uniform number: exact in single precision


def _signed(x: int) -> int:
    """The number of 64 bits as int64 holds it, where products wrap around."""
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x


def _right(x: Any, by: int) -> Any:
    return (x >> by) & ((1 << (64 - by)) - 1)  # zeros from the left, whatever the sign


def _mixed(x: Tensor | int) -> Tensor | int:
    """splitmix64's finaliser: every bit of the result depends on every bit of `x`."""
    for by, factor in ((30, FIRST), (27, SECOND)):
        x = (x ^ _right(x, by)) * _signed(factor)
        x = x if isinstance(x, Tensor) else _signed(x)
    return x ^ _right(x, 31)


def bits(*keys: Tensor | int) -> Tensor:
    """int64 with 64 random bits for each combination of `keys`, integers that broadcast; at least one of them a tensor."""
    mixed: Tensor | int = 0
    for key in keys:
        mixed = mixed + key * _signed(GOLDEN) if isinstance(key, Tensor) else mixed + _signed(key * GOLDEN)
        mixed = _mixed(mixed if isinstance(mixed, Tensor) else _signed(mixed))
    assert isinstance(mixed, Tensor)
    return mixed


def uniform(*keys: Tensor | int) -> Tensor:
    """float32 in the open interval (0, 1): multiples of 2^-24, and half of one."""
    return _right(bits(*keys), 64 - BITS).to(torch.float32).add(0.5).mul(2.0**-BITS).clamp(max=1 - 2.0**-BITS)


def normal(*keys: Tensor | int) -> Tensor:
    """float32, standard normal (Box and Muller)."""
    radius = (-2 * uniform(*keys, 0).log()).sqrt()
    return radius * (2 * math.pi * uniform(*keys, 1)).cos()


def below(count: int, *keys: Tensor | int) -> Tensor:
    """int64 in 0 to count - 1; no more uneven than count / 2^40."""
    return _right(bits(*keys), 24) % count

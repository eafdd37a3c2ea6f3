"""Colour spaces of views beside RGB: CIE Lab and YCbCr, on the device and on the host, as scikit-image defines them.

CMC (arXiv 1906.05849) contrasts L with ab, or Y with CbCr. Lab of sRGB under D65, the 2 degree observer; YCbCr of ITU-R
BT.601 with Y in 16..235. Input 0..1, output in the usual units (L 0..100).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..compiled import FAST, compiled

RGB, LAB, YCBCR = range(3)
NUMBERS = {"rgb": RGB, "lab": LAB, "ycbcr": YCBCR}

Matrix = tuple[tuple[float, float, float], ...]

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
XYZ_OF_WHITE = tuple((r / total, g / total, b / total) for (r, g, b), total in zip(XYZ, WHITE, strict=True))
LAB_OF_ROOTS = ((0, 116, 0), (500, -500, 0), (0, 200, -200))
BT601 = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
BT601_OFFSET = (16, 128, 128)
KNEE, SLOPE, LIFT = 0.008856, 7.787, 16 / 116  # below the knee Lab's cube root is a line
TABLE = 1 << 14  # entries of the tables, between which the host takes the line: 1e-6 from the functions


def to_space(x_N3P: Tensor, space: int) -> Tensor:
    """`x_N3P` (RGB in 0..1) in another space. Constants travel as arguments of kernels, not as copies to the device."""
    if space == RGB:
        return x_N3P
    if space == YCBCR:
        return _mixed(BT601, x_N3P, BT601_OFFSET)
    linear = torch.where(x_N3P > 0.04045, ((x_N3P + 0.055) / 1.055) ** 2.4, x_N3P / 12.92)
    share = _mixed(XYZ_OF_WHITE, linear)
    return _mixed(LAB_OF_ROOTS, torch.where(share > KNEE, share ** (1 / 3), SLOPE * share + LIFT), (-16, 0, 0))


def _mixed(matrix: Matrix, x_N3P: Tensor, offset: tuple[float, ...] = (0, 0, 0)) -> Tensor:
    red, green, blue = x_N3P.unbind(1)
    rows = zip(matrix, offset, strict=True)
    return torch.stack([a * red + b * green + c * blue + shift for (a, b, c), shift in rows], dim=1)


def _table(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Values at the ends of TABLE equal steps over 0..1, and one more for 1 itself."""
    values = function(np.minimum(np.arange(TABLE + 2) / TABLE, 1))
    return values.astype(np.float32)


def _linear(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)


def _root(x: np.ndarray) -> np.ndarray:
    return np.where(x > KNEE, np.cbrt(x), SLOPE * x + LIFT)


LINEAR, ROOT = _table(_linear), _table(_root)


@compiled(inline=True)
def _looked_up(table, x):
    """Between two entries, on a line; `x` in 0..1, but for rounding."""
    place = min(max(x, np.float32(0)), np.float32(1)) * np.float32(TABLE)
    below = np.uint32(place)
    low, high = table[below], table[below + np.uint32(1)]
    return low + (place - np.float32(below)) * (high - low)


@compiled(fastmath=FAST)
def convert_planes(planes, space, linear, root):
    """`to_space` of planes [3, P], in place."""
    red, green, blue, count = planes[0], planes[1], planes[2], planes.shape[1]
    if space == LAB:
        for p in range(count):
            r, g, b = _looked_up(linear, red[p]), _looked_up(linear, green[p]), _looked_up(linear, blue[p])
            x = _looked_up(root, _mix(XYZ_OF_WHITE[0], r, g, b))
            y = _looked_up(root, _mix(XYZ_OF_WHITE[1], r, g, b))
            z = _looked_up(root, _mix(XYZ_OF_WHITE[2], r, g, b))
            red[p], green[p], blue[p] = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    elif space == YCBCR:
        for p in range(count):
            r, g, b = red[p], green[p], blue[p]
            red[p] = _mix(BT601[0], r, g, b) + np.float32(16)
            green[p] = _mix(BT601[1], r, g, b) + np.float32(128)
            blue[p] = _mix(BT601[2], r, g, b) + np.float32(128)


@compiled(inline=True)
def _mix(weights, r, g, b):
    return np.float32(weights[0]) * r + np.float32(weights[1]) * g + np.float32(weights[2]) * b

"""Colour, blur, solarise and normalise on the host's cores, from the plan: uint8 crops -> float views, an image at a time.

The same operations as photometrics_device.py, compiled: apart by float32's rounding, and where a view is blurred
by the end of the kernel, which is here where its weights fall below 3e-4 of the middle one's. A view stays in the core's
cache from its first operation to its last, as three planes, which the compiler turns into vectors; interleaved
pixels it does not.

Shape suffixes: V = views of a group, B = images of the batch, P = pixels of a view, S = its side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..compiled import compiled
from ..threads import Scratch
from . import planes
from .colour import affine_maps
from .colour_spaces import LINEAR, NUMBERS, RGB, ROOT, convert_planes
from .plan import ViewPlan

KINDS = {torch.float32: planes.FLOAT32, torch.float16: planes.FLOAT16, torch.bfloat16: planes.BFLOAT16}


class _Group(NamedTuple):
    """What the views of a group take from the plan, and where they go."""

    crops_VBSS3: np.ndarray
    maps_VB2233: np.ndarray
    hue_VB: np.ndarray
    sigma_VB: np.ndarray
    solarise_VB: np.ndarray
    coloured_V: np.ndarray
    mean_V3: np.ndarray
    std_V3: np.ndarray
    space: int
    linear: np.ndarray
    root: np.ndarray
    """Tables of spaces.convert_planes."""
    out_VBSS3: np.ndarray
    kind: int


def developer(
    crops: tuple[np.ndarray, ...], plan: ViewPlan, outs: tuple[Tensor, ...], scratch: Scratch
) -> Callable[[int, int], None]:
    """What develops images `begin` to `end` of a batch: from `crops` (uint8 [V, B, S, S, 3] a group) into `outs`.

    `outs` are [V*B, 3, S, S], channels_last, in float32, float16 or bfloat16. The function may be
    called on any thread, on several at once for different images.
    """
    groups = [_group(*parts, plan) for parts in zip(crops, outs, plan.recipe.groups, strict=True)]

    def apply_photometrics(begin: int, end: int) -> None:
        for group in groups:
            size = group.crops_VBSS3.shape[2] ** 2
            _develop(*group, begin, end, scratch.take("planes", 4 * size, np.float32))

    return apply_photometrics


def _group(crops_VBSS3: np.ndarray, out: Tensor, members: tuple[int, ...], plan: ViewPlan) -> _Group:
    views = [plan.recipe.views[v] for v in members]
    index = list(members)
    interleaved = out.permute(0, 2, 3, 1)
    bits = interleaved if out.dtype == torch.float32 else interleaved.view(torch.uint16)
    return _Group(
        crops_VBSS3,
        affine_maps(plan, members).reshape(*crops_VBSS3.shape[:2], 2, 2, 3, 3),
        plan.hue_VB[index],
        plan.sigma_VB[index],
        plan.solarise_VB[index],
        np.array([view.has_colour for view in views]),
        np.array([view.mean for view in views], np.float32),
        np.array([view.std for view in views], np.float32),
        NUMBERS[views[0].space],
        LINEAR,
        ROOT,
        bits.numpy().reshape(crops_VBSS3.shape),
        KINDS[out.dtype],
    )


@compiled()
def _develop(crops, maps, hue, sigma, solarise, coloured, mean, std, space, linear, root, out, kind, begin, end, scratch):
    views, _, side = crops.shape[:3]
    pixels = side * side
    view, spare = scratch[: 3 * pixels].reshape(3, pixels), scratch[3 * pixels : 4 * pixels].reshape(side, side)
    for b in range(begin, end):
        for v in range(views):
            source = crops[v, b].reshape(-1)
            sums = planes.scale(source, view)
            if coloured[v]:
                sums = planes.affine(view, maps[v, b, 0], sums)
                if hue[v, b] != 0:
                    sums = planes.shift_hue(view, np.float32(6 * hue[v, b]))
                planes.affine(view, maps[v, b, 1], sums)
            if sigma[v, b] > 0:
                for c in range(3):
                    planes.blur(view[c].reshape(side, side), sigma[v, b], spare)
            if solarise[v, b]:
                planes.solarise(view)
            if space != RGB:
                convert_planes(view, space, linear, root)
            planes.normalise(view, mean[v], std[v])
            planes.interleave(view, out[v, b].reshape(-1), kind)

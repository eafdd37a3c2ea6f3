"""A plan's colour factors as matrices: two affine maps per view around one exact hue, computed on the host.

Brightness, contrast, saturation and greyscale are affine in a pixel's RGB once the mean colour mu of the crop is known, and
linear in (pixel, mu): a sequence of them is x -> M x + T mu with M, T known from the plan alone. Only hue is not affine, so
the sequence is cut there: before it (M1, T1) with the crop's mean, after it (M2, T2) with the mean measured again. Clamped
after each map this lies 0.11 of 255 levels from torchvision's float operations; one matrix with a rotation for hue, 5.1.

Shape suffixes: N = views, 3 = RGB.
"""

import numpy as np

from .plan import ORDERS, ViewPlan

LUMA = np.array((0.2989, 0.587, 0.114))  # torchvision's rgb_to_grayscale
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def affine_maps(plan: ViewPlan, members: tuple[int, ...]) -> np.ndarray:
    """float32 [N, 2, 2, 3, 3] for views `members`, view-major: [before or after hue, (M, T), 3, 3]."""
    views = list(members)
    order_NO = ORDERS[plan.order_VB[views].reshape(-1)]
    factor_ON = np.stack([part[views].reshape(-1) for part in (plan.brightness_VB, plan.contrast_VB, plan.saturation_VB)])
    count = len(order_NO)
    maps = np.zeros((count, 2, 2, 3, 3))
    maps[:, :, 0] = np.eye(3)
    before_N = np.ones(count, bool)
    for position in range(4):
        for operation in (BRIGHTNESS, CONTRAST, SATURATION):
            for half, chosen_N in enumerate((before_N, ~before_N)):
                now = np.flatnonzero(chosen_N & (order_NO[:, position] == operation))
                maps[now, half] = _after(operation, factor_ON[operation, now], maps[now, half])
        before_N &= order_NO[:, position] != HUE
    grey = np.flatnonzero(plan.grey_VB[views].reshape(-1))
    maps[grey, 1] = np.ones((3, 1)) * LUMA @ maps[grey, 1]
    return maps.astype(np.float32)


def _after(operation: int, factor_N: np.ndarray, maps_N: np.ndarray) -> np.ndarray:
    """The pair (M, T) followed by one operation; `maps_N` is [N, 2, 3, 3]."""
    factor = factor_N[:, None, None, None]
    grey = np.ones((3, 1)) * LUMA
    if operation == BRIGHTNESS:
        return factor * maps_N
    if operation == SATURATION:
        return factor * maps_N + (1 - factor) * (grey @ maps_N)
    mean = maps_N.sum(axis=1)  # the current mean colour is (M + T) mu
    shift = (1 - factor[:, 0]) * (grey @ mean)
    return factor * maps_N + np.stack((np.zeros_like(shift), shift), axis=1)

"""A plan's colour factors as matrices: two affine maps per view around one exact hue, computed on the host.

Brightness, contrast, saturation and greyscale are affine in a pixel's RGB once the mean colour mu of the crop is known, and
linear in (pixel, mu): a sequence of them is x -> M x + T mu with M, T known from the plan alone. Only hue is not affine, so
the sequence is cut there: before it (M1, T1) with the crop's mean, after it (M2, T2) with the mean measured again. Clamped
after each map this lies 0.11 of 255 levels from torchvision's float operations; one matrix with a rotation for hue, 5.1.

Shape suffixes: N = views, 3 = RGB.
"""

import numpy as np

from ..compiled import compiled
from .plan import ORDERS, ViewPlan

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def affine_maps(plan: ViewPlan, members: tuple[int, ...]) -> np.ndarray:
    """float32 [N, 2, 2, 3, 3] for views `members`, view-major: [before or after hue, (M, T), 3, 3]."""
    views = list(members)
    order_N4 = ORDERS[plan.order_VB[views].reshape(-1)]
    brightness_N, contrast_N, saturation_N, grey_N = (
        part[views].reshape(-1) for part in (plan.brightness_VB, plan.contrast_VB, plan.saturation_VB, plan.grey_VB)
    )
    maps_N2233 = np.empty((len(order_N4), 2, 2, 3, 3), np.float32)
    _fill(order_N4, brightness_N, contrast_N, saturation_N, grey_N, maps_N2233)
    return maps_N2233


@compiled()
def _fill(order_N4, brightness_N, contrast_N, saturation_N, grey_N, maps_N2233):
    maps = np.empty((2, 2, 3, 3))
    for n in range(len(order_N4)):
        maps[:] = 0.0
        for i in range(3):
            maps[0, 0, i, i] = maps[1, 0, i, i] = 1.0
        half = 0
        for operation in order_N4[n]:
            if operation == BRIGHTNESS:
                maps[half] *= brightness_N[n]
            elif operation == CONTRAST:
                _towards_grey(maps[half], contrast_N[n], True)
            elif operation == SATURATION:
                _towards_grey(maps[half], saturation_N[n], False)
            else:
                half = 1
        if grey_N[n]:
            _towards_grey(maps[1], 0.0, False)
        maps_N2233[n] = maps


@compiled()
def _towards_grey(map_233, factor, of_the_mean):
    """A pixel moves to f x + (1 - f) g, g its own luma (saturation, greyscale) or the mean's, (M + T) mu (contrast)."""
    for k in range(3):
        own = mean = 0.0
        for j in range(3):
            own += LUMA[j] * map_233[0, j, k]
            mean += LUMA[j] * map_233[1, j, k]
        for i in range(3):
            to_m, to_t = (0.0, own + mean) if of_the_mean else (own, mean)
            map_233[0, i, k] = factor * map_233[0, i, k] + (1 - factor) * to_m
            map_233[1, i, k] = factor * map_233[1, i, k] + (1 - factor) * to_t

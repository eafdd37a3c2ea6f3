"""Colour, blur, solarise and normalise on the device, from the plan: uint8 crops -> float views.

Nothing here waits for the device: what is blurred or solarised is known on the host, as index lists.

Shape suffixes: N = views of a group (view-major), P = pixels of a view, S = its side.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .colour import affine_maps
from .colour_spaces import NUMBERS, to_space
from .plan import ViewPlan

SOLARISE_THRESHOLD = 128 / 255  # torchvision.transforms.RandomSolarize(128), on 0..1


class Draws(NamedTuple):
    """What a group of views needs of its plan, as tensors."""

    maps_N2233: Tensor
    """Empty, like `hue_N`, where no view of the group changes colour."""
    hue_N: Tensor
    blur_index: Tensor
    blur_sigma: Tensor
    solarise_index: Tensor
    mean_N3: Tensor
    std_N3: Tensor

    def to(self, device: torch.device) -> "Draws":
        """The same on `device`; copies from pinned memory do not wait."""
        return Draws(*(part.to(device, non_blocking=True) for part in self))


def draws(plan: ViewPlan, members: tuple[int, ...], *, pin: bool = False) -> Draws:
    """Gather views `members` of `plan`, in view-major order."""
    views = list(members)
    sigma_N = plan.sigma_VB[views].reshape(-1)
    blurred = np.flatnonzero(sigma_N)
    recipes = [view for view in (plan.recipe.views[v] for v in views) for _ in range(plan.box_VB4.shape[1])]
    coloured = views if any(plan.recipe.views[v].has_colour for v in views) else []
    parts = Draws(
        maps_N2233=torch.from_numpy(affine_maps(plan, tuple(coloured))),
        hue_N=torch.from_numpy(plan.hue_VB[coloured].reshape(-1)),
        blur_index=torch.from_numpy(blurred),
        blur_sigma=torch.from_numpy(sigma_N[blurred]),
        solarise_index=torch.from_numpy(np.flatnonzero(plan.solarise_VB[views].reshape(-1))),
        mean_N3=torch.tensor([view.mean for view in recipes]),
        std_N3=torch.tensor([view.std for view in recipes]),
    )
    return Draws(*(part.pin_memory() for part in parts)) if pin else parts


def apply_photometrics(crops_NSS3: Tensor, what: Draws, space: str = "rgb") -> Tensor:
    """float32 [N, 3, S, S], channels_last, normalised, in colour space `space`, of uint8 crops; all on one device."""
    count, side = crops_NSS3.shape[:2]
    x_N3P = crops_NSS3.permute(0, 3, 1, 2).reshape(count, 3, side * side).to(torch.float32).mul_(1 / 255)
    if len(what.hue_N):
        x_N3P = _affine(x_N3P, what.maps_N2233[:, 0])
        x_N3P = shift_hue(x_N3P, what.hue_N)
        x_N3P = _affine(x_N3P, what.maps_N2233[:, 1])
    x_N3SS = x_N3P.view(count, 3, side, side)
    if len(what.blur_index):
        x_N3SS[what.blur_index] = gaussian_blur(x_N3SS[what.blur_index], what.blur_sigma)
    if len(what.solarise_index):
        chosen = x_N3SS[what.solarise_index]
        x_N3SS[what.solarise_index] = torch.where(chosen >= SOLARISE_THRESHOLD, 1 - chosen, chosen)
    x_N3SS = to_space(x_N3SS, NUMBERS[space])
    x_N3SS = (x_N3SS - what.mean_N3[:, :, None, None]) / what.std_N3[:, :, None, None]
    return x_N3SS.contiguous(memory_format=torch.channels_last)


def _affine(x_N3P: Tensor, map_N233: Tensor) -> Tensor:
    """clamp(M x + T mean(x)), in 0..1; every operation of torchvision clamps, one clamp a map comes to the same."""
    offset_N31 = map_N233[:, 1] @ x_N3P.mean(dim=2, keepdim=True)
    return torch.baddbmm(offset_N31, map_N233[:, 0], x_N3P).clamp_(0, 1)


def shift_hue(x_N3P: Tensor, hue_N: Tensor) -> Tensor:
    """Turn the HSV hue of `x_N3P` (0..1) by `hue_N` turns, exactly and without branches.

    With V the largest channel, C the chroma and h the hue in sextants, channel n of (5, 3, 1) is
    V - C max(0, min(k, 4 - k, 1)), k = (n + h) mod 6: the closed form of HSV to RGB.
    """
    red, green, blue = x_N3P.unbind(1)
    value = x_N3P.amax(dim=1)
    chroma = value - x_N3P.amin(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sextant = sextant.add_(6 * hue_N[:, None])
    out = torch.empty_like(x_N3P)
    for channel, n in enumerate((5, 3, 1)):
        k = (sextant + n).remainder_(6)
        torch.sub(value, torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma), out=out[:, channel])
    return out


def gaussian_blur(x_N3SS: Tensor, sigma_N: Tensor) -> Tensor:
    """Separable blur, one sigma a view (pixels); kernel a tenth of the side, made odd, and edges mirrored, as SimCLR's."""
    count, _, side, _ = x_N3SS.shape
    reach = max(1, round(0.1 * side) // 2)
    offset = torch.arange(-reach, reach + 1, device=x_N3SS.device, dtype=x_N3SS.dtype)
    weight = torch.softmax(-0.5 * (offset / sigma_N[:, None]) ** 2, dim=1).repeat_interleave(3, dim=0)
    x = F.pad(x_N3SS, (reach,) * 4, mode="reflect").reshape(1, count * 3, side + 2 * reach, side + 2 * reach)
    x = F.conv2d(x, weight[:, None, None, :], groups=count * 3)
    return F.conv2d(x, weight[:, None, :, None], groups=count * 3).view(count, 3, side, side)

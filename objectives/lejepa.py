"""LeJEPA (arXiv 2511.08544): views drawn together, and their distribution to an isotropic Gaussian. No negatives.

Shape suffixes: V = views, B = images of this rank, D = embedding, S = slices, T = knots.
"""

import torch
from torch import Tensor

from ..distributed.collectives import everyone, mean_weight, total
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.schedules import Moment
from ..methods.terms import LeJEPA
from . import noise
from .images import Images


def lejepa(
    term: LeJEPA, method: Method, outputs: Outputs, images: Images, moment: Moment
) -> tuple[Tensor, dict[str, Tensor]]:
    """weight * gaussianity + (1 - weight) * invariance, of the projector's output before it is normalised.

    invariance = mean over views, images and dimensions of (z - mean over views of z)^2. gaussianity: see `gaussianity`.
    """
    z_VBD, weight = outputs.projected_VBD, term.weight
    # not times 0: what does not count may hold no number
    z_VBD = torch.where(images.valid_B[:, None], z_VBD, 0)
    weight_B = mean_weight(images.valid_B, z_VBD.dtype)
    invariance = ((z_VBD - z_VBD.mean(dim=0)).square().mean(dim=(0, 2)) * weight_B).sum()
    slice_DS = slices(z_VBD.shape[2], term.slices, step=moment.step, like=z_VBD)
    apart = gaussianity(z_VBD, images.valid_B, slice_DS, knots=term.knots, farthest=term.farthest)
    return weight * apart + (1 - weight) * invariance, {"invariance": invariance, "gaussianity": apart}


def slices(dimension: int, count: int, *, step: int, like: Tensor) -> Tensor:
    """[D, S] random directions, others at each step, the same on every rank."""
    place_DS = torch.arange(dimension * count, device=like.device).view(dimension, count)
    direction_DS = noise.normal(step, place_DS).to(like.dtype)
    return direction_DS / direction_DS.norm(dim=0)


def gaussianity(z_VBD: Tensor, valid_B: Tensor, slice_DS: Tensor, *, knots: int, farthest: float) -> Tensor:
    """SIGReg: the statistic of Epps and Pulley of each view's slices, their mean; over the images of every rank.

    N times the integral over t in [-farthest, farthest] of |mean of e^(i t x) - e^(-t^2 / 2)|^2 e^(-t^2 / 2), by the
    trapezoid rule on `knots` points of its even half. 0 without any image.
    """
    count = total(valid_B.sum().to(z_VBD.dtype))
    t_T = torch.linspace(0, farthest, knots, device=z_VBD.device, dtype=z_VBD.dtype)
    target_T = (-t_T.square() / 2).exp()
    ends = (torch.arange(knots, device=z_VBD.device) % (knots - 1) == 0).to(z_VBD.dtype)
    weight_T = (2 - ends) * (farthest / (knots - 1)) * target_T
    angle_VBST = (z_VBD @ slice_DS).unsqueeze(-1) * t_T
    counted_B11 = valid_B[:, None, None]
    sums = [torch.where(counted_B11, of(angle_VBST), 0).sum(dim=1).flatten(1) for of in (torch.cos, torch.sin)]
    mean_VX = everyone(torch.stack(sums).flatten(0, 1)[:, None]).sum(dim=1) / count.clamp(min=1)
    cosine_VST, sine_VST = mean_VX.view(2, len(z_VBD), -1, knots)
    error_VST = (cosine_VST - target_T).square() + sine_VST.square()
    return count * (error_VST * weight_T).sum(dim=-1).mean()

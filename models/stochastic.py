"""Stochastic heads: features in, a sample of p(z | view) out, with the parameters of that distribution.

What SuperInfo (arXiv 2408.10292) uses is not known; these are its relatives' choices. Evaluation uses the mean.

Shape suffixes: B = images, F = features, K = knots of a table.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..methods.terms import BoundedGaussian, FixedGaussian, Head, VonMisesFisher
from . import noise


class Drawn(NamedTuple):
    """A sample and where it is from, in max(float32, dtype of the features)."""

    sample_BF: Tensor
    mean_BF: Tensor
    """Mean of a Gaussian; mean direction of a von Mises-Fisher distribution."""
    scale_BF: Tensor | None
    """Standard deviation of each dimension; None where one known concentration is all there is."""


def sampler(head: Head, dimension: int) -> nn.Module:
    """The module that draws around vectors of `dimension` numbers as `head` says; raises ValueError where it cannot."""
    match head:
        case FixedGaussian():
            return FixedGaussianSampler(head)
        case BoundedGaussian():
            return BoundedGaussianSampler(head, dimension)
        case VonMisesFisher():
            return VonMisesFisherSampler(head, dimension)


class FixedGaussianSampler(nn.Module):
    """z = h + sigma eps: InfoCL's choice (arXiv 2203.07004), sigma .1 on pooled features.

    A sigma that does not learn cannot be inflated to lower a KL (its appendix D).
    """

    def __init__(self, head: FixedGaussian) -> None:
        super().__init__()
        self.sigma = head.sigma

    def forward(self, feature_BF: Tensor, row_B: Tensor, *, seed: int, step: int, stream: int) -> Drawn:
        """Sample around the features [B, F]; `row_B` int64 are their images, on the same device (see `noise`)."""
        mean_BF = _widened(feature_BF)
        scale_BF = torch.full_like(mean_BF, self.sigma)
        if not self.training:
            return Drawn(mean_BF, mean_BF, scale_BF)
        return Drawn(mean_BF + self.sigma * _normal(mean_BF, row_B, seed, step, stream), mean_BF, scale_BF)


class BoundedGaussianSampler(nn.Module):
    """z = h + sigma(h) eps with low <= sigma <= high: sigma = low (high / low)^sigmoid(W h + b), dimension by dimension.

    Bounded, since a free sigma grows until samples are useless (arXiv 2203.07004, appendix D, of MIB's softplus). Starts
    at the geometric middle everywhere, as W and b are 0.
    """

    def __init__(self, head: BoundedGaussian, features: int) -> None:
        super().__init__()
        self.low, self.span = head.low, math.log(head.high) - math.log(head.low)
        self.place = nn.Linear(features, features)
        nn.init.zeros_(self.place.weight)
        nn.init.zeros_(self.place.bias)

    def forward(self, feature_BF: Tensor, row_B: Tensor, *, seed: int, step: int, stream: int) -> Drawn:
        """Sample around the features [B, F]; `row_B` int64 are their images, on the same device (see `noise`)."""
        mean_BF = _widened(feature_BF)
        with torch.autocast(mean_BF.device.type, enabled=False):
            scale_BF = self.low * torch.exp(self.span * torch.sigmoid(self.place(mean_BF)))
        if not self.training:
            return Drawn(mean_BF, mean_BF, scale_BF)
        return Drawn(mean_BF + scale_BF * _normal(mean_BF, row_B, seed, step, stream), mean_BF, scale_BF)


class VonMisesFisherSampler(nn.Module):
    """z on the unit sphere, density proportional to exp(kappa mu.z), mu the direction of the features; kappa is fixed.

    Compressed SimCLR's distribution (arXiv 2109.12909). No rejection, which on a GPU would have to wait: the angle to mu
    comes from a table of its quantiles, the direction around mu is uniform. Raises ValueError unless the dimension is at
    least 2 (a circle; dimension 1 is two points). A feature vector shorter than 1e-6, or longer than 1e19 in float32, has
    no direction: its mean is shorter than 1, and so is its sample.
    """

    angle_K: Tensor

    def __init__(self, head: VonMisesFisher, dimension: int) -> None:
        super().__init__()
        if dimension < 2:
            raise ValueError(f"a von Mises-Fisher head needs at least 2 dimensions, got {dimension}")
        self.dimension = dimension
        table_K = torch.from_numpy(angle_table(dimension, head.kappa)).float()
        self.register_buffer("angle_K", table_K, persistent=False)  # follows from the two settings

    def forward(self, feature_BF: Tensor, row_B: Tensor, *, seed: int, step: int, stream: int) -> Drawn:
        """Sample around the direction of the features [B, F]; `row_B` int64 are their images, on the same device."""
        mean_BF = F.normalize(_widened(feature_BF), dim=1, eps=1e-6)  # eps 1e-12 gives a zero vector a gradient of 1e12
        if mean_BF.shape[1] != self.dimension:
            raise ValueError(f"features have {mean_BF.shape[1]} dimensions, the head was built for {self.dimension}")
        if not self.training:
            return Drawn(mean_BF, mean_BF, None)
        with torch.no_grad():
            eps_BF = _normal(mean_BF, row_B, seed, step, stream, extra=1)
            angle_B, tangent_BF = quantile(self.angle_K, eps_BF[:, 0]), eps_BF[:, 1:]
            for _ in range(2):  # where little is left of a draw once is not enough: lengths off by 3e-4 in the plane
                tangent_BF = F.normalize(_without(mean_BF, tangent_BF), dim=1)
        return Drawn(turned(mean_BF, angle_B, tangent_BF), mean_BF, None)


def turned(mean_BF: Tensor, angle_B: Tensor, tangent_BF: Tensor) -> Tensor:
    """cos(angle) mu + sin(angle) t: unit `mean_BF` turned by `angle_B` radians towards the constant unit `tangent_BF`.

    t is made orthogonal to mu here, though it is so already, because that gives dz = cos dmu - sin (t.dmu) mu: z turns as
    mu does. A rotation carries vMF(mu) to vMF(mu + dmu) exactly, so the gradient is unbiased, and it is bounded; through
    the normalisation of t it would grow as 1 / length, without a variance in 3 dimensions.
    """
    return angle_B.cos()[:, None] * mean_BF + angle_B.sin()[:, None] * _without(mean_BF, tangent_BF)


def _without(mean_BF: Tensor, x_BF: Tensor) -> Tensor:
    """What of x is orthogonal to the unit mean."""
    return x_BF - (x_BF * mean_BF).sum(dim=1, keepdim=True) * mean_BF


KNOTS, REACH = 4096, 6.0  # knots of the table, and the standard score of the last; 1 draw in 5e8 lies further out


def angle_table(dimension: int, kappa: float) -> np.ndarray:
    """float64 [KNOTS]: quantiles of the angle in radians between a vMF sample and its mean, at ranks Phi(-6 .. 6).

    The angle's density is exp(kappa cos a) sin(a)^(d-2), which unlike that of w = cos a is bounded for d = 2, and keeps
    sqrt(1 - w^2) exact at any kappa. Knots lie evenly in standard score, not in rank: there the curve is almost straight
    to its ends. E w is within 2e-7 of A_d(kappa) for d 2 to 2,048 and kappa .01 to 1e5; 4,096 knots even in rank, from -1
    to 1, are off by 2e-4 at d 128, kappa 1,024.
    """
    low, high = 0.0, math.pi
    for _ in range(8):  # closes in on where the density is above e^-60 of its peak
        edge_K, log_density_K = _log_density(dimension, kappa, np.linspace(low, high, 2**12 + 1))
        within = np.flatnonzero(log_density_K > -60)
        low, high = edge_K[max(within[0] - 1, 0)], edge_K[min(within[-1] + 2, 2**12)]
    edge_K, log_density_K = _log_density(dimension, kappa, np.linspace(low, high, 2**16 + 1))
    mass_K = np.concatenate(([0.0], np.cumsum(np.exp(log_density_K))))
    rank_K = [math.erfc(-score / math.sqrt(2)) / 2 for score in np.linspace(-REACH, REACH, KNOTS)]
    return np.interp(rank_K, mass_K / mass_K[-1], edge_K)


def _log_density(dimension: int, kappa: float, edge_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of the cells, and the angle's log density in the middle of each, 0 at its peak."""
    middle_K = (edge_K[1:] + edge_K[:-1]) / 2
    log_density_K = kappa * np.cos(middle_K) + (dimension - 2) * np.log(np.sin(middle_K))
    return edge_K, log_density_K - log_density_K.max()


def quantile(table_K: Tensor, score_B: Tensor) -> Tensor:
    """The table's curve at standard scores, linear between knots: a standard normal becomes a draw of the table's law."""
    place_B = ((score_B + REACH) * ((KNOTS - 1) / (2 * REACH))).clamp(0, KNOTS - 1)
    left_B = place_B.long().clamp(max=KNOTS - 2)
    return torch.lerp(table_K[left_B].to(score_B.dtype), table_K[left_B + 1].to(score_B.dtype), place_B - left_B)


def _widened(feature_BF: Tensor) -> Tensor:
    """Features in the dtype to compute in: at 8 the steps of bf16 are .06, so noise of .1 would be lost."""
    return feature_BF.to(torch.promote_types(feature_BF.dtype, torch.float32))


def _normal(mean_BF: Tensor, row_B: Tensor, seed: int, step: int, stream: int, extra: int = 0) -> Tensor:
    """Standard normal [B, F + extra] for the images, in the mean's dtype."""
    if len(row_B) != len(mean_BF):
        raise ValueError(f"{len(mean_BF)} feature vectors need as many rows, got {len(row_B)}: draw view by view")
    return noise.normal(row_B, mean_BF.shape[1] + extra, seed=seed, step=step, stream=stream).to(mean_BF.dtype)

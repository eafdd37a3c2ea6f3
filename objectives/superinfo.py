"""SuperInfo's terms (arXiv 2408.10292): what z1 keeps of view v1 that view v2 cannot tell, I(v1; z1 | v2), three estimates.

    conditional-kl  gaussian_kl, vmf_kl      KL(p(z1|v1) || p(z2|v2)), as MIB does (arXiv 2002.07017)
    variational     rate less gaussian_nll   I(v1; z1) from above, I(v2; z1) from below
    ceb             ceb_residual             log e(z1|v1) - log b(z1|v2), as compressed SimCLR (arXiv 2109.12909)

SuperInfo's own equations could not be read: its objective I(z1; z2) - la I(v1; z1 | v2) - lb I(v2; z2 | v1) is known from a
summary, the three estimates are its relatives'. No coefficient here is the paper's.

One value per image, in nats and summed over dimensions; the caller divides by the dimension (Gaussian terms are weighted
per dimension in this house). In max(float32, input dtype), and finite for finite input: differences count as at most 1e12,
and as at most 1e10 standard deviations, standard deviations as 1e-12 or more. Beyond those limits the gradient is 0.

Shape suffixes: B = images, F = features, D = dimensions of a direction (a unit vector).
"""

import math

import torch
from torch import Tensor

from .directional import inverse_mean_resultant, log_normaliser, mean_resultant

FARTHEST, NARROWEST, MOST_SCALES = 1e12, 1e-12, 1e10  # their squares, cubes and sums of 1e9 of them fit into a float32


def gaussian_kl(mean1_BF: Tensor, scale1_BF: Tensor, mean2_BF: Tensor, scale2_BF: Tensor) -> Tensor:
    """KL(N(mean1, scale1^2) || N(mean2, scale2^2)) per image [B] of diagonal Gaussians, nats, summed over F.

    Scales are standard deviations and positive: [B, F], [B, 1], [1, F] or one number. Equal scales s make it
    ||mean1 - mean2||^2 / (2 s^2). Raises ValueError for means of different shapes and scales of another one.
    """
    mean1_BF, mean2_BF, scale1_BF, scale2_BF = _precise(mean1_BF, mean2_BF, scale1_BF, scale2_BF)
    _same_shape("means", mean1_BF, mean2_BF)
    for scale_BF in (scale1_BF, scale2_BF):
        fits = all(size in (1, full) for size, full in zip(scale_BF.shape, mean1_BF.shape, strict=False))
        if scale_BF.dim() not in (0, 2) or not fits:
            shapes = f"{list(scale_BF.shape)} for means {list(mean1_BF.shape)}"
            raise ValueError(f"a scale must be [B, F], [B, 1], [1, F] or one number, got {shapes}: reshape it")
    scale1_BF, scale2_BF = (scale_BF.clamp(NARROWEST, FARTHEST) for scale_BF in (scale1_BF, scale2_BF))
    shift_BF = (_difference(mean1_BF, mean2_BF) / scale2_BF).clamp(-MOST_SCALES, MOST_SCALES)
    ratio_BF = scale1_BF / scale2_BF
    square_BF = ratio_BF.clamp(max=MOST_SCALES).square() + shift_BF.square()
    return ((square_BF - 1) / 2 - ratio_BF.log()).sum(dim=1)


def rate(mean_BF: Tensor, scale_BF: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(0, I)) per image [B], nats, summed over F; see `gaussian_kl`.

    Its expectation bounds I(v; z) from above, by KL(p(z) || N(0, I)) too much (arXiv 1612.00410).
    """
    return gaussian_kl(mean_BF, scale_BF, torch.zeros_like(mean_BF), torch.ones_like(mean_BF))


def vmf_kl(mean1_BF: Tensor, mean2_BF: Tensor, kappa: float) -> Tensor:
    """KL of two von Mises-Fisher distributions of one concentration: kappa A_d(kappa) (1 - m1.m2), [B], nats.

    Means [B, D] are unit vectors. 1 - m1.m2 is computed as ||m1 - m2||^2 / 2: 0 for equal means and never negative, where
    one entry rounded to bf16 puts the dot product off by up to 4e-3, that is 4 nats at kappa 1024. Raises ValueError for
    means of different shapes, and for what `directional.mean_resultant` refuses.
    """
    mean1_BF, mean2_BF = _precise(mean1_BF, mean2_BF)
    _same_shape("means", mean1_BF, mean2_BF)
    resultant = mean_resultant(mean1_BF.shape[1], kappa)
    return _difference(mean1_BF, mean2_BF).square().sum(dim=1) * (kappa * resultant / 2)


def gaussian_nll(prediction: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """-log N(target; prediction, scale^2 I) without its constant: ||prediction - target||^2 / (2 scale^2), [B], nats.

    Both are [B, ...]; summed over all axes but the first. `scale` is a fixed number, since the constant left out,
    log(2 pi scale^2) / 2 for each dimension, is what keeps a learned one from growing. With it, the mean plus the target's
    entropy bounds I(target; z) from below. Raises ValueError for different shapes and a scale outside [1e-12, 1e12].
    """
    prediction, target = _precise(prediction, target)
    if prediction.shape != target.shape:
        shapes = f"{list(prediction.shape)} and {list(target.shape)}"
        raise ValueError(f"prediction and target must have one shape, got {shapes}: resize the target")
    if not NARROWEST <= scale <= FARTHEST:
        raise ValueError(f"a scale must lie in [{NARROWEST:g}, {FARTHEST:g}], got {scale}: give a standard deviation")
    apart = (_difference(prediction, target) / scale).clamp(-MOST_SCALES, MOST_SCALES)
    return apart.flatten(1).square().sum(dim=1) / 2


def ceb_residual(sample1_BD: Tensor, mean1_BD: Tensor, mean2_BD: Tensor, kappa_e: float, kappa_b: float) -> Tensor:
    """log e(z1|v1) - log b(z1|v2) per image [B], nats: one direction, one sample of I(v1; z1 | v2)'s bound.

    e(.|v1) = vMF(mean1, kappa_e) is where `sample1_BD` comes from, b(.|v2) = vMF(mean2, kappa_b); all three are unit vectors
    [B, D], normalised in float32. Its mean starts at a floor, not at 0, unless the kappas are equal: 127.76 nats at d 128
    and kappas 1024, 10. Raises ValueError for different shapes, and for what `directional.log_normaliser` refuses.
    """
    sample1_BD, mean1_BD, mean2_BD = _precise(sample1_BD, mean1_BD, mean2_BD)
    _same_shape("sample and means", sample1_BD, mean1_BD, mean2_BD)
    constant = _log_normalisers(mean1_BD.shape[1], kappa_e, kappa_b)
    return _dot(sample1_BD, mean1_BD) * kappa_e - _dot(sample1_BD, mean2_BD) * kappa_b + constant


def ceb_expected(mean1_BD: Tensor, mean2_BD: Tensor, kappa_e: float, kappa_b: float) -> Tensor:
    """The mean of `ceb_residual` over z1 ~ vMF(mean1, kappa_e): KL(e || b) per image [B], nats; the same errors.

    kappa_e A - kappa_b A m1.m2 + log C_d(kappa_e) - log C_d(kappa_b), A = A_d(kappa_e).
    """
    mean1_BD, mean2_BD = _precise(mean1_BD, mean2_BD)
    _same_shape("means", mean1_BD, mean2_BD)
    resultant = mean_resultant(mean1_BD.shape[1], kappa_e)
    constant = _log_normalisers(mean1_BD.shape[1], kappa_e, kappa_b) + kappa_e * resultant
    return _dot(mean1_BD, mean2_BD) * (-kappa_b * resultant) + constant


def tightest_kappa_b(dimension: int, kappa_e: float, mean_cosine: float) -> float:
    """The kappa_b of the lowest mean residual, given the mean of m1.m2 over images: A_d(kappa_b) = A_d(kappa_e) mean_cosine.

    0, a uniform b, where the mean cosine is negative. Host side. Raises ValueError for a cosine outside [-1, 1] and as
    `directional.mean_resultant`.
    """
    if not -1 <= mean_cosine <= 1:
        raise ValueError(f"a mean cosine must lie in [-1, 1], got {mean_cosine}: clip what rounding left outside")
    if mean_cosine == 1:  # not by way of A, whose inverse loses 1 digit for each factor 10 of kappa / d
        return kappa_e
    return inverse_mean_resultant(dimension, mean_resultant(dimension, kappa_e) * max(0.0, mean_cosine))


def tightest_residual(dimension: int, kappa_e: float, mean_cosine: float) -> float:
    """The mean residual at that kappa_b, nats: the tightest of these bounds on I(v1; z1 | v2). Host side; same errors."""
    kappa_b = tightest_kappa_b(dimension, kappa_e, mean_cosine)
    resultant = mean_resultant(dimension, kappa_e)
    return (kappa_e - kappa_b * mean_cosine) * resultant + _log_normalisers(dimension, kappa_e, kappa_b)


def squared_error(mean1_BF: Tensor, mean2_BF: Tensor) -> Tensor:
    """Mean over dimensions of (mean1 - mean2)^2, [B], in squared units of the features; ValueError for different shapes.

    The inverse-predictive penalty of arXiv 2006.05576: unlike a KL it is lowered by shrinking the features.
    """
    mean1_BF, mean2_BF = _precise(mean1_BF, mean2_BF)
    _same_shape("means", mean1_BF, mean2_BF)
    return _difference(mean1_BF, mean2_BF).square().mean(dim=1)


def relative_distance(mean1: Tensor, mean2: Tensor) -> Tensor:
    """||h1 - h2||^2 / ((||h1||^2 + ||h2||^2) / 2) per image [B], from 0 to 4; ValueError for different shapes.

    2 for orthogonal features. Shrinking both features does not lower it. 0 where both are zero; features below 1e-30 count
    as close to it.
    """
    mean1, mean2 = _precise(mean1, mean2)
    _same_shape("means", mean1, mean2)
    # the value does not depend on the unit of length, nor does the gradient, so the largest entry may be that unit
    largest = torch.maximum(mean1.detach().abs().amax(dim=1), mean2.detach().abs().amax(dim=1)).clamp(min=1e-30)[:, None]
    unit1, unit2 = mean1 / largest, mean2 / largest
    length = (unit1.square().sum(dim=1) + unit2.square().sum(dim=1)) / 2
    return (unit1 - unit2).square().sum(dim=1) / length.clamp(min=0.5)  # one entry is 1, so only zeros are below


def mse_weight(per_direction_sum: float, dimension: int, sigma: float) -> float:
    """The weight on `squared_error` that equals la + lb on the two summed `gaussian_kl` at one fixed sigma.

    w = (la + lb) d / (2 sigma^2): 5e-4 at d 512, sigma .1 is la = lb = 9.77e-9. Per-dimension weights are d times those on
    sums, so they give w / d here. Raises ValueError unless dimension and sigma are above 0.
    """
    return per_direction_sum * _mse_per_kl(dimension, sigma)


def kl_weight(weight: float, dimension: int, sigma: float) -> float:
    """The inverse of `mse_weight`: la + lb, on summed KLs, of a weight on the mean squared error."""
    return weight / _mse_per_kl(dimension, sigma)


def _mse_per_kl(dimension: int, sigma: float) -> float:
    if dimension < 1 or not 0 < sigma < math.inf:
        raise ValueError(f"dimension must be 1 or more and sigma finite and above 0, got {dimension} and {sigma}")
    return dimension / (2 * sigma**2)


def _log_normalisers(dimension: int, kappa_e: float, kappa_b: float) -> float:
    return log_normaliser(dimension, kappa_e) - log_normaliser(dimension, kappa_b)


def _precise(*tensors: Tensor) -> list[Tensor]:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def _same_shape(what: str, *tensors: Tensor) -> None:
    if any(tensor.shape != tensors[0].shape for tensor in tensors) or tensors[0].dim() != 2:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise ValueError(f"{what} must have one shape, a row for each image, got {shapes}: flatten the rest")


def _difference(one: Tensor, two: Tensor) -> Tensor:
    return (one - two).clamp(-FARTHEST, FARTHEST)


def _dot(one_BD: Tensor, two_BD: Tensor) -> Tensor:
    # not a matmul, which autocast would compute in bf16
    return (one_BD.clamp(-FARTHEST, FARTHEST) * two_BD.clamp(-FARTHEST, FARTHEST)).sum(dim=1)

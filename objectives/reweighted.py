"""Contrasts that weigh their terms: no longer bounds on information. Critic values in, a loss per anchor out.

Critic values are cosine / temperature. All is computed in max(float32, input dtype), in logarithms; an anchor without any
negative has loss 0 and gets no gradient.

Shape suffixes: B = anchors, K = negatives of an anchor, X = anchors in any shape.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .bounds import info_nce

LOG_2 = math.log(2)


def decoupled(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor, *, weight_B: Tensor | None = None) -> Tensor:
    """[B] log sum_k e^s_k - w s+ : InfoNCE without the positive in the denominator (arXiv 2110.06848).

    `weight_B` (1 where None) is DCLW's; see `positive_weight`. The loss may be negative.
    """
    numerator_B = positive_B
    if weight_B is not None:  # in half precision the product would round to 11 bits
        numerator_B = weight_B * positive_B.to(torch.promote_types(positive_B.dtype, torch.float32))
    return info_nce(positive_B, negative_BK, keep_BK, numerator_B=numerator_B, positive_in_denominator=False).loss_B


@torch.no_grad()
def positive_weight(cosine_X: Tensor, *, sigma: float = 0.5, valid_X: Tensor | None = None) -> Tensor:
    """DCLW's weights, of the shape of `cosine_X`: w = 2 - B softmax(cos / sigma), without gradient (arXiv 2110.06848).

    `cosine_X` has the cosine, not the critic value, of every anchor of the global batch with its positive: the softmax is
    over all of it, so the mean weight is 1. Anchors that are not `valid_X` take no part; their own weight is 2.

    Raises:
        ValueError: `sigma` is not above 0.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0, got {sigma}; the paper takes .5")
    cosine_X = cosine_X.to(torch.promote_types(cosine_X.dtype, torch.float32))
    if valid_X is None:
        valid_X = torch.ones_like(cosine_X, dtype=torch.bool)
    masked_X = (cosine_X / sigma).masked_fill(~valid_X, torch.finfo(cosine_X.dtype).min)
    return 2 - valid_X.sum() * masked_X.flatten().softmax(dim=0).view_as(cosine_X)


def hardness_weighted(
    positive_B: Tensor,
    negative_BK: Tensor,
    keep_BK: Tensor,
    *,
    temperature: float,
    positive_share: float,
    concentration: float = 0.0,
) -> Tensor:
    """[B] -log e^s+ / (e^s+ + G): negatives corrected for false ones among them, and weighted by their hardness.

    G = max((R - N t e^s+) / (1 - t), N e^(-1 / temperature)), t = `positive_share`, N = kept negatives of the anchor,
    R = N sum_k e^((1 + b) s_k) / sum_k e^(b s_k), b = `concentration`. b = 0 is the debiased contrast (arXiv 2007.00224):
    R = sum_k e^s_k; b > 0 weighs negatives by e^(b s), the nearest most (arXiv 2010.04592). Gradient flows through the
    weights, as in the authors' code; at the floor negatives get none. t = 0 and b = 0 is InfoNCE: where t = 0 nothing
    is subtracted, so no floor is applied, which only critic values below -1 / temperature could tell.

    Raises:
        ValueError: `temperature` not above 0, `positive_share` outside [0, 1) or `concentration` below 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if not 0 <= positive_share < 1:
        raise ValueError(f"positive_share must lie in [0, 1), got {positive_share}; 0 corrects nothing")
    if concentration < 0:
        raise ValueError(f"concentration must be 0 or more, got {concentration}; 0 weighs negatives alike")
    dtype = torch.promote_types(positive_B.dtype, torch.float32)
    positive_B, negative_BK = positive_B.to(dtype), negative_BK.to(dtype)
    negatives_B = keep_BK.sum(dim=1)
    log_negatives_B = negatives_B.clamp(min=1).to(dtype).log()
    log_sum_B = _masked_logsumexp(negative_BK * (1 + concentration), keep_BK)
    if concentration > 0:
        log_sum_B = log_sum_B - _masked_logsumexp(negative_BK * concentration, keep_BK) + log_negatives_B
    if positive_share > 0:
        log_false_B = log_negatives_B + math.log(positive_share) + positive_B
        log_floor_B = log_negatives_B - 1 / temperature
        log_sum_B = _log_difference(log_sum_B, log_false_B, log_floor_B + math.log1p(-positive_share))
        log_sum_B = log_sum_B - math.log1p(-positive_share)
    some_B = negatives_B > 0
    # twice, as a sum over no column at all is log 0, and its gradient NaN
    return torch.where(some_B, -F.logsigmoid(positive_B - torch.where(some_B, log_sum_B, 0)), 0)


def _masked_logsumexp(value_BK: Tensor, keep_BK: Tensor) -> Tensor:
    return torch.logsumexp(value_BK.masked_fill(~keep_BK, torch.finfo(value_BK.dtype).min), dim=1)


def _log_difference(a: Tensor, b: Tensor, floor: Tensor) -> Tensor:
    """log max(e^a - e^b, e^floor); where the floor holds neither `a` nor `b` gets a gradient."""
    gap = b - a
    positive = gap < 0
    near, far = positive & (gap > -LOG_2), gap <= -LOG_2
    # the branch not taken gets a gradient of 0, and 0 / 0 is NaN: so each sees only what it can take
    log_near = (-torch.expm1(torch.where(near, gap, -1))).log()
    log_far = torch.log1p(-torch.where(far, gap, -1).exp())
    difference = torch.where(positive, a + torch.where(near, log_near, log_far), floor)
    return torch.where(difference > floor, difference, floor)

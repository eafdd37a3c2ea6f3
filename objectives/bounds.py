"""Bounds on mutual information and what is built like them: critic values in, a loss per anchor out.

Critic values are similarity / temperature. All is in max(float32, input dtype) and logarithms, so finite at any temperature.

Shape suffixes: B = anchors, K = negatives of an anchor, P = neighbours of an anchor.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# log Z / N of a bank of N rows. The code of local aggregation (arXiv 1903.12355) writes Z = 2,876,934.2 for ImageNet's
# 1,281,167 images, and that ratio for others; E e^(cos / .07) of random directions in 128 dimensions is 2 % less.
LOG_PARTITION_PER_ROW = math.log(2_876_934.2 / 1_281_167)


class Bound(NamedTuple):
    """What a bound says of each anchor."""

    loss_B: Tensor
    log_terms_B: Tensor
    """InfoNCE: log K, K counting the terms of the denominator. NCE: log K, K counting the negatives."""

    @property
    def value_B(self) -> Tensor:
        """What it says of the information, in nats; it cannot exceed `log_terms_B` where the loss cannot fall below 0."""
        return self.log_terms_B - self.loss_B


def info_nce(
    positive_B: Tensor,
    negative_BK: Tensor,
    keep_BK: Tensor,
    *,
    numerator_B: Tensor | None = None,
    positive_in_denominator: bool = True,
) -> Bound:
    """InfoNCE per anchor: loss = log(e^s+ + sum_k e^s_k) - s+; `keep_BK` says which negatives take part.

    With negatives from everywhere it bounds I(X; Y) from below (arXiv 1807.03748, eq. 4 and 5), with negatives from a ball
    too, from a ring on a condition (arXiv 2005.13149, 2010.02037): see `diagnostics`.

    Args:
        numerator_B: stands for s+ outside the logarithm; see `numerator`, which also says when a bound remains.
        positive_in_denominator: False leaves e^s+ out of the sum and of the count, and then this is NO bound: its mean is
            .9219 in a toy whose information is .5497. The loss may be negative; of an anchor without any negative it is 0 by
            definition, without gradient.
    """
    dtype = torch.promote_types(positive_B.dtype, torch.float32)
    positive_B, negative_BK = positive_B.to(dtype), negative_BK.to(dtype)
    numerator_B = positive_B if numerator_B is None else numerator_B.to(dtype)
    negatives_B = keep_BK.sum(dim=1)
    # the lowest finite number, not -inf: its exponential is 0 just so, and 0 * -inf in a gradient would be NaN
    negative_BK = negative_BK.masked_fill(~keep_BK, torch.finfo(dtype).min)
    if positive_in_denominator:
        loss_B = torch.logsumexp(torch.cat((positive_B[:, None], negative_BK), dim=1), dim=1) - numerator_B
        return Bound(loss_B, (negatives_B + 1).to(dtype).log())
    loss_B = torch.where(negatives_B > 0, torch.logsumexp(negative_BK, dim=1) - numerator_B, 0)
    return Bound(loss_B, negatives_B.clamp(min=1).to(dtype).log())


def log_negatives(negative_BK: Tensor, keep_BK: Tensor) -> Tensor:
    """[B] log sum over the kept negatives of e^s; the lowest number where an anchor has none.

    What the several positives of an anchor have in common: see `info_nce_beside`.
    """
    dtype = torch.promote_types(negative_BK.dtype, torch.float32)
    return torch.logsumexp(negative_BK.to(dtype).masked_fill(~keep_BK, torch.finfo(dtype).min), dim=1)


def info_nce_beside(log_negatives_B: Tensor, positive_B: Tensor, any_B: Tensor, *, positive_in_denominator: bool) -> Tensor:
    """[B] the loss of `info_nce` for one of an anchor's positives, from what all of them have in common.

    `any_B` says which anchors have a negative. The same to rounding as `info_nce`, and without a matrix of its own: of V
    views each has V - 1 positives.
    """
    positive_B = positive_B.to(log_negatives_B.dtype)
    if positive_in_denominator:
        return torch.logaddexp(positive_B, log_negatives_B) - positive_B
    return torch.where(any_B, log_negatives_B - positive_B, 0)


def numerator(
    kind: Literal["own", "mean", "logsumexp"], positive_B: Tensor, neighbour_BP: Tensor, keep_BP: Tensor
) -> Tensor:
    """[B] what stands for s+ where neighbours are positives beside the anchor's own: {own} and the kept of `neighbour_BP`.

    "mean" averages bounds, one for each positive, and so is one where every positive is in the denominator too. "logsumexp"
    gives local aggregation's -log(sum over positives / sum over all) (arXiv 1903.12355): larger than the mean by log of
    their number or more, so no bound; with positives outside the denominator the loss may fall below 0. The own row always
    counts: the original's anchor without positives, loss -log(1e-7) and no gradient, does not arise. "own" is `positive_B`.

    Raises:
        ValueError: another kind.
    """
    dtype = torch.promote_types(positive_B.dtype, torch.float32)
    positive_B, neighbour_BP = positive_B.to(dtype), neighbour_BP.to(dtype)
    match kind:
        case "own":
            return positive_B
        case "mean":
            return (positive_B + neighbour_BP.masked_fill(~keep_BP, 0).sum(dim=1)) / (keep_BP.sum(dim=1) + 1)
        case "logsumexp":
            neighbour_BP = neighbour_BP.masked_fill(~keep_BP, torch.finfo(dtype).min)
            return torch.logsumexp(torch.cat((positive_B[:, None], neighbour_BP), dim=1), dim=1)
    raise ValueError(f"the numerator's kind is {kind!r}: take own, mean or logsumexp")


def nce(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor, *, rows: int, log_partition: Tensor) -> Bound:
    """Binary NCE per anchor: -log h(s+) - sum_k log(1 - h(s_k)), h = P / (P + K / N), P = e^s / Z (arXiv 1805.01978, eq. 7).

    K is the number of negatives of that anchor; log K - loss is the bound that arXiv 1906.05849 reads from it. An anchor
    without negatives has loss 0 (h is 1) and gets no gradient.

    Args:
        rows: N, of the bank that noise is drawn from.
        log_partition: 0-dimensional, log Z: of `log_partition`, `moving_log_partition` or `log_fixed_partition`.

    Raises:
        ValueError: `rows` is below 1.
    """
    dtype = torch.promote_types(positive_B.dtype, torch.float32)
    negatives_B = keep_BK.sum(dim=1)
    log_noise_B = negatives_B.clamp(min=1).to(dtype).log()
    # h = sigmoid(s - shift); logsigmoid and not softplus, which beyond 20 returns its argument: 2e-9 off
    shift_B = log_partition.to(dtype) + log_noise_B - _log_rows(rows)
    negative_BK = negative_BK.to(dtype).masked_fill(~keep_BK, torch.finfo(dtype).min) - shift_B[:, None]
    loss_B = -F.logsigmoid(positive_B.to(dtype) - shift_B) - F.logsigmoid(-negative_BK).sum(dim=1)
    return Bound(torch.where(negatives_B > 0, loss_B, 0), log_noise_B)


@torch.no_grad()
def log_partition(negative_BK: Tensor, keep_BK: Tensor, *, rows: int) -> Tensor:
    """0-dimensional log Z, Z = N * mean of e^s over all kept pairs, without gradient (arXiv 1805.01978, section 3.2).

    Frozen after the first batch it is what the authors' code does; it misleads where the first rows are not random noise
    (CMC's issue 23), hence `moving_log_partition`. With nothing kept it is log N, as of critic values of 0.

    Raises:
        ValueError: `rows` is below 1.
    """
    dtype = torch.promote_types(negative_BK.dtype, torch.float32)
    kept = keep_BK.sum()
    masked_BK = negative_BK.to(dtype).masked_fill(~keep_BK, torch.finfo(dtype).min)
    log_mean = torch.logsumexp(masked_BK.flatten(), dim=0) - kept.clamp(min=1).to(dtype).log()
    return torch.where(kept > 0, log_mean, 0) + _log_rows(rows)


def moving_log_partition(old: Tensor, new: Tensor, *, decay: float) -> Tensor:
    """Log of decay * Z_old + (1 - decay) * Z_new, from the logarithms; raises ValueError unless 0 < decay < 1."""
    if not 0 < decay < 1:
        raise ValueError(f"the partition's decay must lie between 0 and 1, got {decay}; .99 is usual")
    return torch.logaddexp(old + math.log(decay), new + math.log1p(-decay))


def log_fixed_partition(rows: int) -> float:
    """The log Z of `LOG_PARTITION_PER_ROW` for a bank of `rows`; raises ValueError where `rows` is below 1."""
    return _log_rows(rows) + LOG_PARTITION_PER_ROW


def _log_rows(rows: int) -> float:
    if rows < 1:
        raise ValueError(f"NCE needs a bank of at least 1 row, got {rows}")
    return math.log(rows)

"""Whether a logged value is the bound it is called: Lemma B of the ring, checked per anchor.

A ring cut by rank can exceed the mutual information itself. InfoNCE over a region stays a bound where every chosen critic
value is at least the mean of all: e^s >= c = mean over the bank of e^s (arXiv 2010.02037, theorem 3.1). A weaker condition
suffices: the denominator as a whole is at least what K terms of size c would give.

Shape suffixes: B = anchors, M = rows on offer, K = negatives.
"""

import math

import torch
from torch import Tensor

from .bounds import Bound
from .regions import Selected


@torch.no_grad()
def ring_conditions(
    positive_B: Tensor, critic_BM: Tensor, allowed_BM: Tensor, selected: Selected, bound: Bound, *, bank_rows: int
) -> dict[str, Tensor]:
    """Per anchor, 1.0 where the strict and where the weak condition holds.

    The bank's mean is taken with the own row in it, from M candidates of `bank_rows`:
    log c = logaddexp(s_i, log(N - 1) + logsumexp_M - log M) - log N.
    """
    lowest = torch.finfo(critic_BM.dtype).min
    log_offered_B = allowed_BM.sum(dim=1).clamp(min=1).log()
    log_mean_B = torch.logsumexp(critic_BM.masked_fill(~allowed_BM, lowest), dim=1) - log_offered_B
    log_c_B = torch.logaddexp(positive_B, math.log(max(1, bank_rows - 1)) + log_mean_B) - math.log(bank_rows)
    nearest_BK = selected.negative_BK.masked_fill(~selected.keep_BK, torch.finfo(critic_BM.dtype).max)
    strict_B = nearest_BK.amin(dim=1) >= log_c_B
    negatives_B = selected.keep_BK.sum(dim=1).clamp(min=1)
    weak_B = bound.loss_B + positive_B >= torch.logaddexp(positive_B, negatives_B.log() + log_c_B)
    return {"bound_valid_strict": strict_B.float(), "bound_valid": weak_B.float()}

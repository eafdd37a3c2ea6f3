"""Lower bounds on mutual information: critic values in, a loss per anchor out.

Shape suffixes: B = anchors, K = negatives of an anchor.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """What a bound says of each anchor. Its value in nats is `log_terms_B - loss_B`; it cannot exceed `log_terms_B`."""

    loss_B: Tensor
    log_terms_B: Tensor
    """log K, K counting the positive and the negatives that took part."""


def info_nce(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor) -> Bound:
    """InfoNCE per anchor of critic values (similarity / temperature); `keep_BK` says which negatives take part.

    loss = log(e^s+ + sum_k e^s_k) - s+: the positive stands in the denominator, without which this is no bound
    (arXiv 2005.13149; the value exceeds the true information in a toy case). Computed in max(float32, input dtype) by
    log-sum-exp, so it is finite at any temperature. With negatives from everywhere it bounds I(X; Y) from below
    (arXiv 1807.03748, eq. 4 and 5), with negatives from a ball too, from a ring on a condition: see `diagnostics`.
    """
    dtype = torch.promote_types(positive_B.dtype, torch.float32)
    positive_B, negative_BK = positive_B.to(dtype), negative_BK.to(dtype)
    # the lowest finite number, not -inf: its exponential is 0 just so, and 0 * -inf in a gradient would be NaN
    negative_BK = negative_BK.masked_fill(~keep_BK, torch.finfo(dtype).min)
    loss_B = torch.logsumexp(torch.cat((positive_B[:, None], negative_BK), dim=1), dim=1) - positive_B
    return Bound(loss_B, (keep_BK.sum(dim=1) + 1).to(dtype).log())

"""What a run says of its embeddings and of its bound. Computed where it is logged, never in the steps between.

A ring cut by rank can exceed the mutual information itself. InfoNCE over a region stays a bound where every chosen critic
value is at least the mean of all: e^s >= c = mean over the bank of e^s (arXiv 2010.02037). A weaker condition
suffices: the denominator as a whole is at least what K terms of size c would give.

Shape suffixes: B = anchors, M = rows on offer, K = negatives, N = embeddings, D = embedding.
"""

import math

import torch
from torch import Tensor

from .bounds import Bound, info_nce
from .memory import Memory
from .method import Method
from .outputs import Images
from .parts import Everything, Nearest, Neighbours, Ring
from .regions import Offered, Selected
from .schedules import Moment

SAMPLE = 16_384  # rows on offer that the mean of e^s is taken over
BINS = 40  # of the histogram of cosines, from -1 to 1


@torch.no_grad()
def of_anchors(
    method: Method,
    positive_B: Tensor,
    negative: Selected,
    anchor_BD: Tensor,
    offered: Offered,
    memory: Memory,
    images: Images,
    moment: Moment,
) -> dict[str, Tensor]:
    """Per anchor, [B] or [B, BINS]: the bound and whether it is one, what the region holds, how old its rows are.

    The bound is InfoNCE's of the critic and of the negatives that were selected, whatever loss is made of them.
    """
    bound = info_nce(positive_B, negative.value_NK, negative.keep_NK)
    facts = {"bound": bound.value_B, "ceiling": bound.log_terms_B}
    facts["alignment"] = 2 - 2 * method.bound.temperature * positive_B  # squared distance to the positive (arXiv 2005.10242)
    facts |= validity(method, positive_B, negative, anchor_BD, offered, images, bound, memory)
    cosine_BK = negative.value_NK * method.bound.temperature
    facts |= spread_of(cosine_BK, negative.keep_NK)
    row_BK = offered.row_M[negative.index_NK]
    counted_BK = negative.keep_NK & (row_BK >= 0)
    known_BK = row_BK.clamp(min=0)
    count_B = counted_BK.sum(dim=1).clamp(min=1)
    if images.label_N is not None:
        own_B = images.label_N[images.row_B]
        alike_BK = (images.label_N[known_BK] == own_B[:, None]) & (own_B >= 0)[:, None] & counted_BK
        facts["false_negatives"] = alike_BK.sum(dim=1) / count_B
    if "bank_step" in memory:
        written_BK = memory["bank_step"][known_BK]
        known_BK = counted_BK & (written_BK >= 0)
        age_BK = (moment.step - written_BK).masked_fill(~known_BK, 0)
        facts["bank_age"] = age_BK.sum(dim=1) / known_BK.sum(dim=1).clamp(min=1)
    return facts


def validity(
    method: Method,
    positive_B: Tensor,
    negative: Selected,
    anchor_BD: Tensor,
    offered: Offered,
    images: Images,
    bound: Bound,
    memory: Memory,
) -> dict[str, Tensor]:
    """Per anchor, 1.0 where the strict and where the weak condition holds; everything and a ball are bounds for any
    critic (to .02 nats where both views of an image are negatives: docs/methods/rings.md).
    """
    if _from_a_ball(method):
        return {"bound_valid": torch.ones_like(bound.loss_B)}
    every = -(-len(offered.key_MD) // SAMPLE)
    valid_M = None if offered.valid_M is None else offered.valid_M[::every]
    some = Offered(offered.key_MD[::every], offered.row_M[::every], valid_M)
    critic_BM = anchor_BD @ some.key_MD.T / method.bound.temperature
    allowed_BM = some.row_M[None] != images.row_B[:, None]
    if some.valid_M is not None:
        allowed_BM &= some.valid_M[None]
    rows = len(memory["bank_step"]) if "bank_step" in memory else len(offered.key_MD)
    return conditions(positive_B, critic_BM, allowed_BM, negative, bound, rows=rows)


def _from_a_ball(method: Method) -> bool:
    """Whether no row that is nearer than a negative is left out."""
    if isinstance(method.region, Ring):
        neighbours = isinstance(method.positives, Neighbours) and method.positives.among_negatives
        return method.region.inner == 0 or neighbours
    return isinstance(method.region, Everything | Nearest)


@torch.no_grad()
def conditions(
    positive_B: Tensor, critic_BM: Tensor, allowed_BM: Tensor, negative: Selected, bound: Bound, *, rows: int
) -> dict[str, Tensor]:
    """The two conditions, from a sample of the critic's values over `rows` rows.

    Their mean is taken with the own row in it: log c = logaddexp(s_i, log(N - 1) + logsumexp_M - log M) - log N.
    """
    dtype = bound.loss_B.dtype
    lowest = torch.finfo(critic_BM.dtype).min
    log_offered_B = allowed_BM.sum(dim=1).clamp(min=1).to(dtype).log()
    log_mean_B = torch.logsumexp(critic_BM.masked_fill(~allowed_BM, lowest), dim=1) - log_offered_B
    log_c_B = torch.logaddexp(positive_B, math.log(max(1, rows - 1)) + log_mean_B) - math.log(rows)
    nearest_BK = negative.value_NK.masked_fill(~negative.keep_NK, torch.finfo(negative.value_NK.dtype).max)
    strict_B = nearest_BK.amin(dim=1) >= log_c_B
    negatives_B = negative.keep_NK.sum(dim=1)
    weak_B = bound.loss_B + positive_B >= torch.logaddexp(positive_B, negatives_B.clamp(min=1).to(dtype).log() + log_c_B)
    weak_B |= negatives_B == 0  # its value is 0
    return {"bound_valid_strict": strict_B.to(dtype), "bound_valid": weak_B.to(dtype)}


def spread_of(cosine_BK: Tensor, keep_BK: Tensor) -> dict[str, Tensor]:
    """Cosine of the nearest and of the farthest negative of each anchor, and the histogram of all of them over [-1, 1]."""
    weight_BK = keep_BK.to(cosine_BK.dtype)
    bin_BK = ((cosine_BK.nan_to_num(0).clamp(-1, 1) + 1) * (BINS / 2)).long().clamp(max=BINS - 1)
    histogram_BX = cosine_BK.new_zeros(len(cosine_BK), BINS).scatter_add_(1, bin_BK, weight_BK)
    any_B = keep_BK.any(dim=1)
    return {
        "nearest_negative": torch.where(any_B, cosine_BK.masked_fill(~keep_BK, -1).amax(dim=1), 0),
        "farthest_negative": torch.where(any_B, cosine_BK.masked_fill(~keep_BK, 1).amin(dim=1), 0),
        "negative_histogram": histogram_BX / weight_BK.sum(dim=1, keepdim=True).clamp(min=1),
    }


@torch.no_grad()
def of_embeddings(embedding_ND: Tensor, valid_N: Tensor) -> dict[str, Tensor]:
    """Of unit embeddings: uniformity (arXiv 2005.10242), effective rank (RankMe, arXiv 2210.02885), spread.

    uniformity = log mean over pairs of exp(-2 |x - y|^2), 0 where all are one point, -3.94 where they fill a sphere of 128
    dimensions; effective_rank = exp(entropy of the singular values), at most min(N, D); spread = standard deviation
    of a coordinate times sqrt(D), 1 where they fill the sphere and 0 where all are one point.
    """
    weight_N = valid_N.to(embedding_ND.dtype)
    count = weight_N.sum().clamp(min=1)
    x_ND = embedding_ND.nan_to_num(0) * weight_N[:, None]  # what is not finite shows in the loss; svdvals would raise
    squared_NN = (2 - 2 * x_ND @ x_ND.T).clamp(min=0)
    pair_NN = weight_N[:, None] * weight_N[None]
    pair_NN = pair_NN - torch.diag(pair_NN.diagonal())
    mean = ((-2 * squared_NN).exp() * pair_NN).sum() / pair_NN.sum().clamp(min=1)
    singular_D = torch.linalg.svdvals(x_ND)
    share_D = singular_D / singular_D.sum().clamp(min=torch.finfo(x_ND.dtype).tiny) + 1e-7
    centre_D = x_ND.sum(dim=0) / count
    variance_D = ((x_ND - centre_D).square() * weight_N[:, None]).sum(dim=0) / count
    return {
        "uniformity": mean.clamp(min=torch.finfo(mean.dtype).tiny).log(),
        "effective_rank": torch.exp(-(share_D * share_D.log()).sum()),
        "spread": variance_D.sum().sqrt(),
    }

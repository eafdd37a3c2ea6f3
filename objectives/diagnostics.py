"""What a run says of its embeddings and of its bound. Computed where it is logged, never in the steps between.

A ring cut by rank can exceed the mutual information itself. InfoNCE over a region stays a bound where every chosen critic
value is at least the mean of all: e^s >= c = mean over the bank of e^s (arXiv 2010.02037). A weaker condition
suffices: the denominator as a whole is at least what K terms of size c would give.

Shape suffixes: B = anchors, M = rows on offer, K = negatives, N = embeddings, D = embedding.
"""

import torch
from torch import Tensor

from ..methods.method import Method
from ..methods.parts import Everything, Nearest, Neighbours, Queue, Ring
from ..methods.schedules import Moment
from .bounds import Bound, info_nce
from .images import Images
from .memory import NEVER, Memory
from .regions import Offered, Selected

SAMPLE = 16_384  # rows on offer that the mean of e^s is taken over
FEW = 2_048  # of which it is counted how many are nearer than the positive
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

    The bound is InfoNCE's of the critic and of the negatives that were selected, whatever loss is made of them. It counts
    images: of a queue's several keys of one image the mean is one negative.
    """
    copies_M = _copies(offered.row_M) if isinstance(method.memory, Queue) else None
    bound = _bound(positive_B, negative, copies_M)
    facts = {"bound": bound.value_B, "ceiling": bound.log_terms_B}
    facts["alignment"] = 2 - 2 * method.bound.temperature * positive_B  # squared distance to the positive (arXiv 2005.10242)
    rows = _images_there(offered, memory, copies_M)
    facts |= validity(method, positive_B, negative, anchor_BD, offered, images, bound, copies_M, rows)
    facts["nearer"] = nearer(method, positive_B, anchor_BD, offered, images)
    if "bank_step" in memory:  # what an anchor is drawn to before its row is written is a random direction
        facts["bound_valid"] = facts["bound_valid"] * (memory["bank_step"][images.row_B] != NEVER)
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


def _copies(row_M: Tensor) -> Tensor:
    """[M] how many of the rows show the same image."""
    sorted_M = row_M.sort().values
    return torch.searchsorted(sorted_M, row_M, right=True) - torch.searchsorted(sorted_M, row_M)


def _images_there(offered: Offered, memory: Memory, copies_M: Tensor | None) -> Tensor | int:
    """How many images the memory shows, of which those on offer may be a sample."""
    if copies_M is not None and offered.valid_M is not None:
        return (offered.valid_M / copies_M).sum().round()
    return (memory["bank_step"] != NEVER).sum() if "bank_step" in memory else len(offered.key_MD)


def _bound(positive_B: Tensor, negative: Selected, copies_M: Tensor | None) -> Bound:
    """InfoNCE of the negatives; where copies of an image are among the rows on offer each counts for its share of one.

    One copy drawn of each image gives InfoNCE of distinct images. With their mean in its place the value is no larger on
    average (-log is convex), so it stays a bound; with all of them as if they were images it does not.
    """
    if copies_M is None:
        return info_nce(positive_B, negative.value_NK, negative.keep_NK)
    copies_NK = copies_M[negative.index_NK].to(negative.value_NK.dtype)
    bound = info_nce(positive_B, negative.value_NK - copies_NK.log(), negative.keep_NK)
    return bound._replace(log_terms_B=(negative.keep_NK / copies_NK).sum(dim=1).log1p().to(bound.loss_B.dtype))


@torch.no_grad()
def nearer(method: Method, positive_B: Tensor, anchor_BD: Tensor, offered: Offered, images: Images) -> Tensor:
    """[B]: the share of other images on offer that lie nearer to the anchor than its positive does.

    Chance is one half, whatever bound, temperature or region a method has: there the positive is one image among others.
    """
    some, allowed_BM = _sample(offered, images, FEW)
    nearer_BM = (anchor_BD @ some.key_MD.T > positive_B[:, None] * method.bound.temperature) & allowed_BM
    count_B = allowed_BM.sum(dim=1)
    return torch.where(count_B > 0, nearer_BM.sum(dim=1) / count_B.clamp(min=1), 0.5).to(positive_B.dtype)


def _sample(offered: Offered, images: Images, most: int) -> tuple[Offered, Tensor]:
    """About `most` of the rows on offer, and which of them may be negatives of each anchor [B, M]."""
    every = -(-len(offered.key_MD) // most)
    valid_M = None if offered.valid_M is None else offered.valid_M[::every]
    some = Offered(offered.key_MD[::every], offered.row_M[::every], valid_M)
    allowed_BM = some.row_M[None] != images.row_B[:, None]
    return some, allowed_BM if some.valid_M is None else allowed_BM & some.valid_M[None]


def validity(
    method: Method,
    positive_B: Tensor,
    negative: Selected,
    anchor_BD: Tensor,
    offered: Offered,
    images: Images,
    bound: Bound,
    copies_M: Tensor | None,
    rows: Tensor | int,
) -> dict[str, Tensor]:
    """Per anchor, 1.0 where the strict and where the weak condition holds; everything and a ball are bounds for any
    critic (to .02 nats where both views of an image are negatives: docs/methods/rings.md).
    """
    if _from_a_ball(method):
        return {"bound_valid": torch.ones_like(bound.loss_B)}
    some, allowed_BM = _sample(offered, images, SAMPLE)
    critic_BM = anchor_BD @ some.key_MD.T / method.bound.temperature
    if copies_M is not None:
        copies_M = copies_M[:: -(-len(copies_M) // SAMPLE)]
    return conditions(positive_B, critic_BM, allowed_BM, negative, bound, rows=rows, copies_M=copies_M)


def _from_a_ball(method: Method) -> bool:
    """Whether no row that is nearer than a negative is left out."""
    if isinstance(method.region, Ring):
        neighbours = isinstance(method.positives, Neighbours) and method.positives.among_negatives
        return method.region.inner == 0 or neighbours
    return isinstance(method.region, Everything | Nearest)


@torch.no_grad()
def conditions(
    positive_B: Tensor,
    critic_BM: Tensor,
    allowed_BM: Tensor,
    negative: Selected,
    bound: Bound,
    *,
    rows: Tensor | int,
    copies_M: Tensor | None = None,
) -> dict[str, Tensor]:
    """The two conditions, from a sample of the critic's values over `rows` rows; of several `copies` of one each is a share.

    Their mean is taken with the own row in it: log c = logaddexp(s_i, log(N - 1) + logsumexp_M - log M) - log N.
    """
    dtype = bound.loss_B.dtype
    lowest, rows_B = torch.finfo(critic_BM.dtype).min, torch.zeros_like(bound.loss_B) + rows
    share_M = torch.ones_like(critic_BM[0]) if copies_M is None else 1 / copies_M.to(critic_BM.dtype)
    log_offered_B = (allowed_BM * share_M).sum(dim=1).clamp(min=share_M.min()).to(dtype).log()
    log_mean_B = torch.logsumexp((critic_BM + share_M.log()).masked_fill(~allowed_BM, lowest), dim=1) - log_offered_B
    log_c_B = torch.logaddexp(positive_B, (rows_B - 1).clamp(min=1).log() + log_mean_B) - rows_B.clamp(min=1).log()
    nearest_BK = negative.value_NK.masked_fill(~negative.keep_NK, torch.finfo(negative.value_NK.dtype).max)
    strict_B = nearest_BK.amin(dim=1) >= log_c_B
    terms_B = bound.log_terms_B.expm1()
    terms_B = torch.where(terms_B > 0, terms_B, 1)
    weak_B = bound.loss_B + positive_B >= torch.logaddexp(positive_B, terms_B.log() + log_c_B)
    weak_B |= ~negative.keep_NK.any(dim=1)  # its value is 0
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

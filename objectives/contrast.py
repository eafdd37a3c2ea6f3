"""One pairing of a method, from embeddings and memory to a loss per anchor.

Shape suffixes: V = views, B = images of this rank and anchors, M = rows on offer, K = negatives, H = clusterings, W = ranks,
D = embedding.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import bounds, diagnostics, reweighted
from .clusters import same_cluster
from .gather import everyone, gather, rank, total
from .memory import BANKS, LABELS, Memory, outer_edge, uses_clusters
from .method import Method
from .outputs import Images, Outputs
from .parts import NCE, Bank, Clusters, Decoupled, HardNegatives, InfoNCE, Neighbours, Own, Pair, Queue
from .regions import Offered, Selected, Window, gathered, nearest, select, window
from .schedules import Moment


class Anchors(NamedTuple):
    """The anchors of one pairing, and all that their loss depends on."""

    method: Method
    number: int
    """Of the pair in `method.contrast`."""
    anchor_BD: Tensor
    positive_B: Tensor
    offered: Offered
    memory: Memory
    images: Images
    moment: Moment

    @property
    def pair(self) -> Pair:
        """Which embedding is contrasted with which."""
        return self.method.contrast[self.number]

    @property
    def label_HN(self) -> Tensor:
        """The clusters of the rows that the anchors are contrasted with."""
        return self.memory[LABELS[self.pair.key]]


class Contrasted(NamedTuple):
    """A loss per anchor, what to log per anchor, and what a step of it changes in the memory."""

    loss_B: Tensor
    facts: dict[str, Tensor]
    log_partition: Tensor | None = None


def contrast(
    method: Method, index: int, outputs: Outputs, memory: Memory, images: Images, moment: Moment, *, observe: bool
) -> Contrasted:
    """The loss of each anchor of the method's pair number `index`."""
    pair = method.contrast[index]
    anchor_VBD = outputs.embedding_VBD if outputs.sample_VBD is None else outputs.sample_VBD
    anchor_BD = anchor_VBD[pair.anchor]
    positive_BD, offered = keys(method, pair, outputs, memory, images)
    positive_B = (anchor_BD * positive_BD).sum(dim=1) / method.bound.temperature
    asked = Anchors(method, index, anchor_BD, positive_B, offered, memory, images, moment)
    limit = method.memory.negatives if isinstance(method.memory, Bank) else None
    outer = outer_edge(method, memory, moment)
    where = window(method.region, len(offered.key_MD), limit=limit, outer=outer, step=moment.step)
    negative = _negatives(asked, where, limit)
    loss_B, log_partition = _loss(asked, negative, _numerator(asked, where, negative))
    if not observe:
        return Contrasted(loss_B, {}, log_partition)
    facts = diagnostics.of_anchors(method, positive_B, negative, anchor_BD, offered, memory, images, moment)
    return Contrasted(loss_B, facts, log_partition)


def keys(method: Method, pair: Pair, outputs: Outputs, memory: Memory, images: Images) -> tuple[Tensor, Offered]:
    """The positive of each anchor [B, D], and what is on offer to all of them."""
    if isinstance(method.memory, Bank):
        bank_ND, candidate_M = memory[BANKS[pair.key]], images.candidate_M
        if candidate_M.ndim == 1 and len(candidate_M):
            return bank_ND[images.row_B], Offered(bank_ND[candidate_M], candidate_M)
        return bank_ND[images.row_B], Offered(bank_ND, torch.arange(len(bank_ND), device=bank_ND.device))
    if isinstance(method.memory, Queue):
        assert outputs.target_VBD is not None
        positive_BD = outputs.target_VBD[method.target_views.index(pair.key)]
        return positive_BD, Offered(memory["queue"], memory["queue_row"])
    row_B, valid_B = (gather(part).flatten() for part in (images.row_B, images.valid_B))
    embedding_VBD = everyone(outputs.embedding_VBD)
    views = len(embedding_VBD)
    offered = Offered(embedding_VBD.flatten(0, 1), row_B.repeat(views), valid_B.repeat(views))
    return outputs.embedding_VBD[pair.key], offered


def _negatives(asked: Anchors, where: Window, limit: int | None) -> Selected:
    method, own_B = asked.method, asked.images.row_B
    temperature = method.bound.temperature
    if isinstance(method.memory, Bank) and asked.images.candidate_M.ndim == 2:
        return gathered(asked.anchor_BD, own_B, asked.offered, asked.images.candidate_M, temperature=temperature)
    if isinstance(method.positives, Neighbours) and method.positives.among_negatives:
        where = where._replace(inner=0, taken=where.outer if limit is None else min(where.outer, limit))
    clusters = None
    if uses_clusters(method) and not isinstance(method.positives, Clusters):
        clusters = partial(_shares_cluster, asked.label_HN, asked.offered.row_M)
    return select(where, asked.anchor_BD, own_B, asked.offered, temperature=temperature, same_cluster=clusters)


def _shares_cluster(label_HN: Tensor, row_M: Tensor, own_C: Tensor) -> Tensor:
    return same_cluster(label_HN, own_C, row_M.expand(len(own_C), -1))


def _numerator(asked: Anchors, where: Window, negative: Selected) -> Tensor | None:
    """The numerator's critic value; None where it is the positive's own."""
    own_B = asked.images.row_B
    match asked.method.positives:
        case Own():
            return None
        case Neighbours(numerator=kind):
            temperature = asked.method.bound.temperature
            near = nearest(where, asked.anchor_BD, own_B, asked.offered, temperature=temperature)
            return bounds.numerator(kind, asked.positive_B, near.value_NK, near.keep_NK)
        case Clusters():
            row_BK = asked.offered.row_M[negative.index_NK]
            alike_BK = same_cluster(asked.label_HN, own_B, row_BK) & negative.keep_NK
            return bounds.numerator("logsumexp", asked.positive_B, negative.value_NK, alike_BK)


def _loss(asked: Anchors, negative: Selected, numerator_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The loss of each anchor, and what the memory is to know of Z from now on."""
    positive_B, value_BK, keep_BK = asked.positive_B, negative.value_NK, negative.keep_NK
    valid_B = asked.images.valid_B
    match asked.method.bound:
        case InfoNCE(positive_in_denominator=inside):
            options = {"numerator_B": numerator_B, "positive_in_denominator": inside}
            return bounds.info_nce(positive_B, value_BK, keep_BK, **options).loss_B, None
        case NCE() as bound:
            rows = len(asked.memory["bank_step"])
            old, steps = asked.memory["log_partition"][asked.number], asked.memory["partition_steps"]
            now, later = _partition(bound, value_BK, keep_BK & valid_B[:, None], rows, old, steps)
            return bounds.nce(positive_B, value_BK, keep_BK, rows=rows, log_partition=now).loss_B, later
        case Decoupled(temperature=temperature, sigma=sigma):
            weight_B = None
            if sigma > 0:
                cosine_WB, valid_WB = gather(positive_B.detach() * temperature), gather(valid_B)
                weight_B = reweighted.positive_weight(cosine_WB, sigma=sigma, valid_X=valid_WB)[rank()]
            return reweighted.decoupled(positive_B, value_BK, keep_BK, weight_B=weight_B), None
        case HardNegatives(temperature=temperature, positive_share=share, concentration=concentration):
            options = {"temperature": temperature, "positive_share": share, "concentration": concentration}
            return reweighted.hardness_weighted(positive_B, value_BK, keep_BK, **options), None


@torch.no_grad()
def _partition(
    bound: NCE, value_BK: Tensor, keep_BK: Tensor, rows: int, old: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """log Z for this step, and for the next: fixed; of the first batch; or a moving mean that the first batch starts."""
    count = keep_BK.sum().to(old.dtype)
    log_sum = bounds.log_partition(value_BK, keep_BK, rows=rows) - math.log(rows) + count.clamp(min=1).log()
    log_sum_W = gather(torch.where(count > 0, log_sum, torch.finfo(old.dtype).min))
    counted = total(count)
    batch = torch.logsumexp(log_sum_W, dim=0) - counted.clamp(min=1).log() + math.log(rows)
    batch = torch.where(counted > 0, batch, math.log(rows))
    match bound.partition:
        case "fixed":
            now = torch.zeros_like(old) + bounds.log_fixed_partition(rows)
            return now, now
        case "first":
            now = torch.where(steps == 0, batch, old)
            return now, now
        case "moving":
            now = torch.where(steps == 0, batch, old)
            return now, bounds.moving_log_partition(now, batch, decay=bound.decay)

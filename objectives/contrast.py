"""The pairs of a method, from embeddings and memory to a loss per anchor.

What an anchor is contrasted with is selected once for all its keys: a view of V has V - 1 of them and one similarity to each
embedding on offer, so V views cost V times the selection of one, not V (V - 1) times.

Shape suffixes: V = views, B = images of this rank and anchors, M = rows on offer, K = negatives, H = clusterings, W = ranks,
D = embedding.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..distributed.collectives import gather, rank, total
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.pairing import Pair
from ..methods.parts import NCE, Bank, Clusters, Decoupled, HardNegatives, InfoNCE, Neighbours, Own
from ..methods.schedules import Moment
from ..methods.synthetic import MixedQueue
from . import bounds, diagnostics, reweighted, synthetic
from .clusters import same_cluster
from .images import Images
from .keys import offered_to, positive_of
from .memory import NEVER, Memory, labels_of, outer_edge, uses_clusters
from .regions import Offered, Selected, Window, gathered, select, window, with_neighbours

LEARNED = 1e-6  # an anchor whose positives have all but this much of the probability no longer learns


class Anchors(NamedTuple):
    """The anchors of one pairing, and all that their loss depends on."""

    method: Method
    number: int
    """Of the pair in `method.pairs`."""
    anchor_BD: Tensor
    positive_B: Tensor
    offered: Offered
    memory: Memory
    images: Images
    moment: Moment

    @property
    def pair(self) -> Pair:
        """Which embedding is contrasted with which."""
        return self.method.pairs[self.number]

    @property
    def label_HN(self) -> Tensor:
        """The clusters of the rows that the anchors are contrasted with."""
        return self.memory[labels_of(self.pair.key)]


class Contrasted(NamedTuple):
    """A loss per anchor, what to log per anchor, and what a step of it changes in the memory."""

    loss_B: Tensor
    facts: dict[str, Tensor]
    log_partition: Tensor | None = None
    """NCE's; not finite where no process had a negative that tells of it."""


def contrasts(
    method: Method, outputs: Outputs, memory: Memory, images: Images, moment: Moment, *, observe: bool
) -> list[Contrasted]:
    """The loss of each anchor of every pair, in the order of `method.pairs`."""
    groups = dict[tuple[int, int], list[int]]()
    for number, pair in enumerate(method.pairs):  # each bank is another thing to select from
        groups.setdefault((pair.anchor, pair.key if isinstance(method.memory, Bank) else -1), []).append(number)
    found = dict[int, Contrasted]()
    for numbers in groups.values():
        of_group = _of_an_anchor(method, numbers, outputs, memory, images, moment, observe=observe)
        found |= dict(zip(numbers, of_group, strict=True))
    return [found[number] for number in range(len(method.pairs))]


def _of_an_anchor(
    method: Method,
    numbers: Sequence[int],
    outputs: Outputs,
    memory: Memory,
    images: Images,
    moment: Moment,
    *,
    observe: bool,
) -> list[Contrasted]:
    """The pairs of these numbers, which have one anchor and are selected for from the same rows."""
    pair = method.pairs[numbers[0]]
    anchor_VBD = outputs.embedding_VBD if outputs.sample_VBD is None else outputs.sample_VBD
    anchor_BD, offered = anchor_VBD[pair.anchor], offered_to(method, pair, outputs, memory, images)
    limit = method.memory.negatives if isinstance(method.memory, Bank) else None
    outer = outer_edge(method, memory, moment)
    where = window(method.region, len(offered.key_MD), limit=limit, outer=outer, step=moment.step)
    if isinstance(method.positives, Neighbours):
        where = with_neighbours(where, among_negatives=method.positives.among_negatives, limit=limit)
    asked = []
    for number in numbers:
        positive_BD = positive_of(method, method.pairs[number], outputs, memory, images)
        positive_B = (anchor_BD * positive_BD).sum(dim=1) / method.bound.temperature
        asked.append(Anchors(method, number, anchor_BD, positive_B, offered, memory, images, moment))
    selected = _selected(asked[0], where)
    common = _in_common(method, _faced(asked[0], selected)) if len(asked) > 1 else None
    return [_contrasted(each, where, selected, common, observe=observe) for each in asked]


class InCommon(NamedTuple):
    """What the losses of one anchor's several positives have in common."""

    log_negatives_B: Tensor
    any_B: Tensor
    positive_in_denominator: bool


def _in_common(method: Method, selected: Selected) -> InCommon | None:
    """None where the bound weighs negatives by the positive, or the positives are more than the key."""
    match method.bound:
        case InfoNCE(positive_in_denominator=inside):
            pass
        case Decoupled(sigma=0):
            inside = False
        case _:
            return None
    if not isinstance(method.positives, Own):
        return None
    return InCommon(bounds.log_negatives(selected.value_NK, selected.keep_NK), selected.keep_NK.any(dim=1), inside)


def _faced(asked: Anchors, selected: Selected) -> Selected:
    """The negatives of the loss: those selected, and what is made of them, the same for all pairs of an anchor."""
    queue = asked.method.memory
    if not isinstance(queue, MixedQueue):
        return selected
    options = {"stream": asked.pair.anchor, "temperature": asked.method.bound.temperature}
    return synthetic.added(queue, selected, asked.anchor_BD, asked.offered, asked.images, asked.moment, **options)


def _contrasted(asked: Anchors, where: Window, selected: Selected, common: InCommon | None, *, observe: bool) -> Contrasted:
    """The loss of each anchor of one pair, from what was selected for it."""
    method, positives = asked.method, asked.method.positives
    numerator_B = _numerator(asked, selected, where.near)
    if isinstance(positives, Neighbours) and not positives.among_negatives:
        selected = Selected(*(part[:, where.near :] for part in selected))
    if common is not None:
        log_negatives_B, any_B, inside = common
        loss_B = bounds.info_nce_beside(log_negatives_B, asked.positive_B, any_B, positive_in_denominator=inside)
        log_partition = None
    else:
        loss_B, log_partition = _loss(asked, _faced(asked, selected), numerator_B)
    pair, memory = asked.pair, asked.memory
    if isinstance(method.memory, Bank) and method.memory.unvisited == "own" and pair.anchor == pair.key:
        # its own positive, from which there is nothing to learn: the first visit writes the row, the next one learns from it
        loss_B = torch.where(memory["bank_step"][asked.images.row_B] != NEVER, loss_B, 0)
    if not observe:
        return Contrasted(loss_B, {}, log_partition)
    about = (asked.anchor_BD, asked.offered, asked.memory, asked.images, asked.moment)
    facts = diagnostics.of_anchors(method, asked.positive_B, selected, *about)
    if isinstance(method.bound, InfoNCE):
        nothing_left_B = (loss_B.abs() < LEARNED) & selected.keep_NK.any(dim=1)
        facts["learned"] = nothing_left_B.to(loss_B.dtype)
    return Contrasted(loss_B, facts, log_partition)


def _selected(asked: Anchors, where: Window) -> Selected:
    """The rows that a window takes, and the neighbours before them, for each anchor."""
    method, own_B = asked.method, asked.images.row_B
    temperature = method.bound.temperature
    if isinstance(method.memory, Bank) and asked.images.candidate_M.ndim == 2:
        return gathered(asked.anchor_BD, own_B, asked.offered, asked.images.candidate_M, temperature=temperature)
    clusters = None
    if uses_clusters(method) and not isinstance(method.positives, Clusters):
        clusters = partial(_shares_cluster, asked.label_HN, asked.label_HN[:, asked.offered.row_M])
    return select(where, asked.anchor_BD, own_B, asked.offered, temperature=temperature, same_cluster=clusters)


def _shares_cluster(label_HN: Tensor, offered_HM: Tensor, own_C: Tensor) -> Tensor:
    """[C, M]: which rows on offer share a cluster with rows `own_C`, in any of the H clusterings."""
    alike_CM = label_HN[0, own_C][:, None] == offered_HM[0]
    for label_N, offered_M in zip(label_HN[1:], offered_HM[1:], strict=True):
        alike_CM |= label_N[own_C][:, None] == offered_M
    return alike_CM


def _numerator(asked: Anchors, selected: Selected, near: int) -> Tensor | None:
    """The numerator's critic value; None where it is the positive's own. The first `near` rows are the neighbours."""
    match asked.method.positives:
        case Own():
            return None
        case Neighbours(numerator=kind):
            return bounds.numerator(kind, asked.positive_B, selected.value_NK[:, :near], selected.keep_NK[:, :near])
        case Clusters():
            row_BK = asked.offered.row_M[selected.index_NK]
            alike_BK = same_cluster(asked.label_HN, asked.images.row_B, row_BK) & selected.keep_NK
            return bounds.numerator("logsumexp", asked.positive_B, selected.value_NK, alike_BK)


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
    """log Z for this step, and for the next: fixed; of the first batch; or a moving mean that the first batch starts.

    That of the next is NaN, by which the memory stays as it is, where the batch has no negative.
    """
    count = keep_BK.sum().to(old.dtype)
    log_sum = bounds.log_partition(value_BK, keep_BK, rows=rows) - math.log(rows) + count.clamp(min=1).log()
    log_sum_W = gather(torch.where(count > 0, log_sum, torch.finfo(old.dtype).min))
    counted = total(count)
    batch = torch.logsumexp(log_sum_W, dim=0) - counted.clamp(min=1).log() + math.log(rows)
    batch, untold = torch.where(counted > 0, batch, math.log(rows)), torch.where(counted > 0, 0, math.nan)
    match bound.partition:
        case "fixed":
            now = torch.zeros_like(old) + bounds.log_fixed_partition(rows)
            return now, now + untold
        case "first":
            now = torch.where(steps == 0, batch, old)
            return now, now + untold
        case "moving":
            now = torch.where(steps == 0, batch, old)
            return now, bounds.moving_log_partition(now, batch, decay=bound.decay) + untold

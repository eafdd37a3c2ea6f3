"""From a row of the table to a loss: outputs of a network and memory in, (loss, scalars) out.

Shape suffixes: V = views, B = images of this rank, D = embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..distributed.collectives import everyone, gather, mean_weight
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.schedules import Moment
from . import diagnostics, losses
from .alarms import OBSERVER_TEMPERATURE
from .bounds import info_nce
from .contrast import contrasts
from .images import Images
from .memory import NEVER, Memory, rows_of
from .warm_start import in_force, ranking_edge


class Result(NamedTuple):
    """The loss, with gradient; what to log, detached and on the device; what `memory.write_` is to write besides embeddings.

    Scalars are 0-dimensional but for histograms; their mean over ranks is that of the global batch.
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    pending: dict[str, Tensor]


def loss(
    method: Method, outputs: Outputs, memory: Memory, images: Images, moment: Moment, *, observe: bool = True
) -> Result:
    """The loss of a batch under the method that is in force at `moment`; without `observe` the loss is the only scalar.

    Each rank's loss is the mean over its own images, scaled so that the mean over ranks is the mean over all valid ones.
    Always in max(float32, input dtype): bf16 similarities change ranks at a ring's edges.
    """
    edge = ranking_edge(method, rows=rows_of(memory)) if method.ranked_share > 0 else None
    method = in_force(method, memory, moment)
    with torch.autocast(images.row_B.device.type, enabled=False):
        outputs = losses.precise(outputs)
        weight_B = mean_weight(images.valid_B, outputs.embedding_VBD.dtype)
        total, scalars, pending = outputs.embedding_VBD.new_zeros(()), {}, {}
        done = contrasts(method, outputs, memory, images, moment, observe=observe)
        for pair, part in zip(method.pairs, done, strict=True):
            total = total + pair.weight * (part.loss_B * weight_B).sum()
        for term in method.terms:
            value, facts = losses.LOSSES[type(term)](term, method, outputs, images, moment)
            total = total + value
            scalars |= facts if observe else {}
        partitions = [part.log_partition for part in done if part.log_partition is not None]
        if partitions:
            log_partition = torch.stack(partitions)
            told = torch.isfinite(log_partition).all()
            pending = {"log_partition": log_partition, "partition_steps": memory["partition_steps"] + told}
        if observe and edge is not None:
            for part in done:
                part.facts["ranked"] = _ranked(part.facts["nearer"], edge, memory, images)
        if observe:
            scalars |= _observed(outputs, images, [part.facts for part in done], weight_B)
    return Result(total, {"loss": total.detach()} | {name: value.detach() for name, value in scalars.items()}, pending)


def _ranked(nearer_B: Tensor, edge: float, memory: Memory, images: Images) -> Tensor:
    """[B]: 1 where the anchor's own row, once it is written, lies within this share of the ranking."""
    within_B = nearer_B < edge
    if "bank_step" in memory:
        within_B &= memory["bank_step"][images.row_B] != NEVER
    return within_B.to(nearer_B.dtype)


@torch.no_grad()
def _observed(outputs: Outputs, images: Images, facts: list[dict[str, Tensor]], weight_B: Tensor) -> dict[str, Tensor]:
    """What every run logs: means over the pairs' anchors, and what the embeddings of the global batch look like."""
    if not facts:
        facts = [_plain_bound(outputs, images)]
    scalars = {
        name: torch.stack([torch.tensordot(weight_B, fact[name].to(weight_B.dtype), dims=1) for fact in facts]).mean(dim=0)
        for name in facts[0]
    }
    embedding_ND = everyone(outputs.embedding_VBD)[0]
    return scalars | diagnostics.of_embeddings(embedding_ND, gather(images.valid_B).flatten())


def _plain_bound(outputs: Outputs, images: Images) -> dict[str, Tensor]:
    """InfoNCE of two views over the batch, for methods without a contrast: a bound for any critic."""
    one_BD, other_BD = outputs.embedding_VBD[0], everyone(outputs.embedding_VBD)[1]
    row_M, valid_M = (gather(part).flatten() for part in (images.row_B, images.valid_B))
    critic_BM = one_BD @ other_BD.T / OBSERVER_TEMPERATURE
    positive_B = (one_BD * outputs.embedding_VBD[1]).sum(dim=1) / OBSERVER_TEMPERATURE
    others_BM = (row_M[None] != images.row_B[:, None]) & valid_M[None]
    bound = info_nce(positive_B, critic_BM, others_BM)
    return {
        "nearer": ((critic_BM > positive_B[:, None]) & others_BM).sum(dim=1) / others_BM.sum(dim=1).clamp(min=1),
        "bound": bound.value_B,
        "ceiling": bound.log_terms_B,
        "bound_valid": torch.ones_like(bound.loss_B),
        "alignment": 2 - 2 * OBSERVER_TEMPERATURE * positive_B,
    }

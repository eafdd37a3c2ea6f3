"""From a row of the table to a loss: embeddings and memory in, (loss, scalars) out.

Shape suffixes: V = views, B = images of this rank, N = V*B anchors (view-major), M = rows on offer, D = embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import bank, diagnostics
from .bounds import Bound, info_nce
from .gather import gather, rank, total, world
from .methods import Bank, Batch, Everything, Method, Ring, candidate_count
from .regions import edges, select

Memory = dict[str, Tensor]


class Images(NamedTuple):
    """Which images the embeddings show: fields of the same names of a ViewBatch."""

    row_B: Tensor
    valid_B: Tensor
    candidate_M: Tensor


def start_memory(method: Method, *, rows: int, dimension: int, seed: int, device: torch.device) -> Memory:
    """The tensors that `method` remembers from step to step; all of them belong in a checkpoint."""
    if isinstance(method.memory, Batch):
        return {}
    if isinstance(method.region, Ring):
        edges(method.region, candidate_count(method, rows) or rows)  # an empty ring is refused before the first step
    return {"bank": bank.start(rows, dimension, seed=seed, device=device)}


def loss(method: Method, embedding_ND: Tensor, memory: Memory, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of unit embeddings, and what to log of it: 0-dimensional, detached, on the device.

    Each rank's loss is the mean over its own anchors, scaled so that the mean over ranks is the mean over all valid ones.
    Always in max(float32, input dtype): bf16 similarities change ranks at a ring's edges.
    """
    with torch.autocast(embedding_ND.device.type, enabled=False):
        embedding_ND = embedding_ND.to(torch.promote_types(embedding_ND.dtype, torch.float32))
        if isinstance(method.memory, Batch):
            bound, facts = _in_batch(method, embedding_ND, images)
        else:
            bound, facts = _in_bank(method, embedding_ND, memory["bank"], images)
    valid_N = images.valid_B.repeat(len(embedding_ND) // len(images.row_B)).to(bound.loss_B.dtype)
    weight_N = valid_N * (world() / total(valid_N.sum()).clamp(min=1))
    per_anchor = {"bound": bound.log_terms_B - bound.loss_B, "ceiling": bound.log_terms_B, **facts}
    result = (bound.loss_B * weight_N).sum()
    scalars = {"loss": result.detach()} | {name: (value.detach() * weight_N).sum() for name, value in per_anchor.items()}
    return result, scalars


def _in_batch(method: Method, embedding_ND: Tensor, images: Images) -> tuple[Bound, dict[str, Tensor]]:
    """SimCLR's contrast (arXiv 2002.05709, eq. 1): the image's other view against all other views of the global batch."""
    anchors, batch = len(embedding_ND), len(images.row_B)
    if anchors != 2 * batch:
        raise ValueError(f"a contrast within the batch needs 2 views of each image, got {anchors // batch}")
    key_MD = gather(embedding_ND).flatten(0, 1)
    critic_NM = embedding_ND @ key_MD.T / method.bound.temperature
    own_N = torch.arange(anchors, device=embedding_ND.device) + rank() * anchors
    partner_N = own_N.roll(batch)
    allowed_NM = gather(images.valid_B.repeat(2)).flatten()[None].repeat(anchors, 1)
    allowed_NM = allowed_NM.scatter(1, torch.stack((own_N, partner_N), dim=1), False)
    selected = select(method.region, critic_NM, allowed_NM)
    positive_N = critic_NM.gather(1, partner_N[:, None])[:, 0]
    return info_nce(positive_N, *selected), {}


def _in_bank(method: Method, embedding_ND: Tensor, bank_RD: Tensor, images: Images) -> tuple[Bound, dict[str, Tensor]]:
    """The image's own stored row against rows of a region of the bank (arXiv 1805.01978; 2005.13149)."""
    views = len(embedding_ND) // len(images.row_B)
    row_N = images.row_B.repeat(views)
    sampled = len(images.candidate_M) > 0
    offered_M = images.candidate_M if sampled else torch.arange(len(bank_RD), device=bank_RD.device)
    offered_MD = bank_RD[offered_M] if sampled else bank_RD
    critic_NM = embedding_ND @ offered_MD.T / method.bound.temperature
    positive_N = (embedding_ND * bank_RD[row_N]).sum(dim=1) / method.bound.temperature
    allowed_NM = offered_M[None] != row_N[:, None]
    selected = select(method.region, critic_NM, allowed_NM)
    bound = info_nce(positive_N, *selected)
    if isinstance(method.region, Everything) or method.region.inner == 0:
        return bound, {"bound_valid": torch.ones_like(positive_N)}  # everything and a ball are bounds for any critic
    facts = diagnostics.ring_conditions(positive_N, critic_NM, allowed_NM, selected, bound, bank_rows=len(bank_RD))
    return bound, facts


@torch.no_grad()
def write_(method: Method, memory: Memory, embedding_ND: Tensor, images: Images) -> None:
    """Bring the memory up to date, in place, from every rank's embeddings; call after backward, once a step."""
    if not isinstance(method.memory, Bank):
        return
    views = len(embedding_ND) // len(images.row_B)
    embedding_BD = embedding_ND.detach().unflatten(0, (views, -1)).mean(dim=0)
    row, embedding, valid = (gather(part).flatten(0, 1) for part in (images.row_B, embedding_BD, images.valid_B))
    bank.write_(memory["bank"], row, embedding, valid, momentum=method.memory.momentum)

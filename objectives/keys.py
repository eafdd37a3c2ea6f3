"""What the anchors of a pair are contrasted with: the keys on offer, and of these the positive.

Shape suffixes: V = views, B = images of this rank, M = rows on offer, N = rows of a bank, Q = of a queue, D = embedding.
"""

import torch
from torch import Tensor

from ..distributed.collectives import everyone, gather
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.pairing import Pair
from ..methods.parts import Bank, Queue
from . import queue
from .images import Images
from .memory import NEVER, Memory, bank_of
from .regions import Offered


def offered_to(method: Method, pair: Pair, outputs: Outputs, memory: Memory, images: Images) -> Offered:
    """What is on offer to the anchors of a pair: of a memory what has been written, else every key of the global batch."""
    if isinstance(method.memory, Bank):
        bank_ND, candidate_M = memory[bank_of(pair.key)], images.candidate_M
        written_N = memory["bank_step"] != NEVER
        if candidate_M.ndim == 1 and len(candidate_M):
            return Offered(bank_ND[candidate_M], candidate_M, written_N[candidate_M], partial=True)
        row_N = torch.arange(len(bank_ND), device=bank_ND.device)
        return Offered(bank_ND, row_N, written_N, in_place=True, partial=True)
    if isinstance(method.memory, Queue):
        row_Q = memory["queue_row"]
        return Offered(memory["queue"], row_Q, row_Q != queue.NOBODY, partial=True)
    row_B, valid_B = (gather(part).flatten() for part in (images.row_B, images.valid_B))
    embedding_VBD = everyone(outputs.embedding_VBD)
    views = len(method.key_views)
    if views < len(embedding_VBD):  # not by a list of indices, which would be copied from the host
        embedding_VBD = torch.stack([embedding_VBD[view] for view in method.key_views])
    return Offered(embedding_VBD.flatten(0, 1), row_B.repeat(views), valid_B.repeat(views))


def positive_of(method: Method, pair: Pair, outputs: Outputs, memory: Memory, images: Images) -> Tensor:
    """[B, D] the positive of each anchor of a pair."""
    if isinstance(method.memory, Bank):
        positive_BD = memory[bank_of(pair.key)][images.row_B]
        if method.memory.unvisited == "random":
            return positive_BD
        written_B = memory["bank_step"][images.row_B] != NEVER
        return torch.where(written_B[:, None], positive_BD, outputs.embedding_VBD[pair.key].detach())
    if isinstance(method.memory, Queue):
        assert outputs.target_VBD is not None
        return outputs.target_VBD[method.target_views.index(pair.key)]
    return outputs.embedding_VBD[pair.key]

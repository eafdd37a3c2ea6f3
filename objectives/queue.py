"""The queue of MoCo (arXiv 1911.05722): the latest keys of a momentum encoder, with the image that each one shows.

Where a step writes follows from its number, so there is no pointer to lose.

Shape suffixes: Q = size, B = keys, D = embedding.
"""

import torch
from torch import Tensor

from . import bank

NOBODY = -1  # whose image a slot shows before it is first written: no negative of anyone
STRANGER = -2  # the same in a run that versions before have begun, which took such slots as negatives of everyone


def start(size: int, dimension: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[Q, D] random unit keys and [Q] rows, all of them NOBODY's; drawn on the CPU, the same for every device and rank."""
    key_QD = bank.start(size, dimension, seed=seed, device=device)
    return key_QD, torch.full((size,), NOBODY, dtype=torch.int64).to(device)


@torch.no_grad()
def write_(key_QD: Tensor, row_Q: Tensor, new_BD: Tensor, new_row_B: Tensor, usable_B: Tensor, *, step: int) -> None:
    """Put the keys of `step` behind those of the step before, over the oldest, in a ring; of a larger batch the last Q.

    A slot keeps what it holds where the new key is not usable: invalid, or not finite. Every step must bring as many keys.
    """
    size, count = len(key_QD), len(new_BD)
    first = max(0, count - size)
    new_BD, new_row_B, usable_B = new_BD[first:].to(key_QD.dtype), new_row_B[first:], usable_B[first:]
    slot_B = (torch.arange(len(new_BD), device=key_QD.device) + (step * count + first)) % size
    length_B = new_BD.norm(dim=1)
    usable_B = usable_B & torch.isfinite(length_B) & (length_B > bank.SHORTEST)
    key_QD.index_copy_(0, slot_B, torch.where(usable_B[:, None], new_BD, key_QD[slot_B]))
    row_Q.index_copy_(0, slot_B, torch.where(usable_B, new_row_B, row_Q[slot_B]))

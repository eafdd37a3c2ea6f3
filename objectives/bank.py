"""The index bank: one unit embedding per image of the data set, on the device, written in place after backward.

Shape suffixes: N = rows of the data set, B = images of the global batch, D = embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SHORTEST = 1e-6  # of a vector that has a direction


def start(rows: int, dimension: int, *, seed: int, device: torch.device) -> Tensor:
    """[N, D] random unit rows, drawn on the CPU so that every device and every rank starts from the same bank."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator), dim=1).to(device)


@torch.no_grad()
def write_(bank_ND: Tensor, row_B: Tensor, embedding_BD: Tensor, valid_B: Tensor, *, momentum: float | Tensor) -> Tensor:
    """bank[row] <- normalise(momentum * bank[row] + (1 - momentum) * embedding), without waiting for the device.

    `momentum` is one for all rows, or one for each as [B, 1].

    Returns [B] bool: which rows were written. A row stays as it is where its image was not valid, where the embedding is not
    finite or has no direction, and where old and new cancel (antipodal at momentum .5): one NaN row would poison every later
    loss. Rows of a batch must be distinct.
    """
    old_BD = bank_ND[row_B]
    new_BD = embedding_BD.to(bank_ND.dtype)
    mixed_BD = momentum * old_BD + (1 - momentum) * new_BD
    length_B, own_B = mixed_BD.norm(dim=1), new_BD.norm(dim=1)
    usable_B = valid_B & torch.isfinite(length_B) & (length_B > SHORTEST) & (own_B > SHORTEST)
    mixed_BD = mixed_BD / torch.where(usable_B, length_B, 1)[:, None]
    bank_ND.index_copy_(0, row_B, torch.where(usable_B[:, None], mixed_BD, old_BD))
    return usable_B

"""Which rows of a bank may be negatives: regions of the similarity ranking around an anchor.

Selection is never differentiated: it yields positions, and gradient flows through the critic values found there. All work
stays on the device and asks for no value from it.

Shape suffixes: B = anchors, M = rows on offer, K = rows selected.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .methods import Everything, Ring


class Selected(NamedTuple):
    """Critic values of the selected rows, and which of them count."""

    negative_BK: Tensor
    keep_BK: Tensor


def select(region: Everything | Ring, critic_BM: Tensor, allowed_BM: Tensor) -> Selected:
    """The rows of `region` for each anchor, out of those allowed (the anchor's own row never is)."""
    if isinstance(region, Everything):
        return Selected(critic_BM, allowed_BM)
    return _ring(region, critic_BM, allowed_BM)


def ranks(share: float, rows: int) -> int:
    """floor(share * rows) in exact arithmetic: in floating point 0.29 * 100 is 28.999999999999996."""
    return math.floor(round(share * rows, 9))


def edges(region: Ring, rows: int) -> tuple[int, int]:
    """The first rank of a ring and the one after its last, among `rows`; raises ValueError where no rank lies between."""
    inner, outer = ranks(region.inner, rows), ranks(region.outer, rows)
    if inner == outer:
        raise ValueError(f"a ring from {region.inner} to {region.outer} of {rows} rows is empty: widen it")
    return inner, outer


def _ring(region: Ring, critic_BM: Tensor, allowed_BM: Tensor) -> Selected:
    """Ranks floor(inner M) to floor(outer M) of the allowed rows, nearest first (arXiv 2005.13149, the annulus)."""
    inner, outer = edges(region, critic_BM.shape[1])
    with torch.no_grad():
        # a row that is not allowed ranks last; so the ranks of the others are as if it were not there
        ranked_BM = critic_BM.detach().masked_fill(~allowed_BM, torch.finfo(critic_BM.dtype).min)
        index_BK = ranked_BM.topk(outer, dim=1).indices[:, inner:]
    return Selected(critic_BM.gather(1, index_BK), allowed_BM.gather(1, index_BK))

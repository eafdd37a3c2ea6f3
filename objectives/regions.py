"""Which rows may be negatives: windows of the similarity ranking around an anchor.

Ranking is never differentiated: it yields positions, and gradient flows through the critic values found there. All work
stays on the device, asks for no value from it, and takes memory for a block of anchors at a time: 256 anchors against
1,281,167 rows would make a matrix of 1.3 GB.

Shape suffixes: N = anchors, M = rows on offer, K = rows selected, D = embedding, C = anchors in a block.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..methods.parts import Everything, Nearest, Region, SameCluster
from .attach import attach
from .places import Window as Window
from .places import positions
from .ranking import Ranking

BLOCK = 16 << 20  # critic values of a block of anchors: 67 MB in single precision, 13 anchors against 1,281,167 rows


class Offered(NamedTuple):
    """Rows on offer to every anchor: embeddings, the image each one shows (-1: nobody's), whether it counts.

    `in_place`: row i shows image i, so that an anchor's own row is known without a search. `partial`: what does not count is
    as if it were not there, so that a share of the rows is one of those that count (a memory that has not been filled yet).
    """

    key_MD: Tensor
    row_M: Tensor
    valid_M: Tensor | None = None
    in_place: bool = False
    partial: bool = False


class Selected(NamedTuple):
    """Critic values with gradient, which of them count, and where the rows lie among those on offer; nearest first."""

    value_NK: Tensor
    keep_NK: Tensor
    index_NK: Tensor


Allowed = Callable[[Tensor], Tensor]
"""Own rows of a block of anchors [C] -> which rows on offer each may have [C, M]."""


def ranks(share: float, rows: int) -> int:
    """floor(share * rows) in exact arithmetic: in floating point 0.29 * 100 is 28.999999999999996."""
    return math.floor(round(share * rows, 9))


def window(region: Region, rows: int, *, limit: int | None, outer: float | None = None, step: int = 0) -> Window:
    """Which ranks of `rows` rows on offer a region takes, and how many at most: `limit` is K - 1, None for all of them.

    `outer` replaces a ring's outer edge while that comes in. Where the window holds more than `limit` rows they are taken at
    even distances, whose start moves on from step to step by the golden ratio: each row of the window has the same chance,
    and every rank draws alike. Raises ValueError where no row lies between the edges, or more are counted than there are.
    """
    if isinstance(region, Nearest):
        if region.count >= rows:
            raise ValueError(f"the nearest {region.count} of {rows} rows are no region: lower region.count")
        return Window(0, region.count, region.count)
    if isinstance(region, SameCluster):
        count = min(rows, limit or rows)
        return Window(0, count, count)
    if isinstance(region, Everything):
        return Window(0, rows, rows)
    shares = region.edges(region.outer if outer is None else outer)
    inner, beyond = (ranks(share, rows) for share in shares)
    if inner == 0 < shares[0]:
        raise ValueError(
            f"an inner edge at {shares[0]:g} of {rows} rows leaves none out: raise region.inner, or set it to 0"
        )
    if inner >= beyond:
        raise ValueError(f"a ring from {shares[0]:g} to {shares[1]:g} of {rows} rows is empty: widen it")
    count = min(beyond - inner, limit or rows)
    return Window(inner, beyond, count, math.modf((step + 1) * 0.6180339887498949)[0], shares=shares)


def with_neighbours(where: Window, *, among_negatives: bool, limit: int | None) -> Window:
    """The window with the neighbours within its inner edge, as densely as it takes its own rows.

    `among_negatives`: they are of the K - 1 = `limit` rows; else they come on top.
    """
    if not among_negatives:
        return where._replace(near=round(where.inner * where.taken / (where.outer - where.inner)))
    taken = min(where.outer, limit or where.outer)
    near = round(where.inner * taken / where.outer)
    return where._replace(near=near, taken=taken - near)


def allowed_rows(offered: Offered, same_cluster: Callable[[Tensor], Tensor] | None = None) -> Allowed:
    """All rows that count but those of the anchor's own image; with `same_cluster` only its neighbours by cluster."""

    def allowed(own_C: Tensor) -> Tensor:
        allowed_CM = offered.row_M[None] != own_C[:, None]
        if offered.valid_M is not None:
            allowed_CM &= offered.valid_M[None]
        if same_cluster is not None:
            allowed_CM &= same_cluster(own_C)
        return allowed_CM

    return allowed


def cut(where: Window, critic_NM: Tensor, allowed_NM: Tensor, there: Tensor | None = None) -> Selected:
    """The rows of `where` out of a whole matrix of critic values, with gradient to it.

    Ranks are those of the allowed rows alone, in single precision, ties in the order of the rows. Where `there` is given
    (0-dimensional, on the device) a ring's edges are shares of so many rows.
    """
    rows = critic_NM.shape[1]
    if where.taken == rows:
        return Selected(critic_NM, allowed_NM, torch.arange(rows, device=critic_NM.device).expand_as(critic_NM))
    with torch.no_grad():
        taken_K, within_K = positions(where, rows, there, critic_NM.device)
        index_NK = torch.empty(len(critic_NM), len(taken_K), dtype=torch.int64, device=critic_NM.device)
        ranking = Ranking(len(critic_NM), rows, critic_NM.device)
        ranking.nearest_(index_NK, critic_NM, where.outer, taken_K, hidden_NM=~allowed_NM)
        keep_NK = allowed_NM.gather(1, index_NK)
        keep_NK = keep_NK if within_K is None else keep_NK & within_K
    return Selected(critic_NM.gather(1, index_NK), keep_NK, index_NK)


def select(
    where: Window,
    anchor_ND: Tensor,
    own_N: Tensor,
    offered: Offered,
    *,
    temperature: float,
    same_cluster: Callable[[Tensor], Tensor] | None = None,
) -> Selected:
    """The rows of `where` for each anchor, out of those allowed: never one of the own image, nor one that does not count.

    Values are cosine / temperature, with gradient to anchors and keys; ranks are as `cut` says.
    """
    allowed, rows = allowed_rows(offered, same_cluster), len(offered.key_MD)
    if where.taken == rows or len(anchor_ND) * rows <= BLOCK:
        there = offered.valid_M.sum() if offered.valid_M is not None and offered.partial else None
        return cut(where, anchor_ND @ offered.key_MD.T / temperature, allowed(own_N), there)
    own_alone = offered.in_place and same_cluster is None
    return _in_blocks(where, anchor_ND, own_N, offered, temperature, None if own_alone else allowed)


def gathered(anchor_ND: Tensor, own_N: Tensor, offered: Offered, index_NK: Tensor, *, temperature: float) -> Selected:
    """Rows that were drawn for each anchor: their critic values, the own image and what does not count left out."""
    value_NK = attach(anchor_ND, offered.key_MD, index_NK, None, 1 / temperature)
    keep_NK = offered.row_M[index_NK] != own_N[:, None]
    if offered.valid_M is not None:
        keep_NK &= offered.valid_M[index_NK]
    return Selected(value_NK, keep_NK, index_NK)


def _in_blocks(
    where: Window, anchor_ND: Tensor, own_N: Tensor, offered: Offered, temperature: float, allowed: Allowed | None
) -> Selected:
    """The same, a block of anchors at a time. `allowed` None: all that count but the row whose place is the anchor's own."""
    anchors, rows, device = len(anchor_ND), len(offered.key_MD), anchor_ND.device
    with torch.no_grad():
        fixed_ND, key_MD = anchor_ND.detach() / temperature, offered.key_MD.detach()
        valid_M = offered.valid_M
        there = valid_M.sum() if valid_M is not None and offered.partial else None
        absent_M = None if valid_M is None else ~valid_M
        (taken_K, within_K), ranking = positions(where, rows, there, device), Ranking(anchors, rows, device)
        # made before the blocks: small results kept between large ones freed would pin 400 MB of heap
        shape = (anchors, len(taken_K))
        index_NK = torch.empty(shape, dtype=torch.int64, device=device)
        keep_NK, value_NK = torch.empty(shape, dtype=torch.bool, device=device), key_MD.new_empty(shape)
        size = max(1, min(anchors, BLOCK // rows))
        for start in range(0, anchors, size):
            block = slice(start, start + size)
            critic_CM, own_C, index_CK = fixed_ND[block] @ key_MD.T, own_N[block], index_NK[block]
            if allowed is None:
                ranking.nearest_(index_CK, critic_CM, where.outer, taken_K, own_N=own_C, absent_M=absent_M)
                keep_NK[block] = index_CK != own_C[:, None]
                if valid_M is not None:
                    keep_NK[block] &= valid_M[index_CK]
            else:
                allowed_CM = allowed(own_C)
                ranking.nearest_(index_CK, critic_CM, where.outer, taken_K, hidden_NM=~allowed_CM)
                keep_NK[block] = allowed_CM.gather(1, index_CK)
            value_NK[block] = critic_CM.gather(1, index_CK)
        keep_NK = keep_NK if within_K is None else keep_NK & within_K
    return Selected(attach(anchor_ND, offered.key_MD, index_NK, value_NK, 1 / temperature), keep_NK, index_NK)

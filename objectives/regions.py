"""Which rows may be negatives: windows of the similarity ranking around an anchor.

Ranking is never differentiated: it yields positions, and gradient flows through the critic values found there. All work
stays on the device, asks for no value from it, and takes memory for a block of anchors at a time: 256 anchors against
1,281,167 rows would make a matrix of 1.3 GB.

Shape suffixes: N = anchors, M = rows on offer, K = rows selected, D = embedding, C = anchors in a block.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .attach import attach
from .parts import Everything, Nearest, Region, SameCluster

BLOCK = 8 << 20  # critic values of a block of anchors: 32 MB in single precision, and twice that for their ranking keys


class Offered(NamedTuple):
    """Rows on offer to every anchor: embeddings, the image each one shows (-1: nobody's), whether it counts."""

    key_MD: Tensor
    row_M: Tensor
    valid_M: Tensor | None = None


class Window(NamedTuple):
    """Ranks `inner` to `outer`, the nearest being 0, and how many of them to take, spread evenly from `offset` in [0, 1)."""

    inner: int
    outer: int
    taken: int
    offset: float = 0.0


class Selected(NamedTuple):
    """Critic values with gradient, which of them count, and where the rows lie among those on offer; nearest first."""

    value_NK: Tensor
    keep_NK: Tensor
    index_NK: Tensor


Allowed = Callable[
    [Tensor], Tensor
]  # own rows of a block of anchors [C] -> which rows on offer it may have [C, M] or [1, M]


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
    if inner >= beyond:
        raise ValueError(f"a ring from {shares[0]:g} to {shares[1]:g} of {rows} rows is empty: widen it")
    count = min(beyond - inner, limit or rows)
    return Window(inner, beyond, count, math.modf((step + 1) * 0.6180339887498949)[0])


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


def cut(where: Window, critic_NM: Tensor, allowed_NM: Tensor) -> Selected:
    """The rows of `where` out of a whole matrix of critic values, with gradient to it.

    Ranks are those of the allowed rows alone, in single precision, ties in the order of the rows.
    """
    rows = critic_NM.shape[1]
    if where.taken == rows:
        return Selected(critic_NM, allowed_NM, torch.arange(rows, device=critic_NM.device).expand_as(critic_NM))
    with torch.no_grad():
        # what is not allowed ranks last; so the ranks of the others are as if it were not there
        ranked_NM = critic_NM.masked_fill(~allowed_NM, torch.finfo(critic_NM.dtype).min)
        nearest_NK = Ranking(len(critic_NM), rows, critic_NM.device).nearest(ranked_NM, where.outer)
        index_NK = nearest_NK[:, _positions(where, critic_NM.device)]
    return Selected(critic_NM.gather(1, index_NK), allowed_NM.gather(1, index_NK), index_NK)


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
        return cut(where, anchor_ND @ offered.key_MD.T / temperature, allowed(own_N))
    return _in_blocks(where, anchor_ND, own_N, offered, temperature, allowed)


def nearest(where: Window, anchor_ND: Tensor, own_N: Tensor, offered: Offered, *, temperature: float) -> Selected:
    """The rows nearer than a window's inner edge: the neighbours of arXiv 2005.13149."""
    inside = Window(0, where.inner, where.inner)
    return select(inside, anchor_ND, own_N, offered, temperature=temperature)


def gathered(anchor_ND: Tensor, own_N: Tensor, offered: Offered, index_NK: Tensor, *, temperature: float) -> Selected:
    """Rows that were drawn for each anchor: their critic values, the own image and what does not count left out."""
    value_NK = attach(anchor_ND, offered.key_MD, index_NK, None, 1 / temperature)
    keep_NK = offered.row_M[index_NK] != own_N[:, None]
    if offered.valid_M is not None:
        keep_NK &= offered.valid_M[index_NK]
    return Selected(value_NK, keep_NK, index_NK)


def _in_blocks(
    where: Window, anchor_ND: Tensor, own_N: Tensor, offered: Offered, temperature: float, allowed: Allowed
) -> Selected:
    parts = list(_blocks(where, anchor_ND.detach(), own_N, offered.key_MD.detach(), temperature, allowed))
    value_NK, keep_NK, index_NK = (torch.cat(part) for part in zip(*parts, strict=True))
    value_NK = attach(anchor_ND, offered.key_MD, index_NK, value_NK, 1 / temperature)
    return Selected(value_NK, keep_NK, index_NK)


@torch.no_grad()
def _blocks(
    where: Window, anchor_ND: Tensor, own_N: Tensor, key_MD: Tensor, temperature: float, allowed: Allowed
) -> Iterator[Selected]:
    """A block of anchors at a time: rank the nearest `outer` rows, keep those of the window."""
    rows = len(key_MD)
    taken_K = _positions(where, anchor_ND.device)
    size = max(1, min(len(anchor_ND), BLOCK // rows))
    ranking = Ranking(size, rows, anchor_ND.device)
    for anchor_CD, own_C in zip(anchor_ND.split(size), own_N.split(size), strict=True):
        critic_CM = (anchor_CD @ key_MD.T).div_(temperature)
        allowed_CM = allowed(own_C)
        critic_CM.masked_fill_(~allowed_CM, torch.finfo(critic_CM.dtype).min)
        index_CK = ranking.nearest(critic_CM, where.outer)[:, taken_K]
        yield Selected(critic_CM.gather(1, index_CK), allowed_CM.gather(1, index_CK), index_CK)


def _positions(where: Window, device: torch.device) -> Tensor:
    """int64 [K]: the ranks to take out of a window."""
    width = where.outer - where.inner
    position_K = torch.arange(where.taken, device=device)
    if where.taken < width:  # distinct, since neighbours lie at least one apart
        position_K = ((position_K.double() + where.offset) * (width / where.taken)).floor().clamp(max=width - 1).long()
    return where.inner + position_K


class Ranking:
    """Ranks rows by critic value, ties by their order, on any device alike.

    Value and place go into one integer: the order-preserving bits of a single-precision float above, the place from the end
    below. The k largest of distinct integers are one answer, where those of floats leave ties to chance; and at 1,281,167
    rows they are found faster (127 against 167 ms for the nearest tenth of 16 anchors; a stable sort takes 1,160).
    """

    def __init__(self, anchors: int, rows: int, device: torch.device) -> None:
        self._halves_CM2 = torch.empty(anchors, rows, 2, dtype=torch.int32, device=device)  # little-endian: low, high
        self._halves_CM2[..., 0] = torch.arange(rows - 1, -1, -1, dtype=torch.int32, device=device)

    def nearest(self, critic_CM: Tensor, count: int) -> Tensor:
        """int64 [C, count]: places of the largest values, in falling order."""
        bits_CM = (critic_CM.float() + 0.0).view(torch.int32)  # + 0: -0 and 0 are one value
        halves_CM2 = self._halves_CM2[: len(critic_CM)]
        high_CM = halves_CM2[..., 1]
        torch.bitwise_right_shift(bits_CM, 31, out=high_CM)
        high_CM.bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits_CM)  # floats below 0 fall as their bits rise
        key_CM = halves_CM2.view(torch.int64)[..., 0]
        return critic_CM.shape[1] - 1 - (key_CM.topk(count, dim=1).values & 0xFFFFFFFF)

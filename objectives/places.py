"""Which ranks a window takes: all of a ring, or some at even distances, of all rows or of those that are there already.

Shape suffix: K = rows taken.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Ranks `inner` to `outer`, the nearest being 0, and how many of them to take, spread evenly from `offset` in [0, 1).

    Before them come `near` of the ranks that are nearer than `inner`, as evenly.
    """

    inner: int
    outer: int
    taken: int
    offset: float = 0.0
    near: int = 0
    shares: tuple[float, float] | None = None
    """Of a ring: where its edges lie, should fewer rows be there."""


def positions(where: Window, rows: int, there: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """int64 [K]: the ranks to take of `rows`, the near ones first; bool [K]: which of them count, None for all.

    Of a ring in a memory that holds but `there` rows (0-dimensional, on the device) the edges are shares of these rows, and
    one row at least lies between them; with all rows there the ranks are those of the window itself.
    """
    taken_K = where.inner + _spread(where.taken, where.outer - where.inner, where.offset, device)
    whole_K = torch.cat((_spread(where.near, where.inner, where.offset, device), taken_K)) if where.near else taken_K
    if there is None or where.shares is None:
        return whole_K, None
    inner, outer = (torch.floor(share * there.double() + 5e-10).long() for share in where.shares)  # as `regions.ranks`
    outer = torch.maximum(outer, inner + 1)
    width = outer - inner
    count = width.clamp(max=where.taken)
    near = torch.round(inner * (count.double() / width)).long().clamp(max=where.near)
    ranks = [(inner + _spread_of(where.taken, count, width, where.offset), count)]
    if where.near:
        ranks.insert(0, (_spread_of(where.near, near, inner, where.offset), near))
    some_K = torch.cat([rank for rank, _ in ranks])
    within_K = torch.cat([torch.arange(len(rank), device=device) < held for rank, held in ranks])
    full = there == rows
    return torch.where(full, whole_K, some_K), within_K | full


def _spread(count: int, width: int, offset: float, device: torch.device) -> Tensor:
    """`count` of the numbers below `width`, at even distances from `offset` on; all of them where there are no more."""
    number_K = torch.arange(count, device=device)
    if count >= width:
        return number_K
    # distinct, since neighbours lie at least one apart
    return ((number_K.double() + offset) * (width / count)).floor().clamp(max=width - 1).long()


def _spread_of(most: int, count: Tensor, width: Tensor, offset: float) -> Tensor:
    """The same for a count and a width that the device alone knows; of `most` places the first `count` are meant."""
    number_K = torch.arange(most, device=count.device)
    last = (width - 1).clamp(min=0)
    spread_K = ((number_K.double() + offset) * (width.double() / count.clamp(min=1))).floor().long()
    return torch.minimum(torch.where(count >= width, number_K, spread_K), last)

"""Which rows of a bank are on offer at a step, where it holds too many to offer all: drawn anew for each step.

On the host, as functions of (seed, step): nothing to save, the same on every rank, and a resumed run draws what it would
have drawn.

Shape suffixes: B = images of this rank, M = rows drawn for all of them, K = rows drawn for each.
"""

import numpy as np
import torch
from torch import Tensor

from ..methods.method import Method, candidate_count
from ..methods.parts import Everything
from ..methods.schedules import Moment
from ..pipeline import counter


def draw(method: Method, rows: int, row_B: np.ndarray, moment: Moment, *, seed: int, device: torch.device) -> Tensor:
    """int64 [M] of a bank's `rows` as the method asks for them at `moment`, or [B, K] for images `row_B`; empty for all.

    On `device`, without waiting for it.
    """
    count = candidate_count(method.at(moment), rows)
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    if isinstance(method.region, Everything) and not method.region.shared:
        drawn = torch.from_numpy(candidates_of_each(rows, row_B, count, seed=seed, step=moment.step))
    else:
        drawn = torch.from_numpy(candidates(rows, count, seed=seed, step=moment.step))
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


def candidates(rows: int, count: int, *, seed: int, step: int) -> np.ndarray:
    """int64 [count] distinct rows drawn from (seed, step) alone, so that every rank draws the same; sorted.

    Uniform without replacement, at a cost that follows `count`, not `rows` (`viewmill bench objective`). Raises ValueError
    where there are fewer rows.
    """
    if count > rows:
        raise ValueError(f"{count} candidates cannot be drawn from {rows} rows")
    key = counter.Key(seed, counter.CANDIDATES, step)
    if 2 * count >= rows:
        return np.sort(np.argsort(counter.wide(key, np.arange(rows)), kind="stable")[:count])
    return counter.distinct(key, count, rows)


def candidates_of_each(rows: int, row_B: np.ndarray, count: int, *, seed: int, step: int) -> np.ndarray:
    """int64 [B, count] rows drawn for each image from (seed, step, its row), with replacement: the same on any rank."""
    place_BK = row_B.astype(np.int64)[:, None] * count + np.arange(count)
    key = counter.Key(seed, counter.CANDIDATES, step)
    return counter.below(key, place_BK.ravel(), rows).reshape(place_BK.shape)

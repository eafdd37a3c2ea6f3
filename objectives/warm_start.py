"""Which method is in force: instance discrimination until a warm start is over, by the clock or by the worth of the ranking.

"ranked" in the memory is float64 [mean of the readings, how many there were, step since which the region is in force].
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..methods.method import Method
from ..methods.parts import Nearest, Neighbours, Ring
from ..methods.schedules import Moment

EVERY = 10  # steps between two readings of what the ranking is worth
READINGS = 3  # at least, before they decide
KEPT = 0.7  # of the mean of the readings before
WAITING = -1


def start() -> Tensor:
    """What a warm start that waits for the ranking knows at first; on the host, as it decides how many rows are ranked."""
    return torch.tensor([0.0, 0.0, WAITING], dtype=torch.float64)


def ranking_edge(method: Method, *, rows: int) -> float:
    """Which share of the ranking an anchor's own row must lie in, for the region to ask for something that can be had.

    Beyond the outer edge of a region, each of its negatives is nearer to the anchor than the anchor's own image. Neighbours
    that are positives are told from others no better than the own row, so there it is the inner edge.
    """
    match method.region:
        case Ring() as ring:
            inner, outer = ring.edges(ring.outer)
            return inner if isinstance(method.positives, Neighbours) else outer
        case Nearest(count=count):
            return min(1.0, count / rows)
        case _:
            return Ring().outer


def first_step(method: Method, memory: Mapping[str, Tensor], moment: Moment) -> int:
    """The first step after the warm start; while that waits for the ranking, the latest that it can be."""
    if "ranked" not in memory:
        return method.first_step(moment.steps_per_epoch)
    since = int(memory["ranked"][2])
    return method.last_step(moment) if since == WAITING else since


def in_force(method: Method, memory: Mapping[str, Tensor], moment: Moment) -> Method:
    """The method that holds at `moment`: instance discrimination while a warm start lasts."""
    return method.at(moment, first=first_step(method, memory, moment))


def waits(method: Method, memory: Mapping[str, Tensor], moment: Moment) -> bool:
    """Whether the warm start is to hear at `moment` what the ranking is worth: every tenth step, whatever a run logs."""
    begun = moment.step >= method.first_step(moment.steps_per_epoch)
    waiting = "ranked" in memory and in_force(method, memory, moment) is not method
    return begun and waiting and (moment.step + 1) % EVERY == 0


def judge_(method: Method, memory: Mapping[str, Tensor], ranked: float | None, moment: Moment) -> None:
    """Tell a warm start the share of anchors whose own row ranks within the edge, the same on every rank, where it waits.

    A mean of the readings, the later ones with more weight, decides: one batch has few anchors.
    """
    if ranked is None or not waits(method, memory, moment) or not math.isfinite(ranked):
        return
    state = memory["ranked"]
    state[0] = ranked if state[1] == 0 else KEPT * state[0] + (1 - KEPT) * ranked
    state[1] += 1
    if state[1] >= READINGS and state[0] >= method.ranked_share:
        state[2] = moment.step + 1

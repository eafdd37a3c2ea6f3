"""Negatives made of the hardest ones (MoCHi, arXiv 2010.01028; SynCo, arXiv 2410.02401): unit vectors without gradient.

Which are combined, and how, is drawn from the step, the anchor's image and the place: the same on any number of processes.

Shape suffixes: B = anchors, M = rows on offer, K = negatives, H = the hardest of them, S = synthetic ones, D = embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..methods.schedules import Moment
from ..methods.synthetic import MixedQueue
from . import noise
from .images import Images
from .regions import Offered, Selected

MOST_QUERY = 0.5  # of an interpolated negative that is the anchor; and by how much of the distance one is extrapolated
FIRST, SECOND, SHARE, NOISE = range(4)  # what is drawn of each synthetic negative


def added(
    queue: MixedQueue,
    negative: Selected,
    anchor_BD: Tensor,
    offered: Offered,
    images: Images,
    moment: Moment,
    *,
    stream: int,
    temperature: float,
) -> Selected:
    """The negatives and the synthetic ones made of them, of which the index is that of the first row in it.

    `stream`: numbers the views that are anchors, whose draws have nothing to do with each other.
    """
    kinds = ("mixed", "interpolated", "extrapolated", "noisy", "perturbed", "adversarial")
    counts = [getattr(queue, kind) for kind in kinds]
    if sum(counts) == 0 or moment.step < queue.since * moment.steps_per_epoch:
        return negative
    with torch.no_grad():
        lowest = torch.finfo(negative.value_NK.dtype).min
        hard = min(queue.hardest, negative.value_NK.shape[1])
        place_BH = negative.value_NK.masked_fill(~negative.keep_NK, lowest).topk(hard, dim=1).indices
        index_BH = negative.index_NK.gather(1, place_BH)
        there_B1 = negative.keep_NK.sum(dim=1, keepdim=True).clamp(max=hard)
        place_S = torch.arange(sum(counts), device=anchor_BD.device)
        whose = (moment.step, stream, images.row_B[:, None], place_S)
        chosen_2BS = [(noise.uniform(*whose, which) * there_B1).long().clamp(max=hard - 1) for which in (FIRST, SECOND)]
        first_BS, second_BS = (index_BH.gather(1, chosen_BS) for chosen_BS in chosen_2BS)
        share_BS = noise.uniform(*whose, SHARE).to(anchor_BD.dtype)
        made, start = [], 0
        for kind, count in zip(kinds, counts, strict=True):
            part = slice(start, start := start + count)
            if count == 0:
                continue
            one_BSD, query_B1D = offered.key_MD[first_BS[:, part]], anchor_BD[:, None]
            share_BS1 = share_BS[:, part, None]
            match kind:
                case "mixed":
                    made.append(mixed(one_BSD, offered.key_MD[second_BS[:, part]], share_BS1))
                case "interpolated":
                    made.append(mixed(query_B1D, one_BSD, MOST_QUERY * share_BS1))
                case "extrapolated":
                    made.append(mixed(one_BSD, query_B1D, 1 + MOST_QUERY * share_BS1))
                case "noisy":
                    axis_D = torch.arange(one_BSD.shape[2], device=one_BSD.device)
                    numbers = (
                        *(key[..., None] if isinstance(key, Tensor) else key for key in whose[:3]),
                        place_S[part, None],
                    )
                    made.append(moved(one_BSD, noise.normal(*numbers, NOISE, axis_D), queue.sigma))
                case "perturbed":
                    made.append(moved(one_BSD, query_B1D, queue.delta))
                case "adversarial":
                    made.append(moved(one_BSD, query_B1D.sign(), queue.eta))
        made_BSD = torch.cat(made, dim=1)
    value_BS = (made_BSD @ anchor_BD[:, :, None])[..., 0] / temperature
    keep_BS = (there_B1 > 0).expand_as(value_BS)
    both = zip(negative, (value_BS, keep_BS, first_BS), strict=True)
    return Selected(*(torch.cat(parts, dim=1) for parts in both))


def mixed(one: Tensor, two: Tensor, share: Tensor) -> Tensor:
    """The direction of share * one + (1 - share) * two; a share above 1 goes beyond `one`, away from `two`."""
    return F.normalize(share * one + (1 - share) * two, dim=-1)


def moved(one: Tensor, along: Tensor, by: float) -> Tensor:
    """The direction of one + by * along. The gradient of the cosine of unit vectors in `one` is the other vector."""
    return F.normalize(one + by * along.to(one.dtype), dim=-1)

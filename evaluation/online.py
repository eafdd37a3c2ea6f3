"""How the representation is doing, while it learns: a linear probe and weighted nearest neighbours, on the features of the
batches that are trained on anyway.

A sign of progress, not a result to report: the images are augmented training views, the features move under the probe, and
from the second epoch on it has seen the labels it is asked for. `knn.py` measures what an encoder is worth.

No other forward pass, no gradient that reaches the encoder, nothing that waits for the device. All state is a dict of
tensors, a function of the batches so far; given the global batch it is the same on every rank. A batch of 256 x 512 takes
1.7 ms for 10 classes and 4 ms for 1,000 on two cores, 9 and 10 ms where it is observed.

Shape suffixes: B = images of the global batch, Q = some of them, F = features, G = F and a constant 1, C = classes,
N = rows of the ring, K = neighbours.
"""

import torch
from torch import Tensor

from .labels import placed

Online = dict[str, Tensor]

# Softmax regression on features standardised as by a BatchNorm without weights, which is how MAE probes (arXiv 2111.06377,
# A.1). Its curvature is at most half the mean square of a standardised value, times G (half: Böhning 1992), so steps of
# RATE / G are stable below 2 * (1 + MOMENTUM) / .5 = 7.6, however correlated the features are.
RATE, MOMENTUM = 5.0, 0.9
# Few labels make noisy gradients: the mean over n of them counts n / (n + STEADY). On features of a CIFAR-10 encoder after
# 4,000 batches of 16: test accuracy .59 at a rate of 1 and .55 at 4; of 256 images, .60 at either after 1,000.
STEADY = 64
# Of the weight of what the statistics have seen, a batch. Features that leap to a thousandth are themselves again after 130
# batches (ln 1e6 / .1); the accuracy on four sets of real features is that of .99, within half a point.
KEEP = 0.9
BOUND = 10.0  # standard deviations: what a standardised value is cut to, after a leap of the features for instance
CONSTANT = 1e-5  # standard deviation over mean, below which a feature is float32's rounding
SHORTEST, LONGEST = 1e-12, 1e15  # of a vector that has a direction; of one whose square can be summed in float32

MOST = 2**24
"""Weights of a probe: with its momentum 134 MB in every checkpoint. A larger one costs more than such a sign is worth."""

NEIGHBOURS, TEMPERATURE = 20, 0.1
CHUNK = 512  # images at a time: bounds the similarity matrix to 512 x N
NOBODY = -1  # label and image of a place of the ring that is empty
BARRED = -100.0  # below every cosine, and at TEMPERATURE of weight 0


def too_large(features: int, classes: int) -> str:
    """Why no probe watches a training of so many classes, in words; "" where one can."""
    weights = (features + 1) * classes
    if weights <= MOST:
        return ""
    return (
        f"none: a probe of {classes:,} classes by {features:,} features would put {8 * weights / 1e6:,.0f} MB into every "
        f"checkpoint, more than {8 * MOST / 1e6:,.0f}; evaluate tells what the features are worth"
    )


def start(features: int, classes: int, *, rows: int = 2048, device: torch.device) -> Online:
    """The state before the first batch; `rows` is how many of the latest features are the neighbours to be.

    `probe` [G, C] has its bias in the last row, `velocity` is its momentum; `mean`, `variance` [F] and `seen` [] are the
    running statistics; `ring` [N, F] holds unit features in float16 (2 MB for 2048 x 512), `ring_label` and `ring_row` [N]
    say whose. Raises ValueError where a size is below 1.
    """
    for name, value in (("features", features), ("classes", classes), ("rows", rows)):
        if value < 1:
            raise ValueError(f"an online probe needs {name} of at least 1, got {value}")
    return {
        "probe": torch.zeros(features + 1, classes, device=device),
        "velocity": torch.zeros(features + 1, classes, device=device),
        "mean": torch.zeros(features, device=device),
        "variance": torch.zeros(features, device=device),
        "seen": torch.zeros((), device=device),
        "ring": torch.zeros(rows, features, dtype=torch.float16, device=device),
        "ring_label": torch.full((rows,), NOBODY, dtype=torch.int64, device=device),
        "ring_row": torch.full((rows,), NOBODY, dtype=torch.int64, device=device),
    }


def of_occurring(held: Online, number_C: Tensor) -> Online:
    """The state that an older version kept, a class for every number up to the largest, for the classes that occur.

    `number_C` are their numbers, ascending. Where these have no gaps, or it is of this version, nothing changes.
    """
    if not {"probe", "velocity", "ring_label"} <= held.keys() or held["probe"].ndim != 2:
        return held  # what is missing is named where shapes are compared
    probe_GK, number_C = held["probe"], number_C.to(held["probe"].device)
    gaps = probe_GK.shape[1] > len(number_C) > 0 and probe_GK.shape[1] == int(number_C[-1]) + 1
    if not gaps:
        return held
    narrow = {name: held[name][:, number_C].contiguous() for name in ("probe", "velocity")}
    return held | narrow | {"ring_label": placed(held["ring_label"], number_C)}


@torch.no_grad()
def update_probe_(
    online: Online, feature_BF: Tensor, label_B: Tensor, valid_B: Tensor, row_B: Tensor, *, step: int, observe: bool
) -> dict[str, Tensor]:
    """Learn from one batch; if asked to `observe`, first say how well it was predicted (else an empty dict).

    `label_B` is int64, below 0 where there is none; `row_B` int64 says which images these are, so that none is its own
    neighbour. `probe` and `neighbours` are the accuracies (0-dimensional float32, shares of 1) over the rows that are valid,
    labelled and finite, 0 where there are none. Both are measured before anything learns from the batch's labels; the
    statistics have seen its features, as a BatchNorm has. Of `neighbours`, an image is told wrongly while none has a vote.

    Rows that are not valid, or whose features are not finite, enter no state. Every step must bring as many rows: where the
    ring is written follows from `step`.
    """
    with torch.autocast(feature_BF.device.type, enabled=False):
        feature_BF = feature_BF.float()
        length_B = feature_BF.norm(dim=1)
        usable_B = valid_B & (length_B < LONGEST)  # neither NaN nor infinity is less
        told_B = usable_B & (label_B >= 0) & (label_B < online["probe"].shape[1])
        pointing_B = told_B & (length_B > SHORTEST)
        feature_BF = torch.where(usable_B[:, None], feature_BF, 0)
        unit_BF = feature_BF / torch.where(pointing_B, length_B, 1)[:, None]

        standard_BG = _standardise_(online, feature_BF, usable_B)
        logit_BC = standard_BG @ online["probe"]
        seen = {}
        if observe:
            nearest_B = _neighbours(online, unit_BF, row_B)
            seen = {"probe": _share(logit_BC.argmax(dim=1) == label_B, told_B)}
            seen["neighbours"] = _share(nearest_B == label_B, told_B)
        _learn_(online, standard_BG, logit_BC, label_B, told_B)
        _remember_(online, unit_BF, label_B, row_B, pointing_B, step=step)
    return seen


def _share(right_B: Tensor, counted_B: Tensor) -> Tensor:
    """float32 []: how many of those counted are right, 0 where none counts."""
    return (right_B & counted_B).sum() / counted_B.sum().clamp(min=1)


def _standardise_(online: Online, feature_BF: Tensor, usable_B: Tensor) -> Tensor:
    """[B, G]: features less their running mean over their running deviation, after both have seen the batch, and a 1.

    The statistics are exact weighted ones, a row's weight falling by KEEP a batch: a batch of few usable rows counts little.
    """
    mean_F, variance_F, seen = online["mean"], online["variance"], online["seen"]
    count = usable_B.sum()
    total = torch.where(count > 0, KEEP * seen + count, seen)
    share = count / total.clamp(min=1)
    here_F = feature_BF.sum(dim=0) / count.clamp(min=1)
    spread_F = torch.where(usable_B[:, None], feature_BF - here_F, 0).square().sum(dim=0) / count.clamp(min=1)
    off_F = here_F - mean_F  # not from the mean of squares: that cancels where a mean is large
    variance_F.copy_((1 - share) * (variance_F + share * off_F.square()) + share * spread_F)
    mean_F.add_(share * off_F)
    seen.copy_(total)
    scale_F = (variance_F + (CONSTANT * mean_F).square() + SHORTEST**2).rsqrt()
    standard_BF = ((feature_BF - mean_F) * scale_F).clamp(-BOUND, BOUND)
    return torch.cat((standard_BF, torch.ones_like(standard_BF[:, :1])), dim=1)


def _learn_(online: Online, standard_BG: Tensor, logit_BC: Tensor, label_B: Tensor, told_B: Tensor) -> None:
    """One step of softmax regression with momentum; its gradient is (probability - truth) times input, a mean over the told.

    Where nobody is told anything, the probe stays as it is, and so does its momentum.
    """
    count = told_B.sum()
    truth_BC = label_B[:, None] == torch.arange(logit_BC.shape[1], device=label_B.device)
    error_BC = (logit_BC.softmax(dim=1) - truth_BC.float()) * (told_B / (count + STEADY))[:, None]
    taught = (count > 0).float()
    online["velocity"].mul_(1 - (1 - MOMENTUM) * taught).addmm_(standard_BG.T, error_BC)
    online["probe"].addcmul_(online["velocity"], taught, value=-RATE / standard_BG.shape[1])


def _neighbours(online: Online, unit_BF: Tensor, row_B: Tensor) -> Tensor:
    """int64 [B]: the class with the most votes, as in knn.py, among other images of the ring; NOBODY where none is there.

    The K neighbours ask each other for their classes: adding into C sums gives other roundings in each run of a GPU.
    """
    label_N, row_N, ring_NF = online["ring_label"], online["ring_row"], online["ring"].float()
    told = []
    for unit_QF, row_Q in zip(unit_BF.split(CHUNK), row_B.split(CHUNK), strict=True):
        barred_QN = (row_N == row_Q[:, None]) | (label_N == NOBODY)
        cosine_QN = (unit_QF @ ring_NF.T).masked_fill(barred_QN, BARRED)
        cosine_QK, index_QK = cosine_QN.topk(min(NEIGHBOURS, len(ring_NF)), dim=1)
        weight_QK = ((cosine_QK - cosine_QK[:, :1]) / TEMPERATURE).exp()
        label_QK = label_N[index_QK]
        same_QKK = label_QK[:, :, None] == label_QK[:, None, :]
        sum_QK = (same_QKK * weight_QK[:, None, :]).sum(dim=2)
        first_QK = torch.where(sum_QK == sum_QK.amax(dim=1, keepdim=True), label_QK, torch.iinfo(torch.int64).max)
        told.append(torch.where(cosine_QK[:, 0] > BARRED, first_QK.amin(dim=1), NOBODY))
    return torch.cat(told)


def _remember_(online: Online, unit_BF: Tensor, label_B: Tensor, row_B: Tensor, kept_B: Tensor, *, step: int) -> None:
    """Put the features of `step` behind those of the step before, over the oldest; of a larger batch the last N.

    A place keeps what it holds where the new one could not vote: not valid, no label, not finite or no direction.
    """
    size, count = len(online["ring"]), len(unit_BF)
    first = max(0, count - size)
    place_B = (torch.arange(count - first, device=unit_BF.device) + (step * count + first)) % size
    kept_B = kept_B[first:]
    for name, new_B in (("ring", unit_BF), ("ring_label", label_B), ("ring_row", row_B)):
        held = online[name]
        new_B = new_B[first:].to(held.dtype)
        mask_B = kept_B.view(-1, *[1] * (new_B.ndim - 1))
        held.index_copy_(0, place_B, torch.where(mask_B, new_B, held[place_B]))

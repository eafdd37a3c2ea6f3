"""Choosing a setting on training images alone. No function here takes a test image, or can be handed one's label.

Shape suffixes: N = training images, I = those to fit on, J = those held out, S = settings.
"""

import math
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

SHARE = 0.1  # of the training images of each class: what the settings are compared on

Setting = TypeVar("Setting")
Model = TypeVar("Model")


class Split(NamedTuple):
    """int64 rows of the training images, ascending: those to fit on, and those held out."""

    fit_I: Tensor
    held_J: Tensor


class Chosen(NamedTuple, Generic[Setting, Model]):
    """A setting, the model fitted with it alone on all training images, and how it came to be chosen.

    `accuracy_S` are the accuracies on the held-out images, shares of 1, setting by setting; NaN where one diverged.
    `words` belong in the protocol.
    """

    setting: Setting
    model: Model
    accuracy_S: tuple[float, ...]
    words: str


def counted(label_N: Tensor) -> Tensor:
    """int64 [C]: how many images each class has; raises ValueError where there are none, or labels below 0."""
    if label_N.ndim != 1 or not len(label_N):
        raise ValueError(f"labels must be one per image and of one image at least, got the shape {list(label_N.shape)}")
    if (label_N < 0).any():
        raise ValueError(f"{int((label_N < 0).sum())} of {len(label_N)} training images have no label: leave them out")
    return label_N.cpu().bincount()


def places(label_N: Tensor, *, seed: int) -> Tensor:
    """int64 [N]: each row's place, from 0, when the rows of its class are shuffled; raises ValueError as `counted`."""
    count_C, label_N = counted(label_N), label_N.cpu()
    shuffled_N = torch.randperm(len(label_N), generator=torch.Generator().manual_seed(seed))
    row_N = shuffled_N[label_N[shuffled_N].argsort(stable=True)]
    first_N = (count_C.cumsum(0) - count_C)[label_N[row_N]]
    return torch.empty_like(row_N).scatter_(0, row_N, torch.arange(len(row_N)) - first_N)


def split(label_N: Tensor, *, share: float = SHARE, seed: int = 0) -> Split:
    """Hold out `share` of every class, at random, the same for the same labels and seed.

    A class of two rows or more keeps one at least on either side; a single row is fitted on. Raises ValueError for a share
    that is not between 0 and 1, for labels below 0 and where every class has one row.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of training images to hold out must lie between 0 and 1, got {share}")
    count_C = counted(label_N)
    if count_C.max() < 2:
        raise ValueError(
            "no class has two training images, so none can be held out to choose a setting on: give more, or fix the setting"
        )
    quota_C = (count_C.double() * share + 0.5).long().clamp(min=1).minimum((count_C - 1).clamp(min=0))
    held_N = places(label_N, seed=seed) < quota_C[label_N.cpu()]
    return Split((~held_N).nonzero().flatten(), held_N.nonzero().flatten())


def choose(
    label_N: Tensor,
    settings: Sequence[Setting],
    *,
    fit: Callable[[Tensor, Sequence[Setting]], Model],
    accuracy: Callable[[Model, Tensor], Tensor],
    strength: Callable[[Setting], tuple[float, ...]],
    name: Callable[[Setting], str],
    share: float = SHARE,
    seed: int = 0,
) -> Chosen[Setting, Model]:
    """Fit all `settings` on a part of the training images, take the one that tells the rest best, and fit it on all.

    `fit(row_I, settings)` fits on those rows; `accuracy(model, held_J)` is [S], NaN for a setting that diverged, which is
    never taken. Of equal accuracy the largest `strength` wins, the stronger regularisation. Where `fit` raises
    FloatingPointError, because the setting diverges on all images, the next best is taken. Raises ValueError where no
    setting is left.
    """
    if not settings:
        raise ValueError("there is no setting to choose from: give one at least")
    rows = split(label_N, share=share, seed=seed)
    accuracy_S = tuple(accuracy(fit(rows.fit_I, settings), rows.held_J).tolist())
    usable = [i for i, value in enumerate(accuracy_S) if not math.isnan(value)]
    for i in sorted(usable, key=lambda i: (accuracy_S[i], strength(settings[i])), reverse=True):
        try:
            model = fit(torch.arange(len(label_N)), [settings[i]])
        except FloatingPointError:
            continue
        percent = f"{100 * share:g} % of the training images"
        return Chosen(settings[i], model, accuracy_S, f"{name(settings[i])} chosen of {len(settings)} on {percent}")
    raise ValueError(f"all of {len(settings)} settings diverged: add lower learning rates")

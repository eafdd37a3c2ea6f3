"""How good class scores are: accuracies, the matrix of confusions, and how far chance alone could have moved them.

Shape suffixes: Q = asked images, C = classes, D = bootstrap draws.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 1000  # bootstrap resamples
TAILS = (0.025, 0.975)  # the percentiles that bound 95 %
TOP = 5


class Interval(NamedTuple):
    """A value and its 95 % bootstrap percentile interval over images, or its range over several draws; shares of 1."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """How one way of telling does on one set of images; accuracies are shares of 1."""

    top1: Interval
    top5: float | None
    """None where there are 5 classes or fewer."""
    per_class: float
    """Mean over the classes that are present of their accuracies."""
    confusion_CC: Tensor
    """int64: images of the class of the row that were told to be of that of the column."""
    images: int
    protocol: str


def score(score_QC: Tensor, label_Q: Tensor, *, protocol: str, draws: int = DRAWS, seed: int = 0) -> Score:
    """Compare class scores with the truth. Of equal scores the lower class is told; a class of -inf is not told at all.

    Raises ValueError for no images, for labels below 0 or of no class, and for scores that are NaN.
    """
    label_Q, score_QC = label_Q.cpu(), score_QC.detach().cpu()
    classes = score_QC.shape[1]
    _check(label_Q, len(score_QC), classes)
    if score_QC.isnan().any():
        count = int(score_QC.isnan().any(dim=1).sum())
        raise ValueError(f"{count} of {len(score_QC)} images have a class score that is no number: the probe has diverged")
    true_Q1 = score_QC.gather(1, label_Q[:, None])
    before_QC = (score_QC == true_Q1) & (torch.arange(classes) < label_Q[:, None])
    place_Q = ((score_QC > true_Q1) | before_QC).sum(dim=1).masked_fill(true_Q1[:, 0].isneginf(), classes)
    confusion_CC = (label_Q * classes + score_QC.argmax(dim=1)).bincount(minlength=classes**2).view(classes, classes)
    present_C = confusion_CC.sum(dim=1) > 0
    share_C = confusion_CC.diag()[present_C] / confusion_CC.sum(dim=1)[present_C]
    return Score(
        top1=_resampled(place_Q == 0, torch.zeros_like(label_Q, dtype=torch.bool), draws=draws, seed=seed),
        top5=(place_Q < TOP).double().mean().item() if classes > TOP else None,
        per_class=share_C.double().mean().item(),
        confusion_CC=confusion_CC,
        images=len(label_Q),
        protocol=protocol,
    )


def difference(guess_Q: Tensor, other_Q: Tensor, label_Q: Tensor, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Top-1 of `guess_Q` less that of `other_Q`, told of the same images, which are resampled together.

    Images that both tell rightly or both wrongly say nothing, so it is narrower than the intervals of both would suggest.
    """
    if guess_Q.shape != label_Q.shape or other_Q.shape != label_Q.shape:
        shapes = [list(tensor.shape) for tensor in (guess_Q, other_Q, label_Q)]
        raise ValueError(f"a paired difference needs two guesses and a label for the same images, got the shapes {shapes}")
    guess_Q, other_Q, label_Q = guess_Q.cpu(), other_Q.cpu(), label_Q.cpu()
    _check(label_Q, len(guess_Q), None)
    return _resampled(guess_Q == label_Q, other_Q == label_Q, draws=draws, seed=seed)


def _resampled(right_Q: Tensor, other_Q: Tensor, *, draws: int, seed: int) -> Interval:
    """The share of images that are right less the share of those that are by the other, and its bootstrap interval.

    Q images drawn with replacement are a multinomial draw of how many are gained (+1), lost (-1) or neither: two binomial
    numbers a resample, in place of Q indices.
    """
    if draws < 1:
        raise ValueError(f"a bootstrap needs at least 1 draw, got {draws}")
    count = len(right_Q)
    gained, lost = (right_Q & ~other_Q).sum().item(), (other_Q & ~right_Q).sum().item()
    generator = torch.Generator().manual_seed(seed)
    all_D = torch.full((draws,), float(count), dtype=torch.float64)
    gained_D = torch.binomial(all_D, torch.full_like(all_D, gained / count), generator=generator)
    rest = lost / (count - gained) if count > gained else 0.0
    lost_D = torch.binomial(all_D - gained_D, torch.full_like(all_D, rest), generator=generator)
    low, high = ((gained_D - lost_D) / count).quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Interval((gained - lost) / count, low, high)


def _check(label_Q: Tensor, count: int, classes: int | None) -> None:
    if not len(label_Q) or len(label_Q) != count:
        raise ValueError(
            f"scores of {count} images were given and {len(label_Q)} labels: one each of one image at least is needed"
        )
    if (label_Q < 0).any():
        below = int((label_Q < 0).sum())
        raise ValueError(
            f"{below} of {len(label_Q)} images have no label (-1), so nothing can be said of them: leave them out"
        )
    if classes is not None and label_Q.max() >= classes:
        raise ValueError(f"labels go up to {int(label_Q.max())}, but there are scores of {classes} classes alone")

"""How good class scores are: accuracies, which classes are confused, and how far chance alone could have moved them.

Shape suffixes: Q = asked images, C = classes, P = pairs of classes that occur, D = bootstrap draws.
"""

from collections.abc import Iterable
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
    confusion_P3: Tensor
    """int64: a true class, the class that was told, and of how many images; the pairs that occur, in order."""
    classes: int
    images: int
    protocol: str

    @property
    def confusion_CC(self) -> Tensor:
        """int64: images of the class of the row that were told to be of that of the column; of few classes alone."""
        matrix_CC = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        matrix_CC[self.confusion_P3[:, 0], self.confusion_P3[:, 1]] = self.confusion_P3[:, 2]
        return matrix_CC


def score(given: Tensor | Iterable[Tensor], label_Q: Tensor, *, protocol: str, draws: int = DRAWS, seed: int = 0) -> Score:
    """Compare class scores with the truth. Of equal scores the lower class is told; a class of -inf is not told at all.

    `given` are the scores [Q, C], or parts of them in order: of many classes not all of them fit into the memory at once.
    Raises ValueError for no images, for labels below 0 or of no class, and for scores that are NaN.
    """
    label_Q = label_Q.cpu()
    places, guesses, classes, lost, first = list[Tensor](), list[Tensor](), 0, 0, 0
    for score_QC in [given] if isinstance(given, Tensor) else given:
        score_QC = score_QC.detach().cpu()
        part_Q, classes = label_Q[first : first + len(score_QC)], score_QC.shape[1]
        first += len(score_QC)
        _check(label_Q, first if first > len(label_Q) else len(label_Q), classes)
        lost += int(score_QC.isnan().any(dim=1).sum())
        places.append(_place(score_QC, part_Q))
        guesses.append(score_QC.argmax(dim=1))
    _check(label_Q, first, classes)
    if lost:
        raise ValueError(f"{lost} of {first} images have a class score that is no number: the probe has diverged")
    place_Q, confusion_P3 = torch.cat(places), confused(label_Q, torch.cat(guesses))
    true_P, told_P, count_P = confusion_P3.T
    right_C, all_C = (torch.zeros(classes, dtype=torch.int64) for _ in range(2))
    all_C.scatter_add_(0, true_P, count_P)
    right_C.scatter_add_(0, true_P, count_P * (true_P == told_P))
    present_C = all_C > 0
    return Score(
        top1=_resampled(place_Q == 0, torch.zeros_like(label_Q, dtype=torch.bool), draws=draws, seed=seed),
        top5=(place_Q < TOP).double().mean().item() if classes > TOP else None,
        per_class=(right_C[present_C] / all_C[present_C]).double().mean().item(),
        confusion_P3=confusion_P3,
        classes=classes,
        images=len(label_Q),
        protocol=protocol,
    )


def _place(score_QC: Tensor, label_Q: Tensor) -> Tensor:
    """int64 [Q]: before how many classes the true one stands; C where its score is -inf."""
    true_Q1 = score_QC.gather(1, label_Q[:, None])
    classes = score_QC.shape[1]
    before_QC = (score_QC == true_Q1) & (torch.arange(classes) < label_Q[:, None])
    return ((score_QC > true_Q1) | before_QC).sum(dim=1).masked_fill(true_Q1[:, 0].isneginf(), classes)


def confused(true_Q: Tensor, told_Q: Tensor) -> Tensor:
    """int64 [P, 3]: the pairs of true and told classes that occur, in order, each with its number of images."""
    pair_P2, count_P = torch.stack((true_Q, told_Q), dim=1).unique(dim=0, return_counts=True)
    return torch.cat((pair_P2, count_P[:, None]), dim=1)


def added(parts: Iterable[Tensor]) -> Tensor:
    """int64 [P, 3]: the confusions of several scores of the same classes, counted together."""
    whole_P3 = torch.cat(list(parts))
    pair_P2, which_P = whole_P3[:, :2].unique(dim=0, return_inverse=True)
    count_P = torch.zeros(len(pair_P2), dtype=torch.int64).scatter_add_(0, which_P, whole_P3[:, 2])
    return torch.cat((pair_P2, count_P[:, None]), dim=1)


def worst(confusion_P3: Tensor, most: int) -> list[tuple[int, int, int]]:
    """The `most` frequent errors: the true class, the told one, and of how many images."""
    wrong_P3 = confusion_P3[confusion_P3[:, 0] != confusion_P3[:, 1]]
    order_P = wrong_P3[:, 2].argsort(descending=True, stable=True)[:most]
    return [(true, told, count) for true, told, count in wrong_P3[order_P].tolist()]


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

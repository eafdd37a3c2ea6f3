"""Closed-form linear probe: ridge regression on one-hot labels, the penalty chosen by its exact leave-one-out error.

    W(p) = (X'X + p I)^-1 X'Y,  X and Y less their means, so that the intercept bears no penalty

One eigendecomposition in float64, of X'X or, where N < F, of XX', gives W for every penalty. Leaving row i out changes its
residual from r_i to r_i / (1 - h_i), h_i the leverage, exactly (Golub, Heath and Wahba 1979; the intercept adds 1 / N).
`penalty` is scikit-learn's alpha.

Shape suffixes: N = training images, B = some of them, Q = asked images, F = features, G = F and a constant 1, C = classes,
R = directions, P = penalties.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 4096  # rows at a time in float64: 17 MB of 512 features
HELD = 2**24  # numbers of rows x classes at a time: 134 MB
EXPONENTS = tuple(power / 2 for power in range(-12, 7))  # of 10: penalties over the mean eigenvalue, half decades apart


class _Axes(NamedTuple):
    """The directions in which X has a variance: their unit vectors, N times the variances, and the means of X and Y."""

    axis_FR: Tensor
    value_R: Tensor
    mean_F: Tensor
    mean_C: Tensor
    moment_FC: Tensor
    """X'Y"""


class Ridge(NamedTuple):
    """Ridge regressions. `loo_P` are their leave-one-out accuracies, shares of 1, and `loo_square_P` the mean squares of
    their leave-one-out residuals. Weights are made for one penalty at a time: of many classes all would be gigabytes."""

    penalties: tuple[float, ...]
    loo_P: Tensor
    loo_square_P: Tensor
    axes: _Axes
    shrunk_PR: Tensor
    """1 / (N variance + penalty) of each direction."""
    target_RC: Tensor

    def weight_GC(self, index: int) -> Tensor:
        """float64, intercept in the last row."""
        weight_FC = self.axes.axis_FR @ (self.shrunk_PR[index, :, None] * self.target_RC)
        return torch.cat((weight_FC, (self.axes.mean_C - self.axes.mean_F @ weight_FC)[None]))

    @property
    def weight_PGC(self) -> Tensor:
        """The same of all penalties."""
        return torch.stack([self.weight_GC(index) for index in range(len(self.penalties))])


@torch.no_grad()
def fit(
    feature_NF: Tensor,
    label_N: Tensor,
    *,
    classes: int,
    penalties: Sequence[float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ridge:
    """Fit all `penalties`; None takes 19 from 1e-6 to 1e3 times the mean eigenvalue of X'X.

    Besides the features it takes about F * F + 3 * F * C float64; `progress` counts rows.

    Raises ValueError for labels outside 0..C-1, fewer than two images, features that are not finite, and penalties that are
    not above 0.
    """
    if len(feature_NF) != len(label_N) or len(label_N) < 2 or label_N.min() < 0 or label_N.max() >= classes:
        raise ValueError(f"ridge regression needs two images at least, each with a label of 0 to {classes - 1}")
    label_N = label_N.to(feature_NF.device)
    axes = _axes(feature_NF, label_N, classes)
    if penalties is None:
        mean = axes.value_R.sum().item() / min(feature_NF.shape) or 1.0  # features that are all the same have no direction
        penalties = [mean * 10**power for power in EXPONENTS]
    if not penalties or any(not penalty > 0 for penalty in penalties):
        raise ValueError(f"penalties must be above 0, got {list(penalties)}")

    shrunk_PR = 1 / (axes.value_R + torch.tensor(penalties, dtype=torch.float64, device=feature_NF.device)[:, None])
    target_RC = axes.axis_FR.T @ axes.moment_FC
    right_P, square_P = (torch.zeros(len(penalties), dtype=torch.float64, device=feature_NF.device) for _ in range(2))
    done, rows = 0, _rows(classes)
    for feature_BF, label_B in zip(feature_NF.split(rows), label_N.split(rows), strict=True):
        along_BR = (feature_BF.double() - axes.mean_F) @ axes.axis_FR
        kept_PB = 1 - 1 / len(label_N) - shrunk_PR @ along_BR.square().T  # 1 - h; rounding makes it 0 where all is fitted
        one_BC = _one_hot(label_B, classes)
        for i, kept_B in enumerate(kept_PB.clamp(min=torch.finfo(torch.float64).eps)):
            residual_BC = (one_BC - axes.mean_C - along_BR @ (shrunk_PR[i, :, None] * target_RC)) / kept_B[:, None]
            right_P[i] += ((one_BC - residual_BC).argmax(dim=1) == label_B).sum()
            square_P[i] += residual_BC.square().sum()
        done += len(label_B)
        progress(done, len(label_N))
    count = len(label_N)
    return Ridge(tuple(penalties), right_P / count, square_P / (count * classes), axes, shrunk_PR, target_RC)


def work(rows: int, features: int, classes: int) -> float:
    """Products and sums that `fit` takes: the leave-one-out error by every penalty, and the eigendecomposition."""
    width = min(rows, features)
    return 2.0 * rows * width * classes * (len(EXPONENTS) + 1) + 2.0 * rows * features * width + 10.0 * width**3


def _rows(classes: int) -> int:
    return max(1, min(CHUNK, HELD // classes))


def _one_hot(label_B: Tensor, classes: int) -> Tensor:
    """float64 [B, C]."""
    one_BC = torch.zeros(len(label_B), classes, dtype=torch.float64, device=label_B.device)
    return one_BC.scatter_(1, label_B[:, None], 1.0)


def _axes(feature_NF: Tensor, label_N: Tensor, classes: int) -> _Axes:
    count, width = feature_NF.shape
    zero = {"dtype": torch.float64, "device": feature_NF.device}
    mean_F, moment_FC = torch.zeros(width, **zero), torch.zeros(width, classes, **zero)
    for feature_BF in feature_NF.split(CHUNK):
        mean_F += feature_BF.double().sum(dim=0) / count
    if not mean_F.isfinite().all():
        raise ValueError(
            f"{int((~mean_F.isfinite()).sum())} of {width} features are not finite: look at the encoder's output"
        )
    mean_C = label_N.bincount(minlength=classes).double() / count
    dual = count < width
    product = torch.zeros(count if dual else width, count if dual else width, **zero)
    for feature_BF, label_B in zip(feature_NF.split(_rows(classes)), label_N.split(_rows(classes)), strict=True):
        centred_BF = feature_BF.double() - mean_F
        moment_FC += centred_BF.T @ (_one_hot(label_B, classes) - mean_C)
        if not dual:
            product += centred_BF.T @ centred_BF
    if dual:
        product = (feature_NF.double() - mean_F) @ (feature_NF.double() - mean_F).T
    value_R, axis = torch.linalg.eigh(product)
    # below this an eigenvalue is the rounding of the largest, and its direction anything
    real_R = value_R > value_R.max().clamp(min=0) * torch.finfo(torch.float64).eps * max(count, width)
    value_R, axis = value_R[real_R], axis[:, real_R]
    axis_FR = (feature_NF.double() - mean_F).T @ axis * value_R.rsqrt() if dual else axis
    return _Axes(axis_FR, value_R, mean_F, mean_C, moment_FC)


def scores(ridge: Ridge, feature_QF: Tensor, index: int) -> Tensor:
    """float64 [Q, C]: the class scores by the penalty number `index`; 1 for the class and 0 for others is what was asked."""
    return torch.cat(list(parts(ridge, feature_QF, index)))


def parts(ridge: Ridge, feature_QF: Tensor, index: int) -> Iterator[Tensor]:
    """The same, some images at a time."""
    weight_GC = ridge.weight_GC(index)
    for part_BF in feature_QF.split(_rows(weight_GC.shape[1])):
        yield part_BF.double() @ weight_GC[:-1] + weight_GC[-1]


def best(ridge: Ridge) -> int:
    """The number of the penalty with the highest leave-one-out accuracy; of equals the largest penalty."""
    order = sorted(range(len(ridge.penalties)), key=lambda i: (ridge.loo_P[i].item(), ridge.penalties[i]))
    return order[-1]


def words(ridge: Ridge, index: int) -> str:
    """The protocol of `best`."""
    rule = "by leave-one-out accuracy on the training images"
    return (
        f"ridge regression on one-hot labels, penalty {ridge.penalties[index]:.3g} chosen of {len(ridge.penalties)} {rule}"
    )

"""Losses without negatives: embeddings of two views in; nothing of them bounds information.

Statistics are over the rows given, so give the global batch (gathered over ranks). Rows that are not valid take no part and
get a gradient of exactly 0, whatever they hold. Computed in max(float32, input dtype); VICReg has fourth powers of
embeddings, which must fit in it, as those of all float16 values do.

Shape suffixes: B = rows of the global batch, D = embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

VARIANCE_EPSILON = 1e-4  # of arXiv 2105.04906, section 4: the standard deviation's gradient is finite at a collapse
STANDARDISE_EPSILON = 1e-5  # that of the batch normalisation which the code of arXiv 2103.03230 standardises with


def vicreg(
    one_BD: Tensor,
    two_BD: Tensor,
    valid_B: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Variance, invariance and covariance of two views (arXiv 2105.04906, eq. 1 to 6): loss and unweighted terms.

    invariance = mean (z1 - z2)^2 over rows and dimensions; variance = mean over views and dimensions of
    relu(1 - sqrt(var + 1e-4)); covariance = sum over views of sum_{i != j} cov_ij^2 / D; var and cov with 1 / (rows - 1).
    The means over views (variance) and dimensions (invariance) are those of the authors' code; the paper sums. Collapsed
    embeddings have a variance term of .99, so a loss of 24.75. Fewer than 2 valid rows count as collapsed: the same
    number, plus the invariance of a single row, which alone then has a gradient.
    """
    valid_B1, rows = _counted(valid_B)
    one_BD, two_BD = _precise(one_BD, valid_B1), _precise(two_BD, valid_B1)
    dimension = one_BD.shape[1]
    terms = {"invariance": (one_BD - two_BD).square().sum() / (rows.clamp(min=1) * dimension)}
    centred = [_centred(x_BD, valid_B1, rows) for x_BD in (one_BD, two_BD)]
    divisor = (rows - 1).clamp(min=1)
    deviations = [(x_BD.square().sum(dim=0) / divisor + VARIANCE_EPSILON).sqrt() for x_BD in centred]
    terms["variance"] = torch.stack([(1 - deviation_D).relu().mean() for deviation_D in deviations]).mean()
    terms["covariance"] = torch.stack(
        [_off_diagonal(x_BD.T @ x_BD / divisor).square().sum() / dimension for x_BD in centred]
    ).sum()
    loss = invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"]
    return loss, {name: term.detach() for name, term in terms.items()}


def barlow_twins(
    one_BD: Tensor, two_BD: Tensor, valid_B: Tensor, *, off_diagonal: float = 5e-3
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cross-correlation C of two views drawn to the identity (arXiv 2103.03230, eq. 1): loss and unweighted terms.

    loss = sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2, C = z1^T z2 / rows of z standardised over the rows by
    (z - mean) / sqrt(var + 1e-5), var with 1 / rows. A dimension that has collapsed has C = 0 and adds 1; so do all of
    them with fewer than 2 valid rows: the loss is D, without gradient.
    """
    valid_B1, rows = _counted(valid_B)
    divisor = rows.clamp(min=1)
    standard = []
    for x_BD in (one_BD, two_BD):
        centred_BD = _centred(_precise(x_BD, valid_B1), valid_B1, rows)
        standard.append(centred_BD * (centred_BD.square().sum(dim=0) / divisor + STANDARDISE_EPSILON).rsqrt())
    correlation_DD = standard[0].T @ standard[1] / divisor
    terms = {
        "on_diagonal": (1 - correlation_DD.diagonal()).square().sum(),
        "off_diagonal": _off_diagonal(correlation_DD).square().sum(),
    }
    loss = terms["on_diagonal"] + off_diagonal * terms["off_diagonal"]
    return loss, {name: term.detach() for name, term in terms.items()}


def byol(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """[B] 2 - 2 cos(prediction, target), the squared distance of the unit vectors (arXiv 2006.07733, eq. 2).

    The target's gradient is the caller's to stop: it comes from the momentum encoder. A vector of zeros has cosine 0.
    """
    dtype = torch.promote_types(prediction_BD.dtype, torch.float32)
    unit_BD = F.normalize(prediction_BD.to(dtype), dim=1)
    return 2 - 2 * (unit_BD * F.normalize(target_BD.to(dtype), dim=1)).sum(dim=1)


def _counted(valid_B: Tensor) -> tuple[Tensor, Tensor]:
    """The mask as a column, and how many rows count: 0-dimensional, on the device."""
    return valid_B[:, None], valid_B.sum()


def _precise(x_BD: Tensor, valid_B1: Tensor) -> Tensor:
    # where and not times 0: the sum of a row that does not count must be 0 even where it overflowed
    return torch.where(valid_B1, x_BD.to(torch.promote_types(x_BD.dtype, torch.float32)), 0)


def _centred(x_BD: Tensor, valid_B1: Tensor, rows: Tensor) -> Tensor:
    """Rows less their mean, those that do not count 0."""
    return torch.where(valid_B1, x_BD - x_BD.sum(dim=0) / rows.clamp(min=1), 0)


def _off_diagonal(x_DD: Tensor) -> Tensor:
    """All but the diagonal, as a view: sum of all less the diagonal would cancel digits, a masked copy be as large again."""
    dimension = len(x_DD)
    return x_DD.flatten()[:-1].view(dimension - 1, dimension + 1)[:, 1:]

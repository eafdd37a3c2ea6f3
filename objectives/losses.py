"""The terms of a method, computed: `LOSSES` has the function of each. A new term is one more entry.

Every function takes (term, method, outputs, images, moment) and returns the loss, scaled as `objective.loss` says, and
scalars.

Shape suffixes: V = views, B = images of this rank, F = features, D = embedding, S = pixels.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..distributed.collectives import everyone, gather, mean_weight
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.schedules import Moment
from ..methods.terms import (
    BarlowTwins,
    Bootstrap,
    LeJEPA,
    OwnReconstruction,
    SquaredError,
    Superfluous,
    VICReg,
    VonMisesFisher,
)
from . import redundancy, superinfo
from .images import Images
from .lejepa import lejepa

Loss = tuple[Tensor, dict[str, Tensor]]

FIELDS = (
    "embedding_VBD",
    "sample_VBD",
    "projected_VBD",
    "mean_VBF",
    "scale_VBF",
    "target_VBD",
    "prediction_VBD",
    "other_VBCSS",
    "own_VBCSS",
)


def precise(outputs: Outputs) -> Outputs:
    """The outputs in max(float32, their own type)."""
    found = {name: getattr(outputs, name) for name in FIELDS}
    whole = {name: x if x is None else x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in found.items()}
    return SimpleNamespace(**whole)  # pyright: ignore[reportReturnType]


def superfluous(term: Superfluous, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """la I(v1; z1 | v2) + lb I(v2; z2 | v1), bounded from above by one of three estimators.

    Of more views the mean over the pairs of the contrast: `first` weighs what an anchor has beyond a key that comes after it
    in the recipe, `second` beyond one that comes before it.
    """
    estimate = {"conditional-kl": _conditional_kl, "variational": _rates, "ceb": _residuals}[term.estimator]
    nats = [_mean([estimate(method, outputs, *pair) for pair in pairs]) for pairs in directed(method)]
    weight_B, size = mean_weight(images.valid_B, nats[0].dtype), outputs.mean_VBF.shape[2]
    if term.estimator == "ceb":  # on the embedding, whose dimension no weight was ever quoted for
        size = 1
    first, second = ((part_B * weight_B).sum() for part_B in nats)
    loss = term.warmup.at(moment) * (term.first * first + term.second * second) / size
    facts = _telemetry(outputs, weight_B)
    if term.estimator == "variational":
        facts |= {"rate_first": first / size, "rate_second": second / size}
    if method.decodes_other:
        of_z1, of_z2 = ((part_B * weight_B).sum() for part_B in _decoded(outputs.other_VBCSS, images, other=True))
        loss = loss + (term.decode_first * of_z1 + term.decode_second * of_z2) / size
        pixels = images.views[0][0].numel()
        facts |= {"nll_first": of_z1 / pixels, "nll_second": of_z2 / pixels}
        first, second = first + of_z1, second + of_z2  # up to the other view's entropy, which is a constant
    facts |= {"superfluous_first": first / size, "superfluous_second": second / size}
    facts |= {"superfluous_first_nats": first, "superfluous_second_nats": second}
    if method.samples_embedding:
        cosines = [(outputs.embedding_VBD[a] * outputs.embedding_VBD[b]).sum(dim=1) for a, b in _edges(method)]
        facts["mean_cosine"] = (_mean(cosines) * weight_B).sum()
    return loss, facts


def directed(method: Method) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The pairs that a term looks at: to a later view, and to an earlier one. Of two views (0, 1) and (1, 0)."""
    pairs = [(pair.anchor, pair.key) for pair in method.pairs if pair.anchor != pair.key] or [(0, 1)]
    later, earlier = ([pair for pair in pairs if (pair[0] < pair[1]) == wanted] for wanted in (True, False))
    return later or [(b, a) for a, b in earlier], earlier or [(b, a) for a, b in later]


def _edges(method: Method) -> list[tuple[int, int]]:
    """The same without a direction, each once."""
    return sorted({(min(pair), max(pair)) for pairs in directed(method) for pair in pairs})


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of tensors; of one itself."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean(dim=0)


def _conditional_kl(method: Method, outputs: Outputs, view: int, other: int) -> Tensor:
    """[B] KL(p(z|v) || p(z|other)) in nats (arXiv 2002.07017)."""
    one_BF, two_BF = outputs.mean_VBF[view], outputs.mean_VBF[other]
    if isinstance(method.head, VonMisesFisher):
        return superinfo.vmf_kl(one_BF, two_BF, method.head.kappa)
    assert outputs.scale_VBF is not None
    return superinfo.gaussian_kl(one_BF, outputs.scale_VBF[view], two_BF, outputs.scale_VBF[other])


def _rates(method: Method, outputs: Outputs, view: int, other: int) -> Tensor:
    """[B] KL(p(z|v) || N(0, I)) in nats: bounds I(v; z) from above (arXiv 1612.00410)."""
    assert outputs.scale_VBF is not None
    return superinfo.rate(outputs.mean_VBF[view], outputs.scale_VBF[view])


def _residuals(method: Method, outputs: Outputs, view: int, other: int) -> Tensor:
    """[B] log e(z|v) - log b(z|other) in nats, kappa_b being 1 / temperature (arXiv 2109.12909)."""
    assert isinstance(method.head, VonMisesFisher)
    assert outputs.sample_VBD is not None
    kappas = method.head.kappa, 1 / method.bound.temperature
    return superinfo.ceb_residual(
        outputs.sample_VBD[view], outputs.embedding_VBD[view], outputs.embedding_VBD[other], *kappas
    )


def _telemetry(outputs: Outputs, weight_B: Tensor) -> dict[str, Tensor]:
    """Whether a penalty only shrinks the features: their length, and how far apart two views lie relative to it."""
    one_BF, two_BF = outputs.mean_VBF[0], outputs.mean_VBF[1]
    apart_B = superinfo.relative_distance(one_BF, two_BF)
    return {"feature_norm": (one_BF.norm(dim=1) * weight_B).sum(), "relative_distance": (apart_B * weight_B).sum()}


def _decoded(made_VBCSS: Tensor | None, images: Images, *, other: bool) -> list[Tensor]:
    """Negative log-likelihood in nats, at unit variance, of what was made from each view: [B] each."""
    assert made_VBCSS is not None
    target_VBCSS = images.views[0].unflatten(0, made_VBCSS.shape[:2]).to(made_VBCSS.dtype)
    target_VBCSS = target_VBCSS.flip(0) if other else target_VBCSS
    return [superinfo.gaussian_nll(made, seen) for made, seen in zip(made_VBCSS, target_VBCSS, strict=True)]


def derived(method: Method, values: dict[str, Any], dimension: int) -> dict[str, float]:
    """What follows on the host from a reading of scalars: for "ceb" the tightest of its bounds."""
    if "mean_cosine" not in values or not isinstance(method.head, VonMisesFisher):
        return {}
    cosine = min(1.0, max(-1.0, values["mean_cosine"]))
    return {"superfluous_tightest": superinfo.tightest_residual(dimension, method.head.kappa, cosine)}


def own_reconstruction(term: OwnReconstruction, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """Mean over both views of a same-view decoder's error per pixel value (arXiv 2203.07004, RC)."""
    weight_B = mean_weight(images.valid_B, outputs.mean_VBF.dtype)
    parts = [(part_B * weight_B).sum() for part_B in _decoded(outputs.own_VBCSS, images, other=False)]
    nll = torch.stack(parts).mean() / images.views[0][0].numel()
    return term.weight * nll, {"nll_own": nll, **_telemetry(outputs, weight_B)}


def squared_error(term: SquaredError, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """Mean squared difference of two views' features (arXiv 2006.05576), over the pairs of the contrast."""
    weight_B = mean_weight(images.valid_B, outputs.mean_VBF.dtype)
    errors = [superinfo.squared_error(outputs.mean_VBF[a], outputs.mean_VBF[b]) for a, b in _edges(method)]
    error = (_mean(errors) * weight_B).sum()
    return term.weight * error, {"squared_error": error, **_telemetry(outputs, weight_B)}


def _global(outputs: Outputs, images: Images) -> tuple[Tensor, Tensor, Tensor]:
    """Both views' projections and which count, of the global batch: their statistics are over all of it."""
    projected_VBD = everyone(outputs.projected_VBD)
    return projected_VBD[0], projected_VBD[1], gather(images.valid_B).flatten()


def vicreg(term: VICReg, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """See `redundancy.vicreg`."""
    weights = {"invariance": term.invariance, "variance": term.variance, "covariance": term.covariance}
    return redundancy.vicreg(*_global(outputs, images), **weights)


def barlow_twins(term: BarlowTwins, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """See `redundancy.barlow_twins`."""
    return redundancy.barlow_twins(*_global(outputs, images), off_diagonal=term.off_diagonal)


def bootstrap(term: Bootstrap, method: Method, outputs: Outputs, images: Images, moment: Moment) -> Loss:
    """2 - 2 cosine of each view's prediction and the momentum encoder's embedding of the other (arXiv 2006.07733, eq. 2)."""
    assert outputs.prediction_VBD is not None
    assert outputs.target_VBD is not None
    weight_B = mean_weight(images.valid_B, outputs.prediction_VBD.dtype)
    pairs = zip(outputs.prediction_VBD, outputs.target_VBD.flip(0), strict=True)
    return sum((redundancy.byol(made, seen) * weight_B).sum() for made, seen in pairs), {}  # pyright: ignore[reportReturnType]


LOSSES: dict[type, Callable[[Any, Method, Outputs, Images, Moment], Loss]] = {
    Superfluous: superfluous,
    OwnReconstruction: own_reconstruction,
    SquaredError: squared_error,
    VICReg: vicreg,
    BarlowTwins: barlow_twins,
    LeJEPA: lejepa,
    Bootstrap: bootstrap,
}

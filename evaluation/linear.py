"""Linear probe: softmax regression by SGD on cached features, a whole grid of settings trained at once.

Every setting sees the same batches in the same order, so S of them are one product with a matrix of C * S columns: 20
settings of 10 classes on 50,000 x 512 features take 1.8 ms a batch of 256 on one core, no autograd. The best learning rate
depends on the features' length, which nothing bounds: 30 (arXiv 1906.05849) and .01 (arXiv 2010.02037) are both published.
So each probe sweeps over decades, and chooses on training images.

Shape suffixes: N = training images, I = some of them, Q = asked images, B = a batch, F = features, G = F and a constant 1,
C = classes, S = settings, P = C * S, of which setting s of class c is column c * S + s.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import GRID as GRID
from .grid import RATES as RATES
from .grid import Scaling, Schedule, Setting
from .grid import Training as Training
from .selection import SHARE, Chosen, choose

Given = Tensor | Sequence[Tensor] | Callable[[int], Tensor]
"""Training features [N, F]: the same in each epoch, or those of each epoch, the last ones again where there are too few."""

CHUNK = 4096  # rows at a time in float64: 17 MB of 512 features
LOGITS = 2**22  # at a time where none is trained on: 17 MB
TRAINED = 2**25  # scores of a batch by all settings that are trained at once: 134 MB, and some copies of them
SMALLEST = 1e-6  # variance added to each feature's, as by the BatchNorm of arXiv 2111.06377, A.1


class Probe(NamedTuple):
    """Trained weights, for features as they come, bias in the last row; those of a setting that diverged are not finite."""

    settings: tuple[Setting, ...]
    weight_SGC: Tensor


@torch.no_grad()
def train(
    given: Given,
    label_N: Tensor,
    settings: Sequence[Setting] = GRID,
    training: Training | None = None,
    *,
    classes: int,
    row_I: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Train every setting on the rows `row_I` (all where None), from weights of 0; `progress` counts batches.

    Of many classes a few settings are trained at a time, which see the same batches as all do.

    The order of the rows is a function of the seed, drawn on the CPU. Weights are float32, or float64 where the features
    are. Raises ValueError for labels outside 0..C-1, features that are not finite in the first epoch, and other shapes.
    """
    training = training or Training()
    if not settings or any(not (rate > 0 and decay >= 0) for rate, decay in settings):
        raise ValueError(
            f"a probe needs settings with a learning rate above 0 and a weight decay of at least 0, got {settings}"
        )
    together = max(1, TRAINED // (training.batch * classes))
    if together < len(settings):
        blocks = [settings[first : first + together] for first in range(0, len(settings), together)]
        count, probes = len(blocks), []
        for i, block in enumerate(blocks):
            more = {"classes": classes, "row_I": row_I}
            probes.append(train(given, label_N, block, training, **more, progress=_of_block(progress, i, count)))
        return Probe(tuple(settings), torch.cat([probe.weight_SGC for probe in probes]))
    feature_NF = _given(given, 0, label_N)
    wide, device = torch.promote_types(feature_NF.dtype, torch.float32), feature_NF.device
    row_I = (torch.arange(len(label_N)) if row_I is None else row_I).cpu()
    label_I = label_N[row_I.to(label_N.device)]
    if not len(row_I) or label_I.min() < 0 or label_I.max() >= classes:
        raise ValueError(f"a probe needs images with labels of 0 to {classes - 1}: leave those without a label out")
    centre_F, scale_F = _standard(feature_NF, row_I.to(device), wide, training.features)

    width = len(settings)
    rate_P, decay_P = (
        torch.tensor([setting[i] for setting in settings], dtype=wide, device=device).repeat(classes) for i in (0, 1)
    )
    weight_FP = torch.zeros(feature_NF.shape[1], classes * width, dtype=wide, device=device)
    velocity_FP, bias_P, push_P = torch.zeros_like(weight_FP), torch.zeros_like(rate_P), torch.zeros_like(rate_P)
    generator = torch.Generator().manual_seed(training.seed)
    batches = math.ceil(len(row_I) / training.batch)
    for epoch in range(training.epochs):
        feature_NF = feature_NF if epoch == 0 else _given(given, epoch, label_N)
        shuffled_I = row_I[torch.randperm(len(row_I), generator=generator)]
        for number, row_B in enumerate(shuffled_I.tensor_split(batches)):
            row_B = row_B.to(device)
            standard_BF = feature_NF[row_B].to(wide).sub_(centre_F).mul_(scale_F)
            logit_BP = torch.addmm(bias_P, standard_BF, weight_FP)
            # the softmax of [B, C, S] over C takes a tenth of the time that one over the last of [B, S, C] does
            error_BCS = logit_BP.view(len(row_B), classes, width).softmax(dim=1)
            error_BCS[torch.arange(len(row_B), device=device), label_N[row_B.to(label_N.device)].to(device)] -= 1
            error_BP = error_BCS.view(len(row_B), -1).div_(len(row_B))
            velocity_FP.mul_(training.momentum).addmm_(standard_BF.T, error_BP).addcmul_(weight_FP, decay_P)
            push_P.mul_(training.momentum).add_(error_BP.sum(dim=0))
            part = _part(training.schedule, epoch * batches + number, training.epochs * batches)
            weight_FP.addcmul_(velocity_FP, rate_P, value=-part)
            bias_P.addcmul_(push_P, rate_P, value=-part)
            progress(epoch * batches + number + 1, training.epochs * batches)

    weight_FP *= scale_F[:, None]
    weight_GP = torch.cat((weight_FP, (bias_P - centre_F @ weight_FP)[None]))
    return Probe(tuple(settings), weight_GP.view(-1, classes, width).permute(2, 0, 1).contiguous())


def _of_block(progress: Callable[[int, int], None], block: int, blocks: int) -> Callable[[int, int], None]:
    """The progress of one block of settings as that of all."""
    return lambda done, total: progress(block * total + done, blocks * total)


def work(rows: int, features: int, classes: int, *, epochs: int, settings: int = len(GRID)) -> float:
    """Products and sums that `chosen` takes: two products of matrices a batch, once for all settings and once for one."""
    return 4.0 * rows * features * classes * epochs * ((1 - SHARE) * settings + 1)


def _given(given: Given, epoch: int, label_N: Tensor) -> Tensor:
    if isinstance(given, Tensor):
        feature_NF = given
    else:
        feature_NF = given(epoch) if callable(given) else given[min(epoch, len(given) - 1)]
    if feature_NF.ndim != 2 or len(feature_NF) != len(label_N):
        shape = list(feature_NF.shape)
        raise ValueError(
            f"epoch {epoch} gave features of shape {shape} to {len(label_N)} labels: one row per label is needed"
        )
    return feature_NF


def _standard(feature_NF: Tensor, row_I: Tensor, wide: torch.dtype, features: Scaling) -> tuple[Tensor, Tensor]:
    """[F] each: what is taken from a feature, and what it is multiplied by after that; sums in float64, CHUNK rows each."""
    centre_F = torch.zeros(feature_NF.shape[1], dtype=torch.float64, device=feature_NF.device)
    spread_F = torch.zeros_like(centre_F)
    for row_B in row_I.split(CHUNK):
        centre_F += feature_NF[row_B].double().sum(dim=0) / len(row_I)
    if not centre_F.isfinite().all():
        raise ValueError(
            f"{int((~centre_F.isfinite()).sum())} of {len(centre_F)} features are not finite: look at the encoder"
        )
    if features == "raw":
        return torch.zeros_like(centre_F, dtype=wide), torch.ones_like(centre_F, dtype=wide)
    for row_B in row_I.split(CHUNK):
        spread_F += (feature_NF[row_B].double() - centre_F).square().sum(dim=0) / len(row_I)
    return centre_F.to(wide), (spread_F + SMALLEST).rsqrt().to(wide)


def _part(schedule: Schedule, step: int, steps: int) -> float:
    """What is left of the learning rate at `step` of `steps`."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 0.1 ** ((10 * step >= 6 * steps) + (10 * step >= 8 * steps))


@torch.no_grad()
def logits(probe: Probe, feature_QF: Tensor) -> Tensor:
    """[S, Q, C]: the class scores of each setting, NaN where it diverged."""
    weight_SGC = probe.weight_SGC
    logit_SQC = feature_QF.to(weight_SGC.dtype) @ weight_SGC[:, :-1] + weight_SGC[:, -1:]
    return logit_SQC.masked_fill_(~finite(probe)[:, None, None], torch.nan)


def finite(probe: Probe) -> Tensor:
    """bool [S]: which settings have not diverged."""
    return probe.weight_SGC.isfinite().flatten(1).all(dim=1)


def accuracy(probe: Probe, feature_QF: Tensor, label_Q: Tensor) -> Tensor:
    """float64 [S]: top-1 of each setting, a share of 1; NaN where it diverged."""
    right_S = torch.zeros(len(probe.settings), dtype=torch.float64, device=feature_QF.device)
    rows = rows_at_once(probe)
    for part_BF, label_B in zip(feature_QF.split(rows), label_Q.to(feature_QF.device).split(rows), strict=True):
        right_S += (logits(probe, part_BF).argmax(dim=2) == label_B).sum(dim=1)
    return torch.where(finite(probe), right_S / len(label_Q), torch.nan)


def rows_at_once(probe: Probe) -> int:
    """Of how many images the scores are held at a time."""
    return max(1, LOGITS // probe.weight_SGC[:, 0].numel())


def chosen(
    feature_NF: Tensor,
    label_N: Tensor,
    settings: Sequence[Setting] = GRID,
    training: Training | None = None,
    *,
    classes: int,
    augmented: Sequence[Tensor] | Callable[[int], Tensor] | None = None,
    share: float = SHARE,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Chosen[Setting, Probe]:
    """The setting that tells held-out training images best, trained again on all of them; its words are the whole protocol.

    With `augmented` it is trained on those features instead, and told on the plain `feature_NF`. Of equal accuracy the
    larger weight decay wins, then the lower learning rate.
    """
    plan = training or Training()
    given: Given = feature_NF if augmented is None else augmented

    def fit(row_I: Tensor, some: Sequence[Setting]) -> Probe:
        last = len(some) == 1 and len(settings) > 1
        probe = train(given, label_N, some, plan, classes=classes, row_I=row_I, progress=_of_block(progress, int(last), 2))
        if len(row_I) == len(label_N) and not finite(probe).all():  # the last fit, which nothing is held out of
            raise FloatingPointError(f"{some[0].words} diverged")
        return probe

    found = choose(
        label_N,
        settings,
        fit=fit,
        accuracy=lambda probe, held_J: accuracy(probe, feature_NF[held_J.to(feature_NF.device)], label_N[held_J]),
        strength=lambda setting: (setting.decay, -setting.rate),
        name=lambda setting: setting.words,
        share=share,
        seed=seed,
    )
    return found._replace(words=f"{plan.words(augmented=augmented is not None)}, {found.words}")

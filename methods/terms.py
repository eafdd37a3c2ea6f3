"""What may be added to a contrast, or stand in its place: frozen values. No torch here; `losses.py` computes them.

Weights of Gaussian terms are per dimension: they multiply sums over d. A weight on the sum, as some papers quote it, is d
times as strong (docs/methods/superinfo.md has the conversion).
"""

from dataclasses import dataclass
from typing import Literal

from .schedules import ADAPTIVE, Schedule


def _weights(*weights: float) -> None:
    if not all(0 <= weight < float("inf") for weight in weights):
        raise ValueError(f"weights must be finite and 0 or more, got {weights}")


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be finite and above 0, got {number}")


@dataclass(frozen=True)
class Superfluous:
    """What the representation of one view keeps that the other view cannot tell (SuperInfo, arXiv 2408.10292).

    All weights are per dimension of z: they multiply sums in nats over d. So equal ones weigh equal information.

    Args:
        estimator: "conditional-kl" bounds it by the KL divergence of the two views' distributions (MIB, arXiv 2002.07017);
            "variational" by a rate less what a decoder predicts of the other view; "ceb" by von Mises-Fisher densities,
            whose weights multiply the whole residual.
        first, second: weights of I(v1; z1 | v2) and of I(v2; z2 | v1).
        decode_first, decode_second: "variational" only: weights of predicting v2 from z1 and v1 from z2. Equal to `first`
            and `second` the whole is a bound; larger ones reward predictive information.
        warmup: multiplies the penalties (not the decoding); collapse is a local optimum of a penalty that starts at once.
    """

    estimator: Literal["conditional-kl", "variational", "ceb"] = "conditional-kl"
    first: float = 5e-4
    second: float = 5e-4
    decode_first: float = 0.0
    decode_second: float = 0.0
    warmup: Schedule = Schedule("linear", start=0.0, stop=1.0, over=10.0)

    def __post_init__(self) -> None:
        _weights(self.first, self.second, self.decode_first, self.decode_second)
        if self.estimator not in ("conditional-kl", "variational", "ceb"):
            raise ValueError(f"estimator is conditional-kl, variational or ceb, got {self.estimator!r}")
        if self.estimator != "variational" and self.decode_first + self.decode_second > 0:
            raise ValueError(f"only the variational estimator decodes, not {self.estimator}")
        if self.warmup.kind in ADAPTIVE or not min(self.warmup.start, self.warmup.stop) >= 0:
            raise ValueError("a warm-up follows the clock, between factors of 0 or more")


@dataclass(frozen=True)
class SquaredError:
    """Control: `weight` times the mean squared distance of the two views' features (Tsai et al., arXiv 2006.05576)."""

    weight: float = 0.05

    def __post_init__(self) -> None:
        _weights(self.weight)


@dataclass(frozen=True)
class OwnReconstruction:
    """Keeps information that the views do not share: `weight` times a same-view decoder's error (arXiv 2203.07004, RC)."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        _weights(self.weight)


@dataclass(frozen=True)
class VICReg:
    """Variance, invariance and covariance (arXiv 2105.04906, eq. 6)."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        _weights(self.invariance, self.variance, self.covariance)


@dataclass(frozen=True)
class BarlowTwins:
    """The cross-correlation of two views drawn to the identity (arXiv 2103.03230, eq. 1)."""

    off_diagonal: float = 5e-3

    def __post_init__(self) -> None:
        _weights(self.off_diagonal)


@dataclass(frozen=True)
class LeJEPA:
    """Views drawn together, their embeddings to an isotropic Gaussian along random `slices` (arXiv 2511.08544).

    Args:
        weight: of the distance to the Gaussian; 1 - weight is that of the views' distance.
        slices: random directions, drawn anew each step.
        knots, farthest: where characteristic functions are compared: so many points from 0 to `farthest`.
    """

    weight: float = 0.05
    slices: int = 1024
    knots: int = 17
    farthest: float = 3.0

    def __post_init__(self) -> None:
        _positive(farthest=self.farthest)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of LeJEPA's Gaussian must lie in [0, 1], got {self.weight}")
        if self.slices < 1 or self.knots < 2:
            raise ValueError(f"LeJEPA takes 1 slice and 2 knots or more, got {self.slices} and {self.knots}")


@dataclass(frozen=True)
class Bootstrap:
    """BYOL (arXiv 2006.07733, eq. 2): predict the momentum encoder's embedding of the other view."""


Term = Superfluous | SquaredError | OwnReconstruction | VICReg | BarlowTwins | LeJEPA | Bootstrap


# Heads that make a feature random, and the momentum encoder: what the network of a method has besides encoder and projector


@dataclass(frozen=True)
class FixedGaussian:
    """z = h + sigma * noise on the pooled feature; evaluation uses h (arXiv 2203.07004)."""

    sigma: float = 0.1

    def __post_init__(self) -> None:
        _positive(sigma=self.sigma)


@dataclass(frozen=True)
class BoundedGaussian:
    """As FixedGaussian with a sigma of each dimension that is learned within [low, high]: unbounded ones run away."""

    low: float = 0.01
    high: float = 1.0

    def __post_init__(self) -> None:
        _positive(low=self.low, high=self.high)
        if self.low >= self.high:
            raise ValueError(f"sigma needs low below high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class VonMisesFisher:
    """A direction drawn around the feature's, or the embedding's for "ceb", with concentration `kappa` (arXiv
    2109.12909).
    """

    kappa: float = 1024.0

    def __post_init__(self) -> None:
        _positive(kappa=self.kappa)
        if self.kappa > 1e6:
            raise ValueError(f"kappa must be at most 1e6, got {self.kappa:g}: beyond it take a plain direction")


Head = FixedGaussian | BoundedGaussian | VonMisesFisher
HEADS: dict[str, type[Head]] = {"fixed": FixedGaussian, "bounded": BoundedGaussian, "von-mises-fisher": VonMisesFisher}
"""By their names, in `--set` and in config.json."""


@dataclass(frozen=True)
class Momentum:
    """A second encoder that follows the first: target <- value * target + (1 - value) * online, once a step.

    `rising`: the value goes to 1 by half a cosine over the run (BYOL).
    """

    value: float = 0.999
    rising: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1:
            raise ValueError(f"the momentum encoder's value must lie in [0, 1), got {self.value}")

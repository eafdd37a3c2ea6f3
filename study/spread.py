"""How far seeds alone move a number: mean, standard deviation, and the interval of a paired difference."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEVEL = 0.95
LEAST = 3
"""Seeds: two accuracies of 500 images, steps of .2 points, differ from their bases by the same now and then by chance."""


class Spread(NamedTuple):
    """Of values over seeds; no deviation at n = 1."""

    mean: float
    deviation: float | None
    """With n - 1."""
    n: int


class Paired(NamedTuple):
    """A method less its base, seed by seed, with a 95 % interval by Student's t; none at n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> str:
        """ "above", "below", or "not told apart", as always where there are fewer than LEAST seeds."""
        if self.n < LEAST or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not told apart"
        return "above" if self.low > 0 else "below"


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation; raises ValueError for no values."""
    if not values:
        raise ValueError("a spread needs one value at least")
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Paired | None:
    """The differences of values by seed, over the seeds that both have; None where there is none."""
    differences = [values[seed] - base[seed] for seed in values if seed in base]
    if not differences:
        return None
    mean, deviation, n = spread(differences)
    if deviation is None:
        return Paired(mean, None, None, n)
    reach = quantile((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n)
    return Paired(mean, mean - reach, mean + reach, n)


def quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t at `share` (.5 to below 1) with a whole number of degrees of freedom, by bisection.

    t = sqrt(freedom) tan(angle): in the angle the distribution is a finite sum, exact for any freedom, and smooth.
    """
    if not 0.5 <= share < 1 or freedom < 1:
        raise ValueError(f"a quantile needs a share of .5 to below 1 and 1 or more degrees, got {share} and {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < 2 * share - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= power / (power + 1) * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total

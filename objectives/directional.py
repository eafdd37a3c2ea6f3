"""Constants of the von Mises-Fisher distribution: density C_d(kappa) exp(kappa mu.z) on the unit sphere in d dimensions.

Host side, Python floats: none of them depends on a tensor, so a step multiplies by them and waits for nothing. Both come
from one series of positive terms, 0F1(; d/2; kappa^2/4) = sum_j t_j, so nothing cancels and nothing overflows:

    log C_d(kappa) = log Gamma(d/2) - log 2 - (d/2) log pi - log sum_j t_j
    A_d(kappa)     = I_{d/2}(kappa) / I_{d/2-1}(kappa) = sum_j t_j kappa / (d + 2j) / sum_j t_j

which are C_d = kappa^(d/2-1) / ((2 pi)^(d/2) I_{d/2-1}(kappa)) and its slope with the series of I put in
(dlmf.nist.gov/10.25.E2). Against 40 digits, for d from 2 to 8192 and kappa from 1e-3 to 1e5: the relative error of A is
under 1e-15, that of log C under 2e-15 of the larger of |log C| and kappa (tests/objectives/test_superinfo.py).
"""

import math
from functools import cache

HIGHEST_KAPPA = 1e6  # 30,000 terms, 5 ms; its angles, 1e-3 radians, are at the end of what bf16 embeddings resolve


@cache
def log_normaliser(dimension: int, kappa: float) -> float:
    """log C_d(kappa) in nats; at kappa 0 minus the log of the sphere's area. Raises ValueError as `mean_resultant`."""
    log_area = math.log(2) + dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2)
    return -log_area - _series(dimension, kappa)[0]


@cache
def mean_resultant(dimension: int, kappa: float) -> float:
    """A_d(kappa), the length of the mean of z: 0 at kappa 0 and below 1.

    Raises ValueError for a dimension below 2 and a kappa outside [0, 1e6].
    """
    return _series(dimension, kappa)[1]


def inverse_mean_resultant(dimension: int, value: float) -> float:
    """The kappa whose A_d(kappa) is `value`. Not cached: what it is asked for comes out of training and never comes again.

    Near 1 a relative error of `value` comes back about 2 kappa / (d-1) times as large. Raises ValueError for a value outside
    [0, A_d(1e6)] and as `mean_resultant`.
    """
    if not 0 <= value <= _series(dimension, HIGHEST_KAPPA)[1]:
        raise ValueError(f"a mean resultant must lie in [0, A_d({HIGHEST_KAPPA:g})], below 1, got {value}: clip it")
    # Amos's bounds (Math. Comp. 28, 1974): x/(c + sqrt(x^2 + c^2)) is above A at c = (d-1)/2 and below it at c = d/2
    low, high = (min(HIGHEST_KAPPA, c * value / ((1 - value) * (1 + value))) for c in (dimension - 1, dimension))
    kappa = low
    for _ in range(50):  # Newton within the bracket, which is at most twice as wide as its lower end: 3 to 6 rounds
        resultant = _series(dimension, kappa)[1]
        low, high = (kappa, high) if resultant <= value else (low, kappa)
        slope = 1 - resultant**2 - (dimension - 1) * resultant / kappa if kappa else 1 / dimension
        proposed = kappa + (value - resultant) / slope
        following = proposed if low <= proposed <= high else (low + high) / 2
        if abs(following - kappa) <= 1e-15 * kappa:
            return following
        kappa = following
    return kappa


def _series(dimension: int, kappa: float) -> tuple[float, float]:
    """log of sum_j t_j, and the mean of kappa / (d + 2j) weighted by t_j = (kappa/2)^2j / (j! (d/2)(d/2+1)..(d/2+j-1))."""
    if dimension < 2:
        raise ValueError(f"a von Mises-Fisher distribution needs a dimension of 2 or more, got {dimension}")
    if not 0 <= kappa <= HIGHEST_KAPPA:
        raise ValueError(f"kappa must lie in [0, {HIGHEST_KAPPA:g}], got {kappa}: at larger ones use a plain direction")
    half, quarter = dimension / 2, kappa * kappa / 4
    # t_{j+1} / t_j = quarter / ((j+1) (half+j)) crosses 1 here; terms are relative to that one and fall off both ways
    peak = int(2 * quarter / (math.hypot(half - 1, kappa) + half - 1)) if kappa else 0
    weights, term, j = {peak: 1.0}, 1.0, peak
    while term > 1e-18:
        term *= quarter / ((j + 1) * (half + j))
        j += 1
        weights[j] = term
    term, j = 1.0, peak
    while j > 0 and term > 1e-18:
        term *= j * (half + j - 1) / quarter
        j -= 1
        weights[j] = term
    total = math.fsum(weights.values())
    log_peak = 2 * peak * math.log(kappa / 2) if peak else 0.0
    log_peak -= math.lgamma(peak + 1) + math.lgamma(half + peak) - math.lgamma(half)
    return log_peak + math.log(total), math.fsum(kappa / (dimension + 2 * j) * t for j, t in weights.items()) / total

"""What the theory says SuperInfo's terms are worth: linear-Gaussian views and bits, where information is known exactly.

Linear-Gaussian views: s ~ N(0, 1), v_i = s + n_i with Var v_i = V, z_i = a v_i + sigma e_i; `snr` = a^2 / sigma^2.
Goldens are those of section 6 of the method's write-up: L, C, G, D. Nats.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch

from viewmill.objectives import superinfo

EXACT = 1e-10
PRINTED = 6e-7
SETTINGS = pytest.mark.parametrize(("snr", "variance"), [(1.0, 2.0), (0.3, 1.5), (20.0, 1.1)])


def column(values):
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1)


def divergence(mean1, scale1, mean2, scale2):
    return superinfo.gaussian_kl(*(column(x).expand(len(column(mean1)), 1) for x in (mean1, scale1, mean2, scale2)))


# L. Linear-Gaussian views


def covariance(snr, variance):
    """Of (v1, v2, z1, z2) with sigma 1."""
    a = math.sqrt(snr)
    mixing = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [a, 0, 1, 0], [0, a, 0, 1]], dtype=float)
    source = np.eye(4)
    source[:2, :2] = [[variance, 1], [1, variance]]
    return mixing @ source @ mixing.T


def information(matrix, one, other):
    """I(one; other) from the determinants of the covariance; V1, V2, Z1, Z2 are the columns 0 to 3."""
    log_det = [np.linalg.slogdet(matrix[np.ix_(part, part)])[1] for part in (one, other, one + other)]
    return (log_det[0] + log_det[1] - log_det[2]) / 2


def in_nats(snr, variance):
    """I(v1; z1), I(v1; z1 | v2), I(z1; v2), I(z1; z2)."""
    matrix = covariance(snr, variance)
    predictive = information(matrix, [2], [1])
    superfluous = information(matrix, [2], [0, 1]) - predictive
    return information(matrix, [0], [2]), superfluous, predictive, information(matrix, [2], [3])


def closed_forms(snr, variance):
    """The same four by the write-up's formulas, of numbers or tensors."""
    total = torch.log1p(snr * variance) / 2
    superfluous = torch.log1p(snr * (variance - 1 / variance)) / 2
    predictive = -torch.log1p(-snr / ((snr * variance + 1) * variance)) / 2
    shared = -torch.log1p(-((snr / (snr * variance + 1)) ** 2)) / 2
    return total, superfluous, predictive, shared


def grid(variance):
    """v1, v2 and weights of a Gauss-Hermite rule: exact means of polynomials up to degree 39 in each."""
    node, weight = np.polynomial.hermite_e.hermegauss(20)
    x, y = (part.ravel() for part in np.meshgrid(node, node))
    chance = np.outer(weight, weight).ravel() / weight.sum() ** 2
    return x * math.sqrt(variance), x / math.sqrt(variance) + y * math.sqrt(variance - 1 / variance), torch.tensor(chance)


@SETTINGS
def test_the_terms_have_their_closed_forms(snr, variance):
    expected = [value.item() for value in closed_forms(torch.tensor(snr, dtype=torch.float64), variance)]
    assert in_nats(snr, variance) == pytest.approx(expected, abs=EXACT)
    total, superfluous, predictive, shared = expected
    assert total == pytest.approx(predictive + superfluous, abs=EXACT)  # identity (a): total = predictive + superfluous
    assert shared <= predictive <= information(covariance(snr, variance), [0], [1])  # data processing


def test_the_terms_have_their_printed_values():
    assert in_nats(1.0, 2.0) == pytest.approx((0.549306, 0.458145, 0.091161, 0.058892), abs=PRINTED)


@SETTINGS
def test_the_conditional_kl_costs_more_than_the_superfluous_information(snr, variance):
    one, two, chance = grid(variance)
    sigma = 0.8
    a = sigma * math.sqrt(snr)
    value = (chance * divergence(a * one, sigma, a * two, sigma)).sum().item()
    assert value == pytest.approx(snr * (variance - 1), abs=EXACT)
    assert value >= in_nats(snr, variance)[1]


def test_at_the_printed_setting_the_conditional_kl_costs_one_nat_by_sampling_too():
    generator = torch.Generator().manual_seed(0)
    shared, *own = torch.randn(3, 400_000, generator=generator, dtype=torch.float64)
    value = divergence(shared + own[0], 1.0, shared + own[1], 1.0)
    spread = value.std().item() / math.sqrt(len(value))
    assert value.mean().item() == pytest.approx(1.0, abs=4 * spread)
    assert spread < 0.005


@SETTINGS
def test_a_prediction_of_z_from_the_other_view_makes_the_conditional_kl_exact(snr, variance):
    one, two, chance = grid(variance)
    a, wide = math.sqrt(snr), math.sqrt(1 + snr * (variance - 1 / variance))
    exact = (chance * divergence(a * one, 1.0, a * two / variance, wide)).sum().item()
    assert exact == pytest.approx(in_nats(snr, variance)[1], abs=EXACT)
    # the gap of the other encoder as a prediction is its own divergence from this one
    gap = (chance * divergence(a * two / variance, wide, a * two, 1.0)).sum().item()
    assert exact + gap == pytest.approx(snr * (variance - 1), abs=EXACT)


@SETTINGS
def test_the_rate_is_exact_where_z_is_a_unit_gaussian(snr, variance):
    one, _, chance = grid(variance)
    for spread in (1.0, 0.5, 3.0):
        sigma = math.sqrt(spread / (1 + snr * variance))  # a^2 V + sigma^2 = spread
        mean = column(sigma * math.sqrt(snr) * one)
        rate = (chance * superinfo.rate(mean, torch.full_like(mean, sigma))).sum().item()
        too_much = divergence(0.0, math.sqrt(spread), 0.0, 1.0).item()
        assert rate == pytest.approx(in_nats(snr, variance)[0] + too_much, abs=EXACT)
        assert (too_much > 0.09) == (spread != 1.0)


def decoded(snr, variance, residual):
    """H(v2) - E[-log q(v2 | z1)], the linear decoder with this residual variance."""
    one, two, chance = grid(variance)
    node, weight = np.polynomial.hermite_e.hermegauss(4)
    gain, value = math.sqrt(snr) / (snr * variance + 1), 0.0
    for noise, share in zip(node, weight / weight.sum(), strict=True):
        prediction = column(gain * (math.sqrt(snr) * one + noise))
        value += share * (chance * superinfo.gaussian_nll(prediction, column(two), math.sqrt(residual))).sum().item()
    return math.log(2 * math.pi * math.e * variance) / 2 - value - math.log(2 * math.pi * residual) / 2


@SETTINGS
def test_the_decoder_is_exact_at_the_residual_variance_and_below_the_information_elsewhere(snr, variance):
    residual, predictive = variance - snr / (snr * variance + 1), in_nats(snr, variance)[2]
    assert decoded(snr, variance, residual) == pytest.approx(predictive, abs=EXACT)
    assert all(decoded(snr, variance, share * residual) < predictive - 1e-3 for share in (0.5, 0.9, 1.1, 2.0))


# C. Collapse thresholds, both weights equal: J = I(z1; z2) - 2 weight penalty


SNR = torch.logspace(-7, 7, 400_001, dtype=torch.float64)  # steps of 8e-5, relative


def objective(variance):
    """On the grid of SNR: I(z1; z2), the exact penalty and the conditional KL's."""
    shared = closed_forms(SNR, variance)[3]
    # a KL is quadratic in the shift, so its mean is its value at the root mean square shift
    wide = (1 + SNR * (variance - 1 / variance)).sqrt()
    exact = divergence((SNR * (variance - 1 / variance)).sqrt(), 1.0, torch.zeros_like(SNR), wide)
    kl = divergence((SNR * 2 * (variance - 1)).sqrt(), 1.0, torch.zeros_like(SNR), 1.0)
    return shared, exact, kl


@pytest.mark.parametrize(
    ("variance", "exact", "kl"),
    [
        (1.02, (3.754, 5e-4), (3.610, 5e-4)),
        (1.1, (0.7687, 5e-5), (0.6487, 5e-5)),
        (1.5, (0.1477, 5e-5), (0.0887, 5e-5)),
        (2.0, (0.0646, 5e-5), (0.0323, 5e-5)),
        (10.0, (0.00205, 5e-6), (0.00070, 5e-6)),
    ],
)
def test_above_its_threshold_a_weight_collapses_the_encoder(variance, exact, kl):
    shared, *penalties = objective(variance)
    for (printed, rounding), penalty in zip((exact, kl), penalties, strict=True):
        threshold = (shared / (2 * penalty)).max().item()
        assert threshold == pytest.approx(printed, rel=0, abs=rounding)
        assert (shared - 2 * 1.01 * threshold * penalty).max() < 0  # nothing beats snr 0, whose objective is 0
        assert (shared - 2 * 0.99 * threshold * penalty).max() > 0


def test_a_weight_below_the_threshold_leaves_the_printed_optimum():
    shared, exact, kl = objective(1.1)
    for penalty, printed in ((exact, 80.6), (kl, 15.5)):
        best = (shared - 2 * 0.05 * penalty).argmax()
        assert SNR[best].item() == pytest.approx(printed, abs=0.05)


def test_one_weight_keeps_the_coordinate_that_views_share_and_drops_the_noisy_one():
    for which in (1, 2):
        kept, dropped = (
            (parts[0] - 2 * 0.05 * parts[which]).max().item() for parts in (objective(variance) for variance in (1.1, 10.0))
        )
        assert kept > 0.1
        assert dropped < 0


@pytest.mark.parametrize("weight", [1e-3, 1e-1])
def test_collapse_is_a_local_optimum_at_every_weight(weight):
    shared, exact, kl = objective(1.1)
    near = weight / 100 > SNR  # the reward begins as snr^2 / 2, the penalty as snr
    assert near.sum() > 1000
    for penalty in (exact, kl):
        value = (shared - 2 * weight * penalty)[near]
        assert (value < 0).all()
        assert (value.diff() < 0).all()


# G. The untied variational bound, tight: l1 I(v1; z1) - l3 I(v2; z1)


def untied(snr, variance, balance):
    """R + balance nll with the tight rate and decoder, less what does not depend on the encoder."""
    sigma, mean = (1 + snr * variance).rsqrt(), (snr * variance / (1 + snr * variance)).sqrt()
    residual = variance - snr / (1 + snr * variance)
    # of squares the mean is all that counts: errors of one residual standard deviation
    nll = superinfo.gaussian_nll(torch.ones(1, 1), torch.zeros(1, 1)).item() + torch.log(2 * math.pi * residual) / 2
    entropy = math.log(2 * math.pi * math.e * variance) / 2
    return superinfo.rate(mean[:, None], sigma[:, None]) + balance * (nll - entropy)


@pytest.mark.parametrize(("variance", "balance", "best"), [(2.0, 8.0, 0.6667), (1.2, 3.0, 2.9545), (3.0, 20.0, 0.4583)])
def test_the_untied_bound_has_its_optimum_where_the_bottleneck_has(variance, balance, best):
    k = 1 - 1 / variance**2
    optimum = (balance * (1 - k) - 1) / (k * variance)
    assert optimum == pytest.approx(best, abs=5e-5)
    assert SNR[untied(SNR, variance, balance).argmin()].item() == pytest.approx(optimum, rel=1e-3)
    at = torch.tensor([optimum], dtype=torch.float64, requires_grad=True)
    value = untied(at, variance, balance)
    total, _, predictive, _ = in_nats(optimum, variance)
    assert value.item() == pytest.approx(total - balance * predictive, abs=EXACT)
    assert torch.autograd.grad(value.sum(), at)[0].item() == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize("variance", [1.2, 2.0, 3.0])
def test_the_untied_bound_leaves_collapse_where_its_balance_exceeds_the_squared_variance(variance):
    assert untied(SNR, variance, 1.01 * variance**2).min() < 0
    assert untied(SNR, variance, 0.99 * variance**2).min() > 0
    assert untied(SNR, variance, 1.0).min() > 0  # the strict bound never leaves it


# D. Bits: v1 = (s, n1), v2 = (s, n2), all fair and independent

ENCODERS = {"s": lambda s, n: s, "v": lambda s, n: (s, n), "n": lambda s, n: n, "0": lambda s, n: 0}


def outcomes(encode):
    """The eight outcomes as dicts, each of chance 1/8."""
    for s, n1, n2 in product((0, 1), repeat=3):
        yield {"v1": (s, n1), "v2": (s, n2), "z1": encode(s, n1), "z2": encode(s, n2), "n1": n1, "none": 0}


def entropy(encode, *names):
    seen = [tuple(outcome[name] for name in names) for outcome in outcomes(encode)]
    return -sum(math.log(seen.count(value) / 8) / 8 for value in seen)


def known(encode, one, other, *given):
    """I(one; other | given) in nats, by enumeration."""
    return (
        entropy(encode, one, *given)
        + entropy(encode, other, *given)
        - entropy(encode, one, other, *given)
        - entropy(encode, *given)
    )


@pytest.mark.parametrize(("name", "superfluous", "shared"), [("s", 0, 1), ("v", 1, 1), ("n", 1, 0), ("0", 0, 0)])
def test_bits_know_what_is_in_the_enumeration(name, superfluous, shared):
    encode, bit = ENCODERS[name], math.log(2)
    assert known(encode, "v1", "z1", "v2") == pytest.approx(superfluous * bit, abs=EXACT)
    assert known(encode, "v2", "z2", "v1") == pytest.approx(superfluous * bit, abs=EXACT)
    assert known(encode, "z1", "z2") == pytest.approx(shared * bit, abs=EXACT)
    total = known(encode, "v1", "z1")
    assert total == pytest.approx(known(encode, "v2", "z1") + known(encode, "v1", "z1", "v2"), abs=EXACT)
    # identity (c) for the task T = v1: superfluous = useful and not shared + nuisance, and the nuisance is none
    useful, nuisance = known(encode, "z1", "v1", "v2"), known(encode, "v1", "z1", "v2", "v1")
    assert useful + nuisance == pytest.approx(superfluous * bit, abs=EXACT)
    assert nuisance == pytest.approx(0, abs=EXACT)


def value(encode, first, second):
    return known(encode, "z1", "z2") - first * known(encode, "v1", "z1", "v2") - second * known(encode, "v2", "z2", "v1")


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.3, 0.2), (1.0, 0.5)])
def test_the_objective_prefers_the_shared_bit(first, second):
    values = {name: value(encode, first, second) for name, encode in ENCODERS.items()}
    assert values["s"] == pytest.approx(math.log(2), abs=EXACT)
    assert values["v"] == pytest.approx(math.log(2) * (1 - first - second), abs=EXACT)
    assert max(values.values()) == pytest.approx(values["s"], abs=EXACT)


def bayes_error(encode):
    """Of guessing n1 from z1."""
    seen = [(outcome["z1"], outcome["n1"]) for outcome in outcomes(encode)]
    return 1 - sum(max(seen.count((z, 0)), seen.count((z, 1))) for z in {z for z, _ in seen}) / 8


@pytest.mark.parametrize(("name", "error"), [("s", 0.5), ("v", 0.0), ("n", 0.0), ("0", 0.5)])
def test_the_purge_costs_a_task_that_needs_the_unshared_bit(name, error):
    encode = ENCODERS[name]
    assert bayes_error(encode) == error
    left = entropy(encode, "n1", "z1") - entropy(encode, "z1")  # H(n1 | z1)
    assert bayes_error(encode) <= 1 - math.exp(-left) + EXACT  # InfoCL's bound (arXiv 2203.07004, theorem 2)
    assert left == pytest.approx(math.log(2) * 2 * error, abs=EXACT)


@pytest.mark.parametrize(("name", "first", "kept"), [("s", 0.0, 0.0), ("v", 50.0, math.log(2)), ("n", 50.0, math.log(2))])
def test_the_conditional_kl_charges_noisy_bits_for_the_unshared_one_alone(name, first, kept):
    places = [(outcome["z1"], outcome["z2"]) for outcome in outcomes(ENCODERS[name])]
    one, two = (
        torch.tensor([np.atleast_1d(pair[side]).tolist() for pair in places], dtype=torch.float64) for side in (0, 1)
    )
    scale = torch.full_like(one, 0.1)
    charge = superinfo.gaussian_kl(one, scale, two, scale).mean().item()
    assert charge == pytest.approx(first / 2, abs=EXACT)  # half the pairs differ, by 1 / (2 sigma^2) = 50 nats
    assert charge >= kept

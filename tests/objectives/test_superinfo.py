"""SuperInfo's terms: printed values, closed forms, torch's own distributions, and numbers that stay finite.

Goldens are those of section 6 of the method's write-up: N, K, W, E, S. The theory has a file of its own.
Shape suffixes: N = images, F = features, D = dimensions of a direction.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions
from torch.nn import functional as F

from viewmill.objectives import superinfo
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.directional import HIGHEST_KAPPA, inverse_mean_resultant, log_normaliser, mean_resultant

EXACT = 1e-10
PRINTED = 6e-7  # six printed decimals
LOW_DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(*shape, seed=0):
    return F.normalize(normal(*shape, seed=seed), dim=-1)


def nt_xent(one_ND, two_ND, temperature):
    """Mean of InfoNCE over a 2N x 2N critic: a view, its partner and 2N - 2 others (arXiv 2002.05709, eq. 1)."""
    both = F.normalize(torch.cat((one_ND, two_ND)), dim=1)
    critic, own = both @ both.T / temperature, torch.arange(len(both))
    partner = own.roll(len(one_ND))
    keep = (own != own[:, None]) & (own != partner[:, None])
    return info_nce(critic[own, partner], critic, keep).loss_B.mean()


def penalty(one, two, first, second, sigma):
    """la KL(p1 || p2) + lb KL(p2 || p1), mean over images, both Gaussian with one fixed sigma."""
    scale = torch.full((), sigma, dtype=torch.float64)
    forward, backward = superinfo.gaussian_kl(one, scale, two, scale), superinfo.gaussian_kl(two, scale, one, scale)
    return (first * forward + second * backward).mean()


def whole(one, two, first, second):
    return nt_xent(one, two, 0.5) + penalty(one, two, first, second, 0.1)


# N. NT-Xent


@pytest.mark.parametrize(("pairs", "loss"), [(2, 1.098612), (256, 6.236370)])
def test_collapsed_embeddings_cost_the_log_of_all_candidates(pairs, loss):
    one = torch.ones(pairs, 3, dtype=torch.float64)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(math.log(2 * pairs - 1), abs=EXACT)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(loss, abs=PRINTED)


@pytest.mark.parametrize(("pairs", "loss"), [(2, 0.239545), (64, 2.893270), (256, 4.248795)])
def test_aligned_orthonormal_embeddings_cost_the_closed_form(pairs, loss):
    one = torch.eye(pairs, dtype=torch.float64)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(math.log(1 + (2 * pairs - 2) * math.exp(-2)), abs=EXACT)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(loss, abs=PRINTED)


def test_a_simplex_costs_less_than_an_orthonormal_frame():
    one = torch.eye(16, dtype=torch.float64) - 1 / 16
    assert F.normalize(one, dim=1)[0].dot(F.normalize(one, dim=1)[1]).item() == pytest.approx(-1 / 15, abs=EXACT)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(math.log(1 + 30 * math.exp(-2 / 15 - 2)), abs=EXACT)
    assert nt_xent(one, one, 0.5).item() == pytest.approx(1.515842, abs=PRINTED)


def test_opposed_views_cost_the_closed_form():
    one = torch.eye(4, dtype=torch.float64)
    assert nt_xent(one, -one, 0.5).item() == pytest.approx(math.log(1 + 6 * math.exp(2)), abs=EXACT)
    assert nt_xent(one, -one, 0.5).item() == pytest.approx(3.814065, abs=PRINTED)


# K. Gaussian divergence


@pytest.mark.parametrize(
    ("mean1", "scale1", "mean2", "scale2", "exact", "printed"),
    [
        ((3.0, 4.0), 0.5, (3.0, 4.0), 0.5, 0.0, 0.0),
        ((3.0, 4.0), 0.5, (0.0, 0.0), 0.5, 50.0, 50.0),
        ((0.0,), 1.0, (0.0,), 2.0, math.log(2) + 1 / 8 - 0.5, 0.318147),
        ((0.0,), 2.0, (0.0,), 1.0, -math.log(2) + 2 - 0.5, 0.806853),
        ((0.0,), 0.1, (0.0,), 1.0, math.log(10) + 0.005 - 0.5, 1.807585),
    ],
    ids=["equal", "shifted", "into the wider", "into the narrower", "narrow against the unit"],
)
def test_the_gaussian_divergence_has_its_printed_values(mean1, scale1, mean2, scale2, exact, printed):
    value = superinfo.gaussian_kl(rows(mean1), rows([scale1]), rows(mean2), rows([scale2])).item()
    assert value == pytest.approx(exact, abs=EXACT)
    assert value == pytest.approx(printed, abs=PRINTED)


def test_both_directions_of_the_divergence_sum_to_the_printed_value():
    zero, narrow, wide = rows([0.0]), rows([1.0]), rows([2.0])
    forward, backward = superinfo.gaussian_kl(zero, narrow, zero, wide), superinfo.gaussian_kl(zero, wide, zero, narrow)
    assert (forward + backward).item() == pytest.approx(1.125, abs=EXACT)
    assert (forward + backward).item() / 2 == pytest.approx(0.5625, abs=EXACT)  # MIB averages the two


def test_the_rate_is_the_divergence_from_the_unit_gaussian():
    mean, scale = normal(5, 3), normal(5, 3, seed=1).exp()
    unit = superinfo.gaussian_kl(mean, scale, torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(superinfo.rate(mean, scale), unit, rtol=0, atol=EXACT)
    assert superinfo.rate(rows([0.0] * 4), rows([0.1])).item() == pytest.approx(7.230340, abs=PRINTED)


def test_the_divergence_is_the_mean_of_what_its_samples_say():
    mean1, scale1, mean2, scale2 = rows([0.3, -0.2]), rows([0.7, 1.1]), rows([0.0, 0.4]), rows([1.0, 0.9])
    sample = mean1 + scale1 * normal(2_000_000, 2)
    one, two = distributions.Normal(mean1, scale1), distributions.Normal(mean2, scale2)
    estimate = (one.log_prob(sample) - two.log_prob(sample)).sum(dim=1).mean().item()
    assert superinfo.gaussian_kl(mean1, scale1, mean2, scale2).item() == pytest.approx(estimate, abs=5e-3)


# W. Whole losses


def test_the_conditional_kl_loss_has_its_printed_value():
    one, two = torch.zeros(2, 4, dtype=torch.float64), rows([0.1, 0, 0, 0], [0.1, 0, 0, 0])
    loss = nt_xent(torch.eye(2).double(), torch.eye(2).double(), 0.5) + penalty(one, two, 0.01, 0.03, 0.1)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)) + 0.02, abs=EXACT)
    assert loss.item() == pytest.approx(0.259545, abs=PRINTED)


@pytest.mark.parametrize(("decode", "printed"), [(0.02, 0.431848), (0.01, 0.371848)], ids=["untied", "strict"])
def test_the_variational_loss_has_its_printed_value(decode, printed):
    rate = superinfo.rate(torch.zeros(2, 4, dtype=torch.float64), rows([0.1]))
    nll = superinfo.gaussian_nll(torch.zeros(2, 3, 2, 2, dtype=torch.float64), torch.ones(2, 3, 2, 2, dtype=torch.float64))
    loss = nt_xent(torch.eye(2).double(), torch.eye(2).double(), 0.5) + (0.01 * rate + decode * nll).mean()
    expected = math.log(1 + 2 * math.exp(-2)) + 0.04 * (math.log(10) + 0.005 - 0.5) + decode * 6
    assert loss.item() == pytest.approx(expected, abs=EXACT)
    assert loss.item() == pytest.approx(printed, abs=PRINTED)


def test_a_weight_in_one_unit_is_the_same_penalty_in_the_other():
    both = 2 * 9.765625e-9
    assert superinfo.mse_weight(both, 512, 0.1) == pytest.approx(5e-4, rel=1e-14)
    assert superinfo.kl_weight(5e-4, 512, 0.1) / 2 == pytest.approx(9.77e-9, rel=5e-4)
    one, two = normal(6, 512), normal(6, 512, seed=1)
    error = superinfo.squared_error(one, two).mean().item()
    assert penalty(one, two, both / 4, 3 * both / 4, 0.1).item() == pytest.approx(5e-4 * error, rel=EXACT)


# E. Directions


def test_directional_constants_have_their_printed_values():
    assert mean_resultant(128, 1024.0) == pytest.approx(0.939880785, abs=6e-10)
    assert mean_resultant(128, 10.0) == pytest.approx(0.077660976, abs=6e-10)
    assert log_normaliser(128, 1024.0) == pytest.approx(-698.618533, abs=PRINTED)
    assert log_normaliser(128, 10.0) == pytest.approx(126.663996, abs=PRINTED)


def bessel_constants(dimension, kappa):
    """A and log C from mpmath's Bessel functions, 30 digits."""
    with mpmath.workdps(30):
        order, kappa = mpmath.mpf(dimension) / 2 - 1, mpmath.mpf(kappa)
        lower, higher = (mpmath.besseli(n, kappa) for n in (order, order + 1))
        log_c = order * mpmath.log(kappa) - (order + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(lower)
        return float(higher / lower), float(log_c)


SLOW = {(8192, 1e5): (0.95988310840226964, -60292.005451849931)}  # mpmath with 40 digits: 11 s


@pytest.mark.parametrize("kappa", [1e-3, 1.0, 1024.0, 1e5])
@pytest.mark.parametrize("dimension", [2, 3, 128, 1001, 8192])
def test_directional_constants_are_those_of_the_bessel_functions(dimension, kappa):
    resultant, log_c = SLOW.get((dimension, kappa)) or bessel_constants(dimension, kappa)
    assert mean_resultant(dimension, kappa) == pytest.approx(resultant, rel=1e-14)
    assert log_normaliser(dimension, kappa) == pytest.approx(log_c, abs=1e-14 * max(kappa, abs(log_c)))
    slope = 1 - resultant**2 - (dimension - 1) * resultant / kappa
    condition = resultant / (kappa * slope)  # of the inverse: what a rounding error of `resultant` is multiplied by
    assert inverse_mean_resultant(dimension, resultant) == pytest.approx(kappa, rel=1e-14 * max(1, condition))


@settings(deadline=None, max_examples=60)
@given(dimension=st.integers(2, 8190), log_kappa=st.floats(-3, 5))
def test_directional_constants_obey_the_recurrences_of_bessel_functions(dimension, log_kappa):
    kappa = 10**log_kappa
    here, two_up = mean_resultant(dimension, kappa), mean_resultant(dimension + 2, kappa)
    assert 1 / here == pytest.approx(dimension / kappa + two_up, rel=1e-13)
    step = log_normaliser(dimension + 2, kappa) - log_normaliser(dimension, kappa)
    size = max(kappa, abs(log_normaliser(dimension, kappa)))
    assert step == pytest.approx(math.log(kappa / (2 * math.pi * here)), abs=1e-13 * size)


@pytest.mark.parametrize("kappa", [0.01, 1.0, 10.0, 500.0])
def test_directions_in_three_dimensions_have_elementary_constants(kappa):
    log_c = math.log(kappa / (2 * math.pi)) - kappa - math.log1p(-math.exp(-2 * kappa))
    assert log_normaliser(3, kappa) == pytest.approx(log_c, abs=1e-12)
    assert mean_resultant(3, kappa) == pytest.approx(1 / math.tanh(kappa) - 1 / kappa, abs=1e-13)


def test_without_concentration_a_direction_is_uniform():
    assert log_normaliser(3, 0.0) == pytest.approx(-math.log(4 * math.pi), abs=1e-15)
    assert mean_resultant(3, 0.0) == 0.0 == inverse_mean_resultant(3, 0.0)


@pytest.mark.parametrize("call", [log_normaliser, mean_resultant])
def test_constants_refuse_a_line_and_a_kappa_outside_their_range(call):
    with pytest.raises(ValueError, match="dimension of 2 or more, got 1"):
        call(1, 1.0)
    for kappa in (-1.0, 2 * HIGHEST_KAPPA, math.nan, math.inf):
        with pytest.raises(ValueError, match="kappa must lie in"):
            call(3, kappa)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
def test_no_kappa_has_a_resultant_of_one_or_more(value):
    with pytest.raises(ValueError, match=r"mean resultant must lie in \[0"):
        inverse_mean_resultant(3, value)


@pytest.mark.parametrize(
    ("dimension", "floors"),
    [
        (128, (127.756587, 132.455991, 137.155395)),
        (64, (80.194598, 85.043081, 89.891565)),
        (3, (3.638652, 8.633770, 13.628887)),
    ],
)
def test_the_expected_residual_starts_at_its_printed_floor(dimension, floors):
    one = torch.eye(dimension, dtype=torch.float64)[[0, 0, 0]]
    other = torch.eye(dimension, dtype=torch.float64)[1]
    two = torch.stack((one[0], 0.5 * one[0] + math.sqrt(0.75) * other, other))
    assert superinfo.ceb_expected(one, two, 1024.0, 10.0).tolist() == pytest.approx(floors, abs=PRINTED)


@pytest.mark.parametrize(("dimension", "kappas"), [(2, (3.0, 1.0)), (3, (1024.0, 10.0)), (128, (1024.0, 10.0))])
def test_the_residual_averages_to_its_closed_form(dimension, kappas):
    one, two, around = (directions(7, dimension, seed=seed) for seed in range(3))
    around = F.normalize(around - (around * one).sum(1, keepdim=True) * one, dim=1)
    length = mean_resultant(dimension, kappas[0])
    # two unit vectors whose mean is that of the distribution; the residual is linear in the sample
    samples = [length * one + sign * math.sqrt(1 - length**2) * around for sign in (1, -1)]
    residuals = torch.stack([superinfo.ceb_residual(sample, one, two, *kappas) for sample in samples])
    torch.testing.assert_close(residuals.mean(0), superinfo.ceb_expected(one, two, *kappas), rtol=0, atol=EXACT)


def test_with_equal_kappas_the_residual_is_the_divergence_of_two_directions():
    one, two = directions(9, 64), directions(9, 64, seed=1)
    expected = superinfo.ceb_expected(one, two, 300.0, 300.0)
    torch.testing.assert_close(superinfo.vmf_kl(one, two, 300.0), expected, rtol=0, atol=EXACT)
    cosine = (one * two).sum(dim=1)
    torch.testing.assert_close(expected, 300 * mean_resultant(64, 300.0) * (1 - cosine), rtol=0, atol=EXACT)
    assert superinfo.vmf_kl(one, one, 300.0).tolist() == [0.0] * 9


@settings(deadline=None, max_examples=50)
@given(kappa_e=st.floats(0.1, 50), kappa_b=st.floats(0.1, 50), turn=st.floats(-3, 3))
def test_on_a_circle_both_forms_are_those_of_torch(kappa_e, kappa_b, turn):
    angle = torch.arange(512, dtype=torch.float64) * (2 * math.pi / 512)
    e, b = (distributions.VonMises(*rows(place, kappa)) for place, kappa in ((0.0, kappa_e), (turn, kappa_b)))
    sample = torch.stack((angle.cos(), angle.sin()), dim=1)
    one, two = rows([1.0, 0.0]).expand(512, 2), rows([math.cos(turn), math.sin(turn)]).expand(512, 2)
    residual = superinfo.ceb_residual(sample, one, two, kappa_e, kappa_b)
    # torch's Bessel function is a polynomial good to 5e-7 of its value (Abramowitz & Stegun 9.8.1 and 9.8.2)
    torch.testing.assert_close(residual, e.log_prob(angle) - b.log_prob(angle), rtol=0, atol=1e-6)
    density = (log_normaliser(2, kappa_e) + kappa_e * angle.cos()).exp() * (2 * math.pi / 512)
    assert density.sum().item() == pytest.approx(1, abs=1e-12)
    mean = (density * residual).sum().item()
    assert superinfo.ceb_expected(one[:1], two[:1], kappa_e, kappa_b).item() == pytest.approx(mean, abs=EXACT)


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 0.5), (5, 10.0), (65, 40.0)])
def test_the_density_on_the_sphere_has_mass_one(dimension, kappa):
    cosine, weight = np.polynomial.legendre.leggauss(300)
    log_ring = math.log(2) + (dimension - 1) / 2 * math.log(math.pi) - math.lgamma((dimension - 1) / 2)
    log_mass = log_ring + (dimension - 3) / 2 * np.log1p(-(cosine**2)) + kappa * cosine + log_normaliser(dimension, kappa)
    assert (weight * np.exp(log_mass)).sum() == pytest.approx(1, abs=EXACT)
    assert (weight * np.exp(log_mass) * cosine).sum() == pytest.approx(mean_resultant(dimension, kappa), abs=EXACT)


@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.2, 0.7, 1.0])
def test_the_tightest_kappa_has_the_lowest_mean_residual(cosine):
    one, two = rows([1.0] + [0.0] * 63), rows([cosine, math.sqrt(1 - cosine**2)] + [0.0] * 62)
    best = superinfo.tightest_kappa_b(64, 256.0, cosine)
    lowest = superinfo.ceb_expected(one, two, 256.0, best).item()
    assert all(superinfo.ceb_expected(one, two, 256.0, best + step).item() > lowest for step in (0.1, 1.0, 20.0))
    if cosine <= 0:
        assert best == 0
    else:
        assert mean_resultant(64, best) == pytest.approx(mean_resultant(64, 256.0) * cosine, abs=1e-14)
        assert all(superinfo.ceb_expected(one, two, 256.0, best * share).item() > lowest for share in (0.5, 0.99))


def test_at_a_perfect_match_the_tightest_residual_is_nothing():
    one = directions(4, 64)
    assert superinfo.tightest_kappa_b(64, 256.0, 1.0) == 256
    assert superinfo.ceb_expected(one, one, 256.0, 256.0).abs().max().item() < EXACT


def test_a_weighted_residual_is_info_nce_with_a_heavier_positive():
    one, two, sample = directions(6, 16), directions(6, 16, seed=1), directions(6, 16, seed=2)
    critic, keep = 10 * sample @ two.T, ~torch.eye(6, dtype=torch.bool)
    with_residual = info_nce(critic.diag(), critic, keep).loss_B + 0.7 * superinfo.ceb_residual(
        sample, one, two, 100.0, 10.0
    )
    own = 100 * (sample * one).sum(dim=1) + log_normaliser(16, 100.0) - log_normaliser(16, 10.0)
    heavier = critic.logsumexp(dim=1) - 1.7 * critic.diag() + 0.7 * own
    torch.testing.assert_close(with_residual, heavier, rtol=0, atol=EXACT)


# S. Invariants


def test_without_weights_the_loss_is_the_contrast_alone():
    one, two = normal(5, 8), normal(5, 8, seed=1)
    assert whole(one, two, 0.0, 0.0).item() == nt_xent(one, two, 0.5).item()


def test_swapped_views_with_swapped_weights_lose_as_much():
    one, two = normal(5, 8), normal(5, 8, seed=1)
    scales = normal(5, 8, seed=2).exp(), normal(5, 8, seed=3).exp()
    forward, backward = (
        0.2 * superinfo.gaussian_kl(a, s, b, t) + 0.7 * superinfo.gaussian_kl(b, t, a, s)
        for a, s, b, t in ((one, scales[0], two, scales[1]), (two, scales[1], one, scales[0]))
    )
    assert (forward - backward).abs().min() > 0.1  # with the weights in place it would not be the same loss
    assert whole(one, two, 0.01, 0.03).item() == pytest.approx(whole(two, one, 0.03, 0.01).item(), abs=EXACT)


def test_the_order_of_the_images_does_not_matter():
    one, two, order = normal(7, 8), normal(7, 8, seed=1), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert whole(one[order], two[order], 0.01, 0.03).item() == pytest.approx(whole(one, two, 0.01, 0.03).item(), abs=EXACT)
    torch.testing.assert_close(
        superinfo.relative_distance(one[order], two[order]), superinfo.relative_distance(one, two)[order], rtol=0, atol=EXACT
    )


def test_scaled_features_change_the_penalty_by_the_square_and_the_contrast_not_at_all():
    one, two = normal(5, 8), normal(5, 8, seed=1)
    assert nt_xent(3 * one, 3 * two, 0.5).item() == pytest.approx(nt_xent(one, two, 0.5).item(), abs=EXACT)
    assert penalty(3 * one, 3 * two, 1, 1, 0.1).item() == pytest.approx(9 * penalty(one, two, 1, 1, 0.1).item(), rel=EXACT)
    relative = superinfo.relative_distance(3 * one, 3 * two)
    torch.testing.assert_close(relative, superinfo.relative_distance(one, two), rtol=0, atol=EXACT)


def test_the_gradient_of_the_penalty_is_the_analytic_one():
    one, two, step = normal(5, 8).requires_grad_(), normal(5, 8, seed=1), 1e-4
    penalty(one, two, 0.01, 0.03, 0.1).backward()
    analytic = 0.04 * (one.detach() - two) / (5 * 0.1**2)
    torch.testing.assert_close(one.grad, analytic, rtol=0, atol=EXACT)
    nudge = torch.zeros(5, 8, dtype=torch.float64)
    nudge[2, 3] = step
    higher, lower = (penalty(one.detach() + sign * nudge, two, 0.01, 0.03, 0.1).item() for sign in (1, -1))
    assert (higher - lower) / (2 * step) == pytest.approx(analytic[2, 3].item(), abs=1e-8)


# What holds of every function


def gaussian_kl_of_logs(mean1, log1, mean2, log2):
    return superinfo.gaussian_kl(mean1, log1.exp(), mean2, log2.exp())


FUNCTIONS = {
    "gaussian_kl": (gaussian_kl_of_logs, 4),
    "rate": (lambda mean, log: superinfo.rate(mean, log.exp()), 2),
    "vmf_kl": (lambda one, two: superinfo.vmf_kl(one, two, 20.0), 2),
    "gaussian_nll": (lambda one, two: superinfo.gaussian_nll(one, two, 0.3), 2),
    "ceb_residual": (lambda sample, one, two: superinfo.ceb_residual(sample, one, two, 20.0, 5.0), 3),
    "ceb_expected": (lambda one, two: superinfo.ceb_expected(one, two, 20.0, 5.0), 2),
    "squared_error": (superinfo.squared_error, 2),
    "relative_distance": (superinfo.relative_distance, 2),
}
functions = pytest.mark.parametrize(("function", "count"), FUNCTIONS.values(), ids=FUNCTIONS)


@functions
def test_gradients_are_those_of_finite_differences(function, count):
    inputs = tuple(normal(3, 4, seed=seed).requires_grad_() for seed in range(count))
    assert torch.autograd.gradcheck(function, inputs)


@functions
def test_one_value_per_image_in_at_least_single_precision(function, count):
    for given_dtype, dtype in [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ]:
        inputs = [normal(3, 4, seed=seed).to(given_dtype) for seed in range(count)]
        value = function(*inputs)
        assert value.shape == (3,)
        assert value.dtype == dtype
    torch.testing.assert_close(function(*inputs)[1:2], function(*[x[1:2] for x in inputs]), rtol=0, atol=EXACT)


@functions
def test_no_value_is_read_on_the_way(function, count):
    inputs = [torch.empty(3, 4, device="meta", requires_grad=True) for _ in range(count)]  # have none
    value = function(*inputs)
    value.sum().backward()
    assert value.device.type == "meta"
    assert all(x.grad is not None for x in inputs)


@functions
def test_autocast_leaves_every_value_as_it_is(function, count):
    inputs = [normal(3, 4, seed=seed).float() for seed in range(count)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = function(*inputs)
    assert torch.equal(within, function(*inputs))


EXTREME = {
    "gaussian_kl": (superinfo.gaussian_kl, (False, True, False, True)),
    "rate": (superinfo.rate, (False, True)),
    "vmf_kl": (lambda one, two: superinfo.vmf_kl(one, two, 1e5), (False, False)),
    "gaussian_nll": (lambda one, two: superinfo.gaussian_nll(one, two, 1e-12), (False, False)),
    "ceb_residual": (lambda sample, one, two: superinfo.ceb_residual(sample, one, two, 1e5, 1e5), (False,) * 3),
    "ceb_expected": (lambda one, two: superinfo.ceb_expected(one, two, 1e5, 1e5), (False, False)),
    "squared_error": (superinfo.squared_error, (False, False)),
    "relative_distance": (superinfo.relative_distance, (False, False)),
}


@pytest.mark.parametrize("dtype", LOW_DTYPES)
@pytest.mark.parametrize(("function", "is_scale"), EXTREME.values(), ids=EXTREME)
def test_values_and_gradients_stay_finite_at_the_ends_of_each_type(function, is_scale, dtype):
    ends = torch.finfo(dtype)
    sizes = [ends.smallest_normal * ends.eps, ends.smallest_normal, 1e-4, 1.0, ends.max]
    signed = [0.0, *sizes, *[-size for size in sizes]]
    column_C = torch.cartesian_prod(*[torch.tensor(sizes if scale else signed) for scale in is_scale]).unbind(dim=1)
    for shape in ((1, -1), (-1, 1)):  # one row of all combinations, and each combination as a row of its own
        inputs = [column.reshape(shape).repeat(1, 2).to(dtype) for column in column_C]
        assert function(*inputs).isfinite().all()
        # in float32: a gradient that is right there, 1 / sigma^2 say, may be more than a float16 holds
        wide = [x.float().requires_grad_() for x in inputs]
        function(*wide).mean().backward()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in wide)


def test_equal_directions_are_no_distance_apart_even_in_low_precision():
    one = directions(6, 128)
    for dtype in LOW_DTYPES:
        assert superinfo.vmf_kl(one.to(dtype), one.to(dtype), 1024.0).tolist() == [0.0] * 6
    assert superinfo.relative_distance(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


finite = st.floats(-1e3, 1e3)
positive = st.floats(1e-3, 1e3)


@settings(deadline=None)
@given(st.lists(st.tuples(finite, positive, finite, positive), min_size=1, max_size=5))
def test_the_gaussian_divergence_is_that_of_torch(dimensions):
    mean1, scale1, mean2, scale2 = torch.tensor(dimensions, dtype=torch.float64).T[:, None]
    one, two = distributions.Normal(mean1, scale1), distributions.Normal(mean2, scale2)
    expected = distributions.kl_divergence(one, two).sum(dim=1)
    torch.testing.assert_close(superinfo.gaussian_kl(mean1, scale1, mean2, scale2), expected, rtol=1e-12, atol=1e-11)
    unit = distributions.kl_divergence(one, distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(superinfo.rate(mean1, scale1), unit, rtol=1e-12, atol=1e-11)


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=6), positive)
def test_the_likelihood_of_a_decoder_is_that_of_torch_less_its_constant(pixels, scale):
    prediction, target = torch.tensor(pixels, dtype=torch.float64).T[:, None, :, None]
    log_prob = distributions.Normal(prediction, scale).log_prob(target).sum()
    constant = len(pixels) / 2 * math.log(2 * math.pi * scale**2)
    value = superinfo.gaussian_nll(prediction, target, scale).item()
    assert value == pytest.approx(-log_prob.item() - constant, rel=1e-11, abs=1e-10)


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=6))
def test_the_distances_are_their_formulas_written_as_loops(entries):
    one, two = torch.tensor(entries, dtype=torch.float64).T[:, None]
    apart = sum((a - b) ** 2 for a, b in entries)
    length = sum(a * a + b * b for a, b in entries) / 2
    assert superinfo.squared_error(one, two).item() == pytest.approx(apart / len(entries), rel=1e-12, abs=1e-300)
    relative = superinfo.relative_distance(one, two).item()
    assert 0 <= relative <= 4 + 1e-12
    if length > 1e-50:  # below, entries are under 1e-25 and squares of this loop begin to vanish
        assert relative == pytest.approx(apart / length, rel=1e-12, abs=1e-300)


def test_a_scale_of_another_shape_is_refused():
    mean = normal(3, 4)
    for scale in (normal(4), normal(3), normal(3, 2), normal(2, 4), normal(3, 4, 1)):
        with pytest.raises(ValueError, match=r"a scale must be \[B, F\]"):
            superinfo.rate(mean, scale.exp())
    for scale in (torch.ones(()), torch.ones(1, 4), torch.ones(3, 1), torch.ones(3, 4)):
        torch.testing.assert_close(superinfo.rate(mean, scale), mean.square().sum(dim=1) / 2, rtol=0, atol=EXACT)


def test_shapes_that_differ_are_refused():
    one, two, flat = normal(3, 4), normal(3, 5), normal(3)
    for call in (superinfo.squared_error, superinfo.relative_distance):
        for pair in ((one, two), (flat, flat)):
            with pytest.raises(ValueError, match="must have one shape"):
                call(*pair)
    with pytest.raises(ValueError, match="sample and means must have one shape"):
        superinfo.ceb_residual(one, one, two, 10.0, 1.0)
    with pytest.raises(ValueError, match="prediction and target must have one shape"):
        superinfo.gaussian_nll(one, two)


def test_numbers_out_of_range_are_refused():
    one = normal(3, 4)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="a scale must lie in"):
            superinfo.gaussian_nll(one, one, scale)
        with pytest.raises(ValueError, match="sigma finite and above 0"):
            superinfo.mse_weight(1.0, 4, scale)
    with pytest.raises(ValueError, match="dimension must be 1 or more"):
        superinfo.kl_weight(1.0, 0, 0.1)
    with pytest.raises(ValueError, match="mean cosine must lie in"):
        superinfo.tightest_kappa_b(64, 10.0, 1.01)

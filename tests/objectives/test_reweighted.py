"""Weighted contrasts: decoupled, debiased and hardness-weighted, against their formulas and against InfoNCE.

Shape suffixes: B = anchors, K = negatives of an anchor.
"""

import math
from decimal import Decimal, localcontext
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.objectives.bounds import info_nce
from viewmill.objectives.reweighted import decoupled, hardness_weighted, positive_weight

COLDEST = 0.005
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
temperatures = st.sampled_from([COLDEST, 0.07, 0.5, 1.0])
shares = st.sampled_from([0.0, 0.01, 0.1, 0.5])
concentrations = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@st.composite
def problems(draw, temperature=None):
    """Temperature, positives [B], negatives [B, K] and which of them take part."""
    temperature = temperature or draw(temperatures)
    anchors, negatives = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    cosine = st.floats(-1, 1)
    positive = [draw(cosine) / temperature for _ in range(anchors)]
    negative = [[draw(cosine) / temperature for _ in range(negatives)] for _ in range(anchors)]
    keep = [[draw(st.booleans()) for _ in range(negatives)] for _ in range(anchors)]
    negative_BK = torch.tensor(negative, dtype=torch.float64).reshape(anchors, negatives)
    keep_BK = torch.tensor(keep, dtype=torch.bool).reshape(anchors, negatives)
    return temperature, (torch.tensor(positive, dtype=torch.float64), negative_BK, keep_BK)


def taking_part(problem, b):
    _, negative_BK, keep_BK = problem
    return [negative_BK[b, k].item() for k in range(negative_BK.shape[1]) if keep_BK[b, k]]


def slow(positive, negatives, temperature, share, concentration):
    """The formula as printed, in 300 digits: at a temperature of .005 doubles would cancel."""
    if not negatives:
        return 0.0
    with localcontext() as context:
        context.prec = 300
        s, t, b, count = Decimal(positive), Decimal(share), Decimal(concentration), len(negatives)
        drawn = [Decimal(value) for value in negatives]
        mass = sum((value * (1 + b)).exp() for value in drawn) / (sum((value * b).exp() for value in drawn) / count)
        corrected = (mass - count * t * s.exp()) / (1 - t)
        floor = count * (-1 / Decimal(temperature)).exp()
        total = max(corrected, floor) if share > 0 else corrected
        return float((s.exp() + total).ln() - s)


@settings(deadline=None, max_examples=150)
@given(problems(), shares, concentrations)
def test_the_loss_is_the_formula_as_printed(problem, share, concentration):
    temperature, values = problem
    loss_B = hardness_weighted(*values, temperature=temperature, positive_share=share, concentration=concentration)
    for b in range(len(values[0])):
        by_hand = slow(values[0][b].item(), taking_part(values, b), temperature, share, concentration)
        assert loss_B[b].item() == pytest.approx(by_hand, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    ("share", "concentration"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.5), (0.1, 1.0), (0.1, 2.0), (0.9, 0.0)]
)
def test_six_cosines_give_what_the_sums_of_exponentials_give(share, concentration):
    cosine, temperature = [0.8, 0.9, -0.3, 0.1, 0.4, 0.75], 0.5
    own, *others = [math.exp(value / temperature) for value in cosine]
    weight = [value**concentration for value in others]
    mass = sum(w * value for w, value in zip(weight, others, strict=True)) / (sum(weight) / 5)
    total = max((mass - 5 * share * own) / (1 - share), 5 * math.exp(-1 / temperature))
    values = torch.tensor([cosine], dtype=torch.float64) / temperature
    keep = torch.ones(1, 5, dtype=torch.bool)
    options = {"temperature": temperature, "positive_share": share, "concentration": concentration}
    loss = hardness_weighted(values[:, 0], values[:, 1:], keep, **options)
    assert loss.item() == pytest.approx(-math.log(own / (own + total)), abs=1e-13)


def released(one_BD, two_BD, temperature, share, concentration):
    """The authors' steps on two views of a batch, in exponentials: all other rows of both views are negatives."""
    out = torch.cat((one_BD, two_BD))
    batch = len(one_BD)
    exponential = (out @ out.T / temperature).exp()
    rows = torch.arange(2 * batch)
    keep = (rows[:, None] != rows) & (rows[:, None] != (rows + batch) % (2 * batch))
    negative = exponential[keep].view(2 * batch, -1)
    positive = (one_BD * two_BD).sum(1).div(temperature).exp().repeat(2)
    count = 2 * batch - 2
    importance = (concentration * negative.log()).exp()
    mass = (importance * negative).sum(1) / importance.mean(1)
    total = ((-share * count * positive + mass) / (1 - share)).clamp(min=count * math.exp(-1 / temperature))
    return -(positive / (positive + total)).log(), (out @ out.T / temperature, positive.log(), keep)


@pytest.mark.parametrize("concentration", [0.0, 0.5, 2.0])
def test_values_and_gradients_are_those_of_the_steps_of_the_authors_code(concentration):
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for direct in (False, True):
        raw = torch.randn(2, 8, 5, generator=generator.manual_seed(0), dtype=torch.float64, requires_grad=True)
        one, two = F.normalize(raw, dim=2)
        loss, (critic, positive, keep) = released(one, two, 0.5, 0.1, concentration)
        if not direct:
            loss = hardness_weighted(
                positive, critic, keep, temperature=0.5, positive_share=0.1, concentration=concentration
            )
        loss.mean().backward()
        gradients.append((loss.detach(), raw.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


@settings(deadline=None)
@given(problems())
def test_with_no_share_and_no_concentration_it_is_info_nce(problem):
    temperature, values = problem
    loss_B = hardness_weighted(*values, temperature=temperature, positive_share=0.0)
    torch.testing.assert_close(loss_B, info_nce(*values).loss_B, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(problems(), concentrations)
def test_concentration_raises_the_loss_and_one_negative_has_only_one_weight(problem, concentration):
    temperature, (positive_B, negative_BK, keep_BK) = problem
    options = {"temperature": temperature, "positive_share": 0.0}
    plain_B = hardness_weighted(positive_B, negative_BK, keep_BK, **options)
    harder_B = hardness_weighted(positive_B, negative_BK, keep_BK, **options, concentration=concentration)
    assert (harder_B >= plain_B - 1e-10).all()  # e^(bs) weighs large e^s more, by Chebyshev's inequality
    single = keep_BK.sum(dim=1) <= 1
    torch.testing.assert_close(plain_B * single, harder_B * single, rtol=1e-10, atol=1e-10)


def test_a_vanishing_concentration_approaches_the_debiased_loss():
    generator = torch.Generator().manual_seed(1)
    values = (torch.randn(4, generator=generator).double(), torch.randn(4, 30, generator=generator).double())
    keep = torch.rand(4, 30, generator=generator) < 0.7
    options = {"temperature": 0.5, "positive_share": 0.1}
    debiased = hardness_weighted(*values, keep, **options)
    for concentration in (1e-3, 1e-6, 1e-9):
        harder = hardness_weighted(*values, keep, **options, concentration=concentration)
        assert (harder - debiased).abs().max() < 10 * concentration


def test_the_debiased_loss_of_a_mixture_estimates_that_of_true_negatives():
    """Negatives are positives in a tenth of draws: with many, the corrected sum nears that of the true negatives alone."""
    generator = torch.Generator().manual_seed(2)
    share, count, temperature = 0.1, 400_000, 0.5
    true = torch.rand(count, generator=generator, dtype=torch.float64) * 0.8 - 0.6
    false = torch.full((count,), 0.7, dtype=torch.float64)
    mixed = torch.where(torch.rand(count, generator=generator, dtype=torch.float64) < share, false, true)[None] / temperature
    keep = torch.ones(1, count, dtype=torch.bool)
    positive = torch.tensor([0.7 / temperature], dtype=torch.float64)
    wanted = info_nce(positive, true[None] / temperature, keep).loss_B.item()
    corrected = hardness_weighted(positive, mixed, keep, temperature=temperature, positive_share=share).item()
    assert corrected == pytest.approx(wanted, abs=0.01)
    assert info_nce(positive, mixed, keep).loss_B.item() > wanted + 0.2


def test_at_the_floor_the_loss_is_known_and_the_negatives_get_no_gradient():
    positive = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor([[-1.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    keep = torch.ones(1, 3, dtype=torch.bool)
    loss = hardness_weighted(positive, negative, keep, temperature=0.5, positive_share=0.9, concentration=1.0)
    loss.sum().backward()
    odds = 3 * math.exp(-2 - 2)
    assert loss.item() == pytest.approx(math.log1p(odds), abs=1e-14)
    assert negative.grad.tolist() == [[0, 0, 0]]
    assert positive.grad.item() == pytest.approx(-odds / (1 + odds), abs=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_exact_cancellation_is_the_floor_and_has_finite_gradients(dtype):
    positive = torch.tensor([0.0, 3.0], dtype=dtype, requires_grad=True)
    negative = torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=dtype, requires_grad=True)
    share = 1 - 1e-12  # log(share) vanishes beside the critic values in single precision
    loss = hardness_weighted(
        positive, negative, torch.ones(2, 2, dtype=torch.bool), temperature=1.0, positive_share=share, concentration=0.5
    )
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()


@pytest.mark.parametrize(("dtype", "hair"), [(torch.float32, 1e-35), (torch.float64, 1e-80)], ids=str)
def test_a_difference_of_a_hair_keeps_its_gradient(dtype, hair):
    positive = torch.tensor([-math.log(0.1)], dtype=dtype, requires_grad=True)
    negative = torch.tensor([[hair]], dtype=dtype, requires_grad=True)
    keep = torch.ones(1, 1, dtype=torch.bool)
    hardness_weighted(positive, negative, keep, temperature=COLDEST, positive_share=0.1).sum().backward()
    # G = (e^n - .1 e^s+) / .9 with e^s+ = 10: dG / dn = 1 / .9 and G itself is all but 0
    assert negative.grad.item() == pytest.approx(1 / 0.9 / 10, rel=1e-5)
    assert positive.grad.item() == pytest.approx(-1 / 0.9 / 10, rel=1e-5)


@settings(deadline=None)
@given(problems())
def test_decoupled_is_the_formula_and_info_nce_without_the_positive_in_the_denominator(problem):
    _, values = problem
    weight_B = torch.linspace(0.5, 1.5, len(values[0]), dtype=torch.float64)
    loss_B, weighted_B = decoupled(*values), decoupled(*values, weight_B=weight_B)
    assert torch.equal(loss_B, info_nce(*values, positive_in_denominator=False).loss_B)
    for b in range(len(values[0])):
        negatives, s = taking_part(values, b), values[0][b].item()
        highest = max(negatives, default=0)
        total = math.log(sum(math.exp(value - highest) for value in negatives)) + highest if negatives else 0.0
        assert loss_B[b].item() == pytest.approx(total - s if negatives else 0, abs=1e-10)
        assert weighted_B[b].item() == pytest.approx(total - weight_B[b].item() * s if negatives else 0, abs=1e-10)


def test_decoupling_removes_the_factor_that_small_batches_shrink():
    """InfoNCE's gradient is the decoupled one times 1 - p, p the chance of the positive (arXiv 2110.06848)."""
    values = torch.tensor([[9.0, 1.0, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    keep = torch.ones(1, 3, dtype=torch.bool)
    coupled = torch.autograd.grad(info_nce(values[:, 0], values[:, 1:], keep).loss_B.sum(), values)[0]
    alone = torch.autograd.grad(decoupled(values[:, 0], values[:, 1:], keep).sum(), values)[0]
    torch.testing.assert_close(coupled, alone * (1 - values.softmax(dim=1)[0, 0]), rtol=1e-11, atol=1e-14)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7), st.sampled_from([0.1, 0.5, 2.0]))
def test_weights_of_positives_are_their_formula_and_average_to_1(cosines, sigma):
    weight_B = positive_weight(torch.tensor(cosines, dtype=torch.float64), sigma=sigma)
    total = sum(math.exp(cosine / sigma) for cosine in cosines)
    by_hand = [2 - len(cosines) * math.exp(cosine / sigma) / total for cosine in cosines]
    assert weight_B.tolist() == pytest.approx(by_hand, abs=1e-12)
    assert weight_B.mean().item() == pytest.approx(1, abs=1e-12)


def test_weights_are_of_all_ranks_at_once_without_gradient_and_without_rows_that_do_not_count():
    cosine_WB = torch.tensor([[0.9, 0.1, -0.5], [0.3, 0.2, 0.8]], dtype=torch.float64, requires_grad=True)
    weight_WB = positive_weight(cosine_WB)
    assert not weight_WB.requires_grad
    torch.testing.assert_close(weight_WB.flatten(), positive_weight(cosine_WB.flatten()), rtol=0, atol=0)
    valid_WB = torch.tensor([[True, True, False], [True, False, True]])
    some = positive_weight(cosine_WB, valid_X=valid_WB)
    torch.testing.assert_close(some[valid_WB], positive_weight(cosine_WB[valid_WB]), rtol=0, atol=1e-15)
    assert some[~valid_WB].tolist() == [2, 2]
    assert torch.isfinite(positive_weight(cosine_WB, valid_X=torch.zeros_like(valid_WB))).all()
    assert positive_weight(cosine_WB.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_critics_are_computed_in_single_precision(dtype):
    generator = torch.Generator().manual_seed(5)
    positive, negative = torch.randn(8, generator=generator).to(dtype), torch.randn(8, 300, generator=generator).to(dtype)
    keep = torch.rand(8, 300, generator=generator) < 0.5
    options = {"temperature": 0.2, "positive_share": 0.1, "concentration": 1.0}
    weight = positive_weight(positive * 0.2)
    for half, single in (
        (
            hardness_weighted(positive, negative, keep, **options),
            hardness_weighted(positive.float(), negative.float(), keep, **options),
        ),
        (decoupled(positive, negative, keep), decoupled(positive.float(), negative.float(), keep)),
        (
            decoupled(positive, negative, keep, weight_B=weight),
            decoupled(positive.float(), negative.float(), keep, weight_B=weight),
        ),
    ):
        assert half.dtype == torch.float32
        assert torch.equal(half, single)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_and_gradients_are_finite_at_the_coldest_temperature(dtype):
    extreme = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=dtype) / COLDEST
    masks = ([1] * 5, [0] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    for value, mask, share, concentration in product(extreme, masks, (0.0, 1e-9, 0.1, 0.99), (0.0, 2.0)):
        positive = value.detach().clone()[None].requires_grad_()
        negative = extreme.detach().clone()[None].requires_grad_()
        keep = torch.tensor([mask], dtype=torch.bool)
        options = {"temperature": COLDEST, "positive_share": share, "concentration": concentration}
        loss = hardness_weighted(positive, negative, keep, **options)
        (loss + decoupled(positive, negative, keep)).sum().backward()
        assert (loss >= 0).all()
        for number in (loss, positive.grad, negative.grad):
            assert torch.isfinite(number).all()


@settings(deadline=None)
@given(
    st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    temperatures,
    shares,
    concentrations,
)
def test_any_finite_half_precision_values_give_finite_losses_and_gradients(values, temperature, share, concentration):
    raw = torch.tensor([values], dtype=torch.float16, requires_grad=True)
    keep = torch.ones(1, 3, dtype=torch.bool)
    options = {"temperature": temperature, "positive_share": share, "concentration": concentration}
    loss = hardness_weighted(raw[:, 0], raw[:, 1:], keep, **options) + decoupled(raw[:, 0], raw[:, 1:], keep)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(raw.grad).all()


@settings(deadline=None)
@given(problems(), st.sampled_from([-1e30, 1e30, math.inf, -math.inf, math.nan]), shares, concentrations)
def test_what_a_masked_negative_holds_changes_nothing_and_gets_no_gradient(problem, junk, share, concentration):
    temperature, (positive_B, negative_BK, keep_BK) = problem
    outcomes = []
    for values in (negative_BK, negative_BK.masked_fill(~keep_BK, junk)):
        s, n = positive_B.clone().requires_grad_(), values.clone().requires_grad_()
        options = {"temperature": temperature, "positive_share": share, "concentration": concentration}
        loss_B = hardness_weighted(s, n, keep_BK, **options) + decoupled(s, n, keep_BK)
        loss_B.sum().backward()
        assert (n.grad[~keep_BK] == 0).all()
        assert (s.grad[~keep_BK.any(dim=1)] == 0).all()
        assert (loss_B[~keep_BK.any(dim=1)] == 0).all()
        outcomes.append((loss_B.detach(), s.grad, n.grad))
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("share", "concentration"), list(product([0.0, 0.1, 0.9], [0.0, 1.0])))
def test_gradients_are_those_of_finite_differences(share, concentration):
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True] * 5, [True, False, True, False, True], [False] * 5])
    options = {"temperature": 0.5, "positive_share": share, "concentration": concentration}
    assert torch.autograd.gradcheck(lambda p, n: hardness_weighted(p, n, keep, **options), (positive, negative))
    weight = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, n: decoupled(p, n, keep, weight_B=weight), (positive, negative))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0, "positive_share": 0.1}, "temperature must be above 0, got 0"),
        ({"temperature": 0.5, "positive_share": 1.0}, r"positive_share must lie in \[0, 1\), got 1"),
        ({"temperature": 0.5, "positive_share": 0.1, "concentration": -1.0}, "concentration must be 0 or more, got -1"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hardness_weighted(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), **options)


def test_a_sigma_of_0_is_refused():
    with pytest.raises(ValueError, match="sigma must be above 0, got 0"):
        positive_weight(torch.zeros(2), sigma=0.0)

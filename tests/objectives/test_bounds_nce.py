"""Bounds beyond plain InfoNCE: numerators, no positive in the denominator, binary NCE and its partition function.

Goldens of the ten similarities were worked out by hand from the formulas (arXiv 2005.13149, 1903.12355).
Shape suffixes: B = anchors, K = negatives of an anchor, P = neighbours of an anchor.
"""

import math
from decimal import Decimal, localcontext
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.objectives.bounds import (
    LOG_PARTITION_PER_ROW,
    Bound,
    info_nce,
    log_fixed_partition,
    log_partition,
    moving_log_partition,
    nce,
    numerator,
)

COLDEST = 0.005
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROWS = 10
SIMILARITY = [0.95, 0.10, -0.30, 0.90, 0.70, 0.55, 0.40, -0.05, 0.20, -0.60]
OWN, EVERY, BALL, RING = 3, [0, 1, 2, 4, 5, 6, 7, 8, 9], [0, 4, 5, 6], [4, 5, 6]

critics = st.floats(-1, 1).map(lambda cosine: cosine / COLDEST)


def row(places):
    """[1, K] critic values of the ten rows at temperature .5."""
    return torch.tensor([[SIMILARITY[i] / 0.5 for i in places]], dtype=torch.float64)


def all_of(value_BK):
    return torch.ones_like(value_BK, dtype=torch.bool)


def ten(negatives, neighbours=(), kind="own"):
    """The loss of row 3 against `negatives`, with `neighbours` as positives beside its own."""
    positive_B, negative_BK, neighbour_BP = row([OWN])[0], row(negatives), row(neighbours)
    numerator_B = numerator(kind, positive_B, neighbour_BP, all_of(neighbour_BP))
    return info_nce(positive_B, negative_BK, all_of(negative_BK), numerator_B=numerator_B).loss_B.item()


@st.composite
def problems(draw):
    """Positives [B], negatives [B, K] and which of them take part, down to the coldest temperature anyone uses."""
    anchors, negatives = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    positive = [draw(critics) for _ in range(anchors)]
    negative = [[draw(critics) for _ in range(negatives)] for _ in range(anchors)]
    keep = [[draw(st.booleans()) for _ in range(negatives)] for _ in range(anchors)]
    negative_BK = torch.tensor(negative, dtype=torch.float64).reshape(anchors, negatives)
    return (
        torch.tensor(positive, dtype=torch.float64),
        negative_BK,
        torch.tensor(keep, dtype=torch.bool).reshape(anchors, -1),
    )


def taking_part(problem, b):
    _, negative_BK, keep_BK = problem
    return [negative_BK[b, k].item() for k in range(negative_BK.shape[1]) if keep_BK[b, k]]


@pytest.mark.parametrize(
    ("negatives", "neighbours", "kind", "loss"),
    [
        (EVERY, [], "own", 1.476711414513),
        (BALL, [], "own", 1.291971513738),
        ([OWN, *BALL], [], "own", 1.534704820734),
        (RING, [], "own", 0.930108738370),
        (BALL, [0], "logsumexp", 0.547574853664),
        (BALL, [0], "mean", 1.241971513738),
        (RING, [0], "logsumexp", 0.185712078296),
        (RING, [0], "mean", 0.880108738370),
        ([OWN, *BALL], [0, OWN], "logsumexp", 0.401636060785),
        ([OWN, *BALL], [0, OWN], "mean", 1.501371487401),
        (RING, [0, OWN], "logsumexp", -0.202960021580),
        (RING, [0, OWN], "mean", 0.896775405036),
        (BALL, [0, 5], "logsumexp", 0.335784826789),
        (BALL, [], "logsumexp", 1.291971513738),
    ],
    ids=[
        "IR full softmax",
        "ball",
        "ball, own row kept as a negative",
        "ring",
        "simplified LA, logsumexp",
        "simplified LA, mean",
        "CAVE, logsumexp",
        "CAVE, mean",
        "simplified LA, logsumexp, own row twice as released",
        "simplified LA, mean, own row twice as released",
        "CAVE, logsumexp, own row twice as released",
        "CAVE, mean, own row twice as released",
        "LA with the cluster 0 3 5",
        "LA with a singleton cluster",
    ],
)
def test_ten_similarities_give_the_loss_of_each_known_algorithm(negatives, neighbours, kind, loss):
    assert ten(negatives, neighbours, kind) == pytest.approx(loss, abs=1e-10)


def test_local_aggregation_with_singleton_clusters_is_the_ball_and_has_no_constant_in_its_logarithm():
    released = -math.log(math.exp(-ten(BALL)) + 1e-7)
    assert released == pytest.approx(1.291971149742, abs=1e-10)
    assert ten(BALL, [], "logsumexp") == pytest.approx(ten(BALL), abs=1e-15)
    assert ten(BALL) - released == pytest.approx(1e-7 * math.exp(ten(BALL)), rel=1e-6)


def test_an_anchor_whose_cluster_is_empty_keeps_its_own_row_as_positive_and_its_gradient():
    assert -math.log(1e-7) == pytest.approx(16.118095651, abs=1e-9)  # what the original returns, for any similarities
    positive_B = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    negative_BK = torch.full((1, 4096), 2.0, dtype=torch.float64)
    numerator_B = numerator("logsumexp", positive_B, negative_BK, torch.zeros_like(negative_BK, dtype=torch.bool))
    loss_B = info_nce(positive_B, negative_BK, all_of(negative_BK), numerator_B=numerator_B).loss_B
    loss_B.sum().backward()
    assert loss_B.item() == pytest.approx(math.log(1 + 4096 * math.exp(4)), abs=1e-12)
    assert positive_B.grad.item() == pytest.approx(1 / (1 + 4096 * math.exp(4)) - 1, abs=1e-12)


@settings(deadline=None)
@given(problems())
def test_numerators_are_their_formulas_written_as_loops_and_the_mean_is_lower(problem):
    positive_B = problem[0]
    mean_B, lse_B = numerator("mean", *problem), numerator("logsumexp", *problem)
    assert torch.equal(numerator("own", *problem), positive_B)
    for b in range(len(positive_B)):
        positives = [positive_B[b].item(), *taking_part(problem, b)]
        highest = max(positives)
        total = math.log(sum(math.exp(value - highest) for value in positives)) + highest
        assert mean_B[b].item() == pytest.approx(sum(positives) / len(positives), abs=1e-10)
        assert lse_B[b].item() == pytest.approx(total, abs=1e-10)
        assert lse_B[b].item() - math.log(len(positives)) >= mean_B[b].item() - 1e-10


def test_an_unknown_numerator_is_refused_by_name():
    with pytest.raises(ValueError, match="kind is 'median': take own, mean or logsumexp"):
        numerator("median", *[torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)])


def test_the_mean_of_neighbours_in_the_denominator_averages_the_bounds_of_each():
    losses = []
    for own in (3, 0, 5):
        others = [i for i in (3, 0, 4, 5, 6) if i != own]
        losses.append(info_nce(row([own])[0], row(others), all_of(row(others))).loss_B.item())
    assert ten(BALL, [0, 5], "mean") == pytest.approx(sum(losses) / 3, abs=1e-14)


@settings(deadline=None)
@given(problems())
def test_without_the_positive_in_the_denominator_it_is_the_formula_and_0_where_no_negative_is(problem):
    positive_B = problem[0].clone().requires_grad_()
    bound = info_nce(positive_B, *problem[1:], positive_in_denominator=False)
    bound.loss_B.sum().backward()
    for b in range(len(positive_B)):
        negatives = taking_part(problem, b)
        highest = max(negatives, default=0)
        total = math.log(sum(math.exp(value - highest) for value in negatives)) + highest if negatives else 0
        assert bound.loss_B[b].item() == pytest.approx(total - positive_B[b].item() if negatives else 0, abs=1e-10)
        assert bound.log_terms_B[b].item() == pytest.approx(math.log(max(1, len(negatives))), abs=1e-15)
        assert positive_B.grad[b] == (-1 if negatives else 0)


def circle():
    """Joint, critic and distance of two views on a circle of 8 places: P = exp(-distance), f = log P / (p p)."""
    place = torch.arange(8, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    distance = torch.minimum(distance, 8 - distance)
    joint = (-distance).exp() / (-distance).exp().sum()
    return joint, (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log(), distance


def expected_value(inside, negatives, **how):
    """Exact mean of the bound over positives and all tuples of negatives from the places at a distance `inside` allows."""
    joint, critic, distance = circle()
    mean = 0.0
    for x in range(8):
        places = [y for y in range(8) if inside(distance[x, y].item())]
        negative_TK = critic[x][torch.tensor(list(product(places, repeat=negatives)))]
        for y in range(8):
            bound = info_nce(critic[x, y].repeat(len(negative_TK)), negative_TK, all_of(negative_TK), **how)
            mean += joint[x, y].item() * bound.value_B.mean().item()
    return mean


def test_without_the_positive_the_value_exceeds_the_information_unless_the_region_is_high_enough():
    joint, critic, _ = circle()
    information = (joint * critic).sum().item()
    alone = {"negatives": 2, "positive_in_denominator": False}
    assert information == pytest.approx(0.549701468816, abs=1e-12)
    assert expected_value(lambda d: True, **alone) == pytest.approx(0.9218868082539858, abs=1e-12)
    assert expected_value(lambda d: True, 2) == pytest.approx(0.3351678986, abs=1e-10)
    # the ring D = 1 and the ball D <= 1 hold e^f >= E e^f: then it is a bound even so
    assert expected_value(lambda d: d == 1, **alone) == pytest.approx(0.22371131321577, abs=1e-12)
    assert expected_value(lambda d: d <= 1, **alone) == pytest.approx(-0.16300624543235, abs=1e-12)


def test_a_bounds_value_is_its_ceiling_less_its_loss():
    bound = Bound(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 4.0]))
    assert bound.value_B.tolist() == [3, -1]
    assert tuple(bound)[1].tolist() == [4, 4]


def slow_nce(positive, negatives, rows, log_z):
    """-log h(i) - sum log(1 - h(j)) with h = P / (P + K / N), in 400 digits: doubles would round 1 - h to 0."""
    if not negatives:
        return 0.0
    with localcontext() as context:
        context.prec = 400
        noise = Decimal(len(negatives)) / rows
        chance = [(Decimal(value) - Decimal(log_z)).exp() for value in (positive, *negatives)]
        return float(-(chance[0] / (chance[0] + noise)).ln() - sum((noise / (p + noise)).ln() for p in chance[1:]))


@settings(deadline=None, max_examples=40)
@given(problems(), st.integers(1, 10**7), st.floats(-20, 230))
def test_nce_is_the_formula_written_as_a_loop(problem, rows, log_z):
    bound = nce(*problem, rows=rows, log_partition=torch.tensor(log_z, dtype=torch.float64))
    for b in range(len(problem[0])):
        negatives = taking_part(problem, b)
        slow = slow_nce(problem[0][b].item(), negatives, rows, log_z)
        assert bound.loss_B[b].item() == pytest.approx(slow, rel=1e-12, abs=1e-12)
        assert bound.log_terms_B[b].item() == pytest.approx(math.log(max(1, len(negatives))), abs=1e-15)
    assert (bound.loss_B >= 0).all()
    assert (bound.value_B <= bound.log_terms_B).all()


def test_a_negative_taken_for_data_costs_its_logit_and_what_is_left_of_it():
    """torch's softplus drops the second part from 20 on: 5e-10 of it here, of each negative."""
    logit = 21.5
    negative_BK = torch.full((1, 100), logit + math.log(100), dtype=torch.float64)
    positive_B = torch.full((1,), 500.0, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    bound = nce(positive_B, negative_BK, all_of(negative_BK), rows=1, log_partition=zero)
    assert bound.loss_B.item() - 100 * logit == pytest.approx(100 * math.exp(-logit), abs=2e-11)


@pytest.mark.parametrize("rows", [4096, 1_281_167])
def test_a_uniform_prediction_costs_the_known_number(rows):
    negative_BK = torch.full((1, 4096), 3.7, dtype=torch.float64)
    partition = torch.tensor(3.7 + math.log(rows), dtype=torch.float64)
    bound = nce(
        torch.tensor([3.7], dtype=torch.float64), negative_BK, all_of(negative_BK), rows=rows, log_partition=partition
    )
    assert bound.loss_B.item() == pytest.approx(math.log(4097) + 4096 * math.log(4097 / 4096), abs=1e-10)
    assert bound.loss_B.item() == pytest.approx(9.317888227, abs=1e-9)
    assert bound.log_terms_B.item() == pytest.approx(8.317766166719, abs=1e-10)


def test_the_log_of_the_density_ratio_is_the_optimum_of_nce():
    joint, critic, _ = circle()
    x, y, j = (index.flatten() for index in torch.meshgrid(*[torch.arange(8)] * 3, indexing="ij"))
    critic = critic.clone().requires_grad_()
    log_rows = torch.tensor(math.log(8), dtype=torch.float64)  # e^f p(y) = p(y | x) and p(y) = 1 / 8, so Z is 8
    bound = nce(critic[x, y], critic[x, j][:, None], all_of(x[:, None]), rows=8, log_partition=log_rows)
    (joint[x, y] * joint.sum(0)[j] * bound.loss_B).sum().backward()
    assert critic.grad.abs().max() < 1e-16


def test_the_partition_is_the_mean_of_what_is_kept_times_the_rows():
    value_BK = torch.tensor([[1.0, 2.0, 50.0], [-3.0, 40.0, 60.0]], dtype=torch.float64)
    keep_BK = torch.tensor([[True, True, False], [True, False, False]])
    by_hand = math.log(7 * (math.exp(1) + math.exp(2) + math.exp(-3)) / 3)
    assert log_partition(value_BK, keep_BK, rows=7).item() == pytest.approx(by_hand, abs=1e-14)
    assert log_partition(value_BK, torch.zeros_like(keep_BK), rows=7).item() == pytest.approx(math.log(7), abs=1e-15)
    assert not log_partition(value_BK.requires_grad_(), keep_BK, rows=7).requires_grad


def test_the_partition_of_random_directions_is_within_2_percent_of_the_fixed_one():
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(2000, 128, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    value_BK = one @ other.T / 0.07
    estimate = log_partition(value_BK, all_of(value_BK), rows=1_281_167)
    assert estimate.item() - math.log(1_281_167) == pytest.approx(math.log(2.208651815), abs=5e-3)
    assert log_fixed_partition(1_281_167) == pytest.approx(math.log(2_876_934.2), abs=1e-12)
    assert math.exp(LOG_PARTITION_PER_ROW) == pytest.approx(2.245557, abs=1e-6)
    assert abs(estimate.item() - log_fixed_partition(1_281_167)) < 0.02


def test_a_moving_partition_forgets_a_first_batch_that_was_not_noise():
    first, later = (torch.tensor(value, dtype=torch.float64) for value in (12.0, 9.0))
    moving = first
    for step in range(1, 501):
        moving = moving_log_partition(moving, later, decay=0.99)
        by_hand = math.log(0.99**step * math.exp(12) + (1 - 0.99**step) * math.exp(9))
        assert moving.item() == pytest.approx(by_hand, abs=1e-12)
    assert moving.item() == pytest.approx(9.1178, abs=1e-3)
    cold = moving_log_partition(torch.tensor(200.0), torch.tensor(-200.0), decay=0.5)
    assert cold.item() == pytest.approx(200 - math.log(2), abs=1e-4)


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay must lie between 0 and 1, got {decay}"):
        moving_log_partition(torch.zeros(()), torch.zeros(()), decay=decay)


def test_an_empty_bank_is_refused():
    values, keep = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        nce(values[:, 0], values, keep, rows=0, log_partition=torch.zeros(()))
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        log_partition(values, keep, rows=0)


def losses_of(problem, log_z=None):
    """Every loss of this file, of one problem."""
    log_z = torch.tensor(8.0, dtype=problem[0].dtype) if log_z is None else log_z
    return {
        "nce": nce(*problem, rows=1000, log_partition=log_z).loss_B,
        "alone": info_nce(*problem, positive_in_denominator=False).loss_B,
        "mean": info_nce(*problem, numerator_B=numerator("mean", *problem)).loss_B,
        "logsumexp": info_nce(*problem, numerator_B=numerator("logsumexp", *problem)).loss_B,
    }


NAMES = ["nce", "alone", "mean", "logsumexp"]


@settings(deadline=None)
@given(problems(), st.sampled_from([-1e30, 0.0, 1e30, math.inf, -math.inf, math.nan]), st.sampled_from(NAMES))
def test_what_a_masked_negative_holds_changes_nothing_and_gets_no_gradient(problem, junk, name):
    positive_B, negative_BK, keep_BK = problem
    outcomes = []
    for values in (negative_BK, negative_BK.masked_fill(~keep_BK, junk)):
        s, n = positive_B.clone().requires_grad_(), values.clone().requires_grad_()
        loss_B = losses_of((s, n, keep_BK))[name]
        loss_B.sum().backward()
        assert (n.grad[~keep_BK] == 0).all()
        outcomes.append((loss_B.detach(), s.grad, n.grad))
        assert log_partition(values, keep_BK, rows=9) == log_partition(negative_BK, keep_BK, rows=9)
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    generator = torch.Generator().manual_seed(3)
    positive_B = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    negative_BK = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    keep_BK = torch.tensor([[True] * 5, [True, False, True, False, True], [False] * 5])
    log_z = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    inputs = (positive_B, negative_BK, log_z)
    assert torch.autograd.gradcheck(lambda p, n, z: losses_of((p, n, keep_BK), z)[name], inputs)


def test_the_gradient_of_an_embedding_is_each_row_times_its_chance_of_being_taken_for_data():
    generator = torch.Generator().manual_seed(4)
    bank_ND = F.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64), dim=1)
    raw = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    own, temperature, log_z = 2, 0.07, torch.tensor(math.log(9 * 2.2), dtype=torch.float64)
    others = torch.arange(9) != own
    unit = F.normalize(raw, dim=0)
    critic_BK = (bank_ND @ unit / temperature)[None]
    nce(critic_BK[:, own], critic_BK, others[None], rows=9, log_partition=log_z).loss_B.sum().backward()
    with torch.no_grad():
        chance = (critic_BK[0] - log_z).exp()
        h = chance / (chance + 8 / 9)
        by_hand = ((h * others) @ bank_ND - (1 - h[own]) * bank_ND[own]) / temperature
        by_hand = (by_hand - (by_hand @ unit) * unit) / raw.norm()
    torch.testing.assert_close(raw.grad, by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_and_gradients_are_finite_at_the_coldest_temperature(dtype):
    extreme = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=dtype) / COLDEST
    for value, mask, log_z in product(extreme, ([1] * 5, [0] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]), (-200.0, 7.0, 210.0)):
        for name in NAMES:
            positive_B = value.detach().clone()[None].requires_grad_()
            negative_BK = extreme.detach().clone()[None].requires_grad_()
            problem = (positive_B, negative_BK, torch.tensor([mask], dtype=torch.bool))
            loss_B = losses_of(problem, torch.tensor(log_z))[name]
            loss_B.sum().backward()
            for number in (loss_B, positive_B.grad, negative_BK.grad, log_partition(*problem[1:], rows=10)):
                assert torch.isfinite(number).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_finite_half_precision_value_is_finite(dtype):
    edge = torch.finfo(torch.float16).max
    for s, n in product([-edge, 0, edge], repeat=2):
        problem = (torch.tensor([s], dtype=dtype), torch.tensor([[n]], dtype=dtype), torch.ones(1, 1, dtype=torch.bool))
        losses = losses_of(problem)
        assert all(torch.isfinite(loss_B).all() for loss_B in losses.values())
        assert losses["alone"].item() == n - s


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_critics_are_computed_in_single_precision(dtype):
    generator = torch.Generator().manual_seed(5)
    positive_B, negative_BK = (
        torch.randn(8, generator=generator).to(dtype),
        torch.randn(8, 300, generator=generator).to(dtype),
    )
    keep_BK = torch.rand(8, 300, generator=generator) < 0.5
    half, single = (
        losses_of((p, n, keep_BK)) for p, n in ((positive_B, negative_BK), (positive_B.float(), negative_BK.float()))
    )
    for name in NAMES:
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], single[name])
    assert log_partition(negative_BK, keep_BK, rows=9) == log_partition(negative_BK.float(), keep_BK, rows=9)


def test_single_precision_agrees_with_double_at_the_size_of_a_real_step():
    generator = torch.Generator().manual_seed(6)
    cosine = torch.rand(9, 4097, generator=generator, dtype=torch.float64) * 0.6 - 0.3
    keep_BK, log_z = torch.ones(9, 4096, dtype=torch.bool), torch.tensor(log_fixed_partition(1_281_167), dtype=torch.float64)
    double = losses_of((cosine[:, 0] / 0.07, cosine[:, 1:] / 0.07, keep_BK), log_z)
    single = losses_of((cosine[:, 0].float() / 0.07, cosine[:, 1:].float() / 0.07, keep_BK), log_z)
    for name in NAMES:
        torch.testing.assert_close(single[name].double(), double[name], rtol=3e-6, atol=3e-6)

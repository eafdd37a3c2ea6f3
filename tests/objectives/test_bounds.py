"""InfoNCE: the closed forms, what the theory says exactly, and numbers that stay finite.

Goldens of toy distributions come from exact enumeration of every tuple of negatives (arXiv 2005.13149, 2010.02037).
Shape suffixes: B = anchors, K = negatives of an anchor.
"""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.methods.parts import Everything, Ring
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.regions import cut, window

COLDEST = 0.005
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INFORMATION = 0.549701468816  # of the circle, in nats


def circle():
    """Joint and critic of two views on a circle of 8 places: P = exp(-distance), f = log P / (p p)."""
    place = torch.arange(8, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    joint = (-torch.minimum(distance, 8 - distance)).exp()
    joint /= joint.sum()
    return joint, (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log()


def expected_bound(joint, critic, region, terms):
    """The mean of the bound over every positive and every tuple of `terms` - 1 negatives of the region, with replacement."""
    places = len(joint)
    # What the region says of ranks, from nearest to farthest: critic values may tie, ranks do not.
    ranking = -torch.arange(places, dtype=torch.float64)[None]
    selected = cut(window(region, places, limit=None), ranking, torch.ones(1, places, dtype=torch.bool))
    rank = -selected.value_NK[0].long()
    tuples = torch.tensor(list(product(range(len(rank)), repeat=terms - 1)))
    mean = 0.0
    for x in range(places):
        row = critic[x].argsort(descending=True, stable=True)[rank]
        chance = (joint.sum(0)[row] / joint.sum(0)[row].sum())[tuples].prod(1)
        negative = critic[x, row][tuples].repeat(places, 1)
        bound = info_nce(critic[x].repeat_interleave(len(tuples)), negative, torch.ones_like(negative, dtype=torch.bool))
        value = (bound.log_terms_B - bound.loss_B).unflatten(0, (places, len(tuples)))
        mean += (joint[x] @ value @ chance).item()
    return mean


def mutual_information(joint):
    return (joint * (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log()).sum().item()


def random_toy(seed):
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    return joint / joint.sum(), 2 * torch.randn(4, 4, generator=generator, dtype=torch.float64)


critics = st.floats(-1, 1).map(lambda cosine: cosine / COLDEST)


@st.composite
def problems(draw):
    """Positives [B], negatives [B, K] and which of them take part, at the coldest temperature anyone uses."""
    anchors, negatives = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    positive = [draw(critics) for _ in range(anchors)]
    negative = [[draw(critics) for _ in range(negatives)] for _ in range(anchors)]
    keep = [[draw(st.booleans()) for _ in range(negatives)] for _ in range(anchors)]
    return torch.tensor(positive, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64), torch.tensor(keep)


@settings(deadline=None)
@given(problems())
def test_it_is_the_formula_written_as_a_loop(problem):
    positive, negative, keep = problem
    bound = info_nce(*problem)
    for b in range(len(positive)):
        s = positive[b].item()
        taking_part = [negative[b, k].item() for k in range(negative.shape[1]) if keep[b, k]]
        highest = max([s, *taking_part])
        denominator = math.exp(s - highest) + sum(math.exp(value - highest) for value in taking_part)
        assert bound.loss_B[b].item() == pytest.approx(math.log(denominator) + highest - s, rel=1e-12, abs=1e-12)
        assert bound.log_terms_B[b].item() == pytest.approx(math.log(1 + len(taking_part)), abs=1e-15)


@settings(deadline=None)
@given(problems())
def test_the_bound_never_exceeds_log_k_nor_the_loss_falls_below_zero(problem):
    bound = info_nce(*problem)
    assert (bound.loss_B >= 0).all()
    assert (bound.log_terms_B - bound.loss_B <= bound.log_terms_B).all()


@pytest.mark.parametrize(("terms", "loss"), [(2, math.log(2)), (4096, 8.317766166719), (65537, 11.090370147631)])
def test_a_uniform_prediction_costs_log_k(terms, loss):
    negative = torch.full((1, terms - 1), 3.7, dtype=torch.float64)
    bound = info_nce(torch.tensor([3.7], dtype=torch.float64), negative, torch.ones_like(negative, dtype=torch.bool))
    assert bound.loss_B.item() == pytest.approx(loss, abs=1e-9)
    assert bound.log_terms_B.item() == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize(
    ("region", "three", "five"),
    [
        (Everything(), 0.3351678986, 0.4179673932),
        (Ring(0, 3 / 8), -0.1969228712, -0.2126215168),
        (Ring(0, 5 / 8), 0.0676183521, 0.0932939741),
        (Ring(1 / 8, 3 / 8), 0.0599143820, 0.1125961507),
        (Ring(1 / 8, 5 / 8), 0.2853213696, 0.3881689760),
        (Ring(1 / 8, 1), 0.5155857911, 0.6823481489),
    ],
    ids=["everything", "ball D<=1", "ball D<=2", "ring D=1", "ring 1<=D<=2", "ring D>=1"],
)
def test_the_circle_gives_the_enumerated_values(region, three, five):
    assert expected_bound(*circle(), region, terms=3) == pytest.approx(three, abs=1e-10)
    assert expected_bound(*circle(), region, terms=5) == pytest.approx(five, abs=1e-10)


def test_a_ring_that_reaches_the_farthest_rows_exceeds_the_information():
    joint, critic = circle()
    assert mutual_information(joint) == pytest.approx(INFORMATION, abs=1e-12)
    assert expected_bound(joint, critic, Ring(1 / 8, 1), terms=5) > INFORMATION + 0.1


@pytest.mark.parametrize(
    ("terms", "value"), [(2, 0.18982621158), (3, 0.26817665123), (4, 0.310617065684), (6, 0.35495382550)]
)
def test_the_bound_climbs_towards_the_information_as_negatives_grow(terms, value):
    joint = 0.4 / 16 + 0.6 * torch.eye(4, dtype=torch.float64) / 4
    assert mutual_information(joint) == pytest.approx(0.44584637246, abs=1e-10)
    assert expected_bound(joint, (16 * joint).log(), Everything(), terms) == pytest.approx(value, abs=1e-10)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4))
def test_a_ball_is_below_info_nce_and_info_nce_below_the_information_for_any_critic(seed, rows):
    joint, critic = random_toy(seed)
    ball, everything = (expected_bound(joint, critic, region, terms=3) for region in (Ring(0, rows / 4), Everything()))
    assert ball <= everything + 1e-12
    assert everything <= min(mutual_information(joint), math.log(3)) + 1e-12


def test_rings_by_rank_exceed_info_nce_for_most_critics():
    toys = [random_toy(seed) for seed in range(60)]
    higher = [expected_bound(*toy, Ring(0.25, 0.75), 3) > expected_bound(*toy, Everything(), 3) for toy in toys]
    assert sum(higher) > 40  # 260 of 300 in the enumeration that the theory was checked with


def test_gaussian_views_stay_below_their_information_but_a_far_ring_does_not():
    dimension, rho, anchors = 4, 0.9, 1_500
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, anchors, dimension, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    information = -0.5 * dimension * math.log(1 - rho**2)

    def critic(x, y):
        variance = 1 - rho**2
        return (-((y - rho * x).square()) / (2 * variance) + y.square() / 2).sum(-1) - 0.5 * dimension * math.log(variance)

    def estimate(region, offered):
        value_BM = critic(x[:, None], torch.randn(offered, dimension, generator=generator, dtype=torch.float64))
        selected = cut(window(region, offered, limit=None), value_BM, torch.ones_like(value_BM, dtype=torch.bool))
        bound = info_nce(critic(x, y), *selected[:2])
        assert bound.log_terms_B.exp().round().unique().tolist() == [256]
        return (bound.log_terms_B - bound.loss_B).mean().item()

    # The references were drawn from the exact regions; these are cut from a few thousand rows, hence .1 and not .05.
    assert estimate(Everything(), 255) == pytest.approx(3.12, abs=0.12)
    assert estimate(Everything(), 255) < information
    assert estimate(Ring(0, 0.1), 2_550) == pytest.approx(1.016, abs=0.15)
    assert estimate(Ring(0.1, 1), 283) == pytest.approx(4.875, abs=0.15)
    assert estimate(Ring(0.1, 1), 283) > information


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True] * 5, [True, False, True, False, True], [False] * 5])
    assert torch.autograd.gradcheck(lambda p, n: info_nce(p, n, keep).loss_B, (positive, negative))


def test_the_gradient_of_an_embedding_is_the_softmax_mean_of_the_rows_less_its_own_row():
    generator = torch.Generator().manual_seed(4)
    bank = F.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64), dim=1)
    raw = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    own, temperature = 2, 0.07
    others = torch.arange(9) != own
    unit = F.normalize(raw, dim=0)
    critic = (bank @ unit / temperature)[None]
    info_nce(critic[:, own], critic, others[None]).loss_B.sum().backward()
    with torch.no_grad():
        by_hand = (critic[0].softmax(0) @ bank - bank[own]) / temperature
        by_hand = (by_hand - (by_hand @ unit) * unit) / raw.norm()
    torch.testing.assert_close(raw.grad, by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_loss_and_gradient_are_finite_at_the_coldest_temperature(dtype):
    extreme = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=dtype) / COLDEST
    keeps = torch.tensor([[True] * 5, [False] * 5, [True, False, False, False, False], [False, False, False, False, True]])
    for value in extreme:
        for keep in keeps:
            positive = value.detach().clone()[None].requires_grad_()
            negative = extreme.detach().clone()[None].requires_grad_()
            bound = info_nce(positive, negative, keep[None])
            bound.loss_B.sum().backward()
            for number in (*bound, positive.grad, negative.grad):
                assert torch.isfinite(number).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_negative_of_any_finite_half_precision_value_is_finite(dtype):
    edge = torch.finfo(torch.float16).max
    for s, n in product([-edge, 0, edge], repeat=2):
        bound = info_nce(
            torch.tensor([s], dtype=dtype), torch.tensor([[n]], dtype=dtype), torch.ones(1, 1, dtype=torch.bool)
        )
        assert bound.loss_B.item() == pytest.approx(max(0.0, n - s) if n != s else math.log(2), rel=0.01)


def test_without_any_negative_the_loss_and_the_bound_are_zero():
    bound = info_nce(torch.tensor([200.0, -200.0]), torch.full((2, 3), 150.0), torch.zeros(2, 3, dtype=torch.bool))
    assert bound.loss_B.tolist() == [0, 0]
    assert bound.log_terms_B.tolist() == [0, 0]


@settings(deadline=None)
@given(problems(), st.sampled_from([-1e30, 0.0, 1e30, math.inf, -math.inf, math.nan]))
def test_what_a_masked_negative_holds_changes_nothing_and_gets_no_gradient(problem, junk):
    positive, negative, keep = problem
    gradients = []
    for values in (negative, negative.masked_fill(~keep, junk)):
        s, n = positive.clone().requires_grad_(), values.clone().requires_grad_()
        loss = info_nce(s, n, keep).loss_B
        loss.sum().backward()
        assert (n.grad[~keep] == 0).all()
        gradients.append((loss.detach(), s.grad, n.grad))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_critics_are_computed_in_single_precision(dtype):
    generator = torch.Generator().manual_seed(5)
    positive, negative = torch.randn(8, generator=generator).to(dtype), torch.randn(8, 300, generator=generator).to(dtype)
    keep = torch.rand(8, 300, generator=generator) < 0.5
    half, single = info_nce(positive, negative, keep), info_nce(positive.float(), negative.float(), keep)
    assert half.loss_B.dtype == half.log_terms_B.dtype == torch.float32
    assert torch.equal(half.loss_B, single.loss_B)
    assert torch.equal(half.log_terms_B, single.log_terms_B)

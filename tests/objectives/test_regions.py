"""Regions of the similarity ranking: membership, what is never chosen, and the condition that keeps a ring a bound.

Shape suffixes: B = anchors, M = rows on offer, D = embedding.
"""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.methods.parts import Everything, Nearest, Ring, SameCluster
from viewmill.objectives import diagnostics
from viewmill.objectives.attach import attach
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.regions import Offered, Window, cut, ranks, select, window

# Similarities to an anchor whose own row is 3, and its losses over regions, worked out by hand at temperature .5.
SIMILARITY = torch.tensor([0.95, 0.10, -0.30, 0.90, 0.70, 0.55, 0.40, -0.05, 0.20, -0.60], dtype=torch.float64)
OWN = 3
ANY = torch.ones(1, 10, dtype=torch.bool)
OTHERS = (torch.arange(10) != OWN)[None]


def pick(region, critic_BM, allowed_BM):
    """The whole region of a matrix of critic values."""
    return cut(window(region, critic_BM.shape[1], limit=None), critic_BM, allowed_BM)


def members(region, critic_M, allowed_1M):
    """Ids of the rows of the region that count, by their values: tests keep those distinct."""
    selected = pick(region, critic_M[None], allowed_1M)
    chosen = selected.value_NK[0, selected.keep_NK[0]]
    assert len(set(chosen.tolist())) == len(chosen)
    return set(torch.isin(critic_M, chosen).nonzero()[:, 0].tolist())


def sphere(rows, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator), dim=1)


@st.composite
def rankings(draw):
    """Distinct critic values [B, M], which rows are allowed, and a ring with something in it."""
    anchors, rows = draw(st.integers(1, 4)), draw(st.integers(2, 40))
    critic_BM = torch.tensor([draw(st.permutations(range(rows))) for _ in range(anchors)], dtype=torch.float64) / 8 - 2
    allowed_BM = torch.tensor(
        draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=anchors, max_size=anchors))
    )
    inner = draw(st.integers(0, rows - 1))
    outer = draw(st.integers(inner + 1, rows))
    return critic_BM, allowed_BM, Ring(inner / rows, outer / rows), slice(inner, outer)


@pytest.mark.parametrize(
    ("ring", "all_rows", "others"),
    [
        (Ring(0.2, 0.4), {4, 5}, {5, 6}),
        (Ring(0.2, 0.5), {4, 5, 6}, {5, 6, 8}),
        (Ring(0, 0.4), {0, 3, 4, 5}, {0, 4, 5, 6}),
        (Ring(0.9, 1), {9}, set()),
    ],
)
def test_a_ring_holds_the_rows_between_its_ranks_counted_without_the_own_row(ring, all_rows, others):
    assert members(ring, SIMILARITY, ANY) == all_rows
    assert members(ring, SIMILARITY, OTHERS) == others


@pytest.mark.parametrize(
    ("region", "allowed", "loss"),
    [(Everything(), OTHERS, 1.476711414513), (Ring(0.2, 0.5), ANY, 0.930108738370), (Ring(0, 0.4), OTHERS, 1.291971513738)],
    ids=["everything", "ring", "ball"],
)
def test_losses_over_regions_are_those_worked_out_by_hand(region, allowed, loss):
    critic = SIMILARITY[None] / 0.5
    assert info_nce(critic[:, OWN], *pick(region, critic, allowed)[:2]).loss_B.item() == pytest.approx(loss, abs=1e-10)


@settings(deadline=None)
@given(rankings())
def test_a_ring_is_a_slice_of_the_sorted_allowed_rows(ranking):
    critic_BM, allowed_BM, ring, between = ranking
    for critic_M, allowed_M in zip(critic_BM, allowed_BM, strict=True):
        nearest_first = [row for row in critic_M.argsort(descending=True).tolist() if allowed_M[row]]
        assert members(ring, critic_M, allowed_M[None]) == set(nearest_first[between])


@settings(deadline=None)
@given(rankings())
def test_what_is_not_allowed_is_never_selected_however_near(ranking):
    critic_BM, allowed_BM, ring, _ = ranking
    for region in (ring, Everything()):
        selected = pick(region, critic_BM.masked_fill(~allowed_BM, 100.0), allowed_BM)
        assert (selected.value_NK[selected.keep_NK] < 100).all()


@settings(deadline=None)
@given(rankings())
def test_everything_is_every_allowed_row_in_place(ranking):
    critic_BM, allowed_BM, _, _ = ranking
    selected = pick(Everything(), critic_BM, allowed_BM)
    assert torch.equal(selected.value_NK, critic_BM)
    assert torch.equal(selected.keep_NK, allowed_BM)


@settings(deadline=None)
@given(rankings())
def test_the_widest_ring_is_everything(ranking):
    critic_BM, allowed_BM, _, _ = ranking
    ring, everything = (
        info_nce(critic_BM[:, 0], *pick(region, critic_BM, allowed_BM)[:2]) for region in (Ring(0, 1), Everything())
    )
    torch.testing.assert_close(ring.loss_B, everything.loss_B, rtol=1e-13, atol=1e-13)
    assert torch.equal(ring.log_terms_B, everything.log_terms_B)


def test_a_wider_ball_never_costs_less():
    generator = torch.Generator().manual_seed(1)
    critic_BM = 5 * torch.randn(6, 40, generator=generator, dtype=torch.float64)
    balls = [pick(Ring(0, outer / 40), critic_BM, torch.ones(6, 40, dtype=torch.bool)) for outer in range(1, 41)]
    loss_BR = torch.stack([info_nce(critic_BM[:, 0], *ball[:2]).loss_B for ball in balls], dim=1)
    assert (loss_BR.diff(dim=1) > 0).all()


def test_among_equal_values_as_many_are_chosen_as_the_ring_is_wide():
    selected = pick(Ring(0.25, 0.75), torch.zeros(3, 8), torch.ones(3, 8, dtype=torch.bool))
    assert selected.value_NK.shape == (3, 4)
    assert selected.keep_NK.all()


@pytest.mark.parametrize(
    ("share", "rows", "rank"), [(0.29, 100, 29), (0.57, 100, 57), (0.1, 50_000, 5_000), (0.01, 1_281_167, 12_811)]
)
def test_ranks_are_not_fooled_by_floating_point(share, rows, rank):
    assert ranks(share, rows) == rank


@given(percent=st.integers(0, 10_000), rows=st.integers(1, 2_000_000))
def test_a_rank_is_the_floor_of_the_exact_product(percent, rows):
    assert ranks(percent / 10_000, rows) == Fraction(percent, 10_000) * rows // 1


@pytest.mark.parametrize(("ring", "rows"), [(Ring(0, 0.1), 9), (Ring(0.5, 0.54), 20)])
def test_a_ring_without_a_single_rank_is_refused(ring, rows):
    with pytest.raises(ValueError, match=rf"ring from {ring.inner} to {ring.outer} of {rows} rows is empty"):
        pick(ring, torch.zeros(2, rows), torch.ones(2, rows, dtype=torch.bool))


@pytest.mark.parametrize(("inner", "outer"), [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_a_ring_of_impossible_shares_is_refused(inner, outer):
    with pytest.raises(ValueError, match="0 <= inner < outer <= 1"):
        Ring(inner, outer)


@settings(deadline=None)
@given(rankings())
def test_gradient_flows_through_the_selected_values_alone(ranking):
    critic_BM, allowed_BM, ring, _ = ranking
    critic_BM.requires_grad_()
    selected = pick(ring, critic_BM, allowed_BM)
    (selected.value_NK * selected.keep_NK).sum().backward()
    for b, critic_M in enumerate(critic_BM.detach()):
        assert set(critic_BM.grad[b].nonzero()[:, 0].tolist()) == members(ring, critic_M, allowed_BM[b][None])
    assert set(critic_BM.grad.unique().tolist()) <= {0.0, 1.0}


def conditions(region, anchor_BD, bank_ND, own_B, offered_M, temperature=0.07):
    """Shares of the anchors for which the strict and the weak condition hold; `own_B` are the cosines of the own rows."""
    critic_BM = anchor_BD @ bank_ND[offered_M].T / temperature
    allowed_BM = torch.ones_like(critic_BM, dtype=torch.bool)
    selected, positive_B = pick(region, critic_BM, allowed_BM), own_B / temperature
    bound = info_nce(positive_B, *selected[:2])
    return diagnostics.conditions(positive_B, critic_BM, allowed_BM, selected, bound, rows=len(bank_ND))


@pytest.mark.parametrize("offered", [50_000, 16_384], ids=["whole bank", "sampled"])
def test_on_a_uniform_sphere_a_near_ring_is_a_bound_and_a_ring_to_the_far_side_is_not(offered):
    bank, anchor, own = sphere(50_000, 128, seed=0), sphere(32, 128, seed=1), torch.full((32,), 0.5)
    rows = torch.randperm(50_000, generator=torch.Generator().manual_seed(2))[:offered]
    assert conditions(Ring(0.01, 0.1), anchor, bank, own, rows)["bound_valid_strict"].mean() == 1
    assert conditions(Ring(0.01, 0.1), anchor, bank, own, rows)["bound_valid"].mean() == 1
    # The mean of exp(cosine / .07) is that of the cosine at the 26.6th percentile: a ring may reach as far, and no farther.
    assert conditions(Ring(0.01, 0.245), anchor, bank, own, rows)["bound_valid_strict"].mean() == 1
    assert conditions(Ring(0.01, 0.29), anchor, bank, own, rows)["bound_valid_strict"].mean() == 0
    assert conditions(Ring(0.01, 1), anchor, bank, own, rows)["bound_valid_strict"].mean() == 0
    assert conditions(Ring(0.1, 1), anchor, bank, own, rows)["bound_valid"].mean() == 0


def test_the_own_row_belongs_to_the_mean_that_a_ring_must_reach():
    bank, anchor = sphere(50_000, 128, seed=3), sphere(16, 128, seed=4)
    for cosine, holds in ((0.80, 1), (0.86, 0)):  # at 50,000 rows the edge of the nearest 10 % gives way at .83
        own = torch.full((16,), cosine)
        assert conditions(Ring(0.01, 0.1), anchor, bank, own, torch.arange(50_000))["bound_valid_strict"].mean() == holds


def test_the_strict_condition_implies_the_weak_one():
    generator = torch.Generator().manual_seed(5)
    for outer in (0.1, 0.2, 0.3, 0.5, 1.0):
        bank, anchor = sphere(400, 8, seed=6), sphere(64, 8, seed=7)
        own = torch.rand(64, generator=generator) * 2 - 1
        said = conditions(Ring(0.05, outer), anchor, bank, own, torch.arange(400))
        assert (said["bound_valid"] >= said["bound_valid_strict"]).all()


# Blocks of anchors, ties, and what is taken out of a wide window


def offered(rows, dimension, seed, *, valid=True):
    key_MD = sphere(rows, dimension, seed)
    drop_M = torch.arange(rows) % 7 != 3
    return Offered(key_MD, torch.arange(rows) * 3, drop_M if valid else None)


@pytest.mark.parametrize("block", [1, 100, 1_000, 10**9])
@pytest.mark.parametrize("where", [Window(5, 60, 55), Window(0, 60, 13, 0.3), Window(10, 200, 40, 0.9), Window(0, 200, 200)])
def test_blocks_of_any_size_select_the_same_rows_with_the_same_gradient(monkeypatch, block, where):
    some, own_N = offered(200, 16, seed=8), torch.arange(9) * 3
    expected = cut(
        where,
        (sphere(9, 16, seed=9) @ some.key_MD.T).double() / 0.1,
        (some.row_M[None] != own_N[:, None]) & some.valid_M[None],
    )
    monkeypatch.setattr("viewmill.objectives.regions.BLOCK", block)
    monkeypatch.setattr("viewmill.objectives.ranking.BLOCK", block // 3)
    monkeypatch.setattr("viewmill.objectives.attach.BLOCK", block)
    gradients = []
    for one_by_one in (False, True):
        monkeypatch.setattr("viewmill.objectives.attach.DENSE", 0 if one_by_one else 32)
        anchor = sphere(9, 16, seed=9).double().requires_grad_()
        key = some.key_MD.double().requires_grad_(not one_by_one)
        found = select(where, anchor, own_N, some._replace(key_MD=key), temperature=0.1)
        assert torch.equal(found.index_NK, expected.index_NK)
        assert torch.equal(found.keep_NK, expected.keep_NK)
        weight = torch.linspace(-1, 1, found.value_NK.numel(), dtype=torch.float64).view_as(found.value_NK)
        (found.value_NK.where(found.keep_NK, 0) * weight).sum().backward()
        by_hand = torch.zeros(9, 200, dtype=torch.float64).scatter_add_(1, found.index_NK, weight * found.keep_NK) / 0.1
        torch.testing.assert_close(anchor.grad, by_hand @ key.detach())
        if not one_by_one:
            torch.testing.assert_close(key.grad, by_hand.T @ anchor.detach())
        gradients.append(anchor.grad)
    torch.testing.assert_close(*gradients)


def test_the_attached_gradient_is_that_of_finite_differences():
    anchor, key = (sphere(*shape).double().requires_grad_() for shape in ((3, 4, 1), (6, 4, 2)))
    index = torch.tensor([[0, 2, 5], [1, 1, 3], [4, 0, 2]])
    assert torch.autograd.gradcheck(lambda a, k: attach(a, k, index, None, 3.0), (anchor, key))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 5), rows=st.integers(1, 60), data=st.data())
def test_ties_are_broken_by_the_order_of_the_rows(seed, levels, rows, data):
    generator = torch.Generator().manual_seed(seed)
    critic = torch.randint(-levels, levels + 1, (3, rows), generator=generator) * 0.25 * torch.tensor([1.0])
    inner = data.draw(st.integers(0, rows - 1))
    outer = data.draw(st.integers(inner + 1, rows))
    found = cut(Window(inner, outer, outer - inner), critic, torch.ones(3, rows, dtype=torch.bool))
    if (inner, outer) != (0, rows):
        assert torch.equal(found.index_NK, critic.argsort(dim=1, descending=True, stable=True)[:, inner:outer])


@settings(deadline=None)
@given(width=st.integers(1, 500), limit=st.integers(1, 500), step=st.integers(0, 10**6))
def test_of_a_wide_ring_as_many_rows_are_taken_as_asked_and_none_twice(width, limit, step):
    where = window(Ring(0.1, 0.1 + width / 1000), 1000, limit=limit, step=step)
    assert where.taken == min(limit, width)
    critic = torch.linspace(1, -1, 1000)[None]
    ranks_taken = cut(where, critic, torch.ones(1, 1000, dtype=torch.bool)).index_NK[0]
    assert len(ranks_taken.unique()) == where.taken
    assert ranks_taken.min() >= 100
    assert ranks_taken.max() < 100 + width


def test_every_row_of_a_ring_has_the_same_chance_over_the_steps():
    critic, all_rows = torch.linspace(1, -1, 500)[None], torch.ones(1, 500, dtype=torch.bool)
    taken = torch.zeros(500)
    for step in range(1000):
        taken[cut(window(Ring(0.02, 0.2), 500, limit=40, step=step), critic, all_rows).index_NK[0]] += 1
    assert taken[:10].sum() == taken[100:].sum() == 0
    assert ((taken[10:100] - 1000 * 40 / 90).abs() < 12).all()


def test_nearest_counts_rows_and_a_bank_with_no_more_is_refused():
    assert window(Nearest(5), 100, limit=3) == Window(0, 5, 5)
    with pytest.raises(ValueError, match=r"nearest 100 of 100 rows are no region: lower region\.count"):
        window(Nearest(100), 100, limit=None)


def test_rows_of_the_own_cluster_are_those_alone_nearest_first():
    some, own_N = offered(60, 8, seed=3, valid=False), torch.arange(4) * 3
    cluster = torch.arange(60) % 5
    where = window(SameCluster(), 60, limit=20)
    found = select(
        where,
        sphere(4, 8, seed=4),
        own_N,
        some,
        temperature=1.0,
        same_cluster=lambda own_C: cluster[own_C // 3][:, None] == cluster[None],
    )
    for anchor in range(4):
        kept = found.index_NK[anchor][found.keep_NK[anchor]]
        assert set(kept.tolist()) == {row for row in range(60) if row % 5 == anchor % 5 and row != anchor}
        assert (found.value_NK[anchor][found.keep_NK[anchor]].diff() <= 0).all()

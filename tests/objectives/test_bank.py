"""The index bank and the rows drawn from it: what a visit changes, what must never get in, and fair draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.objectives import bank

CPU = torch.device("cpu")
E1, E2 = torch.eye(2, dtype=torch.float64)
HALF = math.sqrt(0.5)


def visited(old, new, *, momentum, valid=True):
    """The one row of a bank after a visit."""
    row = old[None].clone()
    bank.write_(row, torch.tensor([0]), new[None], torch.tensor([valid]), momentum=momentum)
    return row[0]


@st.composite
def visits(draw):
    """A bank of unit rows, and a batch of distinct rows with embeddings of any finite size, valid or not."""
    rows, dimension = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    row = torch.randperm(rows, generator=generator)[: draw(st.integers(0, rows))]
    scale = 10.0 ** torch.randint(-9, 10, (len(row), 1), generator=generator)
    embedding = torch.randn(len(row), dimension, generator=generator) * scale
    valid = torch.rand(len(row), generator=generator) < 0.7
    return bank.start(rows, dimension, seed=draw(st.integers(0, 99)), device=CPU), row, embedding, valid


def test_a_visit_at_momentum_one_half_lands_half_way_and_the_next_half_way_again():
    once = visited(E1, E2, momentum=0.5)
    torch.testing.assert_close(once, torch.tensor([HALF, HALF], dtype=torch.float64), rtol=0, atol=1e-12)
    again = visited(once, E2, momentum=0.5)
    torch.testing.assert_close(again, torch.tensor([math.sin(math.pi / 8), math.cos(math.pi / 8)], dtype=torch.float64))
    assert again.tolist() == pytest.approx([0.38268343, 0.92387953], abs=1e-8)


def test_without_momentum_a_visit_replaces_the_row():
    assert torch.equal(visited(E1, E2, momentum=0.0), E2)


def test_near_momentum_one_a_visit_hardly_moves_the_row():
    angle = torch.atan2(*visited(E1, E2, momentum=1 - 1e-6).flip(0))
    assert 0 < angle < 1.1e-6


def test_an_antipodal_embedding_leaves_the_row_as_it_is():
    assert torch.equal(visited(E1, -E1, momentum=0.5), E1)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_an_embedding_that_is_or_becomes_non_finite_leaves_the_row_as_it_is(bad, momentum):
    assert torch.equal(visited(E1, torch.tensor([bad, 1.0], dtype=torch.float64), momentum=momentum), E1)


def test_a_zero_embedding_without_momentum_leaves_the_row_as_it_is():
    assert torch.equal(visited(E1, 0 * E2, momentum=0.0), E1)


def test_an_invalid_image_leaves_the_row_as_it_is():
    assert torch.equal(visited(E1, E2, momentum=0.5, valid=False), E1)


def test_a_bad_row_of_a_batch_does_not_touch_the_good_ones():
    rows = torch.stack((E1, E2, E1))
    bank.write_(rows, torch.tensor([2, 0]), torch.stack((E2 * math.nan, E2)), torch.tensor([True, True]), momentum=0.0)
    assert torch.equal(rows, torch.stack((E2, E2, E1)))


@settings(deadline=None)
@given(visits(), st.floats(0, 0.999))
def test_rows_stay_unit_vectors_whatever_comes(visit, momentum):
    rows, row, embedding, valid = visit
    bank.write_(rows, row, embedding, valid, momentum=momentum)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(visits(), st.floats(0, 0.999))
def test_a_write_changes_the_rows_of_valid_images_and_no_other(visit, momentum):
    rows, row, embedding, valid = visit
    before = rows.clone()
    bank.write_(rows, row, embedding, valid, momentum=momentum)
    untouched = torch.ones(len(rows), dtype=torch.bool)
    untouched[row[valid]] = False
    assert torch.equal(rows[untouched], before[untouched])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_embeddings_of_any_precision_are_stored_in_the_banks(dtype):
    new = F.normalize(torch.tensor([3.0, 4.0]), dim=0).to(dtype)
    stored = visited(E1.float(), new, momentum=0.0)
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored, F.normalize(new.float(), dim=0))


def test_a_write_asks_for_no_gradient():
    rows, embedding = torch.stack((E1, E2)), E2[None].clone().requires_grad_()
    bank.write_(rows, torch.tensor([0]), embedding, torch.tensor([True]), momentum=0.5)
    assert not rows.requires_grad


def test_a_bank_starts_from_its_seed_alone_with_unit_rows_in_all_directions():
    torch.manual_seed(1)
    one = bank.start(2_000, 64, seed=7, device=CPU)
    torch.manual_seed(2)
    assert torch.equal(one, bank.start(2_000, 64, seed=7, device=CPU))
    assert not torch.equal(one, bank.start(2_000, 64, seed=8, device=CPU))
    torch.testing.assert_close(one.norm(dim=1), torch.ones(2_000), rtol=0, atol=1e-6)
    # a uniform direction has mean 0 and variance 1 / dimension in each coordinate; 5 standard errors of 2,000 rows
    assert one.mean(dim=0).abs().max() < 5 / math.sqrt(64 * 2_000)
    assert (one.square().mean(dim=0) * 64 - 1).abs().max() < 5 * math.sqrt(2 / 2_000)


def test_starting_a_bank_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    bank.start(5, 4, seed=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)

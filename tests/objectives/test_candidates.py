"""Which rows of a bank are drawn: the numbers themselves, their law, and for whom they are the same."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewmill.methods.parts import Bank, Everything
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.objectives.candidates import candidates, candidates_of_each, draw
from viewmill.pipeline import counter

CPU = torch.device("cpu")
IR = replace(METHODS["ir"], memory=Bank(negatives=7))
EACH = replace(IR, region=Everything(shared=False))


def digest(drawn):
    return hashlib.sha256(np.ascontiguousarray(drawn).tobytes()).hexdigest()[:16]


def of_step(method, row_B, step, *, rows=50, seed=3):
    return draw(method, rows, np.asarray(row_B), Moment(step, 100, 10), seed=seed, device=CPU)


@pytest.mark.parametrize(
    ("rows", "count", "seed", "step", "known"),
    [
        (1_281_167, 45_500, 7, 12_345, "7d5a1b8efece4a10"),
        (100_000, 45_500, 0, 0, "9cba1da2ed3fb1aa"),
        (8_191, 4_095, 2**63, 2**32 - 1, "689f4111899d2b27"),
        (50_000, 4_095, 1, 9, "4788756fea399eb0"),
        (8_000, 4_095, 5, 3, "3ede512d5db932d8"),
        (7, 7, 0, 0, "81845a01dafa45c9"),
        (9, 2, 3, 4, "b15c0825f56c18d8"),
    ],
)
def test_the_rows_are_those_that_the_loader_of_0_1_0_drew(rows, count, seed, step, known):
    assert digest(candidates(rows, count, seed=seed, step=step)) == known


def test_the_rows_of_each_image_are_those_that_the_loader_of_0_1_0_drew():
    row_B = np.array([3, 1_281_166, 40_000, 0])
    assert digest(candidates_of_each(1_281_167, row_B, 4_095, seed=7, step=99)) == "3bb05b8118b993a1"


@settings(deadline=None)
@given(limit=st.integers(1, 3_000), share=st.floats(0, 1), seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**32 - 1))
def test_distinct_numbers_are_the_first_that_differ_of_the_stream(limit, share, seed, step):
    key, count = counter.Key(seed, counter.CANDIDATES, step), int(share * limit / 2)
    stream = (counter.uniform(key, np.arange(20 * limit))[0] * limit).astype(np.int64)
    np.testing.assert_array_equal(counter.below(key, np.arange(20 * limit), limit), stream)
    first = np.sort(np.unique(stream, return_index=True)[1])[:count]
    np.testing.assert_array_equal(counter.distinct(key, count, limit), np.sort(stream[first]))


def test_more_distinct_numbers_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="4 distinct numbers cannot be drawn below 3"):
        counter.distinct(counter.Key(0, counter.CANDIDATES, 0), 4, 3)


@settings(deadline=None)
@given(rows=st.integers(1, 5_000), share=st.floats(0, 1), seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**32 - 1))
def test_candidates_are_distinct_sorted_rows_that_depend_on_seed_and_step_alone(rows, share, seed, step):
    count = int(share * rows)
    drawn = candidates(rows, count, seed=seed, step=step)
    assert drawn.shape == (count,)
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert not count or 0 <= drawn[0] <= drawn[-1] < rows
    np.testing.assert_array_equal(drawn, candidates(rows, count, seed=seed, step=step))


@pytest.mark.parametrize("count", [40, 400], ids=["a few of many", "most of them"])
def test_steps_and_seeds_draw_other_candidates(count):
    one = candidates(500, count, seed=1, step=1)
    assert not np.array_equal(one, candidates(500, count, seed=1, step=2))
    assert not np.array_equal(one, candidates(500, count, seed=2, step=1))


@pytest.mark.parametrize("count", [20, 49, 50, 80], ids=lambda count: f"{count} of 100")
def test_every_row_is_drawn_equally_often(count):
    draws = 2_000
    often = np.bincount(np.concatenate([candidates(100, count, seed=5, step=step) for step in range(draws)]), minlength=100)
    expected, share = draws * count / 100, count / 100
    # Drawn without replacement, a row's count has variance draws * share * (1 - share); with the fixed total that leaves
    # 99 degrees of freedom, of which chi-square passes 148 once in 1,000.
    chi_square = (np.square(often - expected) / (draws * share * (1 - share))).sum() * 99 / 100
    assert 60 < chi_square < 148


def test_all_rows_can_be_candidates_and_more_cannot():
    np.testing.assert_array_equal(candidates(7, 7, seed=0, step=0), np.arange(7))
    with pytest.raises(ValueError, match="8 candidates cannot be drawn from 7 rows"):
        candidates(7, 8, seed=0, step=0)


def test_candidates_differ_from_step_to_step_but_not_from_run_to_run():
    drawn = [of_step(IR, range(6), step).tolist() for step in range(8)]
    assert drawn == [of_step(IR, range(6), step).tolist() for step in range(8)]
    assert len({tuple(rows) for rows in drawn}) == len(drawn)


def test_candidates_for_all_are_the_same_whatever_images_a_process_has():
    one, other = of_step(IR, range(6), 4), of_step(IR, [7, 49], 4)
    assert torch.equal(one, other)
    assert one.dtype == torch.int64
    assert one.shape == (7,)


def test_candidates_of_each_image_are_its_own_in_any_batch_and_on_any_rank():
    whole = of_step(EACH, range(12), 4)
    assert whole.shape == (12, 7)
    assert len({tuple(rows) for rows in whole.tolist()}) == 12
    shares = [of_step(EACH, range(12)[rank * 4 : (rank + 1) * 4], 4) for rank in range(3)]
    assert torch.equal(torch.cat(shares), whole)
    assert torch.equal(of_step(EACH, [5, 2], 4), whole[[5, 2]])


def test_as_many_are_drawn_as_the_method_of_the_moment_asks_for():
    assert len(of_step(IR, range(6), 0, rows=7)) == 0  # all are on offer
    assert len(of_step(METHODS["simclr"], range(6), 0, rows=10**6)) == 0
    warming = replace(METHODS["la"], warm_start=2.0)  # twenty steps of everything, then the nearest of all rows
    assert [len(of_step(warming, range(6), step, rows=5_000)) for step in (0, 19, 20)] == [4_095, 4_095, 0]

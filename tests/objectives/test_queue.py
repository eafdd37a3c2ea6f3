"""The queue: where a step's keys go, for batches of any size, and what never gets in."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.methods.table import METHODS
from viewmill.objectives import memory as memories
from viewmill.objectives import queue
from viewmill.training.options import for_images

CPU = torch.device("cpu")


def keys(step, count, dimension=4):
    generator = torch.Generator().manual_seed(step)
    return F.normalize(torch.randn(count, dimension, generator=generator), dim=1)


@settings(deadline=None)
@given(size=st.integers(1, 12), count=st.integers(1, 30), steps=st.integers(1, 12))
def test_after_any_steps_it_holds_the_latest_keys_of_all(size, count, steps):
    key_QD, row_Q = queue.start(size, 4, seed=0, device=CPU)
    first = key_QD.clone()
    history = []
    for step in range(steps):
        rows = torch.arange(count) + 100 * step
        queue.write_(key_QD, row_Q, keys(step, count), rows, torch.ones(count, dtype=torch.bool), step=step)
        history += list(zip(keys(step, count), rows.tolist(), strict=True))
    latest = history[-size:]
    assert sorted(row_Q.tolist()) == sorted([row for _, row in latest] + [queue.NOBODY] * (size - len(latest)))
    for key, row in latest:
        assert torch.equal(key_QD[row_Q == row][0], key)
    untouched = row_Q == queue.NOBODY
    assert torch.equal(key_QD[untouched], first[untouched])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_key_that_is_not_finite_or_has_no_direction_leaves_its_slot_as_it_is(bad):
    key_QD, row_Q = queue.start(6, 4, seed=0, device=CPU)
    before, new = key_QD.clone(), keys(0, 3)
    new[1] = bad
    queue.write_(key_QD, row_Q, new, torch.tensor([7, 8, 9]), torch.tensor([True, True, False]), step=0)
    assert row_Q.tolist() == [7, -1, -1, -1, -1, -1]
    assert torch.equal(key_QD[0], new[0])
    assert torch.equal(key_QD[1:], before[1:])


def test_it_starts_from_the_same_unit_keys_for_a_seed():
    one, other, another = (queue.start(50, 8, seed=seed, device=CPU)[0] for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, another)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(50))


# How long it is


def length(*assignments, name="moco-v2", rows=2000, earlier=None):
    return for_images(METHODS[name], assigned=assignments, rows=rows, earlier=earlier or {}).memory.size


def test_unless_it_is_set_it_is_no_longer_than_the_data_set():
    assert length() == 2000
    assert length(rows=10**6) == 65_536
    assert length("memory.size=65536") == 65_536  # the method has it already
    assert for_images(METHODS["simclr"], assigned=(), rows=8, earlier={}) is METHODS["simclr"]


def test_a_run_that_goes_on_keeps_the_length_that_it_began_with():
    assert length(earlier={"objective": {"memory.size": 65_536}}) == 65_536
    assert length(earlier={"objective": {"memory.size": 512}}, rows=100) == 512


def test_a_run_begun_by_a_version_before_goes_on_with_its_random_negatives():
    memory = memories.start(METHODS["moco-v2"], rows=9, batch=4, dimension=3, seed=0, device=CPU)
    memory["queue_row"][:4] = torch.arange(4)
    memories.as_before_(memory)
    assert memory["queue_row"][:6].tolist() == [0, 1, 2, 3, queue.STRANGER, queue.STRANGER]
    bank = memories.start(METHODS["ir"], rows=3, batch=4, dimension=3, seed=0, device=CPU)
    bank["bank_step"][0] = 7
    memories.as_before_(bank)
    assert bank["bank_step"].tolist() == [7, memories.COUNTED, memories.COUNTED]

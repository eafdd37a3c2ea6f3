"""Random numbers by hash: splitmix64's bits, the distributions, and streams that have nothing to do with each other."""

import pytest
import torch

from viewmill.objectives import noise

WHOLE = 2**64 - 1
MANY = torch.arange(200_000)


def finalised(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WHOLE
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WHOLE
    return x ^ (x >> 31)


def in_python(*keys):
    mixed = 0
    for key in keys:
        mixed = finalised((mixed + key * 0x9E3779B97F4A7C15) & WHOLE)
    return mixed


def test_of_one_number_it_is_splitmix64():
    assert noise.bits(torch.tensor(1)).item() % 2**64 == 0xE220A8397B1DCDAF  # the first output from seed 0


@pytest.mark.parametrize("keys", [(7,), (0, 3), (2**63 + 5, 1), (-4, 2**40)])
def test_bits_are_those_of_whole_numbers_that_wrap_around(keys):
    expected = [in_python(*keys, i, 2) for i in range(50)]
    assert [x % 2**64 for x in noise.bits(*keys, torch.arange(50), 2).tolist()] == expected


def test_uniform_numbers_lie_between_0_and_1_and_fill_the_interval():
    found = noise.uniform(3, MANY)
    assert found.dtype == torch.float32
    assert 0 < found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1
    counts = torch.histc(found, 100, 0, 1)
    assert (counts - 2000).abs().max() < 6 * 2000**0.5


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    found = noise.normal(3, MANY).double()
    assert [found.pow(n).mean().item() for n in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, 3], abs=0.05)


def test_numbers_below_a_count_are_all_of_them_alike():
    counts = torch.bincount(noise.below(10, 3, MANY), minlength=10)
    assert len(counts) == 10
    assert (counts - 20_000).abs().max() < 6 * 20_000**0.5


def test_neighbouring_steps_and_places_have_nothing_to_do_with_each_other():
    streams = [noise.normal(step, MANY)[shift : 190_000 + shift] for step in (6, 7, 8) for shift in (0, 1, 2)]
    related = torch.corrcoef(torch.stack(streams).double()) - torch.eye(9, dtype=torch.float64)
    assert related.abs().max() < 6 / 190_000**0.5

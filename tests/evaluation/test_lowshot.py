"""Subsets of few labels, and the images that are held out to choose on.

Shape suffixes: N = training images.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewmill.evaluation.lowshot import of_share, per_class
from viewmill.evaluation.selection import split

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(torch.tensor)
SEEDS = st.integers(0, 2**31)


@settings(deadline=None)
@given(label_N=LABELS, seed=SEEDS, shares=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)))
def test_a_smaller_share_lies_in_a_larger_one_draw_by_draw(label_N, seed, shares):
    few, many = (of_share(label_N, share, draws=3, seed=seed) for share in sorted(shares))
    for small, large in zip(few, many, strict=True):
        assert set(small.row_I.tolist()) <= set(large.row_I.tolist())


@settings(deadline=None)
@given(label_N=LABELS, seed=SEEDS, share=st.floats(0.001, 1))
def test_a_share_is_that_of_each_class_to_the_nearest_image_and_one_at_least(label_N, seed, share):
    for subset in of_share(label_N, share, draws=2, seed=seed):
        assert subset.row_I.tolist() == sorted(set(subset.row_I.tolist()))
        for label in label_N.unique():
            taken, there = (label_N[subset.row_I] == label).sum().item(), (label_N == label).sum().item()
            assert taken >= 1
            assert taken == 1 or abs(taken - share * there) <= 0.5 + 1e-9


@settings(deadline=None)
@given(label_N=LABELS, seed=SEEDS, count=st.integers(1, 5))
def test_a_number_of_each_class_is_exactly_that_or_refused(label_N, seed, count):
    least = min((label_N == label).sum().item() for label in label_N.unique())
    if least < count:
        with pytest.raises(ValueError, match=f"{count} images of each class are asked for.*ask for {least} at most"):
            per_class(label_N, count, seed=seed)
        return
    (subset,) = per_class(label_N, count, seed=seed)
    assert len(subset.row_I.unique()) == count * len(label_N.unique())
    assert {(label_N[subset.row_I] == label).sum().item() for label in label_N.unique()} == {count}
    (larger,) = of_share(label_N, 1.0, seed=seed)
    assert larger.row_I.tolist() == list(range(len(label_N)))


def test_draws_differ_and_are_the_same_again():
    label_N = torch.arange(1_000) % 10
    first, second = per_class(label_N, 5, draws=2, seed=1)
    assert not torch.equal(first.row_I, second.row_I)
    assert torch.equal(first.row_I, per_class(label_N, 5, draws=9, seed=1)[0].row_I)
    assert not torch.equal(first.row_I, per_class(label_N, 5, seed=2)[0].row_I)


def test_every_image_is_as_likely_as_another():
    label_N = torch.tensor([0] * 30 + [1] * 10)
    taken = torch.stack([(torch.bincount(subset.row_I, minlength=40)) for subset in per_class(label_N, 3, draws=3_000)])
    for label, chance in ((0, 3 / 30), (1, 3 / 10)):
        share = taken[:, label_N == label].double().mean(dim=0)
        assert (share - chance).abs().max() < 4.5 * math.sqrt(chance * (1 - chance) / 3_000)


def test_a_subset_says_what_it_is():
    label_N = torch.arange(1_000) % 10
    assert of_share(label_N, 0.01, draws=3, seed=4)[1].words == "1 % of each class, 10 images, draw 2 of 3, seed 4"
    assert per_class(label_N, 7)[0].words == "7 of each class, 70 images, draw 1 of 1, seed 0"


def test_classes_that_are_too_small_are_named():
    label_N = torch.tensor([0] * 9 + [2] * 3 + [5] * 8)
    with pytest.raises(ValueError, match="8 images of each class are asked for, and class 2 has 3: ask for 3 at most"):
        per_class(label_N, 8)


@pytest.mark.parametrize("labels", [[], [0, -1, 1], [[0, 1]]])
def test_rows_without_a_label_are_refused(labels):
    label_N = torch.tensor(labels, dtype=torch.int64)
    for ask in (lambda: per_class(label_N, 1), lambda: of_share(label_N, 0.5), lambda: split(label_N)):
        with pytest.raises(ValueError, match=r"labels must be one per image|1 of 3 training images have no label"):
            ask()


def test_subsets_of_nothing_are_refused():
    label_N = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="at least 1 image of each class, got 0"):
        per_class(label_N, 0)
    with pytest.raises(ValueError, match="at least 1 draw is needed, got 0"):
        per_class(label_N, 1, draws=0)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            of_share(label_N, share)


@settings(deadline=None)
@given(label_N=LABELS, seed=SEEDS, share=st.floats(0.01, 0.99))
def test_held_out_images_are_a_share_of_each_class_and_every_class_stays_on_both_sides(label_N, seed, share):
    counts = {label: (label_N == label).sum().item() for label in label_N.unique().tolist()}
    if max(counts.values()) < 2:
        with pytest.raises(ValueError, match="no class has two training images"):
            split(label_N, share=share, seed=seed)
        return
    rows = split(label_N, share=share, seed=seed)
    assert sorted(rows.fit_I.tolist() + rows.held_J.tolist()) == list(range(len(label_N)))
    for label, there in counts.items():
        held = (label_N[rows.held_J] == label).sum().item()
        assert held == 0 if there == 1 else 1 <= held <= there - 1
        assert held in (1, there - 1) or there == 1 or abs(held - share * there) <= 0.5 + 1e-9
    again = split(label_N, share=share, seed=seed)
    assert torch.equal(rows.fit_I, again.fit_I)
    assert torch.equal(rows.held_J, again.held_J)


def test_another_seed_holds_other_images_out():
    label_N = torch.arange(200) % 4
    assert split(label_N).held_J.tolist() != split(label_N, seed=1).held_J.tolist()
    assert len(split(label_N).held_J) == 20


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(share):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        split(torch.tensor([0, 0, 1, 1]), share=share)

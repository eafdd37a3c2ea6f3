"""Scores against scikit-learn, and their intervals against resampling written as a loop.

Shape suffixes: Q = images asked, C = classes.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from viewmill.evaluation.scores import added, confused, difference, score, worst


def drawn(count, classes, *, seed, good=1.0):
    generator = torch.Generator().manual_seed(seed)
    label_Q = torch.randint(classes, (count,), generator=generator)
    score_QC = torch.randn(count, classes, generator=generator)
    score_QC[torch.arange(count), label_Q] += good
    return score_QC, label_Q


@pytest.mark.parametrize("classes", [6, 10, 40])
def test_accuracies_and_confusions_are_those_of_scikit_learn(classes):
    score_QC, label_Q = drawn(3_000, classes, seed=classes)
    found, guess_Q = score(score_QC, label_Q, protocol="as told"), score_QC.argmax(dim=1)
    assert found.top1.value == pytest.approx(metrics.accuracy_score(label_Q, guess_Q))
    assert found.top5 == pytest.approx(metrics.top_k_accuracy_score(label_Q, score_QC, k=5, labels=range(classes)))
    assert found.per_class == pytest.approx(metrics.balanced_accuracy_score(label_Q, guess_Q))
    assert found.confusion_CC.tolist() == metrics.confusion_matrix(label_Q, guess_Q, labels=range(classes)).tolist()
    assert (found.images, found.protocol) == (3_000, "as told")


def test_classes_that_no_image_has_do_not_count_in_the_mean_per_class():
    score_QC = torch.eye(8)[[0, 0, 0, 3]]
    found = score(score_QC, torch.tensor([0, 0, 3, 3]), protocol="")
    assert found.per_class == 0.75
    assert found.confusion_CC.sum(dim=1).tolist() == [2, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("classes", [2, 5])
def test_there_is_no_top_5_of_five_classes(classes):
    assert score(*drawn(20, classes, seed=0), protocol="").top5 is None


def test_of_equal_scores_the_lower_classes_are_told():
    found = score(torch.zeros(7, 7), torch.arange(7), protocol="")
    assert found.top1.value == pytest.approx(1 / 7)
    assert found.top5 == pytest.approx(5 / 7)


def test_a_class_that_got_no_vote_is_not_among_the_first_five():
    score_QC = torch.full((2, 7), -torch.inf)
    score_QC[:, 6] = 1.0
    found = score(score_QC, torch.tensor([6, 0]), protocol="")
    assert (found.top1.value, found.top5) == (0.5, 0.5)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9_999), classes=st.integers(2, 12), count=st.integers(1, 60))
def test_only_the_order_of_the_scores_counts_and_not_that_of_the_images(seed, classes, count):
    score_QC, label_Q = drawn(count, classes, seed=seed)
    first = score(score_QC, label_Q, protocol="")
    order_Q = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for again in (
        score(score_QC.double().exp(), label_Q, protocol=""),
        score(score_QC[order_Q], label_Q[order_Q], protocol=""),
    ):
        assert torch.equal(first.confusion_CC, again.confusion_CC)
        assert (first.top1, first.top5, first.per_class) == (again.top1, again.top5, again.per_class)
    assert first.confusion_CC.sum() == count
    assert first.top5 is None or first.top5 >= first.top1.value


def test_the_interval_is_that_of_drawing_images_again_with_replacement():
    score_QC, label_Q = drawn(400, 5, seed=3)
    right_Q = (score_QC.argmax(dim=1) == label_Q).double().numpy()
    rng = np.random.default_rng(0)
    means = [right_Q[rng.integers(0, 400, 400)].mean() for _ in range(20_000)]
    found = score(score_QC, label_Q, protocol="", draws=20_000).top1
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))), abs=1 / 400 + 1e-9)


def test_the_interval_of_a_difference_is_that_of_drawing_pairs_again():
    label_Q = drawn(400, 5, seed=4)[1]
    one_Q, two_Q = (drawn(400, 5, seed=seed, good=good)[0] for seed, good in ((5, 0.0), (6, 0.0)))
    one_Q, two_Q = (torch.where(noise[:, 0] > cut, label_Q, 9) for noise, cut in ((one_Q, -0.7), (two_Q, -0.4)))
    gain_Q = ((one_Q == label_Q).double() - (two_Q == label_Q).double()).numpy()
    rng = np.random.default_rng(0)
    means = [gain_Q[rng.integers(0, 400, 400)].mean() for _ in range(20_000)]
    found = difference(one_Q, two_Q, label_Q, draws=20_000)
    assert found.value == pytest.approx(gain_Q.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))), abs=1 / 400 + 1e-9)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty():
    generator, held = torch.Generator().manual_seed(0), 0
    for seed in range(400):
        right_Q = (torch.rand(300, generator=generator) < 0.7).long()
        found = score(torch.eye(2)[right_Q], torch.ones(300, dtype=torch.int64), protocol="", seed=seed).top1
        held += found.low <= 0.7 <= found.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) - 0.01 < held / 400 < 0.95 + 3 * math.sqrt(0.95 * 0.05 / 400)


def test_intervals_of_a_hundred_and_of_no_per_cent_are_points():
    label_Q = torch.arange(50) % 3
    assert score(torch.eye(3)[label_Q], label_Q, protocol="").top1 == (1, 1, 1)
    assert score(torch.eye(3)[(label_Q + 1) % 3], label_Q, protocol="").top1 == (0, 0, 0)
    assert difference(label_Q, (label_Q + 1) % 3, label_Q) == (1, 1, 1)
    assert difference((label_Q + 1) % 3, label_Q, label_Q) == (-1, -1, -1)
    assert difference(label_Q, label_Q, label_Q) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval_and_more_images_a_narrower_one():
    few, many = drawn(100, 5, seed=1), drawn(10_000, 5, seed=1)
    found = score(*few, protocol="").top1
    assert found == score(*few, protocol="").top1
    assert found != score(*few, protocol="", seed=1).top1
    wide = score(*many, protocol="").top1
    assert 5 < (found.high - found.low) / (wide.high - wide.low) < 20


def test_pairs_say_more_than_two_intervals():
    score_QC, label_Q = drawn(2_000, 5, seed=2, good=2.0)
    guess_Q = score_QC.argmax(dim=1)
    worse_Q = guess_Q.clone()
    worse_Q[:30] = (label_Q[:30] + 1) % 5
    gain, alone = difference(guess_Q, worse_Q, label_Q), score(score_QC, label_Q, protocol="").top1
    assert gain.low > 0
    assert gain.high - gain.low < (alone.high - alone.low) / 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 2, -1], r"2 of 4 images have no label \(-1\).*leave them out"),
        ([0, 1, 2, 3], "labels go up to 3, but there are scores of 3 classes"),
        ([0, 1, 2], "scores of 4 images were given and 3 labels"),
        ([], "scores of 4 images were given and 0 labels"),
    ],
)
def test_labels_that_mean_nothing_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        score(torch.zeros(4, 3), torch.tensor(labels, dtype=torch.int64), protocol="")


def test_other_scores_that_mean_nothing_are_refused():
    label_Q = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="1 of 2 images have a class score that is no number"):
        score(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), label_Q, protocol="")
    with pytest.raises(ValueError, match="two guesses and a label for the same images"):
        difference(label_Q, label_Q[:1], label_Q)
    with pytest.raises(ValueError, match="1 of 2 images have no label"):
        difference(label_Q, label_Q, label_Q - 1)
    with pytest.raises(ValueError, match="at least 1 draw"):
        score(torch.zeros(2, 2), label_Q, protocol="", draws=0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9_999), classes=st.integers(2, 9), rows=st.integers(1, 70))
def test_scores_in_parts_are_those_of_the_whole(seed, classes, rows):
    score_QC, label_Q = drawn(60, classes, seed=seed)
    whole, parts = (score(given, label_Q, protocol="") for given in (score_QC, iter(score_QC.split(rows))))
    assert whole[0] == parts[0]
    assert torch.equal(whole.confusion_P3, parts.confusion_P3)
    assert whole._replace(confusion_P3=None) == parts._replace(confusion_P3=None)


@pytest.mark.parametrize("lengths", [(3, 3), (7,), (2,)])
def test_parts_of_another_number_of_images_are_refused(lengths):
    with pytest.raises(ValueError, match=f"scores of {sum(lengths)} images were given and 5 labels"):
        score((torch.randn(length, 4) for length in lengths), torch.zeros(5, dtype=torch.int64), protocol="")


def test_confusions_are_counted_by_the_pairs_that_occur_however_many_classes_there_are():
    true_Q, told_Q = torch.tensor([5, 5, 5, 9, 2_000_000]), torch.tensor([9, 9, 5, 9, 5])
    pairs = confused(true_Q, told_Q)
    assert pairs.tolist() == [[5, 5, 1], [5, 9, 2], [9, 9, 1], [2_000_000, 5, 1]]
    assert worst(pairs, 3) == [(5, 9, 2), (2_000_000, 5, 1)]
    assert worst(pairs, 1) == [(5, 9, 2)]
    assert added([pairs, pairs[:2]]).tolist() == [[5, 5, 2], [5, 9, 4], [9, 9, 1], [2_000_000, 5, 1]]

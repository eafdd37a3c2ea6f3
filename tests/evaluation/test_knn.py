"""Weighted nearest neighbours against a loop.

Shape suffixes: N = training images, Q = queries, F = features.
"""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from viewmill.evaluation.knn import CHUNK, Neighbours, Vote, chosen, nearest, predict, sweep, votes


def scattered(count, dimension=6, *, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    feature = 5 * torch.randn(count, dimension, generator=generator)
    return feature, torch.randint(classes, (count,), generator=generator)


@settings(deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 30), temperature=st.sampled_from([0.05, 0.1, 1.0, 10.0]))
def test_it_is_the_vote_written_as_a_loop(seed, k, temperature):
    train_NF, label_N = scattered(20, seed=seed)
    query_QF, _ = scattered(7, seed=seed + 1_000)
    predicted = predict(train_NF, label_N, query_QF, classes=3, k=k, temperature=temperature)
    for query_F, answer in zip(query_QF.double(), predicted.tolist(), strict=True):
        cosines = [torch.cosine_similarity(query_F, row_F, dim=0).item() for row_F in train_NF.double()]
        votes = defaultdict(float)
        for i in sorted(range(20), key=lambda i: -cosines[i])[:k]:
            votes[label_N[i].item()] += math.exp(cosines[i] / temperature)
        assert votes[answer] == pytest.approx(max(votes.values()), rel=1e-4)


def test_more_neighbours_than_training_images_means_all_of_them():
    train_NF, label_N = scattered(20, seed=1)
    query_QF, _ = scattered(50, seed=2)
    all_of_them = predict(train_NF, label_N, query_QF, classes=3, k=20)
    assert torch.equal(predict(train_NF, label_N, query_QF, classes=3, k=200), all_of_them)


@pytest.mark.parametrize("k", [1, 10, 200])
def test_separable_features_are_told_apart_without_fault(k):
    label_N, asked_Q = torch.arange(60) % 4, torch.arange(CHUNK + 3) % 4
    train_NF, query_QF = (
        (scattered(len(label), 8, seed=i)[0] / 50 + torch.eye(8)[label]) for i, label in enumerate((label_N, asked_Q))
    )
    assert torch.equal(predict(train_NF, label_N, query_QF, classes=4, k=k), asked_Q)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.005, 1e-4])
def test_the_nearer_image_decides_also_where_both_are_on_the_far_side_and_the_temperature_is_low(temperature):
    train_NF = torch.tensor([[1.0, 0.0], [0.9, 0.4]])
    assert predict(train_NF, torch.tensor([0, 1]), torch.tensor([[-1.0, 0.0]]), classes=2, temperature=temperature) == 1


def test_the_length_of_a_feature_vector_does_not_matter():
    train_NF, label_N = scattered(20, seed=3)
    query_QF, _ = scattered(30, seed=4)
    length_N1 = torch.logspace(-3, 3, 20)[:, None]
    scaled = predict(train_NF * length_N1, label_N, query_QF * 1_000, classes=3, k=5)
    assert torch.equal(scaled, predict(train_NF, label_N, query_QF, classes=3, k=5))


def test_a_tie_goes_to_the_lower_class():
    same = torch.ones(4, 3)
    assert predict(same, torch.tensor([2, 1, 1, 2]), same[:1], classes=3).tolist() == [1]


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (-1, 0.1), (5, 0.0), (5, -0.1)])
def test_impossible_neighbours_and_temperatures_are_refused(k, temperature):
    train_NF, label_N = scattered(20, seed=5)
    with pytest.raises(ValueError, match="k must be at least 1 and temperature above 0"):
        predict(train_NF, label_N, train_NF, classes=3, k=k, temperature=temperature)


@pytest.fixture(scope="module")
def digits():
    """1,797 pictures of handwritten digits as float64 features without ties, 1,200 known and 597 asked."""
    pixels, labels = load_digits(return_X_y=True)
    mixed = np.maximum(pixels @ np.random.default_rng(0).normal(size=(64, 48)), 0) + 1e-3
    assert len(np.unique(mixed, axis=0)) == len(mixed)
    feature, label = torch.from_numpy(mixed), torch.from_numpy(labels)
    return feature[:1200], label[:1200], feature[1200:], label[1200:]


@pytest.mark.parametrize(("rows", "chunk"), [(65_536, 512), (250, 100), (37, 1000), (199, 1)])
def test_neighbours_and_their_cosines_are_those_of_scikit_learn_however_the_search_is_cut(digits, rows, chunk):
    known_NF, _, asked_QF, _ = digits
    asked_QF = asked_QF[:150]
    found = nearest(known_NF, asked_QF, 200, rows=rows, chunk=chunk)
    search = NearestNeighbors(n_neighbors=200, algorithm="brute", metric="cosine").fit(known_NF.numpy())
    distance_QK, index_QK = search.kneighbors(asked_QF.numpy())
    assert found.index_QK.tolist() == index_QK.tolist()
    assert found.cosine_QK.numpy() == pytest.approx(1 - distance_QK, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0, None])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_votes_are_those_of_scikit_learn(digits, k, temperature):
    known_NF, label_N, asked_QF, _ = digits
    told = dict(sweep(nearest(known_NF, asked_QF, 200), label_N, classes=10, settings=[Vote(k, temperature)]))
    vote_QC = told[Vote(k, temperature)].clamp(min=0)
    weights = "uniform" if temperature is None else lambda distance: np.exp((1 - distance) / temperature)
    peer = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=weights).fit(known_NF, label_N)
    assert (vote_QC / vote_QC.sum(dim=1, keepdim=True)).numpy() == pytest.approx(peer.predict_proba(asked_QF), abs=1e-9)
    assert vote_QC.argmax(dim=1).tolist() == peer.predict(asked_QF).tolist()


@settings(deadline=None, max_examples=60)
@given(
    known=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    asked=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    k=st.integers(1, 45),
    rows=st.integers(1, 50),
    chunk=st.integers(1, 9),
)
def test_of_equal_cosines_the_lower_row_comes_first_however_the_search_is_cut(known, asked, k, rows, chunk):
    compass = torch.cat((torch.eye(3), -torch.eye(3)))  # cosines are -1, 0 and 1 to the bit
    found = nearest(compass[known], 3 * compass[asked], k, rows=rows, chunk=chunk)
    for query, cosine_K, index_K in zip(asked, found.cosine_QK.tolist(), found.index_QK.tolist(), strict=True):
        cosines = (compass[known] @ compass[query]).tolist()
        assert index_K == sorted(range(len(known)), key=lambda i: (-cosines[i], i))[:k]
        assert cosine_K == [cosines[i] for i in index_K]


def test_a_sweep_of_one_search_says_what_each_setting_alone_would_say():
    train_NF, label_N = scattered(80, seed=7)
    query_QF, _ = scattered(CHUNK + 9, seed=8)
    grid = [Vote(k, temperature) for k in (1, 7, 50) for temperature in (0.05, 0.1, 3.0)]
    told = dict(sweep(nearest(train_NF, query_QF, 50), label_N, classes=3, settings=grid))
    assert list(told) == grid
    for (k, temperature), vote_QC in told.items():
        alone_Q = predict(train_NF, label_N, query_QF, classes=3, k=k, temperature=temperature)
        assert torch.equal(vote_QC.argmax(dim=1), alone_Q)


def test_a_class_without_a_neighbour_has_no_vote_at_all():
    vote_QC = votes(torch.tensor([[0.9, 0.8]]), torch.tensor([[3, 3]]), classes=5, temperature=0.1)
    assert vote_QC[0, 3].item() == pytest.approx(1 + math.exp(-1), rel=1e-6)
    assert vote_QC[0, [0, 1, 2, 4]].isneginf().all()


def test_half_precision_features_are_compared_in_single_precision():
    train_NF, _ = scattered(50, seed=9)
    found = nearest(train_NF.half(), train_NF.half(), 5)
    again = nearest(train_NF.half().float(), train_NF.half().float(), 5)
    assert found.cosine_QK.dtype == torch.float32
    assert torch.equal(found.index_QK, again.index_QK)
    assert found.index_QK[:, 0].tolist() == list(range(50))


def test_nothing_asked_is_nothing_found():
    assert [tuple(part.shape) for part in nearest(torch.ones(4, 3), torch.ones(0, 3), 2)] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("which", ["known", "asked"])
def test_features_without_a_length_are_refused(value, which):
    features = {"known": torch.ones(4, 3), "asked": torch.ones(2, 3)}
    features[which][1, 2] = value
    with pytest.raises(ValueError, match=f"1 of the {which} features are not finite"):
        nearest(features["known"], features["asked"], 2)


def test_searches_that_cannot_be_are_refused():
    found = Neighbours(torch.ones(1, 2), torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="k of at least 1 and a known image, got k = 2 and 0 images"):
        nearest(torch.ones(0, 3), torch.ones(1, 3), 2)
    with pytest.raises(ValueError, match="2 neighbours were searched for, and 3 are to vote"):
        list(sweep(found, torch.tensor([0, 1, 2]), classes=3, settings=[Vote(3)]))
    with pytest.raises(ValueError, match="labels of 0 to 2, got -1 to 1"):
        list(sweep(found, torch.tensor([-1, 1]), classes=3, settings=[Vote(2)]))
    with pytest.raises(ValueError, match="at least one k"):
        list(sweep(found, torch.tensor([0, 1]), classes=3, settings=[]))
    with pytest.raises(ValueError, match="temperature above 0"):
        list(sweep(found, torch.tensor([0, 1]), classes=3, settings=[Vote(2, float("nan"))]))


def test_k_and_temperature_are_chosen_on_training_images_and_named(digits):
    known_NF, label_N, _, _ = digits
    grid = [Vote(k, temperature) for k in (1, 20, 600) for temperature in (0.1, None)]
    choice = chosen(known_NF, label_N, classes=10, settings=grid)
    assert choice.words == f"{choice.setting.words} chosen of 6 on 10 % of the training images"
    assert choice.accuracy_S[grid.index(choice.setting)] == max(choice.accuracy_S) > 0.95
    assert choice.setting.k < 600
    assert choice.model.tolist() == list(range(1200))


def test_of_equally_good_settings_the_smoother_one_is_chosen():
    label_N = torch.arange(40) % 2
    grid = [Vote(5, None), Vote(1), Vote(5), Vote(5, 0.01)]
    assert chosen(torch.eye(2)[label_N], label_N, classes=2, settings=grid).setting == Vote(5, None)

"""Weighted nearest neighbours against a loop, and the tasks that they are asked.

Shape suffixes: N = training images, Q = queries, F = features.
"""

import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewmill.evaluation.knn import CHUNK, predict
from viewmill.evaluation.report import class_task, column_task
from viewmill.pipeline.beton import RAW, Sample, open_beton
from viewmill.pipeline.beton_writer import write_beton


def scattered(count, dimension=6, *, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    feature = 5 * torch.randn(count, dimension, generator=generator)
    return feature, torch.randint(classes, (count,), generator=generator)


def written(path, labels):
    samples = (Sample(RAW, 2, 2, label, bytes(12)) for label in labels)
    write_beton(path, samples, capacity=len(labels))
    return open_beton(path)


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


def test_a_column_of_numbers_is_cut_into_four_bands_at_the_training_quartiles():
    train, test = [str(i / 100) for i in range(100)], ["-5", "0.1", "0.3", "0.6", "0.9", "1e3"]
    task = column_task("luma", train, test)
    assert (task.name, task.classes) == ("luma", 4)
    assert torch.bincount(task.train_label_N).tolist() == [25] * 4
    assert task.test_label_N.tolist() == [0, 0, 1, 2, 3, 3]


def test_a_column_of_words_has_one_class_a_word_of_either_file():
    task = column_task("texture", ["dots", "plain", "dots"], ["stripes", "plain"])
    assert task.train_label_N.tolist() == [0, 1, 0]
    assert task.test_label_N.tolist() == [2, 1]
    assert task.classes == 3


def test_one_word_among_numbers_makes_them_all_words():
    task = column_task("size", ["1", "2"], ["1", "large"])
    assert (task.train_label_N.tolist(), task.test_label_N.tolist(), task.classes) == ([0, 1], [0, 2], 3)


def test_the_classes_of_the_files_are_the_class_task(tmp_path):
    train, test = written(tmp_path / "train.beton", [0, 1, 1, 0]), written(tmp_path / "test.beton", [2, 0])
    task = class_task(train, test)
    assert (task.train_label_N.tolist(), task.test_label_N.tolist(), task.classes) == ([0, 1, 1, 0], [2, 0], 3)


@pytest.mark.parametrize("bare", ["train", "test"])
def test_a_file_without_labels_is_refused_by_name(tmp_path, bare):
    files = {name: written(tmp_path / f"{name}.beton", [-1 if name == bare else 0, 1]) for name in ("train", "test")}
    with pytest.raises(ValueError, match=rf"{bare}\.beton holds images without a label"):
        class_task(**files)

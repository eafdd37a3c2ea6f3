"""What is to be told: classes by name, columns by word or by quarter."""

import json

import pytest
import torch
from faults import figures

from viewmill.evaluation.tasks import class_task, column_task, task_of
from viewmill.pipeline.beton import RAW, Sample, open_beton
from viewmill.pipeline.beton_writer import write_beton
from viewmill.pipeline.manifest import sidecars


def written(path, labels, classes=()):
    samples = (Sample(RAW, 2, 2, label, bytes(12)) for label in labels)
    write_beton(path, samples, capacity=len(labels))
    if classes:
        sidecars(path)["manifest"].write_text(json.dumps({"fingerprint": open_beton(path).fingerprint, "classes": classes}))
    return open_beton(path)


def test_a_column_of_numbers_is_cut_into_four_bands_at_the_training_quartiles():
    train, test = [str(i / 100) for i in range(100)], ["-5", "0.1", "0.3", "0.6", "0.9", "1e3"]
    task = task_of("luma", train, test)
    assert task.name == "luma"
    assert task.classes == ("to 0.248", "0.248 to 0.495", "0.495 to 0.743", "from 0.743")
    assert torch.bincount(task.train_label_N).tolist() == [25] * 4
    assert task.test_label_N.tolist() == [0, 0, 1, 2, 3, 3]


def test_a_column_of_words_has_one_class_a_word_of_either_file():
    task = task_of("texture", ["dots", "plain", "dots"], ["stripes", "plain"])
    assert task.train_label_N.tolist() == [0, 1, 0]
    assert task.test_label_N.tolist() == [2, 1]
    assert task.classes == ("dots", "plain", "stripes")


def test_one_word_among_numbers_makes_them_all_words():
    task = task_of("size", ["1", "2"], ["1", "large"])
    assert (task.train_label_N.tolist(), task.test_label_N.tolist()) == ([0, 1], [0, 2])
    assert task.classes == ("1", "2", "large")


def test_a_column_is_read_from_the_tables_of_both_files(tmp_path):
    train, test = (open_beton(figures(tmp_path / name, count)) for name, count in (("train", 24), ("test", 8)))
    task = column_task("texture", train, test)
    assert len(task.train_label_N) == 24
    assert len(task.test_label_N) == 8
    assert set(task.classes) <= {"solid", "stripes", "checker", "dots"}
    with pytest.raises(ValueError, match=r"has no column 'weight': its table has background_chroma, .*texture"):
        column_task("weight", train, test)


def test_the_classes_of_the_files_are_the_class_task(tmp_path):
    train, test = written(tmp_path / "train.beton", [0, 1, 1, 2]), written(tmp_path / "test.beton", [2, 0])
    task = class_task(train, test)
    assert (task.train_label_N.tolist(), task.test_label_N.tolist()) == ([0, 1, 1, 2], [2, 0])
    assert task.classes == ("0", "1", "2")


def test_classes_are_matched_by_name_where_the_files_number_them_otherwise(tmp_path):
    train = written(tmp_path / "train.beton", [0, 1, 2, 2], ["cat", "dog", "owl"])
    test = written(tmp_path / "test.beton", [0, 1, 1], ["owl", "cat"])
    task = class_task(train, test)
    assert task.classes == ("cat", "dog", "owl")
    assert task.test_label_N.tolist() == [2, 0, 0]


def test_a_class_that_no_test_image_has_may_be_strange(tmp_path):
    train = written(tmp_path / "train.beton", [0, 1], ["cat", "dog"])
    test = written(tmp_path / "test.beton", [1, 1], ["emu", "dog"])
    assert class_task(train, test).test_label_N.tolist() == [1, 1]


def test_other_classes_are_refused_by_name(tmp_path):
    train = written(tmp_path / "train.beton", [0, 1], ["cat", "dog"])
    test = written(tmp_path / "test.beton", [0, 1], ["dog", "emu"])
    with pytest.raises(ValueError, match=r"test\.beton has 1 classes that .*train\.beton lacks \(emu\)"):
        class_task(train, test)
    bare = written(tmp_path / "bare.beton", [1, 5])
    with pytest.raises(ValueError, match=r"train\.beton has no image of 1 classes of .*bare\.beton \(5\)"):
        class_task(train, bare)


def test_one_class_is_no_task(tmp_path):
    one = written(tmp_path / "one.beton", [1, 1])
    with pytest.raises(ValueError, match="one class alone"):
        class_task(one, one)


@pytest.mark.parametrize("bare", ["train", "test"])
def test_a_file_without_labels_is_refused_by_name(tmp_path, bare):
    files = {name: written(tmp_path / f"{name}.beton", [-1 if name == bare else 0, 1]) for name in ("train", "test")}
    with pytest.raises(ValueError, match=rf"{bare}\.beton holds images without a label"):
        class_task(**files)

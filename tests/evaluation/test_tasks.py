"""What is to be told: classes by name, columns by word or by quarter."""

import json

import pytest
import torch
from faults import figures

from viewmill.evaluation.classes import class_task
from viewmill.evaluation.features import Features, Pair
from viewmill.evaluation.protocols import Options, measure
from viewmill.evaluation.tasks import NOBODY, column_task, task_of
from viewmill.pipeline.beton.manifest import sidecars
from viewmill.pipeline.beton.reader import RAW, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton


def written(path, labels, classes=()):
    path.parent.mkdir(exist_ok=True)
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


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["B"] * 4, ["B"] * 2, "column 'x' has the value 'B' alone on the training images: there is nothing to tell apart"),
        (["5"] * 4, ["5", "6"], "has the value '5' alone on the training images"),
        (["5", "5.0", "", "nan"], ["5", "6"], "has the value '5' alone"),
        (["", "nan", " ", "NaN"], ["5", "6"], "no value at all on the training images"),
        (["a", "b"], ["", "nan"], "no value on any test image"),
        (["a", "b"], ["C", "D", "C"], r"has 2 values on the test images \(C, D\) and none of them on a training image"),
        (
            ["1", "2"],
            ["3", "4"],
            r"2 values on the test images \(3, 4\) and none of them on a training image, which have 1, 2",
        ),
        ([*map(str, range(9)), *["9"] * 40], ["3"], "over three quarters of the training images have one number, 9"),
        (["inf", "-inf", "1", "1"], ["1"], "has the value '1' alone"),
    ],
)
def test_a_column_without_anything_to_tell_is_refused(train, test, words):
    with pytest.raises(ValueError, match=words):
        task_of("x", train, test)


def test_rows_that_say_nothing_are_left_out_and_counted():
    task = task_of("age", ["0", "1", "nan", "", " NA ", "1"], ["1", "inf", "0"])
    assert task.train_label_N.tolist() == [0, 1, NOBODY, NOBODY, NOBODY, 1]
    assert task.test_label_N.tolist() == [1, NOBODY, 0]
    assert task.classes == ("0", "1")
    assert task.notes == (
        "column 'age' says nothing for 3 of 6 training images: these are left out",
        "column 'age' says nothing for 1 of 3 test images: these are left out",
    )
    assert task_of("site", ["A", "", "B"], ["NA", "A", "none"]).classes == ("A", "B", "NA", "none")  # words may say so


def test_values_that_no_training_image_has_are_counted():
    task = task_of("site", ["A", "B", "A"], ["C", "A", "C", "D"])
    assert task.notes == (
        "column 'site': 3 of 4 test images have values that no training image has (C 2 times, D) and count as told wrong",
    )
    assert task_of("n", ["1", "2", "1"], ["2", "7"]).test_label_N.tolist() == [1, 2]


def test_words_among_numbers_are_said():
    task = task_of("size", ["1", "2", "3", "large"], ["1", "2", "large", "3"])
    assert len(task.classes) == 4
    assert "2 words among 6 numbers (large 2 times), so each value is a class" in task.notes[0]
    assert task_of("code", ["a", "b", "7"], ["a", "b", "b"]).notes == ()


def test_quarters_that_are_equal_are_one():
    task = task_of("n", ["0"] * 60 + [str(i) for i in range(1, 41)], ["0", "40", "7"])
    assert task.classes[0] == "to 0"
    assert task.test_label_N.tolist() == [0, len(task.classes) - 1, 1]
    assert task.train_label_N.bincount(minlength=len(task.classes)).min() > 0


def test_protocols_never_see_a_row_that_is_left_out():
    feature_NF = torch.eye(2)[[0, 1, 0, 1, 0, 1]] + 0.01
    feature_NF[4:] = torch.nan
    side = Features(feature_NF, torch.zeros(6), torch.arange(6))
    task = task_of("n", ["0", "1", "0", "1", "nan", ""], ["0", "1", "1", "0", "", "nan"])
    (told,) = measure(Pair(side, side), task, Options(("knn",), k=(1,)))
    assert (told.score.images, told.score.top1.value) == (4, 0.5)


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
    less = written(tmp_path / "less.beton", [1, 2], ["cat", "dog", "emu"])
    with pytest.raises(ValueError, match=r"less\.beton has 1 classes that .*train\.beton lacks \(emu\)"):
        class_task(train, less)
    with pytest.raises(ValueError, match=r"train\.beton has no image of 1 classes of .*bare\.beton \(5\)"):
        class_task(written(tmp_path / "numbers" / "train.beton", [0, 1]), written(tmp_path / "bare.beton", [1, 5]))


@pytest.mark.parametrize("bare", ["train", "test"])
def test_names_on_one_side_only_are_refused_with_the_manifest_that_is_missing(tmp_path, bare):
    files = {
        name: written(tmp_path / name / "a.beton", labels, [] if name == bare else ["cat", "dog"])
        for name, labels in (("train", [0, 1]), ("test", [1, 0, 1]))
    }
    with pytest.raises(
        ValueError, match=rf"{bare}/a\.beton has no manifest \(a\.beton\.json\).*--classes-by number if they do"
    ):
        class_task(**files)
    task = class_task(**files, by="number")
    assert (task.classes, task.test_label_N.tolist()) == (("cat", "dog"), [1, 0, 1])


def test_by_number_the_names_do_not_count(tmp_path):
    train = written(tmp_path / "train.beton", [0, 1, 2], ["cat", "dog", "owl"])
    test = written(tmp_path / "test.beton", [0, 1], ["owl", "cat"])
    assert class_task(train, test, by="number").test_label_N.tolist() == [0, 1]
    assert class_task(train, test).test_label_N.tolist() == [2, 0]


def test_classes_are_those_that_occur_whatever_their_numbers(tmp_path):
    """Four labels near 1.5 million and one of 2^62 are five classes."""
    train = written(tmp_path / "train.beton", [1_500_001, 7, 2**62, 1_500_000, 1_499_999, 7])
    test = written(tmp_path / "test.beton", [2**62, 7, 1_500_001])
    task = class_task(train, test)
    assert task.classes == ("7", "1499999", "1500000", "1500001", str(2**62))
    assert task.train_label_N.tolist() == [3, 0, 4, 2, 1, 0]
    assert task.test_label_N.tolist() == [4, 0, 3]
    assert task.notes == (f"{test.path} has no image of 2 of the 5 classes (1499999, 1500000): nothing is told of these",)


def test_a_part_of_a_file_with_many_names_has_the_classes_that_it_holds(tmp_path):
    names = [f"class {number:05d}" for number in range(21_841)]
    train = written(tmp_path / "train.beton", [5, 20_000, 40, 5], names)
    task = class_task(train, written(tmp_path / "test.beton", [40, 20_000, 5], names))
    assert (task.classes, task.test_label_N.tolist()) == (("class 00005", "class 00040", "class 20000"), [1, 2, 0])
    assert task.notes == ()


def test_one_class_is_no_task(tmp_path):
    one = written(tmp_path / "one.beton", [1, 1])
    with pytest.raises(ValueError, match="one class alone"):
        class_task(one, one)


@pytest.mark.parametrize("bare", ["train", "test"])
def test_a_file_without_labels_is_refused_by_name(tmp_path, bare):
    files = {name: written(tmp_path / f"{name}.beton", [-1 if name == bare else 0, 1]) for name in ("train", "test")}
    with pytest.raises(ValueError, match=rf"{bare}\.beton holds images without a label"):
        class_task(**files)


def test_rows_without_a_label_are_counted_and_left_out_only_where_that_is_asked(tmp_path):
    train = written(tmp_path / "train.beton", [3, -1, 7, -1, 3])
    test = written(tmp_path / "test.beton", [7, 3, -1])
    with pytest.raises(ValueError, match="2 of 5: add --labelled-only"):
        class_task(train, test)
    task = class_task(train, test, labelled_only=True)
    assert task.train_label_N.tolist() == [0, NOBODY, 1, NOBODY, 0]
    assert task.test_label_N.tolist() == [1, 0, NOBODY]
    assert task.classes == ("3", "7")
    assert [note.split(" images")[0] for note in task.notes] == ["2 of 5", "1 of 3"]
    bare = written(tmp_path / "bare.beton", [-1, -1])
    with pytest.raises(ValueError, match="without a label alone"):
        class_task(train, bare, labelled_only=True)

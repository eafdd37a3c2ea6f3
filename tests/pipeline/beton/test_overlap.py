"""Which test images are learned from too: the same file, a part of it, the same images under other names."""

import os

import numpy as np
import pytest

from viewmill.pipeline.beton import overlap as overlaps
from viewmill.pipeline.beton.overlap import overlap, overlap_in_words, overlap_of_files
from viewmill.pipeline.beton.reader import JPEG, RAW, Beton, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton


def raw(numbers, *, size: int = 4) -> list[Sample]:
    """Noise of one size, an image a number."""
    made = [np.random.default_rng(number).integers(0, 256, size * size * 3, np.uint8).tobytes() for number in numbers]
    return [Sample(RAW, size, size, 0, data) for data in made]


def jpegs(numbers) -> list[Sample]:
    """Streams of lengths of their own, three of a kind: two of them differ in their middle alone."""
    made = []
    for number in numbers:
        body = bytearray(b"\xff\xd8" + bytes([number // 3]) * (9000 + number // 3) + b"\xff\xd9")
        body[4500 + number % 3] = 7
        made.append(Sample(JPEG, 20, 10, 0, bytes(body)))
    return made


def written(path, samples) -> Beton:
    write_beton(path, iter(samples), capacity=len(samples))
    return open_beton(path)


@pytest.mark.parametrize("make", [raw, jpegs])
@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        (range(30), range(30), 1),
        (range(30), range(10, 20), 1),
        (range(10, 20), range(30), 1 / 3),
        (range(30), range(30, 60), 0),
        (range(30), [*range(27, 30), *range(100, 109)], 1 / 4),
        (range(29, -1, -1), range(30), 1),
    ],
)
def test_it_is_the_share_of_the_test_images_that_stand_in_the_other_file(tmp_path, make, train, test, share):
    one, other = written(tmp_path / "a.beton", make(train)), written(tmp_path / "b.beton", make(test))
    assert overlap(one, other) == pytest.approx(share)


def test_of_many_images_some_are_looked_at_that_are_spread_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(overlaps, "LOOKED_AT", 50)
    one, other = written(tmp_path / "a.beton", raw(range(250))), written(tmp_path / "b.beton", raw(range(1000)))
    assert overlap(one, other) == pytest.approx(0.25, abs=0.02)


def test_files_are_the_same_whatever_they_are_called(tmp_path):
    for name, text in {"a": b"x" * 9000, "b": b"y" * 9000, "c": b"z" * 10, "d": b"y" * 9000}.items():
        (tmp_path / name).write_bytes(text)
    os.symlink("c", tmp_path / "e")
    paths = {name: tmp_path / name for name in "abcdef"}
    assert overlap_of_files([paths["a"], paths["b"], paths["c"]], [paths["d"], paths["e"]]) == 1
    assert overlap_of_files([paths["a"], paths["b"]], [paths["d"], paths["e"]]) == 0.5
    assert overlap_of_files([paths["f"], paths["a"]], [paths["c"], paths["f"]]) == 0  # what is missing is not the same
    assert overlap_of_files([], []) == 0


def test_it_is_said_in_words_and_of_nothing_nothing():
    assert overlap_in_words(0, "a", "b") == ""
    assert overlap_in_words(1, "a", "b").startswith("all of the images in b stand in a too")
    assert overlap_in_words(0.0512, "a", "b").startswith("5.1% of the images")
    assert overlap_in_words(0.0002, "a", "b").startswith("0.1% of the images")

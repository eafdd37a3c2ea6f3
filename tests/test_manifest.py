"""A file that is not what its manifest says never trains; parts of a file are files; damage is found and named."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline import examine, manifest, select
from viewmill.pipeline.beton import JPEG, RAW, InvalidBeton, Sample, open_beton
from viewmill.pipeline.beton_writer import write_beton
from viewmill.pipeline.convert import convert
from viewmill.pipeline.manifest import open_trusted, read_columns, read_manifest, sidecars


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def target(photos, tmp_path):
    """The photographs, converted: 24 rows in 3 classes."""
    convert([photos], tmp_path / "a.beton")
    return tmp_path / "a.beton"


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_file_is_read_whole_once_and_then_known_by_its_inode_size_and_time(target, monkeypatch):
    monkeypatch.setattr(manifest, "SETTLED_S", -1.0)
    seen = []
    for _ in range(2):
        assert len(open_trusted(target, progress=lambda done, total: seen.append(done))) == 24
    once = len(seen)
    assert seen[-1] == target.stat().st_size >> 20
    os.utime(target, ns=(1, 1))
    open_trusted(target, progress=lambda done, total: seen.append(done))
    assert (once > 0, len(seen)) == (True, 2 * once)


def test_a_file_that_was_written_a_moment_ago_is_not_taken_for_known(target):
    seen = []
    open_trusted(target, progress=lambda done, total: seen.append(done))
    once = len(seen)
    open_trusted(target, progress=lambda done, total: seen.append(done))
    assert len(seen) == 2 * once > 0


def test_one_flipped_bit_anywhere_is_found(target):
    beton = open_beton(target)
    header_and_rows = [0, 30, 24 + 2 * 1041 + 20]
    for offset in [*header_and_rows, int(beton.offset_N[3]) + 40, target.stat().st_size - 1]:
        flip(target, offset)
        with pytest.raises(InvalidBeton):
            open_trusted(target)
        flip(target, offset)
    assert len(open_trusted(target)) == 24


def test_a_file_under_the_manifest_of_another_is_refused(target, photos, tmp_path):
    convert([photos / "cat"], tmp_path / "b.beton")
    os.replace(tmp_path / "b.beton", target)
    with pytest.raises(InvalidBeton, match=r"a\.beton is not what its manifest describes"):
        open_trusted(target)


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": ', "[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_refused_by_name(target, content):
    sidecars(target)["manifest"].write_text(content)
    with pytest.raises(InvalidBeton, match=r"a\.beton\.json is damaged"):
        open_trusted(target)


def test_a_file_without_a_manifest_is_checked_in_structure_alone(target):
    sidecars(target)["manifest"].unlink()
    assert len(open_trusted(target)) == 24


def test_a_cache_that_cannot_be_written_costs_another_reading_and_no_more(target, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(open_trusted(target)) == len(open_trusted(target)) == 24


def test_a_fraction_takes_as_much_of_every_class_and_the_same_again(target):
    beton = open_beton(target)
    rows = select.by_fraction(beton, 0.25, seed=3)
    assert np.bincount(beton.label_N[rows]).tolist() == [2, 2, 2]
    assert (rows == select.by_fraction(beton, 0.25, seed=3)).all()
    assert (np.diff(rows) > 0).all()
    assert (rows != select.by_fraction(beton, 0.25, seed=4)).any()
    assert len(select.by_fraction(beton, 0.01, seed=0)) == 3
    for fraction in (0.0, 1.0, -0.5, 2.0):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            select.by_fraction(beton, fraction, seed=0)


def test_classes_are_chosen_by_name_or_number(target):
    beton = open_beton(target)
    assert select.by_label(beton, ["owl", "0"], ["cat", "dog", "owl"]).tolist() == [*range(8), *range(16, 24)]
    with pytest.raises(ValueError, match="has no class 'cow'; it has cat, dog, owl"):
        select.by_label(beton, ["cow"], ["cat", "dog", "owl"])


def test_a_list_chooses_by_row_or_file_name_in_its_own_order(target, tmp_path):
    beton, listed = open_beton(target), tmp_path / "rows.txt"
    name = read_columns(target)["file_name"][5]
    listed.write_text(f"7\n{name}\n\n0\n")
    assert select.by_list(beton, listed).tolist() == [7, 5, 0]
    for content, reason in (
        ("24\n", "line 1: '24' is no row"),
        ("0\nx.jpg\n", "line 2: 'x.jpg' is no row"),
        ("3\n3\n", "twice"),
    ):
        listed.write_text(content)
        with pytest.raises(ValueError, match=reason):
            select.by_list(beton, listed)


def test_a_part_holds_the_bytes_labels_and_columns_of_its_rows(target, tmp_path):
    beton, rows = open_beton(target), np.array([20, 3, 11])
    select.copy_rows(beton, rows, tmp_path / "part.beton")
    part = open_trusted(tmp_path / "part.beton")
    with open(target, "rb") as whole, open(part.path, "rb") as file:
        assert [part.read(file.fileno(), i) for i in range(3)] == [beton.read(whole.fileno(), row) for row in rows]
    assert part.label_N.tolist() == [2, 0, 1]
    names = read_columns(target)["file_name"]
    assert read_columns(part.path) == {
        "row": ["0", "1", "2"],
        "file_name": [names[row] for row in rows],
        "source_row": ["20", "3", "11"],
    }
    told = read_manifest(part.path)
    assert told is not None
    assert told["classes"] == ["cat", "dog", "owl"]
    assert told["source_fingerprint"] == beton.fingerprint


def test_a_part_is_not_written_over_its_source_or_over_another_file(target, tmp_path):
    beton = open_beton(target)
    with pytest.raises(ValueError, match="is the file that is read"):
        select.copy_rows(beton, np.arange(2), target, overwrite=True)
    (tmp_path / "b.beton").write_text("something else")
    with pytest.raises(FileExistsError, match="add --overwrite"):
        select.copy_rows(beton, np.arange(2), tmp_path / "b.beton")
    with pytest.raises(ValueError, match="would hold no row"):
        select.copy_rows(beton, np.arange(0), tmp_path / "c.beton")
    assert not (tmp_path / "c.beton").exists()


def test_a_part_of_a_stock_file_without_sidecars(target, tmp_path):
    for path in sidecars(target).values():
        path.unlink(missing_ok=True)
    select.copy_rows(open_beton(target), np.array([4]), tmp_path / "part.beton")
    assert read_columns(tmp_path / "part.beton") == {"row": ["0"], "source_row": ["4"]}


def test_histograms_count_every_row_once(target):
    beton = open_beton(target)
    for bins in (examine.sides(beton), examine.weights(beton), examine.labels(beton)):
        assert sum(count for _, count in bins) == 24
    assert examine.labels(beton) == [("0 cat", 8), ("1 dog", 8), ("2 owl", 8)]


def test_every_damaged_image_is_named_and_no_other(photos, tmp_path):
    files = sorted(photos.rglob("*.jpg"))
    samples = []
    for row, path in enumerate(files):
        data = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size
        if row == 4:
            data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        if row == 9:
            width += 1
        samples.append(Sample(JPEG, width, height, 0, data))
    samples.append(Sample(RAW, 2, 2, 0, bytes(12)))
    write_beton(tmp_path / "a.beton", samples, capacity=len(samples))
    seen = []
    found = dict(examine.undecodable(open_beton(tmp_path / "a.beton"), threads=2, progress=lambda *now: seen.append(now)))
    assert found == {4: "its JPEG is damaged", 9: "its JPEG is of another size"}
    assert seen[-1] == (25, 25)


def test_a_summary_is_plain_json(target):
    facts = json.loads(json.dumps(examine.summary(open_beton(target))))
    assert (facts["rows"], facts["jpeg_rows"], facts["raw_rows"], facts["labelled_rows"]) == (24, 24, 0, 24)

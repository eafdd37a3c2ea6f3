"""A file that is not what its manifest says never trains; parts of a file are files; damage is found and named."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline.beton import examine, manifest, select
from viewmill.pipeline.beton.manifest import open_trusted, read_columns, read_manifest, sidecars
from viewmill.pipeline.beton.reader import JPEG, RAW, InvalidBeton, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.conversion.cache import open_data
from viewmill.pipeline.conversion.convert import convert
from viewmill.run import main


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


def spoilt(text, how):
    head, *lines = text.splitlines(keepends=True)
    names = [line.split(",", 1)[1] for line in lines]
    return {
        "reversed, numbered anew": head + "".join(f"{row},{name}" for row, name in enumerate(reversed(names))),
        "reversed": head + "".join(reversed(lines)),
        "cut": head + "".join(lines[:-1]),
        "cut in a line": text[:-5],
        "doubled": head + "".join(lines + lines),
        "doubled whole": text + text,
        "one cell changed": text.replace("cat/", "cot/", 1),
        "a row twice": head + "".join([lines[0], lines[0], *lines[2:]]),
        "empty": "",
        "a column more": head.replace("file_name", "file_name,age") + "".join(lines),
        "another table": "name,row\n" + "".join(lines),
        "missing": None,
    }[how]


HOW = ("reversed, numbered anew", "reversed", "cut", "cut in a line", "doubled", "doubled whole", "one cell changed")
HOW += ("a row twice", "empty", "a column more", "another table", "missing")


def of_format_2(target):
    """As if an older version had written it."""
    path = sidecars(target)["manifest"]
    content = json.loads(path.read_text())
    del content["sidecars"]
    path.write_text(json.dumps(content | {"format": 2}))


@pytest.mark.parametrize("how", HOW)
def test_a_table_that_is_not_the_one_that_was_written_is_refused_by_whoever_reads_it(target, tmp_path, how):
    path = sidecars(target)["columns"]
    text = spoilt(path.read_text(), how)
    path.unlink() if text is None else path.write_text(text)
    beton = open_beton(target)
    with pytest.raises(
        InvalidBeton, match=r"a\.beton\.columns\.csv is .*(put back that one|copy it too), or convert its source"
    ):
        read_columns(target)
    with pytest.raises(InvalidBeton):
        select.copy_rows(beton, np.arange(3), tmp_path / "part.beton")
    (tmp_path / "rows.txt").write_text("1\n")
    with pytest.raises(InvalidBeton):
        select.by_list(beton, tmp_path / "rows.txt")
    assert not (tmp_path / "part.beton").exists()
    assert main(["inspect", str(target)]) == 2


@pytest.mark.parametrize("how", HOW)
def test_an_older_manifest_knows_no_table_but_its_rows_are_counted_and_in_order(target, how):
    of_format_2(target)
    path = sidecars(target)["columns"]
    whole = read_columns(target)
    text = spoilt(path.read_text(), how)
    path.unlink() if text is None else path.write_text(text)
    if how == "missing":
        assert read_columns(target) == {}
    elif how in ("reversed, numbered anew", "one cell changed"):  # nothing tells
        assert read_columns(target) != whole
    elif how == "cut in a line":
        assert read_columns(target)["file_name"][-1] != whole["file_name"][-1]
    else:
        with pytest.raises(InvalidBeton, match=r"a\.beton.*put back the one that it was written with"):
            read_columns(target)


def test_a_table_from_an_older_conversion_and_one_that_nobody_wrote_are_refused(target, photos, tmp_path):
    convert([photos / "cat"], tmp_path / "b.beton")
    os.replace(sidecars(tmp_path / "b.beton")["columns"], sidecars(target)["columns"])
    with pytest.raises(InvalidBeton, match="its sha256 differs"):
        read_columns(target)
    sidecars(tmp_path / "b.beton")["quarantine"].write_text("{}\n")
    with pytest.raises(InvalidBeton, match=r"does not belong to .*b\.beton, which was written without one: remove it"):
        manifest.check_sidecar(open_beton(tmp_path / "b.beton"), "quarantine")


def test_the_list_of_what_was_rejected_is_bound_too(photos, tmp_path, capsys):
    source = shutil.copytree(photos, tmp_path / "photos", symlinks=True)
    (source / "cat" / "bad.jpg").write_bytes(b"no image")
    (source / "dog" / "bad.jpg").write_bytes(b"no image")
    convert([source], tmp_path / "a.beton")
    assert read_manifest(tmp_path / "a.beton")["sidecars"]["quarantine"]["rows"] == 2
    assert main(["inspect", str(tmp_path / "a.beton")]) == 0
    path = sidecars(tmp_path / "a.beton")["quarantine"]
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert main(["inspect", str(tmp_path / "a.beton")]) == 2
    assert "of 2 lines that" in " ".join(capsys.readouterr().err.split())


def test_a_part_is_bound_to_its_table_and_not_made_of_a_file_that_is_not_its_manifests(target, tmp_path, capsys):
    part = str(tmp_path / "part.beton")
    assert main(["subset", str(target), part, "--fraction", "0.5"]) == 0
    table = sidecars(tmp_path / "part.beton")["columns"]
    assert read_manifest(tmp_path / "part.beton")["sidecars"]["columns"]["rows"] == len(open_beton(tmp_path / "part.beton"))
    table.write_text(spoilt(table.read_text(), "reversed, numbered anew"))
    with pytest.raises(InvalidBeton, match="its sha256 differs"):
        read_columns(tmp_path / "part.beton")
    flip(target, int(open_beton(target).offset_N[3]) + 40)
    assert main(["subset", str(target), part, "--fraction", "0.5", "--overwrite"]) == 2
    assert "its sha256 is not its manifest's" in " ".join(capsys.readouterr().err.split())


def test_the_manifest_of_another_file_names_no_classes(target, photos, tmp_path):
    convert([photos / "cat"], tmp_path / "b.beton")
    os.replace(sidecars(tmp_path / "b.beton")["manifest"], sidecars(target)["manifest"])
    for read in (manifest.classes_of, examine.labels, read_columns):
        with pytest.raises(InvalidBeton, match=r"a\.beton is not what its manifest describes"):
            read(open_beton(target))


def test_a_file_that_was_renamed_or_copied_alone_says_what_it_lacks_and_where_that_is(target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.replace(target, tmp_path / "b.beton")
    said = []
    assert len(open_data(tmp_path / "b.beton", progress=lambda done, total: None, say=said.append)) == 24
    assert "b.beton has no manifest (b.beton.json): its classes have numbers alone" in said[0]
    assert "a.beton.json is that of the same images: copy or rename it, and what else is beside it, too" in said[0]
    os.replace(tmp_path / "b.beton", tmp_path / "elsewhere" / "b.beton")
    open_data(tmp_path / "elsewhere" / "b.beton", progress=lambda done, total: None, say=said.append)
    assert "if it was copied or renamed, do the same with the files beside it" in said[1]
    for name, path in sidecars(target).items():
        if path.exists():
            os.replace(path, sidecars(tmp_path / "elsewhere" / "b.beton")[name])
    assert len(read_columns(tmp_path / "elsewhere" / "b.beton")["row"]) == 24
    open_data(tmp_path / "elsewhere" / "b.beton", progress=lambda done, total: None, say=said.append)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": "cat"}, "classes must be a list of texts, got 'cat'"),
        ({"classes": [1, 2]}, "classes[0] must be a text, got 1"),
        ({"format": True}, "format must be a whole number"),
        ({"rows": float("nan")}, "rows must be a finite number, got nan"),
        ({"sidecars": {"columns": 3}}, "sidecars.columns must be a table"),
        ({"sidecars": {"columns": {"sha256": "x", "rows": -1}}}, "sidecars.columns.rows must be 0 or more, got -1"),
        ({"format": 99}, "has format 99"),
    ],
)
def test_a_manifest_is_held_to_its_types(target, change, told):
    path = sidecars(target)["manifest"]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidBeton) as refused:
        open_trusted(target)
    assert told in str(refused.value)
    assert "a.beton.json" in str(refused.value)

"""What can be read in two ways is refused with both and the flag for each; what is not used is counted and said."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from viewmill.pipeline.beton.manifest import read_columns
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.cache import open_data
from viewmill.pipeline.conversion.convert import Converted, convert
from viewmill.pipeline.sources.opened import Ambiguous, Reading


def jpeg(value: int, size=(20, 10)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (value % 256,) * 3).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def png(value: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (20, 10), value % 256).save(encoded, "PNG")
    return encoded.getvalue()


def make(root: Path, *names: str) -> Path:
    """Images (or other files, by their endings) below `root`, each a picture of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = png(number) if name.endswith(".png") else jpeg(number)
        path.write_bytes(content if path.suffix in (".jpg", ".png", ".jfif", ".jpe", ".JPG") else b"no image")
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def listing(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def table(path: Path, columns: dict, features: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.table(columns)
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, path)
    return path


def images(count: int, begin: int = 0) -> list[dict]:
    return [{"bytes": jpeg(begin + i), "path": f"{begin + i}.jpg"} for i in range(count)]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "a.beton"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "source"


def remarks(done: Converted) -> dict[str, int]:
    return {kind: counted.files for kind, counted in done.remarks.items()}


def labels(done: Converted) -> list:
    """Each row's class: its name where classes have names, else its number."""
    numbers = open_beton(done.target).label_N.tolist()
    return [done.classes[number] if done.classes and number >= 0 else number for number in numbers]


def names(done: Converted) -> list[str]:
    return read_columns(done.target)["file_name"]


def refused(source: Path, target: Path, *parts: str, **reading) -> str:
    """Refused as ambiguous, nothing written, each of `parts` in the message."""
    with pytest.raises(Ambiguous) as error:
        convert([source], target, reading=Reading(**reading))
    told = str(error.value)
    assert "ways: (1)" in told
    assert str(source) in told
    for part in parts:
        assert part in told
    assert not target.exists()
    return told


# Several kinds in one folder.


def test_a_tar_beside_images_is_refused_with_both_readings(root, target):
    make(root, "cat/0.jpg", "cat/1.jpg", "dog/0.jpg")
    tar(root / "dog" / "backup.tar", {"x.jpg": jpeg(9)})
    refused(root, target, "3 images", "dog/backup.tar", "--only images", "--only shards")
    done = convert([root], target, reading=Reading(only="images"))
    assert labels(done) == ["cat", "cat", "dog"]
    assert remarks(done) == {"a shard of images, passed over": 1}
    done = convert([root], target, reading=Reading(only="shards"), overwrite=True)
    assert names(done) == ["x"]
    assert remarks(done) == {"no image (.jpg)": 3} or sum(remarks(done).values()) == 3


def test_an_archive_without_images_hides_none(root, target):
    make(root, "cat/0.jpg", "dog/0.jpg")
    table(root / "scores.parquet", {"id": [1, 2], "score": [0.5, 0.25]})
    tar(root / "logs.tar", {"a.log": b"text"})
    done = convert([root], target)
    assert labels(done) == ["cat", "dog"]
    assert remarks(done) == {"an archive without images, passed over": 2}


def test_tables_of_metadata_beside_shards_are_passed_over(root, target):
    for number in range(2):
        tar(root / f"0000{number}.tar", {f"{number}.jpg": jpeg(number), f"{number}.txt": b"caption"})
        table(root / f"0000{number}.parquet", {"url": ["http"], "caption": ["caption"], "key": [str(number)]})
        listing(root / f"0000{number}_stats.json", "{}")
    done = convert([root], target)
    assert done.rows == 2
    assert remarks(done) == {"an archive without images, passed over": 2, "no image (.json)": 2}


def test_tars_beside_tables_of_images_are_refused(root, target):
    tar(root / "a.tar", {"x.jpg": jpeg(9)})
    table(root / "b.parquet", {"image": images(2)})
    refused(root, target, "a.tar", "b.parquet", "--only shards", "--only tables")
    assert convert([root], target, reading=Reading(only="tables")).rows == 2


def test_shards_in_folders_of_a_folder_are_found(root, target):
    for part in range(3):
        tar(root / f"part{part}" / f"{part:05d}.tar", {f"{i}.jpg": jpeg(10 * part + i) for i in range(2)})
    done = convert([root], target)
    assert (done.rows, done.classes) == (6, [])
    assert names(done)[-1] == f"{root}/part2/00002.tar/1"


# Parts of a data set.


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("training", "testing"), ("Train", "VALID", "test"), ("train2017", "val2017")]
)
@pytest.mark.parametrize("above", ["", "images/"])
def test_folders_of_a_split_are_no_classes_unless_it_is_said(root, target, parts, above):
    make(root, *(f"{above}{part}/{name}/0.jpg" for part in parts for name in ("cat", "dog")))
    refused(root, target, f"{above}{parts[0]} (2)", "--split", "--split all", "--classes folder")
    done = convert([root], target, reading=Reading(split=parts[0]))
    assert labels(done) == ["cat", "dog"]
    assert names(done) == ["cat/0.jpg", "dog/0.jpg"]
    assert remarks(done) == {"of another split, passed over": len(parts) - 1}
    done = convert([root], target, reading=Reading(split="all"), overwrite=True)
    assert labels(done) == ["cat", "dog"] * len(parts)
    done = convert([root], target, reading=Reading(classes="folder"), overwrite=True)
    assert done.classes == (["images"] if above else sorted(parts))


def test_a_split_that_is_not_there_is_refused_with_those_that_are(root, target):
    make(root, "train/a/0.jpg", "val/a/0.jpg")
    with pytest.raises(ValueError, match=r"has no split called 'test' \(--split\); found were: train, validation"):
        convert([root], target, reading=Reading(split="test"))
    make(root / "val2", "cat/0.jpg")
    with pytest.raises(ValueError, match="no split called 'train'"):
        convert([root / "val2"], target, reading=Reading(split="train"))


def test_one_class_that_is_called_like_a_split_is_a_class_among_others(root, target):
    make(root, "bus/0.jpg", "train/0.jpg", "car/0.jpg")
    assert convert([root], target).classes == ["bus", "car", "train"]


@pytest.mark.parametrize(
    "layout", ["{}-00000-of-00001.parquet", "data/{}-00000-of-00001.parquet", "default/{}/0000.parquet"]
)
def test_tables_of_several_splits_are_refused(root, target, layout):
    for number, split in enumerate(("train", "validation", "test")):
        table(root / layout.format(split), {"image": images(2, 2 * number), "label": [0, 1]})
    refused(root, target, "train (1 of them)", "--split train", "--split all")
    for asked, rows in (("train", 2), ("val", 2), ("all", 6)):
        assert convert([root], target, reading=Reading(split=asked), overwrite=True).rows == rows


def test_a_folder_that_holds_the_folder_of_classes_is_refused(root, target):
    make(root, "images/cat/0.jpg", "images/dog/0.jpg", "readme.txt")
    refused(root, target, f"name {root / 'images'} instead", "--classes folder", "--classes none")
    assert convert([root], target, reading=Reading(classes="none")).classes == []


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [("JPEGImages", "SegmentationClass"), ("images", "labels"), ("imgs", "train_masks"), ("pets", "trimaps")],
)
def test_masks_beside_images_are_no_class_unless_it_is_said(root, target, pictures, masks):
    make(root, *(f"{pictures}/{i}.jpg" for i in range(3)), *(f"{masks}/{i}.png" for i in range(3)), "Annotations/0.xml")
    refused(root, target, f"name {root / pictures} instead", "--classes folder")
    assert labels(convert([root / pictures], target)) == [-1] * 3
    assert convert([root], target, reading=Reading(classes="folder"), overwrite=True).classes == sorted([pictures, masks])


def test_faces_with_and_without_mask_are_classes(root, target):
    make(root, "with_mask/a.jpg", "without_mask/b.jpg")
    assert convert([root], target).classes == ["with_mask", "without_mask"]


# What is no image.


def test_files_that_are_no_images_number_no_class_and_are_not_borne_as_bad(root, target):
    make(root, "zebra/0.jpg", "zebra/n01_boxes.txt", "zebra/LICENSE", "annotations/a.json", "scripts/run.py", "words.txt")
    make(root, "__MACOSX/zebra/0.jpg", "@eaDir/0.jpg", ".ipynb_checkpoints/0.jpg", "zebra/.DS_Store", "Thumbs.db")
    (root / "empty").mkdir()
    done = convert([root], target, max_bad=0)
    assert (labels(done), done.rejected) == (["zebra"], 0)
    assert remarks(done) == {
        "no image (.txt)": 2,
        "no image": 1,
        "no image (.json)": 1,
        "no image (.py)": 1,
        "left there by a system, passed over": 3,
        "hidden, passed over": 2,
        "a folder without an image, which is no class": 3,
    }


def test_a_broken_file_with_an_images_name_is_a_bad_image(root, target):
    make(root, "a/0.jpg", "a/notes.txt")
    (root / "a" / "1.png").write_bytes(b"no image at all")
    done = convert([root], target)
    assert (done.rows, done.rejected) == (1, 1)
    with pytest.raises(ValueError, match="1 of 2 files are unusable"):
        convert([root], target, max_bad=0.4, overwrite=True)


def test_an_image_under_any_name_is_an_image(root, target):
    make(root, "a/0.jpg")
    (root / "a" / "blob").write_bytes(jpeg(1))
    (root / "a" / "photo.dat").write_bytes(png(2))
    (root / "a" / "x.jfif").write_bytes(jpeg(3))
    assert convert([root], target).rows == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_folder_that_cannot_be_read_is_quarantined_with_its_reason(tmp_path):
    root = make(tmp_path / "source", "cat/0.jpg", "cat/1.jpg", "lost/0.jpg", "cat/inner/0.jpg")
    for locked in ("lost", "cat/inner"):
        (root / locked).chmod(0)
    program = """
import os, sys
from pathlib import Path
from viewmill.pipeline.conversion.convert import convert
convert([Path(sys.argv[1], "cat")], Path(sys.argv[3]))  # all that is imported for it is readable by this user
os.setgid(65534); os.setuid(65534)
done = convert([Path(sys.argv[1])], Path(sys.argv[2]))
print(done.rows, done.rejected, *sorted(item.reason for item in done.first_rejected), sep="|")
"""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "out").chmod(0o777)
    ended = subprocess.run(
        [sys.executable, "-c", program, root, tmp_path / "out" / "a.beton", tmp_path / "b.beton"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    for locked in ("lost", "cat/inner"):
        (root / locked).chmod(0o755)
    told = "the folder cannot be read: Permission denied"
    assert ended.stdout.strip() == f"2|2|{told}|{told}", ended.stderr


# Links.


def hub(folder: Path) -> Path:
    """A cache of the Hugging Face hub: blobs without names, a snapshot of links to them."""
    (folder / "blobs").mkdir(parents=True)
    snapshot = folder / "snapshots" / "abc"
    for name in ("cat", "dog"):
        (snapshot / name).mkdir(parents=True)
        for i in range(2):
            (folder / "blobs" / f"{name}{i:039d}").write_bytes(jpeg(i))
            (snapshot / name / f"{i}.jpg").symlink_to(f"../../../blobs/{name}{i:039d}")
    return snapshot


def test_links_into_a_hub_cache_are_followed_when_it_is_said(tmp_path, target):
    snapshot = hub(tmp_path / "datasets--a--b")
    with pytest.raises(ValueError, match=r"cache of the Hugging Face hub.*snapshots/abc\), with --follow-links"):
        convert([tmp_path / "datasets--a--b"], target)
    with pytest.raises(ValueError, match="leads out of the folder; --follow-links follows it"):
        convert([snapshot], target)
    done = convert([snapshot], target, reading=Reading(follow_links=True))
    assert labels(done) == ["cat", "cat", "dog", "dog"]


def test_a_linked_class_is_entered_once_and_loops_end(tmp_path, target):
    root = make(tmp_path / "source", "cat/0.jpg")
    store = make(tmp_path / "store", "dog/0.jpg", "dog/deep/1.jpg")
    (root / "dog").symlink_to(store / "dog")
    (root / "dog2").symlink_to(store / "dog")
    (root / "cat" / "up").symlink_to(root)
    (store / "dog" / "loop").symlink_to(store / "dog")
    (store / "dog" / "back").symlink_to(root)
    (root / "self").symlink_to("self")
    done = convert([root], target, reading=Reading(follow_links=True))
    assert names(done) == ["cat/0.jpg", "dog/0.jpg", "dog/deep/1.jpg"]
    assert remarks(done)["a link to a folder that is listed at its own place"] == 4
    assert done.rejected == 1


# Tables beside a folder's images.


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_table_beside_images_is_read_in_both_forms(root, target, kind):
    make(root, "a/0.jpg", "a/1.jpg", "b/2.jpg")
    rows = [{"file_name": "a/0.jpg", "age": 3, "note": "x"}, {"file_name": "./b\\2.jpg", "age": None, "note": "y, z"}]
    if kind == "jsonl":
        listing(root / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        listing(root / "metadata.csv", 'file_name,age,note\na/0.jpg,3,x\n./b\\2.jpg,,"y, z"\ngone.jpg,9,w\n')
    done = convert([root], target)
    columns = read_columns(target)
    assert (columns["age"], columns["note"]) == (["3", "", ""], ["x", "", "y, z"])
    expected = {f"an image that no row of metadata.{kind} names": 1}
    if kind == "csv":
        expected["a row of metadata.csv that names no image here"] = 1
    assert remarks(done) == expected


def test_letters_that_are_composed_otherwise_are_the_same(root, target):
    make(root, "a/e\u0301.jpg")
    listing(root / "metadata.csv", "file_name,age\na/\u00e9.jpg,3\n")
    assert remarks(convert([root], target)) == {}
    assert read_columns(target)["age"] == ["3"]


def test_a_table_that_names_none_of_the_images_is_refused(root, target):
    make(root, "a/0.jpg")
    listing(root / "metadata.csv", "file_name,age\nother/0.jpg,3\n")
    with pytest.raises(ValueError, match=r"none of its 1 rows names an image in this folder: the first are 'other/0\.jpg'"):
        convert([root], target)


@pytest.mark.parametrize("line", ["[1]", '{"file_name": 3}', "{", '{"file_name": "a", "file_name": "b"}', "[" * 100_000])
def test_a_line_of_metadata_that_is_no_object_is_refused_by_its_number(root, target, line):
    make(root, "0.jpg")
    listing(root / "metadata.jsonl", '{"file_name": "0.jpg"}\n' + line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl"):
        convert([root], target)


def test_labels_in_the_table_beside_class_folders_are_refused_or_chosen(root, target):
    make(root, "a/0.jpg", "b/1.jpg")
    listing(root / "metadata.csv", "file_name,label\na/0.jpg,red\nb/1.jpg,\n")
    refused(root, target, "--label-column label", "--classes folder")
    assert labels(convert([root], target, reading=Reading(classes="folder"))) == ["a", "b"]
    assert labels(convert([root], target, reading=Reading(label_column="label"), overwrite=True)) == ["red", -1]


# Lists.


def test_no_label_renames_no_other(root, target):
    make(root, *(f"{i}.jpg" for i in range(13)))
    for nothing in ("-1", "", "nan", "NaN", "-1.0", "NA", "null"):
        for form in ("{}", "{}.0"):
            rows = "\n".join(f"{i}.jpg,{nothing if i == 5 else form.format(i)}" for i in range(13))
            done = convert([listing(root / "list.csv", f"path,label\n{rows}\n")], target, overwrite=True)
            assert labels(done) == [-1 if i == 5 else i for i in range(13)]
            assert (done.classes, done.labels, done.unlabelled) == ([], 12, 1)


def test_no_label_is_no_name_among_names(root, target):
    make(root, *(f"{i}.jpg" for i in range(5)))
    rows = "0.jpg, dog\n1.jpg,-1\n2.jpg,cat \n3.jpg,\n4.jpg,nan\n"
    done = convert([listing(root / "list.csv", f"path,label\n{rows}")], target)
    assert (done.classes, labels(done)) == (["cat", "dog"], ["dog", -1, "cat", -1, -1])


def test_numbers_that_are_measured_are_no_classes(root, target):
    make(root, "0.jpg", "1.jpg")
    with pytest.raises(ValueError, match=r"column 'label' holds 0\.5: numbers that are no whole ones.*--classes none"):
        convert([listing(root / "list.csv", "path,label\n0.jpg,0.5\n1.jpg,2\n")], target)
    done = convert([root / "list.csv"], target, reading=Reading(classes="none"))
    assert (labels(done), read_columns(target)["label"]) == ([-1, -1], ["0.5", "2"])
    table(root / "t.parquet", {"image": images(2), "label": [0.5, 1.0]})
    with pytest.raises(ValueError, match=r"column 'label' holds 0\.5"):
        convert([root / "t.parquet"], target, overwrite=True)


@pytest.mark.parametrize(("text", "encoding", "asked"), [
    ("path;label\nimg\\0.jpg;\u00e9t\u00e9\n", "utf-8", ""),
    ("path\tlabel\nimg/0.jpg\t\u00e9t\u00e9\n", "utf-8", ""),
    ("path, label\r\nimg/0.jpg, \u00e9t\u00e9\r\n", "utf-8-sig", ""),
    ("path,label\nimg/0.jpg,\u00e9t\u00e9\n", "utf-16", ""),
    ("path,label\nimg/0.jpg,\u00e9t\u00e9\n", "cp1252", "cp1252"),
    (" path ,label\n img\\0 ,\u00e9t\u00e9\n", "utf-8", ""),
])  # fmt: skip
def test_lists_as_spreadsheets_and_windows_write_them(root, target, text, encoding, asked):
    make(root, "img/0.jpg")
    done = convert([listing(root / "LIST.CSV", text, encoding)], target, reading=Reading(encoding=asked))
    assert (labels(done), done.rejected) == (["\u00e9t\u00e9"], 0)


def test_characters_that_are_no_utf8_are_refused_with_the_flag(root, target):
    make(root, "0.jpg")
    with pytest.raises(ValueError, match=r"cannot be read as UTF-8 text.*--encoding cp1252"):
        convert([listing(root / "list.csv", "path,label\n0.jpg,\u00e9\n", "cp1252")], target)
    with pytest.raises(ValueError, match=r"list\.csv cannot be read as no-such-code text"):
        convert([root / "list.csv"], target, reading=Reading(encoding="no-such-code"))


def test_ids_without_endings_are_completed_where_one_image_fits(root, target):
    make(root, "train/0001.jpg", "train/0002.jpg", "train/0002.png", "train/0003.png")
    listed = listing(root / "labels.csv", "id,breed\n0001,pug\n0002,lab\n0003,pug\n")
    with pytest.raises(ValueError, match=r"it has id, breed.*--path-column id --root .*train"):
        convert([listed], target)
    done = convert([listed], target, reading=Reading(path_column="id", label_column="breed", root=root / "train"))
    assert (labels(done), done.rejected) == (["pug", "pug"], 1)
    assert remarks(done)["its path is completed by the ending of the one image of that name"] == 2


def test_what_a_list_does_not_use_is_said(root, target):
    make(root, "0.jpg", "1.jpg", "2.jpg", "notes.txt")
    listed = listing(root / "list.csv", "path,breed\n0.jpg,lab\n0.jpg,lab\n1.jpg,pug\ngone.jpg,x\n")
    done = convert([listed], target)
    assert (done.rows, done.rejected) == (3, 1)
    assert remarks(done) == {
        "an image that list.csv does not name": 1,
        "a list that names images again; each line is a row": 1,
        "a list without a column of labels: --label-column makes one of its others that": 1,
    }


def test_two_columns_with_usual_names_are_refused(root, target):
    make(root, "0.jpg")
    listed = listing(root / "list.csv", "path,image,label,target\n0.jpg,0.jpg,a,b\n")
    refused(listed, target, "--path-column path", "--path-column image")
    refused(listed, target, "--label-column label", "--label-column target", path_column="path")
    assert labels(convert([listed], target, reading=Reading(path_column="image", label_column="target"))) == ["b"]


def test_classes_that_differ_in_capitals_are_refused(root, target):
    make(root, "Cat/0.jpg", "cat/1.jpg", "dog/2.jpg")
    refused(root, target, "'Cat' and 'cat' differ only in capitals", "--case keep", "--case fold")
    assert labels(convert([root], target, reading=Reading(case="keep"))) == ["Cat", "cat", "dog"]
    assert labels(convert([root], target, reading=Reading(case="fold"), overwrite=True)) == ["cat", "cat", "dog"]


@pytest.mark.parametrize(
    "asked",
    [
        "label_column=label",
        "image_column=image",
        "path_column=path",
        "root=.",
        "image_key=jpg",
        "key_dot=last",
        "encoding=cp1252",
        "only=shards",
        "split=train",
    ],
)
def test_a_flag_without_effect_is_refused(root, target, asked):
    make(root, "a/0.jpg")
    field, value = asked.split("=")
    with pytest.raises(ValueError, match="--" + field.replace("_", "-")):
        convert([root], target, reading=Reading(**{field: value}))


def test_a_flag_that_one_of_several_sources_heeds_has_an_effect(root, target):
    make(root, "a/0.jpg", "b/1.jpg")
    listed = listing(root / "list.csv", "path,kind\na/0.jpg,c\n")
    assert labels(convert([root, listed], target, reading=Reading(label_column="kind"))) == ["a", "b", "c"]


# Shards.


def test_several_images_of_a_key_are_refused(root, target):
    shard = tar(root / "a.tar", {f"{i}.{kind}": data(i) for i in range(3) for kind, data in (("png", png), ("jpg", jpeg))})
    refused(shard, target, "3 of 3 keys", "--image-key png", "--image-key jpg")
    done = convert([shard], target, reading=Reading(image_key="jpg"))
    assert [beton_size for beton_size in names(done)] == ["0", "1", "2"]
    assert remarks(done) == {"another image of its key (.png), passed over": 3}


def test_names_with_dots_are_one_key_or_many(root, target):
    shard = tar(root / "a.tar", {f"frame.{i:04d}.jpg": jpeg(i) for i in range(5)})
    refused(shard, target, "1 of 1 keys", "--image-key 0000.jpg", "--key-dot last")
    done = convert([shard], target, reading=Reading(key_dot="last"))
    assert names(done) == [f"frame.{i:04d}" for i in range(5)]


def test_the_one_image_of_a_key_is_found_whatever_its_extension(root, target):
    kinds = ("jpg", "jfif", "jpe", "JPG", "input.jpg", "jpg.webp", "img", "image")
    shard = tar(root / "A.TAR", {f"{i}.{kind}": jpeg(i) for i, kind in enumerate(kinds)} | {"0.outputs": b"cat"})
    members = {f"{i}.{kind}": jpeg(i) for i, kind in enumerate(kinds)}
    shard = tar(root / "A.TAR", {"0.jpg": members.pop("0.jpg"), "0.outputs": b"cat", **members})
    done = convert([shard], target)
    assert (done.rows, done.rejected) == (len(kinds), 0)
    assert remarks(done) == {"members that are not kept (.outputs)": 1}


def test_a_key_used_twice_is_quarantined_with_its_reason(root, target):
    path = root / "a.tar"
    root.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, data in [
            ("a.jpg", jpeg(0)),
            ("a.json", b"{}"),
            ("a.jpg", jpeg(1)),
            ("b.jpg", jpeg(2)),
            ("c.jpg", jpeg(3)),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    done = convert([path], target)
    assert names(done) == ["b", "c"]
    assert "two of its files are called a.jpg" in done.first_rejected[0].reason


def test_keys_whose_files_do_not_stand_together_are_refused(root, target):
    shard = tar(root / "a.tar", {f"{i}.jpg": jpeg(i) for i in range(3)} | {f"{i}.cls": b"1" for i in range(3)})
    with pytest.raises(ValueError, match="the files of 3 keys do not stand together"):
        convert([shard], target)


def test_no_label_in_a_shard_renames_no_other(root, target):
    texts = [b"-1", b"0", b"10", b"2.0", b"", b"nan"]
    members = {f"{i}.{kind}": data for i, text in enumerate(texts) for kind, data in (("jpg", jpeg(i)), ("cls", text))}
    assert labels(convert([tar(root / "a.tar", members)], target)) == [-1, 0, 10, 2, -1, -1]


def test_labels_in_json_are_refused_or_chosen(root, target):
    members = {}
    for i in range(4):
        members |= {f"{i}.jpg": jpeg(i), f"{i}.json": json.dumps({"label": i % 2, "w": 3}).encode()}
    shard = tar(root / "a.tar", members)
    refused(shard, target, "4 images and no .cls", "--label-column label", "--classes none")
    done = convert([shard], target, reading=Reading(label_column="label"))
    assert (labels(done), list(read_columns(target))) == ([0, 1, 0, 1], ["row", "file_name", "w"])
    done = convert([shard], target, reading=Reading(classes="none"), overwrite=True)
    assert (labels(done), read_columns(target)["label"]) == ([-1] * 4, ["0", "1", "0", "1"])
    with pytest.raises(ValueError, match=r"has no 'gone' in its \.json files; it has label, w"):
        convert([shard], target, reading=Reading(label_column="gone"), overwrite=True)


@pytest.mark.parametrize("above", ["", "./", "train/", "./train/"])
def test_a_tar_of_class_folders_is_refused_or_chosen(root, target, above):
    shard = tar(root / "x.tar", {f"{above}{name}/{i}.jpg": jpeg(i) for name in ("cat", "dog") for i in range(2)})
    refused(shard, target, "the class is the folder (cat, dog)", "--classes folder", "--classes none")
    assert labels(convert([shard], target, reading=Reading(classes="folder"))) == ["cat", "cat", "dog", "dog"]
    assert labels(convert([shard], target, reading=Reading(classes="none"), overwrite=True)) == [-1] * 4


def test_a_tar_of_splits_is_refused_or_chosen(root, target):
    shard = tar(root / "x.tar", {f"set/{s}/{c}/0.jpg": jpeg(0) for s in ("train", "val") for c in ("cat", "dog")})
    refused(shard, target, "--split train", "--split all", "--classes folder")
    done = convert([shard], target, reading=Reading(split="val"))
    assert (labels(done), remarks(done)) == (["cat", "dog"], {"of another split, passed over": 2})


def test_imagenets_tars_name_their_classes(root, target):
    wnids = ("n01440764", "n01443537")
    for number, wnid in enumerate(wnids):
        tar(root / "classes" / f"{wnid}.tar", {f"{wnid}_{i}.JPEG": jpeg(10 * number + i) for i in range(2)})
    outer = tar(root / "train.tar", {f"{wnid}.tar": (root / "classes" / f"{wnid}.tar").read_bytes() for wnid in wnids})
    for source in (root / "classes", outer):
        done = convert([source], target, overwrite=True)
        assert labels(done) == [wnids[0]] * 2 + [wnids[1]] * 2
    with pytest.raises(ValueError, match="class 'n01440764' comes from two tars"):
        convert([root], target, overwrite=True)
    assert labels(convert([outer], target, reading=Reading(classes="none"), overwrite=True)) == [-1] * 4


def test_tars_of_other_names_in_a_tar_are_refused_or_chosen(root, target):
    for name in ("cat", "dog"):
        tar(root / f"{name}.tar", {"0.jpg": jpeg(0), "1.jpg": jpeg(1)})
    outer = tar(root / "outer" / "o.tar", {f"{name}.tar": (root / f"{name}.tar").read_bytes() for name in ("cat", "dog")})
    refused(outer, target, "--classes shard", "--classes none")
    done = convert([outer], target, reading=Reading(classes="shard"))
    assert labels(done) == ["cat", "cat", "dog", "dog"]
    assert names(done)[0] == "cat.tar/0"


def test_a_damaged_tar_in_a_tar_costs_no_other(root, target):
    good = tar(root / "1.tar", {"0.jpg": jpeg(0)}).read_bytes()
    outer = tar(root / "outer" / "o.tar", {"0.tar": good[:700], "1.tar": good, "2.jpg": jpeg(7)})
    done = convert([outer], target)
    assert names(done) == ["1.tar/0", "2"]
    assert done.rejected >= 1


# Tables of image bytes.


def test_several_columns_of_images_are_refused(root, target):
    masks = [{"bytes": png(i), "path": None} for i in range(3)]
    path = table(root / "a.parquet", {"annotation": masks, "image": images(3)})
    refused(path, target, "--image-column annotation", "--image-column image")
    assert convert([path], target, reading=Reading(image_column="image")).rows == 3
    binary = table(root / "b.parquet", {"jpg": [jpeg(0)], "png": [png(0)]})
    refused(binary, target.with_name("b.beton"), "--image-column jpg", "--image-column png")


def test_sound_beside_images_is_no_image(root, target):
    sounds = [{"bytes": b"RIFF\0\0\0\0WAVE", "path": "a.wav"}] * 3
    done = convert([table(root / "a.parquet", {"audio": sounds, "image": images(3), "box": [[1, 2]] * 3})], target)
    assert done.rows == 3
    (counted,) = done.remarks.values()
    assert counted.first.detail == "audio, box"


def test_labels_of_tables_keep_their_numbers(root, target):
    for values in ([0.0, 10.0, 2.0, None], [0, 10, 2, -1], ["0", "10", "2", "-1"], [0.0, 10.0, 2.0, float("nan")]):
        done = convert([table(root / "a.parquet", {"image": images(4), "label": values})], target, overwrite=True)
        assert (labels(done), done.classes) == ([0, 10, 2, -1], [])


def test_several_labels_an_image_are_refused(root, target):
    path = table(root / "a.parquet", {"image": images(2), "labels": [[0, 1], []], "split": ["a", "b"]})
    with pytest.raises(ValueError, match=r"column 'labels' holds lists.*--label-column.*--classes none"):
        convert([path], target)
    assert labels(convert([path], target, reading=Reading(classes="none"))) == [-1, -1]
    assert labels(convert([path], target, reading=Reading(label_column="split"), overwrite=True)) == ["a", "b"]


def test_a_class_beyond_the_described_ones_is_quarantined(root, target):
    features = {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}
    done = convert([table(root / "a.parquet", {"image": images(4), "label": [0, 1, 2, -1]}, features)], target)
    assert (labels(done), done.rejected) == (["x", "y", -1], 1)
    assert "names 2 classes" in done.first_rejected[0].reason


def test_a_described_column_of_classes_is_found_and_two_are_refused(root, target):
    described = {name: {"names": ["x", "y"], "_type": "ClassLabel"} for name in ("species", "colour")}
    one = table(root / "a.parquet", {"image": images(2), "species": [1, 0]}, described)
    assert labels(convert([one], target)) == ["y", "x"]
    two = table(root / "b.parquet", {"image": images(2), "species": [1, 0], "colour": [0, 0]}, described)
    refused(two, target.with_name("b.beton"), "--label-column species", "--label-column colour")
    coarse = {name: {"names": ["x", "y"], "_type": "ClassLabel"} for name in ("fine_label", "coarse_label")}
    cifar = table(root / "c.parquet", {"image": images(2), "fine_label": [1, 0], "coarse_label": [0, 0]}, coarse)
    assert labels(convert([cifar], target, overwrite=True)) == ["y", "x"]


def test_a_table_of_paths_under_an_image_column_is_followed(root, target):
    make(root, "img/0.jpg", "img/1.jpg")
    cells = pa.array(
        [{"bytes": None, "path": p} for p in ("img/0.jpg", str(root / "img" / "1.jpg"), "img/gone.jpg")],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    path = root / "a.parquet"
    pq.write_table(pa.table({"image": cells, "label": ["a", "b", "c"]}), path)
    done = convert([path], target)
    assert (labels(done), done.rejected) == (["a", "b"], 1)
    assert "--root" in done.first_rejected[0].reason


def test_rows_that_share_a_name_are_called_by_their_numbers(root, target):
    same = [{"bytes": jpeg(i), "path": "image.jpg"} for i in range(3)]
    done = convert([table(root / "a.parquet", {"image": same})], target)
    assert names(done) == ["00000000", "00000001", "00000002"]
    assert remarks(done) == {"rows that share a name: each is called by its number": 1}


def test_a_row_group_larger_than_memory_is_read_part_by_part(root, target):
    """24 images of 24 MiB in one row group: 576 MiB."""
    count, size = 24, 24 << 20
    cells = [jpeg(i) + bytes(size) for i in range(count)]
    path = root / "a.parquet"
    root.mkdir()
    pq.write_table(
        pa.table({"image": pa.array(cells, pa.large_binary())}),
        path,
        compression="zstd",
        use_dictionary=False,
        write_batch_size=1,
    )
    del cells
    program = """
import sys
from pathlib import Path
from viewmill.pipeline.sources.opened import items_of, open_sources
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10
import pyarrow.parquet
before = peak()
items = [item for item in items_of(open_sources([Path(sys.argv[1])]))]
found = [item.place.fetch().content for item in items[3:5]]
again = items[1].place.fetch().content  # back, as after a worker's death
del found
whole = [hash(item.place.fetch().content[:700]) for item in items]
print(len(set(whole)), again[:3] == b"\\xff\\xd8\\xff", peak() - before)
"""
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=120, check=True)
    different, sound, grown = ended.stdout.split()
    assert (int(different), sound) == (count, "True")
    assert int(grown) < 400  # MiB, of 576: two images that are held, and one or two on their way


# What `train FOLDER` says.


def test_a_data_set_that_is_ambiguous_is_refused_before_it_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make(tmp_path / "source", "train/a/0.jpg", "val/a/0.jpg")
    with pytest.raises(Ambiguous, match="--split train"):
        open_data(tmp_path / "source", progress=lambda done, total: None, say=lambda line: None)
    assert not list(tmp_path.glob("cache/**/*.beton"))


def test_a_data_set_is_converted_again_when_its_metadata_changes(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make(root, "a/0.jpg")
    ages = []
    for age in (3, 10):
        listing(root / "metadata.jsonl", json.dumps({"file_name": "a/0.jpg", "age": age}))
        opened = open_data(root, progress=lambda done, total: None, say=lambda line: None)
        ages += read_columns(opened.path)["age"]
    assert ages == ["3", "10"]


def test_the_command_line_says_both_readings_with_code_2(tmp_path):
    make(tmp_path / "source", "train/a/0.jpg", "val/a/0.jpg")
    run = Path(__file__).resolve().parents[3] / "run.py"
    command = [sys.executable, run, "convert", tmp_path / "source", tmp_path / "a.beton"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "(1) these are parts of a data set" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = subprocess.run([*command, "--split", "val"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    with open(tmp_path / "a.beton.columns.csv", newline="") as file:
        assert [row["file_name"] for row in csv.DictReader(file)] == ["a/0.jpg"]

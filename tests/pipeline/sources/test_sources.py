"""Every kind of source becomes the rows, labels and columns that its own conventions say."""

import csv
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from viewmill.pipeline.beton.manifest import read_columns, read_manifest, sidecars
from viewmill.pipeline.beton.reader import RAW, open_beton
from viewmill.pipeline.conversion.cache import cached_path
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encoding import Encoding
from viewmill.pipeline.sources.opened import Reading


def jpeg(value: int, size=(20, 10)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def rows_of(target: Path) -> list[bytes]:
    beton = open_beton(target)
    with open(target, "rb") as file:
        return [beton.read(file.fileno(), row) for row in range(len(beton))]


def classes_of(target: Path) -> list[str]:
    manifest = read_manifest(target)
    assert manifest is not None
    return manifest["classes"]


def reasons_of(target: Path) -> dict[str, str]:
    lines = sidecars(target)["quarantine"].read_text().splitlines()
    return {json.loads(line)["path"]: json.loads(line)["reason"] for line in lines}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.beton"


def write_list(path: Path, head: list[str], rows: list[list[object]]) -> Path:
    if path.suffix == ".parquet":
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
        return path
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([head, *rows])
    return path


@pytest.fixture
def pictures(tmp_path):
    """Four grey JPEG files, p0.jpg .. p3.jpg."""
    for value in range(4):
        (tmp_path / f"p{value}.jpg").write_bytes(jpeg(60 * value))
    return [tmp_path / f"p{value}.jpg" for value in range(4)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_list_gives_its_paths_labels_and_columns(tmp_path, pictures, target, suffix):
    rows = [["p2.jpg", "dog", 7], [str(pictures[0]), "cat", 8], ["p3.jpg", "dog", 9]]
    done = convert([write_list(tmp_path / f"list{suffix}", ["path", "label", "age"], rows)], target)
    assert (done.rows, done.rejected, done.classes) == (3, 0, ["cat", "dog"])
    assert open_beton(target).label_N.tolist() == [1, 0, 1]
    assert rows_of(target) == [pictures[number].read_bytes() for number in (2, 0, 3)]
    assert read_columns(target) == {
        "row": ["0", "1", "2"],
        "file_name": ["p2.jpg", str(pictures[0]), "p3.jpg"],
        "age": ["7", "8", "9"],
    }


def test_labels_that_are_whole_numbers_stay_those_numbers_and_empty_ones_are_none(tmp_path, pictures, target):
    rows = [["p0.jpg", "10"], ["p1.jpg", ""], ["p2.jpg", "3"]]
    done = convert([write_list(tmp_path / "list.csv", ["file_name", "class"], rows)], target)
    assert open_beton(target).label_N.tolist() == [10, -1, 3]
    assert done.classes == []


def test_a_list_without_labels_and_with_columns_named_by_hand(tmp_path, pictures, target):
    listed = write_list(tmp_path / "list.csv", ["where", "what"], [["p0.jpg", "b"], ["p1.jpg", "a"]])
    with pytest.raises(ValueError, match=r"list.csv has no column of paths called path, .*: name it with --path-column"):
        convert([listed], target)
    convert([listed], target, reading=Reading(path_column="where"))
    assert open_beton(target).label_N.tolist() == [-1, -1]
    convert([listed], target, reading=Reading(path_column="where", label_column="what"), overwrite=True)
    assert open_beton(target).label_N.tolist() == [1, 0]
    with pytest.raises(ValueError, match="no column 'gone'; it has where, what"):
        convert([listed], target, reading=Reading(path_column="where", label_column="gone"), overwrite=True)


def test_what_a_list_names_must_lie_below_its_root(tmp_path, pictures, target):
    (tmp_path / "lists").mkdir()
    os.mkfifo(tmp_path / "lists" / "pipe.jpg")
    (tmp_path / "lists" / "link.jpg").symlink_to(pictures[0])
    names = ["../p0.jpg", str(pictures[1]), "link.jpg", "gone.jpg", "pipe.jpg", ""]
    listed = write_list(tmp_path / "lists" / "list.csv", ["path"], [[name] for name in names])
    with pytest.raises(ValueError, match="holds no file that could be an image"):
        convert([listed], target)
    done = convert([listed], target, reading=Reading(root=tmp_path))
    assert (done.rows, done.rejected) == (1, 5)  # relative to the root now: only the absolute path is found
    assert set(reasons_of(target).values()) == {
        f"leads out of {tmp_path}: name the folder that holds the images with --root",
        "does not exist",
        "no path",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "list.csv is empty: its first line must name the columns"),
        (b"path\na.jpg,3\n", "line 2 has more cells than the first line names columns"),
        (b"path\n\xff\xfe.jpg\n", "list.csv cannot be read as UTF-8 text"),
        (b"path\n" + b"a.jpg\n" * 20_000 + b"\xff\n", r"list.csv: line \d+ cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path, target, content, reason):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        convert([tmp_path / "list.csv"], target)
    assert not target.exists()


class Bomb:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return (sys.exit, ("unpickled",))


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_shard_groups_its_members_by_key(tmp_path, target):
    shard = write_tar(
        tmp_path / "a.tar",
        [
            ("n01/0.JPG", jpeg(10)),
            ("n01/0.cls", b"3\n"),
            ("n01/0.json", b'{"age": 4, "tags": ["x"], "row": 9, "note": "a, b"}'),
            ("n01/1.v2.cls", b"5"),  # the key ends at the first dot: this belongs to n01/1
            ("n01/1.png", b"never looked at"),
            ("n01/2.jpg", jpeg(20)),
            ("n01/2.txt", b"a caption"),
            ("n01/3.cls", b"1"),
        ],
    )
    done = convert([shard], target)
    assert (done.rows, done.rejected) == (2, 2)
    assert open_beton(target).label_N.tolist() == [3, -1]
    assert rows_of(target) == [jpeg(10), jpeg(20)]
    columns = read_columns(target)
    assert columns["file_name"] == ["n01/0", "n01/2"]
    assert (columns["age"], columns["note"], columns["txt"]) == (["4", ""], ["a, b", ""], ["", "a caption"])
    assert "tags" not in columns
    reasons = reasons_of(target)
    assert reasons[f"{shard}/n01/1"] == "no image of a kind that Pillow knows: text"
    assert "no image among its files (cls)" in reasons[f"{shard}/n01/3"]


def test_class_names_in_a_shard_are_numbered_in_sorted_order(tmp_path, target):
    members = [
        (f"{i}.{kind}", data) for i, name in enumerate("bab") for kind, data in (("jpg", jpeg(i)), ("cls", name.encode()))
    ]
    assert convert([write_tar(tmp_path / "a.tar", members)], target).classes == ["a", "b"]
    assert open_beton(target).label_N.tolist() == [1, 0, 1]


def test_nothing_in_a_shard_is_unpickled_extracted_or_followed(tmp_path, target):
    import pickle  # noqa: TID251 (to write what must never be read)

    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("0.pyd", "0.pkl", "0.jpg", "../up.jpg", "/etc/absolute.jpg", "a/../../up2.jpg"):
            data = pickle.dumps(Bomb()) if name[-3:] in ("pyd", "pkl") else jpeg(9)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, link in (("l.jpg", tarfile.SYMTYPE, "/etc/passwd"), ("h.jpg", tarfile.LNKTYPE, "0.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            archive.addfile(info)
        info = tarfile.TarInfo("dev.jpg")
        info.type = tarfile.CHRTYPE
        archive.addfile(info)
    before = {entry for entry in tmp_path.rglob("*")}
    done = convert([path], target)
    assert (done.rows, done.rejected) == (1, 6)
    assert rows_of(target) == [jpeg(9)]
    beside = set(sidecars(target).values())
    assert {entry for entry in tmp_path.rglob("*")} - before == {target, *beside}


@pytest.mark.parametrize("cut", [300, 1_000, 1_700, 2_600])
def test_a_shard_that_breaks_off_gives_what_it_holds_and_says_where(tmp_path, target, cut):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", jpeg(i)) for i in range(3)])
    path.write_bytes(path.read_bytes()[:cut])
    whole = cut // (512 + 1024)  # a header and an image of 513 to 1,024 bytes
    assert 512 < len(jpeg(0)) <= 1024
    if whole == 0:
        with pytest.raises(ValueError, match=r"a\.tar"):
            convert([path], target)
        return
    done = convert([path], target)
    assert done.rows == whole
    assert any("damaged" in reason or "ends after" in reason for reason in reasons_of(target).values())


def test_a_compressed_shard_is_refused_with_the_remedy(tmp_path, target):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match=r"is compressed.*gunzip it"):
        convert([tmp_path / "a.tar.gz"], target)


FEATURES = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}


def hugging_face_table(count: int) -> pa.Table:
    image = pa.array([{"bytes": jpeg(i), "path": f"x{i}.jpg" if i else None} for i in range(count)])
    table = pa.table(
        {"image": image, "label": pa.array([i % 2 for i in range(count)]), "score": [i / 2 for i in range(count)]}
    )
    return table.replace_schema_metadata({"huggingface": json.dumps(FEATURES)})


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_tables_of_image_bytes_in_the_hugging_face_layout(tmp_path, target, kind):
    table = hugging_face_table(5)
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        make = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    done = convert([path], target)
    assert done.classes == ["zebra", "ant"]  # the order that the data set gives, not the alphabet's
    assert open_beton(target).label_N.tolist() == [0, 1, 0, 1, 0]
    assert rows_of(target) == [jpeg(i) for i in range(5)]
    columns = read_columns(target)
    assert columns["file_name"] == ["00000000", "x1.jpg", "x2.jpg", "x3.jpg", "x4.jpg"]
    assert columns["score"] == ["0.0", "0.5", "1.0", "1.5", "2.0"]


def test_a_plain_column_of_bytes_without_labels_and_a_cell_without_bytes(tmp_path, target):
    pq.write_table(pa.table({"jpg": pa.array([jpeg(1), None, b"no image", jpeg(2)])}), tmp_path / "a.parquet")
    done = convert([tmp_path / "a.parquet"], target)
    assert (done.rows, done.rejected) == (2, 2)
    assert open_beton(target).label_N.tolist() == [-1, -1]
    assert list(reasons_of(target).values()) == [
        "the cell holds no bytes",
        "no image of a kind that Pillow knows: text",
    ]


def test_a_table_that_is_none_is_refused(tmp_path, target):
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 no table at all")
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            convert([tmp_path / name], target)


def cifar_records(count: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 3
    return pixels, np.concatenate(
        [np.zeros((count, head - 1), np.uint8), labels[:, None], pixels.reshape(count, -1)], axis=1
    )


@pytest.mark.parametrize(("names", "head"), [("batches.meta.txt", 1), ("fine_label_names.txt", 2)])
def test_cifar_files_keep_every_pixel_in_raw_mode(tmp_path, target, names, head):
    pixels, records = cifar_records(7, head)
    for part in range(2):
        (tmp_path / f"data_batch_{part + 1}.bin").write_bytes(records.tobytes())
    (tmp_path / names).write_text("plane\ncar\nbird\n\n")
    files = sorted(tmp_path.glob("*.bin"))
    done = convert(files, target, encoding=Encoding(mode="raw"))
    beton = open_beton(target)
    assert done.classes == ["plane", "car", "bird"]
    assert beton.label_N.tolist() == [0, 1, 2, 0, 1, 2, 0] * 2
    assert (beton.mode_N == RAW).all()
    assert rows_of(target) == [picture.transpose(1, 2, 0).tobytes() for picture in pixels] * 2
    assert read_columns(target)["file_name"][7] == f"{files[1]}/000000"


def test_stl_files_run_down_the_columns_and_count_their_labels_from_one(tmp_path, target):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    (tmp_path / "train_X.bin").write_bytes(pictures.transpose(0, 3, 2, 1).tobytes())
    (tmp_path / "train_y.bin").write_bytes(bytes([2, 1]))
    (tmp_path / "class_names.txt").write_text("airplane\nbird\n")
    assert convert([tmp_path / "train_X.bin"], target, encoding=Encoding(mode="raw")).classes == ["airplane", "bird"]
    assert open_beton(target).label_N.tolist() == [1, 0]
    assert rows_of(target) == [picture.tobytes() for picture in pictures]
    (tmp_path / "train_y.bin").unlink()
    convert([tmp_path / "train_X.bin"], target, encoding=Encoding(mode="raw"), overwrite=True)
    assert open_beton(target).label_N.tolist() == [-1, -1]
    (tmp_path / "train_y.bin").write_bytes(b"\1")
    with pytest.raises(ValueError, match="holds 1 labels for 2 images"):
        convert([tmp_path / "train_X.bin"], target, overwrite=True)


def test_a_bin_of_no_known_size_is_refused(tmp_path, target):
    (tmp_path / "a.bin").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"100 bytes, no multiple of 3073 or 3074"):
        convert([tmp_path / "a.bin"], target)


def test_several_sources_become_one_with_their_classes_and_columns_joined(tmp_path, target, pictures):
    folder = tmp_path / "folder"
    (folder / "ant").mkdir(parents=True)
    (folder / "ant" / "f.jpg").write_bytes(jpeg(200))
    (folder / "metadata.csv").write_text("file_name,age\nant/f.jpg,5\n")
    listed = write_list(tmp_path / "list.csv", ["path", "label", "note", "age"], [["p0.jpg", "bee", "hm", "6"]])
    pq.write_table(hugging_face_table(2), tmp_path / "a.parquet")
    done = convert([listed, folder, tmp_path / "a.parquet"], target)
    assert done.classes == ["ant", "bee", "zebra"]  # the table's own order does not hold for a bee
    assert open_beton(target).label_N.tolist() == [1, 0, 2, 0]
    columns = read_columns(target)
    assert columns["file_name"] == [
        str(pictures[0]),
        str(folder / "ant" / "f.jpg"),
        f"{tmp_path / 'a.parquet'}/00000000",
        f"{tmp_path / 'a.parquet'}/00000001",
    ]
    assert (columns["age"], columns["note"], columns["score"]) == (
        ["6", "5", "", ""],
        ["hm", "", "", ""],
        ["", "", "0.0", "0.5"],
    )


def test_named_beside_numbered_classes_are_refused(tmp_path, pictures, target):
    (tmp_path / "folder" / "ant").mkdir(parents=True)
    (tmp_path / "folder" / "ant" / "f.jpg").write_bytes(jpeg(200))
    listed = write_list(tmp_path / "list.csv", ["path", "label"], [["p0.jpg", "4"]])
    with pytest.raises(ValueError, match=r"a class by name \('ant'\), others by number \(4\): convert them apart"):
        convert([tmp_path / "folder", listed], target)


def test_a_folder_of_shards_is_taken_as_its_shards_and_cached_by_their_content(tmp_path, target):
    (tmp_path / "shards").mkdir()
    for name in ("b", "a"):
        write_tar(tmp_path / "shards" / f"{name}.tar", [(f"{name}.jpg", jpeg(ord(name)))])
    convert([tmp_path / "shards"], target)
    assert rows_of(target) == [jpeg(97), jpeg(98)]
    before = cached_path(tmp_path / "shards")
    assert before == cached_path(tmp_path / "shards")
    os.utime(tmp_path / "shards" / "a.tar", ns=(1, 1))
    assert cached_path(tmp_path / "shards") != before


@pytest.mark.parametrize("name", ["a.zip", "a.jpg", "gone"])
def test_a_path_of_no_known_kind_is_refused_with_the_known_ones(tmp_path, target, name):
    if name != "gone":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{name} .*: name a folder of images, a .csv"):
        convert([tmp_path / name], target)

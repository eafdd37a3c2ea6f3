"""Conversion: every file becomes a row as it should look, or stands in the quarantine with its reason; nothing is lost."""

import csv
import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from viewmill.pipeline import factors
from viewmill.pipeline.beton.manifest import read_columns, sidecars
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.cache import cached_path, open_data
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encoding import Encoding
from viewmill.pipeline.views.recipe import weak

NASTY = Path(__file__).resolve().parents[4] / "shared" / "data" / "badinput.tar"

# What Pillow reads and we refuse: pixels in no known range, and a stream that the training's decoder calls damaged.
STRICTER = {
    "odd_mode_tiff/pillow__10ct_32bit_128.tiff": "F pixels from -3.14",
    "gray_jpeg/pillow__hopper_bad_exif.jpg": "libjpeg-turbo reports damaged data",
}

# Good pixels under metadata for which Pillow gives up the whole.
GENTLER = {
    "undecodable_png/pillow__png_decompression_dos.png",
    "undecodable_png/pillow__unknown_compression_method.png",
}

# 60x40: red grows to the right, green to the bottom, so that every turn and mirror of it is another picture.
DOWN, RIGHT = np.mgrid[0:1:40j, 0:1:60j]
PICTURE = np.uint8(255 * np.stack((RIGHT, DOWN, 1 - RIGHT), axis=-1))
GREY = np.uint8(255 * RIGHT)
# How a camera held so stores what stands upright (EXIF orientation -> what was done to the picture).
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def rgb(picture):
    return np.asarray(Image.fromarray(picture).convert("RGB"))


def read(target):
    """The stored bytes of every row."""
    beton = open_beton(target)
    with open(target, "rb") as file:
        return [beton.read(file.fileno(), row) for row in range(len(beton))]


def only_row(source, target):
    """The picture that a folder of one usable file became."""
    convert([source], target)
    (data,) = read(target)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def quarantine(target):
    path = sidecars(target)["quarantine"]
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {Path(item["path"]).name: item["reason"] for item in map(json.loads, lines)}


def bomb(width, height):
    """A PNG of a hundred bytes that claims to hold width x height pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(64)))]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def folder(tmp_path):
    """An empty folder to convert from."""
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "a.beton"


def test_class_folders_become_labels_in_sorted_order(photos, target):
    done = convert([photos], target)
    beton, files = open_beton(target), sorted(photos.rglob("*.jpg"))
    assert (done.target, done.rows, done.rejected, done.classes) == (target, 24, 0, ["cat", "dog", "owl"])
    assert done.size_bytes == target.stat().st_size
    assert beton.label_N.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for row, path in enumerate(files):
        with Image.open(path) as image:
            assert (beton.width_N[row], beton.height_N[row]) == image.size


def test_jpeg_bytes_are_stored_unchanged(photos, photo_beton):
    assert read(photo_beton.path) == [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]


def test_a_flat_folder_has_no_labels(photos, folder, target):
    for path in photos.rglob("*.jpg"):
        shutil.copy(path, folder)
    assert convert([folder], target).classes == []
    assert open_beton(target).label_N.tolist() == [-1] * 24


def test_the_first_folder_on_the_way_is_the_class_and_files_at_the_top_have_none(photos, folder, target):
    for name in ("top.jpg", "b/deep/er/1.jpg", "b/2.jpg", "a/3.jpg", ".hidden/4.jpg", "a/.5.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "cat" / "00.jpg", folder / name)
    assert convert([folder], target).classes == ["a", "b"]
    assert sorted(open_beton(target).label_N.tolist()) == [-1, 0, 1, 1]


def test_a_target_in_its_own_source_folder_is_no_image_of_it(photos):
    shutil.copytree(photos, photos.parent / "own")
    folder = photos.parent / "own"
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "not.beton.jpg").write_bytes(next(photos.rglob("*.jpg")).read_bytes())
    first = convert([folder], folder / "own.beton")
    again = convert([folder], folder / "own.beton", overwrite=True)
    assert (first.rows, first.rejected) == (again.rows, again.rejected) == (25, 1)


def test_any_number_of_workers_writes_the_same_bytes(folder, tmp_path):
    source = factors.write_folder(folder, 150, seed=0, size=24)
    (source / "disc" / "00002.jpg").write_bytes(b"no image")
    for workers in (0, 1, 8):
        convert([source], tmp_path / f"{workers}" / "a.beton", workers=workers)
    for name in ("a.beton", "a.beton.json", "a.beton.quarantine.jsonl", "a.beton.columns.csv"):
        assert len({(tmp_path / f"{workers}" / name).read_bytes() for workers in (0, 1, 8)}) == 1


def test_progress_counts_every_file_once(photos, target):
    seen = []
    convert([photos], target, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 24) for done in range(1, 25)]


@pytest.mark.parametrize("orientation", TURNED)
def test_a_turned_photograph_is_stored_upright(folder, target, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).transpose(TURNED[orientation]).save(folder / "a.jpg", quality=95, subsampling=0, exif=exif)
    stored = only_row(folder, target)
    assert stored.shape == PICTURE.shape
    assert np.abs(stored.astype(int) - PICTURE).max() <= 6


def cmyk(path):
    Image.fromarray(PICTURE).convert("CMYK").save(path, "JPEG", quality=95, subsampling=0)
    return PICTURE


def grey_jpeg(path):
    Image.fromarray(GREY).save(path, "JPEG", quality=95)
    return rgb(GREY)


def progressive(path):
    Image.fromarray(PICTURE).save(path, "JPEG", quality=95, subsampling=0, progressive=True)
    return PICTURE


def rgba(path):
    alpha = np.uint8(255 * DOWN)[..., None]
    Image.fromarray(np.concatenate((PICTURE, alpha), axis=-1)).save(path, "PNG")
    return PICTURE


def grey_alpha(path):
    Image.fromarray(np.stack((GREY, 255 - GREY), axis=-1)).save(path, "PNG")
    return rgb(GREY)


def palette(path):
    image = Image.fromarray(PICTURE).quantize(200, dither=Image.Dither.NONE)
    image.save(path, "PNG")
    return np.asarray(image.convert("RGB"))


def palette_alpha(path):
    image = Image.fromarray(PICTURE).quantize(200, dither=Image.Dither.NONE)
    image.save(path, "PNG", transparency=bytes(range(200)))
    return np.asarray(image.convert("RGB"))


def grey_16(path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path, "PNG")
    return rgb(GREY)


def grey_16_big_endian(path):
    Image.frombytes("I;16B", (60, 40), (GREY.astype(">u2") * 257).tobytes()).save(path, "TIFF")
    return rgb(GREY)


def grey_float(path):
    Image.fromarray(GREY.astype(np.float32) / 255).save(path, "TIFF")
    return rgb(GREY)


def black_and_white(path):
    Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE).save(path, "PNG")
    return rgb(np.uint8(255 * (GREY > 127)))


def animated(path):
    frames = [Image.new("RGB", (60, 40), colour).quantize(4) for colour in ("red", "lime", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    return np.full((40, 60, 3), (255, 0, 0))


def webp(path):
    Image.fromarray(PICTURE).save(path, "WEBP", lossless=True)
    return PICTURE


def bitmap(path):
    Image.fromarray(PICTURE).save(path, "BMP")
    return PICTURE


KINDS = [cmyk, grey_jpeg, progressive, rgba, grey_alpha, palette, palette_alpha, grey_16, grey_16_big_endian, grey_float]
KINDS += [black_and_white, animated, webp, bitmap]


@pytest.mark.parametrize("save", KINDS, ids=lambda save: save.__name__)
def test_every_kind_of_file_becomes_its_rgb_picture_whatever_its_name(folder, target, save):
    expected = save(folder / "a.jpg")
    stored = only_row(folder, target)
    assert stored.shape == expected.shape
    error = np.abs(stored.astype(int) - expected)
    assert error.mean() < 3  # 2.7 for the two palettes, whose edges JPEG softens; 0.5 for the others
    assert error.max() <= 16


@pytest.mark.parametrize("save", [grey_jpeg, progressive], ids=lambda save: save.__name__)
def test_grey_and_progressive_jpeg_bytes_are_stored_unchanged(folder, target, save):
    save(folder / "a.jpg")
    convert([folder], target)
    assert read(target) == [(folder / "a.jpg").read_bytes()]


def cut_png():
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()[:3_000]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.jpg", b"no image at all", "no image of a kind that Pillow knows"),
        ("empty.jpg", b"", "the file is empty"),
        ("cut.png", cut_png(), "truncated"),
        ("bomb.png", bomb(20_000, 20_000), "20000x20000 pixels; at most 100000000 and 65535 a side"),
        ("large.png", bomb(10_100, 10_000), "10100x10000 pixels; at most 100000000 and 65535 a side"),
        ("long.png", bomb(70_000, 10), "70000x10 pixels; at most 100000000 and 65535 a side"),
        ("huge.png", bomb(2**31 - 1, 2**31 - 1), "exceeds limit"),
    ],
)
def test_a_bad_file_is_quarantined_with_its_reason_and_conversion_goes_on(photos, folder, target, name, content, reason):
    for good in ("00.jpg", "zz.jpg"):
        shutil.copy(photos / "cat" / "00.jpg", folder / good)
    (folder / name).write_bytes(content)
    done = convert([folder], target)
    assert done.rows == len(open_beton(target)) == 2
    assert [item.path for item in done.first_rejected] == [str(folder / name)]
    assert reason in quarantine(target)[name]
    assert json.loads(sidecars(target)["manifest"].read_text())["rejected"] == 1


def test_a_jpeg_cut_anywhere_or_with_damaged_data_is_quarantined(photos, folder, target):
    whole = (photos / "cat" / "00.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(whole)
    damaged = {f"{cut}.jpg": whole[:cut] for cut in range(1, len(whole) - 2, 97)}
    damaged["hole.jpg"] = whole[: len(whole) // 2] + b"\xff\xc4" + whole[len(whole) // 2 + 2 :]
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    assert convert([folder], target).rows == 1
    assert quarantine(target).keys() == damaged.keys()


def test_a_reason_holds_nothing_of_the_moment(photos, folder, tmp_path):
    shutil.copy(photos / "cat" / "00.jpg", folder)
    (folder / "notes.jpg").write_text("no image at all")
    for name in ("one", "other"):
        convert([folder], tmp_path / name / "a.beton")
    one, other = (sidecars(tmp_path / name / "a.beton")["quarantine"].read_text() for name in ("one", "other"))
    assert one == other
    assert " at 0x" not in one


@pytest.mark.skipif(not NASTY.exists(), reason="needs the nasty files beside the checkout, ../shared/data/badinput.tar")
def test_every_nasty_file_is_a_row_that_both_engines_read_or_stands_in_the_quarantine(tmp_path, target, mill):
    with tarfile.open(NASTY) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "badinput"
    with (root / "MANIFEST.tsv").open(newline="", encoding="utf-8") as file:
        listed = {line["file"]: line for line in csv.DictReader(file, delimiter="\t")}
    (root / "MANIFEST.tsv").unlink()
    (root / "metadata.csv").write_text("file_name\n" + "".join(f'"{name}"\n' for name in listed), encoding="utf-8")
    done = convert([root], target, workers=0)
    rows = read_columns(target)["file_name"]
    lines = [json.loads(line) for line in sidecars(target)["quarantine"].read_text().splitlines()]
    reasons = {Path(line["path"]).relative_to(root).as_posix(): line["reason"] for line in lines}
    assert sorted([*rows, *reasons]) == sorted(listed)
    assert len(rows) == done.rows == len(open_beton(target))
    assert all(len(reason) > 10 and " at 0x" not in reason for reason in reasons.values())
    predicted = {name for name, line in listed.items() if not line["pillow_13.0.0_result"].startswith("ok")}
    assert reasons.keys() - predicted == STRICTER.keys()
    assert predicted - reasons.keys() == GENTLER
    assert all(why in reasons[name] for name, why in STRICTER.items())
    for name in ("ffcv", "torch"):
        assert mill(open_beton(target), weak(32), name=name)[0].all()


def test_an_existing_output_is_kept_unless_overwritten(photos, target):
    convert([photos], target)
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match=f"{target} exists: add --overwrite"):
        convert([photos / "cat"], target)
    assert target.read_bytes() == before
    assert convert([photos / "cat"], target, overwrite=True).rows == len(open_beton(target)) == 8


def test_an_overwritten_output_keeps_no_old_sidecar(folder, photos, target):
    shutil.copy(photos / "cat" / "00.jpg", folder)
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "metadata.csv").write_text("file_name,age\n00.jpg,3\nbad.jpg,4\n")
    convert([folder], target)
    assert [name for name, path in sidecars(target).items() if path.exists()] == ["manifest", "quarantine", "columns"]
    convert([photos], target, overwrite=True)
    assert [name for name, path in sidecars(target).items() if path.exists()] == ["manifest", "columns"]
    assert read_columns(target).keys() == {"row", "file_name"}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: folder.rmdir(), "does not exist"),
        (lambda folder: None, "holds no file"),
        (lambda folder: (folder.rmdir(), folder.write_text("hello")), "is a file"),
        (lambda folder: (folder / "a.jpg").write_text("hello"), "a.jpg: no image of a kind that Pillow knows"),
    ],
    ids=["missing", "empty", "a file", "no usable image"],
)
def test_a_source_without_an_image_is_refused_by_name(folder, target, prepare, reason):
    prepare(folder)
    with pytest.raises(ValueError, match=f"{folder}[ /]{reason}"):
        convert([folder], target)
    assert not target.parent.exists()


def test_links_that_lead_out_or_nowhere_are_rejected_and_links_inside_are_followed(photos, folder, tmp_path, target):
    (folder / "class").mkdir()
    shutil.copy(photos / "cat" / "00.jpg", folder / "class" / "own.jpg")
    (folder / "class" / "same.jpg").symlink_to(folder / "class" / "own.jpg")
    (folder / "class" / "out.jpg").symlink_to(photos / "cat" / "00.jpg")
    (folder / "linked class").symlink_to(photos / "cat")
    (folder / "again").symlink_to(folder / "class")
    (folder / "nowhere.jpg").symlink_to(folder / "missing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    assert convert([folder], target).rows == 2
    reasons = quarantine(target)
    assert {name for name, reason in reasons.items() if "leads out of the folder" in reason} == {"out.jpg", "linked class"}
    assert {name for name, reason in reasons.items() if "no regular file" in reason} == {
        "again",
        "loop.jpg",
        "nowhere.jpg",
        "pipe.jpg",
    }


def test_a_table_becomes_columns_in_row_order(photos, folder, target):
    for name in ("d.jpg", "b.jpg", "e/a.jpg", "c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "cat" / "00.jpg", folder / name)
    (folder / "c.jpg").write_bytes(b"no image")
    (folder / "metadata.csv").write_text('age,file_name,note\n1,e/a.jpg,\n2,d.jpg,"x, y"\n3,c.jpg,bad\n4,gone.jpg\n')
    convert([folder], target)
    assert open_beton(target).label_N.tolist() == [-1, -1, 0]
    assert read_columns(target) == {
        "row": ["0", "1", "2"],
        "file_name": ["b.jpg", "d.jpg", "e/a.jpg"],
        "age": ["", "2", "1"],
        "note": ["", "x, y", ""],
    }


def test_the_rendered_factors_come_through_as_columns(folder, target):
    convert([factors.write_folder(folder, 20, seed=3, size=24)], target)
    columns, table = read_columns(target), factors.draw(20, 3)
    for row, name in enumerate(columns["file_name"]):
        index = int(Path(name).stem)
        assert columns["shape"][row] == Path(name).parent.name == factors.SHAPES[table.shape[index]]
        assert float(columns["hue"][row]) == table.hue[index]


def test_names_that_are_no_unicode_or_hold_control_characters_are_refused(photos, folder, target):
    bad = [os.fsdecode(b"\xe9t\xe9.jpg"), "a\nb.jpg", "a\x1b[2J.jpg"]
    for name in ["\xe9t\xe9.jpg", *bad]:
        shutil.copy(photos / "cat" / "00.jpg", folder / name)
    assert convert([folder], target).rows == 1
    assert read_columns(target)["file_name"] == ["\xe9t\xe9.jpg"]
    assert quarantine(target).keys() == {*bad}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("name,age\na.jpg,3\n", "no column 'file_name'; it has name, age"),
        ("", "no column 'file_name'; it has none"),
        ("file_name,age\na.jpg,3\nb.jpg,4,5\n", r"line 3 has more cells than the first line names columns \(2\)"),
        ("file_name,row\na.jpg,3\n", "column 'row'"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_before_anything_is_written(photos, folder, target, table, reason):
    shutil.copy(photos / "cat" / "00.jpg", folder / "a.jpg")
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(ValueError, match=f"metadata.csv.*{reason}"):
        convert([folder], target)
    assert not target.parent.exists()


def test_a_table_saved_by_a_spreadsheet_is_read(photos, folder, target):
    shutil.copy(photos / "cat" / "00.jpg", folder / "a.jpg")
    (folder / "metadata.csv").write_text("file_name,age\r\na.jpg,3\r\n", encoding="utf-8-sig", newline="")
    convert([folder], target)
    assert read_columns(target)["age"] == ["3"]


def test_the_manifest_is_true(photos, target):
    done = convert([photos], target, encoding=Encoding(quality=90))
    manifest = json.loads(sidecars(target)["manifest"].read_text())
    assert manifest == {
        "format": 3,
        "rows": done.rows,
        "size_bytes": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "fingerprint": open_beton(target).fingerprint,
        "sources": [photos.name],
        "source_fingerprint": manifest["source_fingerprint"],
        "rejected": 0,
        "remarks": {},
        "classes": ["cat", "dog", "owl"],
        "columns": [],
        "settings": Encoding(quality=90)._asdict(),
        "versions": manifest["versions"],
        "sidecars": {
            "columns": {"sha256": hashlib.sha256(sidecars(target)["columns"].read_bytes()).hexdigest(), "rows": done.rows},
            "quarantine": None,
            "remarks": None,
        },
    }
    assert manifest["versions"]["pillow"] == PIL.__version__
    moved = target.parent / "moved" / photos.name
    shutil.copytree(photos, moved)
    convert([moved], target, overwrite=True)
    again = json.loads(sidecars(target)["manifest"].read_text())
    assert again["source_fingerprint"] == manifest["source_fingerprint"]
    assert again["sha256"] == manifest["sha256"]


def test_a_second_conversion_to_the_same_name_is_refused_and_does_the_first_no_harm(photos, folder, target):
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    (folder / "cat" / "bad.jpg").write_bytes(b"no image")
    refusals = []

    def second(done, total):
        if done == 10:
            with pytest.raises(BlockingIOError, match="is being written by another conversion") as refused:
                convert([photos], target)
            refusals.append(refused)

    assert convert([folder], target, progress=second).rows == 24
    assert len(refusals) == 1
    assert len(read_columns(target)["file_name"]) == 24
    assert quarantine(target).keys() == {"bad.jpg"}
    assert not list(target.parent.glob("*.partial"))


def test_an_interrupted_conversion_leaves_no_file_behind(photos, target):
    def interrupt(done, total):
        if done == 10:
            assert target.parent.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert([photos], target, progress=interrupt)
    assert not target.parent.exists()


def test_a_folder_is_converted_once_and_again_when_a_file_of_it_changed(photos, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    said = []

    def rows():
        return len(open_data(folder, progress=lambda done, total: None, say=said.append))

    assert (rows(), rows()) == (24, 24)
    assert len(said) == 1
    assert "24 images, 0 quarantined" in said[0]
    assert list((tmp_path / "cache" / "viewmill").glob("*.beton")) == [cached_path(folder)]
    for number, change in enumerate(
        [
            lambda: (folder / "dog" / "01.jpg").unlink(),
            lambda: os.utime(folder / "dog" / "04.jpg", ns=(1, 1)),
            lambda: (folder / "dog").rename(folder / "wolf"),
            lambda: (folder / "metadata.csv").write_text("file_name,age\ncat/00.jpg,3\n"),
            lambda: (folder / "metadata.csv").write_text("file_name,age\ncat/00.jpg,10\n"),
        ]
    ):
        change()
        assert (rows(), rows()) == (23, 23)
        assert len([line for line in said if line.startswith("converted")]) == 2 + number
    assert read_columns(cached_path(folder))["age"][0] == "10"


def test_a_cached_conversion_that_was_cut_short_is_done_again(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    open_data(photos, progress=lambda done, total: None, say=said.append)
    sidecars(cached_path(photos))["manifest"].unlink()
    open_data(photos, progress=lambda done, total: None, say=said.append)
    assert len(said) == 2


def test_a_beton_is_opened_as_it_is_and_a_missing_one_is_named(photo_beton, tmp_path):
    said = []
    opened = open_data(photo_beton.path, progress=lambda done, total: None, say=said.append)
    assert (opened.fingerprint, said) == (photo_beton.fingerprint, [])
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'gone.beton'} does not exist"):
        open_data(tmp_path / "gone.beton", progress=lambda done, total: None, say=said.append)


def test_a_good_photo_with_damaged_exif_keeps_its_bytes(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.fromarray(np.full((40, 60, 3), 90, np.uint8))
    picture.save(folder / "a.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\x00")
    done = convert([folder], tmp_path / "out.beton", workers=0)
    assert (done.rows, done.rejected) == (1, 0)
    assert (folder / "a.jpg").read_bytes() in (tmp_path / "out.beton").read_bytes()

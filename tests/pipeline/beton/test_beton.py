"""The .beton format: stock FFCV reads what we write, we read what it writes, what is damaged is refused with a reason."""

import fcntl
import io
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from viewmill.pipeline import factors
from viewmill.pipeline.beton.reader import JPEG, MIN_PAGE_SIZE, RAW, InvalidBeton, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.views.recipe import CentreCrop, Recipe, View

# Where things stand in the file of `small`: a header of 24 bytes, 2 fields of 1041, 40 rows of 24, a page of samples.
FIELDS, ROWS, TABLE = 24, 24 + 2 * 1041, 2 * MIN_PAGE_SIZE

# Importing ffcv takes seconds, sets torch's threads and warns: one other process reads our files and writes one of its own.
STOCK = """
import multiprocessing, sys
multiprocessing.set_start_method("fork")
from pathlib import Path
import numpy as np
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter

folder, found = Path(sys.argv[1]), {}
rows = [(-row, row / 2, picture) for row, picture in enumerate(np.load(folder / "pictures.npy"))]
fields = {"label": IntField(), "weight": FloatField(), "image": RGBImageField(write_mode="raw")}
DatasetWriter(str(folder / "theirs.beton"), fields, num_workers=2).from_indexed_dataset(rows, chunksize=7)
for name, mapped in ("small", True), ("grown", False):
    path = str(folder / f"{name}.beton")
    reader = Reader(path)
    found[f"{name}.header"], found[f"{name}.rows"] = reader.header, reader.metadata
    found[f"{name}.table"], found[f"{name}.names"] = reader.alloc_table, reader.field_names
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(path, 4, 1, os_cache=mapped, order=OrderOption.SEQUENTIAL, drop_last=False, pipelines=pipelines)
    batches = [(image.copy(), label.copy()) for image, label in loader]
    found[f"{name}.pixels"], found[f"{name}.labels"] = (np.concatenate(parts) for parts in zip(*batches))
np.savez(folder / "found.npz", **found)
"""


def whole(size):
    """Every row as it is: no crop, no resize, no flip."""
    return Recipe((View(size, crop=CentreCrop(1.0), flip=0.0),))


FAST_DCT = 2048  # TJFLAG_FASTDCT of turbojpeg.h


def sample(picture, label, mode):
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=85)
    height, width, _ = picture.shape
    return Sample(mode, width, height, label, picture.tobytes() if mode == RAW else encoded.getvalue())


def samples(count, label=0):
    """Samples of 1x1 pixel, the smallest there are."""
    return [Sample(RAW, 1, 1, label, bytes(3)) for _ in range(count)]


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """small.beton: 40 rows of 48 px, JPEG and raw in turn. grown.beton: pages of 2 MiB until a raw row of 2.5 MB comes."""
    folder, table = tmp_path_factory.mktemp("beton"), factors.draw(40, 0)
    pictures = [factors.render(table[i], 48) for i in range(40)]
    np.save(folder / "pictures.npy", pictures)
    small = (sample(picture, 100 - i, (JPEG, RAW)[i % 2]) for i, picture in enumerate(pictures))
    write_beton(folder / "small.beton", small, capacity=50)
    large = np.kron(pictures[0], np.ones((19, 19, 1), np.uint8))
    grown = (sample(np.roll(large, i, axis=2), i, RAW if i == 3 else JPEG) for i in range(6))
    write_beton(folder / "grown.beton", grown, capacity=6)
    return folder


@pytest.fixture(scope="module")
def stock(folder):
    """What stock FFCV found in the files of `folder`; the pictures of small, as it writes them, are in theirs.beton."""
    done = subprocess.run([sys.executable, "-c", STOCK, folder], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "found.npz") as found:
        return dict(found)


@pytest.fixture
def small(folder, tmp_path):
    """A copy of small.beton to damage."""
    return Path(shutil.copy(folder / "small.beton", tmp_path))


@st.composite
def any_sample(draw):
    mode, width, height = draw(st.sampled_from((JPEG, RAW))), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    size = width * height * 3 if mode == RAW else draw(st.integers(1, 5_000))
    data = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    return Sample(mode, width, height, draw(st.integers(-(2**63), 2**63 - 1)), data)


@settings(max_examples=40, deadline=None)
@given(written=st.lists(any_sample(), min_size=1, max_size=12), spare=st.integers(0, 200))
def test_what_is_written_is_read(tmp_path_factory, written, spare):
    path = tmp_path_factory.mktemp("trip") / "a.beton"
    assert write_beton(path, written, capacity=len(written) + spare) == len(written)
    beton = open_beton(path)
    with open(path, "rb") as file:
        read = [
            Sample(*(int(column[row]) for column in columns), beton.read(file.fileno(), row))
            for columns in [(beton.mode_N, beton.width_N, beton.height_N, beton.label_N)]
            for row in range(len(beton))
        ]
    assert read == written


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([1, 700_000, 2**20, 2**21 - 1, 2**21, 2**21 + 1, 2**22 + 1]), min_size=1, max_size=7))
def test_no_sample_crosses_a_page_and_pages_are_no_larger_than_needed(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("pages") / "a.beton"
    write_beton(path, (Sample(JPEG, 9, 9, 0, bytes([row]) * size) for row, size in enumerate(sizes)), capacity=len(sizes))
    beton = open_beton(path)
    assert beton.page_size == max(MIN_PAGE_SIZE, 1 << (max(sizes) - 1).bit_length())
    last_N = beton.offset_N + beton.size_N - 1
    np.testing.assert_array_equal(beton.offset_N // beton.page_size, last_N // beton.page_size)
    assert (beton.offset_N[1:] > last_N[:-1]).all()
    with open(path, "rb") as file:
        for row, size in enumerate(sizes):
            assert beton.read(file.fileno(), row) == bytes([row]) * size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "grown"])
def test_stock_ffcv_reads_the_tables_we_wrote(folder, stock, name):
    beton, rows, table = open_beton(folder / f"{name}.beton"), stock[f"{name}.rows"], stock[f"{name}.table"]
    assert stock[f"{name}.names"].tolist() == ["image", "label"]
    assert stock[f"{name}.header"]["page_size"] == beton.page_size == MIN_PAGE_SIZE * {"small": 1, "grown": 2}[name]
    assert stock[f"{name}.header"]["num_samples"] == len(rows) == len(table) == len(beton)
    for column, ours in (("mode", beton.mode_N), ("width", beton.width_N), ("height", beton.height_N)):
        np.testing.assert_array_equal(rows["f0"][column], ours)
    np.testing.assert_array_equal(rows["f0"]["data_ptr"], beton.offset_N)
    np.testing.assert_array_equal(rows["f1"], beton.label_N)
    np.testing.assert_array_equal(table["sample_id"], np.arange(len(beton)))
    np.testing.assert_array_equal(table["ptr"], beton.offset_N)
    np.testing.assert_array_equal(table["size"], beton.size_N)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("small", 48), ("grown", 912)])
def test_stock_ffcv_loads_our_pixels_and_labels_in_order(folder, stock, turbo, name, size):
    """To the bit what libjpeg-turbo's fast DCT gives, which FFCV asks for; our engines ask for the accurate one."""
    beton = open_beton(folder / f"{name}.beton")
    with open(beton.path, "rb") as file:
        rows = [beton.read(file.fileno(), row) for row in range(len(beton))]
    pixels = [
        turbo.decode(data, size, size, FAST_DCT) if mode == JPEG else np.frombuffer(data, np.uint8).reshape(size, size, 3)
        for data, mode in zip(rows, beton.mode_N, strict=True)
    ]
    np.testing.assert_array_equal(stock[f"{name}.pixels"], pixels)
    assert stock[f"{name}.labels"].ravel().tolist() == {"small": list(range(100, 60, -1)), "grown": list(range(6))}[name]


@pytest.mark.slow
@pytest.mark.usefixtures("stock")
def test_a_file_by_ffcv_is_read_with_its_labels_and_pixels(folder, mill):
    beton = open_beton(folder / "theirs.beton")
    np.testing.assert_array_equal(beton.label_N, -np.arange(40))
    valid_B, (crops,) = mill(beton, whole(48))
    assert valid_B.all()
    np.testing.assert_array_equal(crops[0], np.load(folder / "pictures.npy"))


@pytest.mark.parametrize(
    ("reason", "offset", "data"),
    [
        ("say version 1", 0, struct.pack("<H", 1)),
        ("names 0 fields", 2, struct.pack("<H", 0)),
        ("names 65 fields", 2, struct.pack("<H", 65)),
        ("page size of 3145728", 4, struct.pack("<I", 3 << 20)),
        ("page size of 1048576", 4, struct.pack("<I", 1 << 20)),
        ("no sample", 8, struct.pack("<Q", 0)),
        ("more than fit", 8, struct.pack("<Q", 2**63)),
        ("unfinished", 16, struct.pack("<Q", 0)),
        ("truncated", 16, struct.pack("<Q", 2**50)),
        ("its allocation table has 39 entries for 40 samples", 16, struct.pack("<Q", TABLE + 24)),
        ("unknown type 255", FIELDS, b"\xff"),
        ("no image field", FIELDS, b"\x01"),
        ("row 0 is an image of unknown mode", ROWS, b"\x02"),
        ("row 0 is an empty image", ROWS + 1, struct.pack("<H", 0)),
        ("row 0 is an empty image", ROWS + 3, struct.pack("<H", 0)),
        ("row 1 is a raw image of the wrong size", ROWS + 24 + 1, struct.pack("<H", 49)),
        ("row 0 is an image that its allocation table does not list", ROWS + 5, struct.pack("<Q", MIN_PAGE_SIZE + 1)),
        ("row 0 is an image that its allocation table does not list", ROWS + 5, struct.pack("<Q", 2**63)),
        ("row 0 is an image that its allocation table does not list under that row", TABLE, struct.pack("<Q", 7)),
        ("row 0 is an image that its allocation table does not list", TABLE + 8, struct.pack("<Q", 0)),
        ("row 0 is an empty image", TABLE + 16, struct.pack("<Q", 0)),
        ("row 0 is an image outside its data pages", TABLE + 16, struct.pack("<Q", TABLE)),
        ("row 0 is an image outside its data pages", TABLE + 16, struct.pack("<Q", 2**64 - 8)),
        ("row 1 is a raw image of the wrong size", TABLE + 24 + 16, struct.pack("<Q", 48 * 48 * 3 - 1)),
    ],
)
def test_a_damaged_file_is_refused_with_its_fault_and_the_remedy(small, reason, offset, data):
    with pytest.raises(InvalidBeton, match=f"^{small} .*{reason}.*; convert its source again$"):
        open_beton(patch(small, offset, data))


def test_an_image_at_the_head_of_the_file_is_refused(small):
    patch(small, ROWS + 5, struct.pack("<Q", 0))
    with pytest.raises(InvalidBeton, match="row 0 is an image outside its data pages"):
        open_beton(patch(small, TABLE + 8, struct.pack("<Q", 0)))


def test_two_rows_at_one_place_are_refused(small):
    first = struct.pack("<Q", int(open_beton(small).offset_N[0]))
    with pytest.raises(InvalidBeton, match="row 2 is an image that its allocation table does not list under that row"):
        open_beton(patch(small, ROWS + 2 * 24 + 5, first))


def test_an_image_that_crosses_a_page_is_refused(folder, tmp_path):
    copy = Path(shutil.copy(folder / "grown.beton", tmp_path))
    with pytest.raises(InvalidBeton, match="row 3 is an image that crosses a page"):
        open_beton(patch(copy, 4, struct.pack("<I", MIN_PAGE_SIZE)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes, less than a header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), "is a PNG, no .beton"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "is a JPEG, no .beton"),
        (bytes(5_000), "no .beton of version 2"),
    ],
    ids=["empty", "png", "jpeg", "zeros"],
)
def test_a_file_that_is_no_beton_is_refused(tmp_path, content, reason):
    (tmp_path / "a.beton").write_bytes(content)
    with pytest.raises(InvalidBeton, match=reason):
        open_beton(tmp_path / "a.beton")


def test_a_file_cut_anywhere_is_refused(small):
    length = small.stat().st_size
    cuts = [*range(length - 1, TABLE - 2, -1), *range(TABLE - 3, ROWS, -99_991), *range(ROWS + 2, 0, -37), 0]
    for cut in cuts:
        os.truncate(small, cut)
        with pytest.raises(InvalidBeton):
            open_beton(small)


def test_a_refused_file_is_never_opened_natively(small):
    program = """
import sys
from pathlib import Path
from viewmill.pipeline.beton.reader import InvalidBeton, open_beton
try:
    open_beton(Path(sys.argv[1]))
except InvalidBeton:
    sys.exit("_libffcv" in Path("/proc/self/maps").read_text())
sys.exit("accepted")
"""
    os.truncate(small, TABLE)
    assert subprocess.run([sys.executable, "-c", program, small], timeout=60).returncode == 0


def test_any_flipped_byte_is_refused_or_leaves_every_row_inside_the_file(small):
    rng, length, refused = np.random.default_rng(0), small.stat().st_size, 0
    content = small.read_bytes()
    regions = [(0, FIELDS), (FIELDS, ROWS), (ROWS, ROWS + 40 * 24), (TABLE, length)]
    for trial in range(500):
        offset = int(rng.integers(*regions[trial % 4]))
        patch(small, offset, bytes([content[offset] ^ int(rng.integers(1, 256))]))
        try:
            beton = open_beton(small)
        except InvalidBeton:
            refused += 1
        else:
            assert len(beton) in (40, *range(1, 40))
            assert (beton.offset_N >= ROWS).all()
            assert (beton.size_N > 0).all()
            assert (beton.offset_N + beton.size_N <= length).all()
        patch(small, offset, content[offset : offset + 1])
    assert 200 < refused < 400  # labels, names and field arguments may hold anything: the manifest's sha256 tells


def test_the_fingerprint_tells_labels_and_layout_but_not_the_place(tmp_path):
    for name, label in (("one", 1), ("same", 1), ("other", 2)):
        write_beton(tmp_path / name, samples(3, label), capacity=3)
    one, same, other = (open_beton(tmp_path / name).fingerprint for name in ("one", "same", "other"))
    assert one == same != other


def test_a_file_cut_after_it_was_opened_says_so(small):
    beton = open_beton(small)
    os.truncate(small, int(beton.offset_N[7]) + 5)
    with open(small, "rb") as file:
        assert len(beton.read(file.fileno(), 6)) == beton.size_N[6]
        with pytest.raises(InvalidBeton, match="row 7 ends early; the file was cut while in use"):
            beton.read(file.fileno(), 7)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_writer_leaves_nothing_and_what_stood_there_stands(tmp_path, error):
    def broken():
        yield from samples(5)
        raise error

    with pytest.raises(error):
        write_beton(tmp_path / "new.beton", broken(), capacity=9)
    assert list(tmp_path.iterdir()) == []
    write_beton(tmp_path / "old.beton", samples(3), capacity=3)
    before = (tmp_path / "old.beton").read_bytes()
    with pytest.raises(error):
        write_beton(tmp_path / "old.beton", broken(), capacity=9)
    assert [path.name for path in tmp_path.iterdir()] == ["old.beton"]
    assert (tmp_path / "old.beton").read_bytes() == before


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_beton(tmp_path / "a.beton", [Sample(JPEG, 9, 9, 0, bytes(2 << 20))] * 2, capacity=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_refused_while_it_is_written(tmp_path):
    def watched():
        for number in range(5):
            yield Sample(JPEG, 9, 9, 0, bytes(3 << 19))  # a page holds one of them
            assert not (tmp_path / "a.beton").exists()
            with pytest.raises(InvalidBeton, match="version 0" if number else "0 bytes, less than a header"):
                open_beton(tmp_path / "a.beton.partial")

    assert write_beton(tmp_path / "a.beton", watched(), capacity=5) == 5


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / "a.beton.partial").write_bytes(b"junk" * 3_000_000)
    for name in "ab":
        write_beton(tmp_path / f"{name}.beton", samples(4), capacity=4)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.beton", "b.beton"]


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(tmp_path):
    def contested():
        yield from samples(2, label=1)
        with pytest.raises(BlockingIOError, match=r"a\.beton is being written by another conversion"):
            write_beton(tmp_path / "a.beton", samples(9, label=2), capacity=9)
        yield from samples(1, label=1)

    write_beton(tmp_path / "a.beton", contested(), capacity=3)
    np.testing.assert_array_equal(open_beton(tmp_path / "a.beton").label_N, [1, 1, 1])


def test_a_second_writer_that_comes_as_the_first_finishes_spares_its_file(tmp_path, monkeypatch):
    target, flock = tmp_path / "a.beton", fcntl.flock

    def late(descriptor, operation):
        """The other writer, which opened first, ends between our open and our lock."""
        os.replace(f"{target}.partial", target)
        flock(descriptor, operation)

    write_beton(tmp_path / "first", samples(3, label=1), capacity=3)
    os.rename(tmp_path / "first", f"{target}.partial")
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BlockingIOError, match="another conversion"):
        write_beton(target, samples(9, label=2), capacity=9)
    np.testing.assert_array_equal(open_beton(target).label_N, [1, 1, 1])


def test_a_file_honours_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_beton(tmp_path / "a.beton", samples(1), capacity=1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.beton").stat().st_mode & 0o777 == 0o640

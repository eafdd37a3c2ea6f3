"""Mutants: whatever bytes a file holds, it is refused by its name or harmless, within bounds of time and memory.

The mutants of each kind run in a process of their own (this file as a script), which a crash, a hang or a greedy allocation
ends without ending the tests: `python tests/test_fuzz.py KIND BEGIN END FOLDER` does again what a test did, and
`... KIND NUMBER NUMBER+1 FOLDER` one mutant of it, which stays in FOLDER.
"""

import faulthandler
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline.beton import examine
from viewmill.pipeline.beton.manifest import SETTLED_S, open_trusted, read_columns, sidecars
from viewmill.pipeline.beton.reader import (
    ALLOCATION,
    FIELD,
    FIELD_TYPES,
    HEADER,
    JPEG,
    RAW,
    InvalidBeton,
    Sample,
    open_beton,
)
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.sieve import CELL
from viewmill.pipeline.engines import libffcv
from viewmill.pipeline.views.recipe import CentreCrop, Recipe, View, weak

ROOM = 1 << 30  # address space that a mutant may take on top of what the interpreter and the libraries hold
HANG_S = 30
SIZES = ((24, 16), (16, 24), (31, 9), (8, 8))  # width, height
NUMBERS = (0, 1, 2, 3, 24, 127, 255, 2**15, 2**16 - 1, 2**21, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63)
NUMBERS += (2**64 - 24, 2**64 - 1)


class Body(NamedTuple):
    """A valid file and its joints."""

    content: bytes
    words: tuple[tuple[int, int], ...] = ()
    """Offset and width of its numbers."""
    records: tuple[tuple[int, int], ...] = ()
    """Offset and size of what can change places with one of the same size."""
    tokens: tuple[bytes, ...] = (b"\0", b"\xff")
    """What its readers look for."""
    order: str = "little"


def flip(data: bytearray, body: Body, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def scribble(data: bytearray, body: Body, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    size = min(rng.choice((1, 2, 4, 8, 64)), len(data) - at)
    data[at : at + size] = rng.randbytes(size)


def set_number(data: bytearray, body: Body, rng: random.Random) -> None:
    """A number becomes one at which arithmetic turns over, or a place in this file."""
    at, width = rng.choice(body.words or ((rng.randrange(len(data)), rng.choice((1, 2, 4, 8))),))
    fitting = [token for token in body.tokens if len(token) == width]
    if fitting and body.words and rng.random() < 0.5:
        data[at : at + width] = rng.choice(fitting)
        return
    value = rng.choice(
        (rng.choice(NUMBERS), len(data), len(data) - 24, rng.getrandbits(8 * width), rng.randrange(len(data)))
    )
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, body.order)


def nudge_number(data: bytearray, body: Body, rng: random.Random) -> None:
    at, width = rng.choice(body.words or ((rng.randrange(len(data)), 1),))
    value = int.from_bytes(data[at : at + width], body.order) + rng.choice((-24, -8, -2, -1, 1, 2, 8, 24))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, body.order)


def swap(data: bytearray, body: Body, rng: random.Random) -> None:
    """Two records change places, or one becomes the other."""
    if not body.records:
        return flip(data, body, rng)
    first = rng.choice(body.records)
    second = rng.choice([record for record in body.records if record[1] == first[1]])
    one, other = (bytes(data[at : at + size]) for at, size in (first, second))
    data[first[0] : first[0] + first[1]] = other
    if rng.random() < 0.7:
        data[second[0] : second[0] + second[1]] = one
    return None


def place_token(data: bytearray, body: Body, rng: random.Random) -> None:
    at, token = rng.randrange(len(data)), rng.choice(body.tokens)
    data[at : at + rng.choice((0, len(token)))] = token


def repeat(data: bytearray, body: Body, rng: random.Random) -> None:
    """A piece of the file stands in another place as well."""
    size = rng.randrange(1, min(200, len(data)) + 1)
    source, at = rng.randrange(len(data) - size + 1), rng.randrange(len(data))
    data[at : at + rng.choice((0, size))] = data[source : source + size]


def cut(data: bytearray, body: Body, rng: random.Random) -> None:
    del data[rng.choice((rng.randrange(1, len(data) + 1), max(1, len(data) - rng.randrange(1, 200)))) :]


def grow(data: bytearray, body: Body, rng: random.Random) -> None:
    data += rng.choice((bytes, rng.randbytes))(rng.choice((1, 23, 24, 48, 512, 24 * 1000, rng.randrange(1, 5000))))


MUTATIONS = (flip, scribble, set_number, set_number, nudge_number, swap, place_token, repeat, cut, grow)


def mutant(body: Body, kind: str, number: int) -> bytes:
    """Mutant `number` of `body`: always the same one."""
    rng = random.Random(f"{kind} {number}")
    data = bytearray(body.content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(data, body, rng)
    if kind == "tar" and rng.random() < 0.9:
        mend_checksums(data)
    return bytes(data)


def picture(number: int) -> np.ndarray:
    width, height = SIZES[number % len(SIZES)]
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def encoded(number: int, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(number)).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


# The bodies.


@cache
def tight() -> Body:
    """As stock FFCV lays out four fields, with no gap between the parts: 8 rows, half of them raw, each with a caption."""
    kinds, names = (2, 1, 0, 3), (b"image", b"label", b"weight", b"caption")
    fields = np.zeros(len(kinds), FIELD)
    fields["type_id"], fields["name"] = kinds, names
    rows = np.zeros(8, np.dtype([("", FIELD_TYPES[kind]) for kind in kinds], align=True))
    start = HEADER.itemsize + fields.nbytes + rows.nbytes
    table, data = [], bytearray()
    for row in range(8):
        mode, pixels = (JPEG, RAW)[row % 2], picture(row)
        height, width, _ = pixels.shape
        image = pixels.tobytes() if mode == RAW else encoded(row)
        rows[row] = ((mode, width, height, start + len(data)), row % 3, row / 2, (start + len(data) + len(image), 9))
        table += [(row, start + len(data), len(image)), (row, start + len(data) + len(image), 9)]
        data += image + b"a caption"
    end = start + len(data)
    listing = np.array([table[i] for i in np.random.default_rng(0).permutation(len(table))], ALLOCATION)
    header = np.array((2, len(kinds), 1 << 21, 8, end), HEADER)
    content = header.tobytes() + fields.tobytes() + rows.tobytes() + bytes(data) + listing.tobytes()
    return Body(content, *joints(fields.nbytes, rows.dtype.itemsize, end, len(content)))


@cache
def written() -> Body:
    """As write_beton lays it out: in row order, with pages of 2 MiB."""
    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp", f"viewmill-fuzz-{os.getpid()}.beton")
    samples = []
    for row in range(6):
        height, width, _ = picture(row).shape
        samples.append(Sample(JPEG, width, height, row, encoded(row)))
    write_beton(path, samples, capacity=len(samples))
    content = path.read_bytes()
    path.unlink()
    return Body(content, *joints(2 * FIELD.itemsize, 24, 1 << 22, len(content)))


def joints(fields: int, row: int, table: int, length: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The numbers and records of a .beton with `fields` bytes of descriptors, rows of `row` bytes and a `table`."""
    start = HEADER.itemsize + fields
    header = [(HEADER.fields[name][1], HEADER.fields[name][0].itemsize) for name in HEADER.names]
    descriptors = [(at, 1) for at in range(HEADER.itemsize, start, FIELD.itemsize)]
    descriptors += [(at + 1, 8) for at, _ in descriptors]  # the first letters of the name
    count = 8 if fields == 4 * FIELD.itemsize else 6
    rows = [(start + i * row, row) for i in range(count)]
    # mode, width, height, data_ptr; width and height in one
    image = [(at + offset, size) for at, _ in rows for offset, size in ((0, 1), (1, 2), (3, 2), (5, 8), (1, 4))]
    entries = [(at, ALLOCATION.itemsize) for at in range(table, length, ALLOCATION.itemsize)]
    cells = [(at + offset, 8) for at, _ in entries for offset in (0, 8, 16)]
    few = lambda items: tuple(items) * max(1, 60 // len(items))  # noqa: E731 (so that each part is hit as often)
    return few(header) + few(descriptors) + few(image) + few(cells), (*rows, *entries)


@cache
def shard() -> Body:
    """Two dozen members: images, class numbers and names, JSON, captions, a name that needs an extended header."""
    stream, heads = io.BytesIO(), []
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i in range(6):
            stem = f"{'ä' * 60 if i == 3 else 'n'}/{i}"
            side = {"jpg": encoded(i), "cls": str(i % 3).encode(), "txt": b"a caption", "json": b'{"age": 4, "b": "c"}'}
            for kind, data in side.items():
                info = tarfile.TarInfo(f"{stem}.{kind}")
                info.size = len(data)
                heads.append(archive.offset)
                archive.addfile(info, io.BytesIO(data))
    tokens = (b"x", b"g", b"L", b"K", b"S", b"V", b"2", b"5", b"\0", b"\x80", b"\xff" * 12, b"30 path=\xff\n", b"9" * 20)
    tokens += (
        b'"\\ud800"',
        b"[" * 3000,
        b"y" * 140_000,
        b"\xff" * 10 + b"\xfe\0",
        b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7,
        b"22 size=-1\n",
    )
    tokens += (
        b"25 GNU.sparse.map=0,1\n",
        b"26 GNU.sparse.major=1\n",
        b"../",
        b"/",
        b"\x1b[2J",
        b"-0000001000\0",
        b"77777777777\0",
    )
    words = [(at + offset, size) for at in heads for offset, size in ((124, 12), (124, 1), (156, 1), (136, 12), (0, 4))]
    return Body(stream.getvalue(), tuple(words), tuple((at, 512) for at in heads), tokens, "big")


def mend_checksums(data: bytearray) -> None:
    """Give every header its right checksum: else each mutant would only be told by it."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def table_of_images() -> Any:
    import pyarrow as pa

    image = pa.array([{"bytes": encoded(i), "path": f"x{i}.jpg"} for i in range(6)])
    labels, facts = pa.array([i % 2 for i in range(6)]), pa.array([f"fact {i}" for i in range(6)])
    names = json.dumps({"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}})
    return pa.table({"image": image, "label": labels, "fact": facts}).replace_schema_metadata({"huggingface": names})


@cache
def parquet() -> Body:
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table_of_images(), stream, row_group_size=3)
    return Body(stream.getvalue())


@cache
def arrow() -> Body:
    import pyarrow as pa

    table, stream = table_of_images(), io.BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return Body(stream.getvalue())


@cache
def parquet_list() -> Body:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    table = pa.table({"path": [f"p{i}.jpg" for i in range(6)], "label": list("ababab"), "age": list(range(6))})
    pq.write_table(table, stream)
    return Body(stream.getvalue())


TEXT = (b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"../", b"/etc/passwd", b"9" * 20, b"9" * 5000)
TEXT += (
    b"y" * 140_000,
    b"path",
    b"file_name",
    b"label",
    b"age",
    b"row",
    b"\n,,,,,\n",
    "\u0663".encode(),
    b"\x1b[2J",
    b"p" * 300,
)


@cache
def listing() -> Body:
    lines = ["path,label,age,note", *(f"p{i}.jpg,{i % 3},{i},what it shows" for i in range(6))]
    return Body("\n".join(lines).encode(), tokens=TEXT)


@cache
def metadata() -> Body:
    lines = ["file_name,age,note", *(f"p{i}.jpg,{i},what it shows" for i in range(6))]
    return Body("\n".join(lines).encode(), tokens=TEXT)


@cache
def cifar() -> Body:
    return Body(b"".join(bytes([i % 3]) + random.Random(i).randbytes(3072) for i in range(4)))


def photograph(data: bytes) -> Body:
    """A JPEG: its numbers are the lengths of its segments, and height and width."""
    words, at = [], 2
    while data[at + 1] != 0xDA:
        words.append((at + 2, 2))
        if 0xC0 <= data[at + 1] <= 0xC2:
            words += [(at + 5, 2), (at + 7, 2), (at + 9, 1), (at + 1, 1)] * 4
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    tokens = tuple(
        bytes([0xFF, marker]) for marker in (0x00, 0xC0, 0xC2, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDC, 0xDD, 0xE1, 0xFF)
    )
    return Body(data, tuple(words), (), (*tokens, b"Exif\0\0", b"\xff\xe1\0\x0cExif\0\0MM\0*"), "big")


@cache
def photographs() -> tuple[Body, ...]:
    """Plain, progressive, with EXIF, grey, CMYK."""
    exif = Image.Exif()
    exif[0x0112] = 6
    streams = [encoded(0, subsampling=0), encoded(1, progressive=True), encoded(2, exif=exif)]
    for mode in ("L", "CMYK"):
        stream = io.BytesIO()
        Image.fromarray(picture(3)).convert(mode).save(stream, "JPEG", restart_marker_blocks=1)
        streams.append(stream.getvalue())
    return tuple(map(photograph, streams))


# What is done to each mutant. Each function yields once per mutant: "" for a refusal by name, or what was wrong.


def harmless(path: Path) -> None:
    """Raise where something in an opened .beton could hurt its reader. Reads the file anew, with struct alone."""
    beton = open_beton(path)
    content = path.read_bytes()
    _, count, page, rows, table = struct.unpack_from("<HHIQQ", content)
    start = HEADER.itemsize + count * FIELD.itemsize
    assert rows == len(beton) > 0
    assert start < table <= len(content)
    assert len({len(column) for column in (beton.label_N, beton.size_N, beton.mode_N, beton.height_N, beton.offset_N)}) == 1
    columns = (beton.offset_N, beton.size_N, beton.mode_N, beton.width_N, beton.height_N)
    for offset, size, mode, width, height in zip(*(column.tolist() for column in columns), strict=True):
        assert start + rows * 13 <= offset < offset + size <= table
        assert offset // page == (offset + size - 1) // page
        assert width >= 1
        assert height >= 1
        assert mode == JPEG or size == width * height * 3
    with open(path, "rb") as file:
        assert all(len(beton.read(file.fileno(), row)) == beton.size_N[row] for row in range(len(beton)))


def open_one(number: int, folder: Path) -> str:
    path = folder / "mutant.beton"
    path.write_bytes(mutant(written() if number % 50 == 0 else tight(), "beton", number))
    return refused_or(harmless, path)


def decode_one(number: int, folder: Path) -> str:
    """`inspect --deep`, which is there for damaged files."""
    path = folder / "mutant.beton"
    path.write_bytes(mutant(tight(), "beton", number))
    return refused_or(lambda path: list(examine.undecodable(open_beton(path), threads=1)), path)


def refused_or(work: Callable[[Path], Any], path: Path) -> str:
    try:
        work(path)
    except InvalidBeton as error:
        assert str(error).startswith(f"{path} ")
        assert str(error).endswith("convert its source again")
        return "refused"
    return "accepted"


FILES: dict[str, tuple[str, Callable[[], Body]]] = {
    "tar": ("mutant.tar", shard),
    "parquet": ("mutant.parquet", parquet),
    "parquet list": ("mutant.parquet", parquet_list),
    "arrow": ("mutant.arrow", arrow),
    "csv": ("mutant.csv", listing),
    "metadata": ("metadata.csv", metadata),
    "cifar": ("mutant.bin", cifar),
}


def convert_one(kind: str) -> Callable[[int, Path], str]:
    name, body = FILES[kind]

    def work(number: int, folder: Path) -> str:
        (folder / name).write_bytes(mutant(body(), kind, number))
        return converted_or_refused(folder if kind == "metadata" else folder / name, folder.parent / "out")

    return work


def convert_photographs(number: int, folder: Path) -> str:
    """20 mutants in one folder."""
    for i in range(20):
        (folder / f"p{i}.jpg").write_bytes(mutant(photographs()[i % 5], "jpeg", 20 * number + i))
    return converted_or_refused(folder, folder.parent / "out")


def converted_or_refused(source: Path, out: Path) -> str:
    """Rows and quarantine that agree with each other, or a ValueError that names the source and leaves nothing behind."""
    out.mkdir(exist_ok=True)
    target = out / "a.beton"
    try:
        done = convert([source], target, overwrite=True, workers=0)
    except ValueError as error:
        assert str(source) in str(error), f"a refusal that names no file: {type(error).__name__}: {error}"
        assert not list(out.glob("*.partial"))
        return "refused"
    beton = open_trusted(target)
    assert len(beton) == done.rows
    assert {len(column) for column in read_columns(target).values()} == {done.rows}
    quarantine = sidecars(target)["quarantine"]
    reasons = [json.loads(line)["reason"] for line in quarantine.read_text().splitlines()] if quarantine.exists() else []
    assert len(reasons) == done.rejected
    assert all(reasons)
    assert list(examine.undecodable(beton, threads=1)) == [], "a row that training cannot decode"
    assert {path.name for path in out.iterdir()} <= {target.name, *(path.name for path in sidecars(target).values())}
    return "accepted"


WORKS = {"open": open_one, "decode": decode_one, "jpeg": convert_photographs, **{kind: convert_one(kind) for kind in FILES}}


def run_mutants(kind: str, begin: int, end: int, folder: Path) -> None:
    """What the script does; FOLDER/found.json says what became of the mutants, FOLDER/at which was the last."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    for i in range(6):
        (source / f"p{i}.jpg").write_bytes(encoded(i))
    (source / "batches.meta.txt").write_text("a\nb\nc\n")
    (source / "good.jpg").write_bytes(encoded(0))
    faulthandler.enable()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, resource.RLIM_INFINITY))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {"accepted": 0, "refused": 0, "raised": [], "slowest_s": 0.0}
    for number in range(begin, end):
        (folder / "at").write_text(str(number))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        started = time.process_time()
        try:
            found[WORKS[kind](number, source)] += 1
        except Exception as error:
            found["raised"].append(f"{kind} {number}: {type(error).__name__}: {error}"[:300])
        found["slowest_s"] = max(found["slowest_s"], time.process_time() - started)
        faulthandler.cancel_dump_traceback_later()
    found["grown_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10
    (folder / "found.json").write_text(json.dumps(found))


# The tests.


@pytest.fixture
def quick(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: what these tests write, no disk has to keep."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="viewmill-fuzz-") as folder:
        yield Path(folder)


def done_to(kind: str, count: int, folder: Path, *, begin: int = 0) -> dict[str, Any]:
    """What became of mutants `begin` to `begin + count` of a kind, in a process of their own."""
    command = [sys.executable, __file__, kind, str(begin), str(begin + count), str(folder)]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert ended.returncode == 0, f"{kind} {(folder / 'at').read_text()} ended the process:\n{ended.stderr[-3000:]}"
    found = json.loads((folder / "found.json").read_text())
    assert found["raised"] == [], "\n".join(found["raised"])
    return found


def test_ten_thousand_mutants_of_a_beton_are_refused_by_name_or_harmless(quick):
    found = done_to("open", 10_000, quick)
    assert 0.2 < found["accepted"] / 10_000 < 0.6  # labels, names and pixels may hold anything: the manifest's sha256 tells
    assert found["slowest_s"] < 0.5
    assert found["grown_mib"] < 100


def test_what_opens_among_the_mutants_can_be_examined_image_by_image(quick):
    found = done_to("decode", 1_500, quick)
    assert found["accepted"] > 300
    assert found["slowest_s"] < 1.0
    assert found["grown_mib"] < 200


def test_what_opens_among_the_mutants_goes_through_the_mill(tmp_path, mill):
    path, milled, valid = tmp_path / "mutant.beton", 0, 0
    tracemalloc.start()
    try:
        for number in range(300):
            path.write_bytes(mutant(tight(), "beton", number))
            try:
                beton = open_beton(path)
            except InvalidBeton:
                continue
            tracemalloc.reset_peak()
            valid_B, (crops,) = mill(beton, weak(16))
            assert tracemalloc.get_traced_memory()[1] < 1 << 28, f"mutant {number}"
            assert (crops[:, ~valid_B] == 0).all()
            milled, valid = milled + 1, valid + int(valid_B.sum())
    finally:
        tracemalloc.stop()
    assert milled > 60
    assert valid > 3 * milled


@pytest.mark.parametrize("part", ["table", "rows"])
def test_a_file_with_a_hole_of_gigabytes_is_refused_without_reading_it(tmp_path, part):
    """As a file system leaves a file that grew when the power went; a hole takes no room on the disk."""
    path, content = tmp_path / "mutant.beton", bytearray(tight().content)
    if part == "rows":
        struct.pack_into("<QQ", content, 8, 1 << 28, 1 << 34)
    path.write_bytes(content)
    os.truncate(path, (1 << 34) + ALLOCATION.itemsize * (1 << 28) if part == "rows" else len(content) + (3 << 32))
    program = """
import resource, sys
from pathlib import Path
from viewmill.pipeline.beton.reader import InvalidBeton, open_beton
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    open_beton(Path(sys.argv[1]))
except InvalidBeton as error:
    sys.exit(f"refused: {error}")
"""
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert ended.stderr.startswith(f"refused: {path} "), ended.stderr


@pytest.fixture
def sealed(quick, monkeypatch):
    """A small .beton with its manifest, in `quick`; the seals go to `quick`/cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(quick / "cache"))
    (quick / "source").mkdir()
    for i in range(6):
        (quick / "source" / f"{i}.jpg").write_bytes(encoded(i))
    convert([quick / "source"], quick / "a.beton")
    return quick / "a.beton"


def passes(path: Path) -> bool:
    try:
        open_trusted(path)
    except InvalidBeton:
        return False
    return True


def test_no_mutant_passes_its_manifest(sealed):
    """In its place and by its name, after an opening of the whole file that is remembered, and between others."""
    content = sealed.read_bytes()
    time.sleep(SETTLED_S + 0.2)
    assert passes(sealed)
    assert [path for path in (sealed.parent / "cache" / "viewmill" / "verified").iterdir() if path.suffix != ".lock"]
    body = Body(content, *joints(2 * FIELD.itemsize, 24, 1 << 22, len(content)))
    for number in range(200):
        changed = mutant(body, "beton", number)
        if changed == content:
            continue
        if number % 2:
            sealed.write_bytes(changed)
        else:
            (sealed.parent / "other").write_bytes(changed)
            os.replace(sealed.parent / "other", sealed)
        assert not passes(sealed), f"mutant {number}"
        sealed.write_bytes(content)
        if number % 10 == 0:
            assert passes(sealed)


def flip_pixels_at_once(path: Path, count: int) -> int:
    """How many of `count` files pass whose pixels change right after they passed whole."""
    place, passed = int(open_beton(path).offset_N[0]) + 300, 0
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, place)
        for _ in range(count):
            os.pwrite(file.fileno(), byte, place)
            assert passes(path)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), place)
            passed += passes(path)
        os.pwrite(file.fileno(), byte, place)
    return passed


def test_a_change_right_after_an_opening_is_seen(sealed):
    assert flip_pixels_at_once(sealed, 50) == 0


def test_a_change_right_after_an_opening_is_seen_where_the_clock_of_files_is_coarse(sealed, tmp_path):
    """Before Linux 6.13, and in many file systems to this day, two writes within 4 ms bear the same time: ramfs is one."""
    coarse = tmp_path / "coarse"
    coarse.mkdir()
    mounted = subprocess.run(["mount", "-t", "ramfs", "none", str(coarse)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a ramfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        for path in (sealed, sidecars(sealed)["manifest"]):
            (coarse / path.name).write_bytes(path.read_bytes())
        assert flip_pixels_at_once(coarse / sealed.name, 50) == 0
    finally:
        subprocess.run(["umount", str(coarse)], check=True)


def test_a_manifest_of_any_bytes_is_refused_or_true(sealed):
    path = sidecars(sealed)["manifest"]
    content = path.read_bytes()
    body = Body(content, tokens=(b"null", b"[]", b"{}", b'""', b"1e999", b"[" * 3000, b'"sha256"', b"\\ud800", b"\xff"))
    true = json.loads(content)
    for number in range(400):
        path.write_bytes(mutant(body, "manifest", number))
        if passes(sealed):
            told = json.loads(path.read_text())
            assert (told["sha256"], told["fingerprint"]) == (true["sha256"], true["fingerprint"]), f"mutant {number}"


@pytest.mark.parametrize(("kind", "share"), [("tar", 0.9), ("csv", 0.3), ("metadata", 0.5), ("cifar", 0.4), ("jpeg", 0.99)])
def test_a_mutant_of_a_source_becomes_rows_and_quarantine_or_is_refused_by_name(quick, kind, share):
    count = 20 if kind == "jpeg" else 150
    found = done_to(kind, count, quick)
    assert found["accepted"] >= share * count
    assert found["slowest_s"] < 10
    assert found["grown_mib"] < 300


@pytest.mark.parametrize("kind", ["parquet", "parquet list", "arrow"])
def test_a_mutant_of_a_table_becomes_rows_and_quarantine_or_is_refused_by_name(quick, kind):
    found = done_to(kind, 150, quick)
    assert found["accepted"] > 10
    assert found["refused"] > 10
    assert found["slowest_s"] < 10
    assert found["grown_mib"] < 300


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["open", "decode", "jpeg", *FILES])
def test_many_more_mutants(quick, kind):
    count = {"open": 150_000, "decode": 20_000, "jpeg": 500}.get(kind, 4_000)
    found = done_to(kind, count, quick, begin=100_000)
    assert found["accepted"] > 0
    assert found["slowest_s"] < 10
    assert found["grown_mib"] < 1000  # an image may have 100 million pixels


def test_every_row_of_mutant_photographs_is_one_that_the_mill_decodes(tmp_path, mill):
    """Three read a JPEG's header: Pillow, libjpeg-turbo and the mill's own loop, which must agree."""
    (tmp_path / "source").mkdir()
    for number in range(600):
        (tmp_path / "source" / f"{number}.jpg").write_bytes(mutant(photographs()[number % 5], "mill", number))
    done = convert([tmp_path / "source"], tmp_path / "a.beton")
    valid_B, _ = mill(open_beton(tmp_path / "a.beton"), weak(16))
    assert valid_B.all()
    assert 60 < done.rows < 540


@pytest.mark.parametrize(
    "options", [{"subsampling": n} for n in (0, 1, 2, "4:1:1")] + [{"progressive": True}, {"restart_marker_blocks": 1}]
)
def test_an_eighth_of_a_jpeg_tells_of_its_damage_what_the_whole_tells(options):
    """What conversion checks, against what training decodes: any damage, in the headers or between the coefficients."""
    body = photograph(encoded(1, **options))
    verdicts = Counter()
    for number in range(1_500):
        data = mutant(body, "eighth", number)
        frame = libffcv.jpeg_frame(data)
        if frame is None or frame.width * frame.height > 1 << 22:
            continue
        size = {"height": frame.height, "width": frame.width}
        whole = libffcv.decodes(data, **size)
        assert libffcv.decodes(data, **size, eighths=1) == whole, f"mutant {number}"
        verdicts[whole] += 1
    assert min(verdicts[True], verdicts[False]) > 100


def without(data: bytes, marker: int) -> bytes:
    """A JPEG that leaves out what `marker` begins, as cameras that send films do with their Huffman tables (0xC4)."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == marker else data[at:end]
        at = end
    return kept + data[at:]


@pytest.mark.parametrize("marker", [0xC4, 0xDB], ids=["Huffman", "quantisation"])
def test_what_a_jpeg_leaves_out_is_not_taken_from_the_one_before_it(tmp_path, marker):
    """A decoder that is kept from one image to the next keeps their tables too: rows would depend on their neighbours."""
    stream = io.BytesIO()
    Image.fromarray(picture(1)).save(stream, "JPEG", quality=30, optimize=True)
    (height, width, _), lacking = picture(0).shape, without(encoded(0), marker)
    alone = [Sample(JPEG, width, height, 0, lacking)]
    after = [Sample(JPEG, *picture(1).shape[1::-1], 0, stream.getvalue()), *alone]
    seen, converted = [], []
    for name, samples in (("alone", alone), ("after", after)):
        path = tmp_path / f"{name}.beton"
        write_beton(path, samples, capacity=len(samples))
        seen.append([row - len(samples) for row, _ in examine.undecodable(open_beton(path), threads=1)])
        (tmp_path / name).mkdir()
        for row, sample in enumerate(samples):
            (tmp_path / name / f"{'z' if sample is alone[0] else 'a'}{row}.jpg").write_bytes(sample.data)
        try:
            convert([tmp_path / name], tmp_path / "a.beton", overwrite=True)
            rows = read_columns(tmp_path / "a.beton")["file_name"]
        except ValueError:  # it alone is none
            rows = []
        converted.append(sum(row.startswith("z") for row in rows))
    assert seen[0] == seen[1]  # the last row, or none
    assert converted[0] == converted[1]


@pytest.mark.parametrize("marker", [0xC4, 0xDB], ids=["Huffman", "quantisation"])
def test_the_mill_takes_nothing_of_an_image_from_the_one_before_it(tmp_path, mill, marker):
    """A stock .beton may hold such streams; so may ours: without Huffman tables a JPEG is one by the standard's own."""
    stream = io.BytesIO()
    Image.fromarray(picture(1)).save(stream, "JPEG", quality=30, optimize=True)
    (height, width, _), whole = picture(0).shape, Recipe((View(16, crop=CentreCrop(1.0), flip=0.0),))
    alone = [Sample(JPEG, width, height, 0, without(encoded(0), marker))]
    seen = []
    for samples in (alone, [Sample(JPEG, *picture(1).shape[1::-1], 0, stream.getvalue()), *alone]):
        write_beton(tmp_path / "a.beton", samples, capacity=2)
        valid_B, (crops,) = mill(open_beton(tmp_path / "a.beton"), whole, threads=1)
        seen.append((bool(valid_B[-1]), crops[0, -1].tobytes()))
    assert seen[0] == seen[1]


def bare_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE], ids=["pax", "gnu", "plain"])
def test_a_shard_that_claims_any_size_gives_what_stands_before_and_the_fault(quick, kind):
    whole = bare_shard(quick / "whole", {f"{i}.jpg": encoded(i) for i in range(3)}).read_bytes()
    head = 512 + -(-len(encoded(0)) // 512) * 512
    for number, size in enumerate([-(1 << 40), -512, -1, 1 << 40, 1 << 62, 1 << 80]):
        data = bytearray(whole)
        data[head + 124 : head + 136] = ((1 << 95) + size if size > 0 else (1 << 96) + size).to_bytes(12, "big")
        data[head + 156 : head + 157] = kind
        mend_checksums(data)
        (quick / f"{number} {size}.tar").write_bytes(data)
    program = """
import faulthandler, resource, sys
from pathlib import Path
from viewmill.pipeline.conversion.convert import convert
faulthandler.dump_traceback_later(20, exit=True)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sorted(Path(sys.argv[1]).glob("*.tar")):
    print(path.name, flush=True)
    done = convert([path], path.with_suffix(".beton"))
    assert (done.rows, done.rejected > 0) == (1, True), done
"""
    ended = subprocess.run([sys.executable, "-c", program, quick], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) == 6


def test_a_caption_longer_than_a_cell_is_cut_and_read_again(tmp_path):
    caption = "y" * 300_000
    path = bare_shard(tmp_path / "a.tar", {"0.jpg": encoded(0), "0.txt": caption.encode()})
    convert([path], tmp_path / "a.beton")
    assert read_columns(tmp_path / "a.beton")["txt"] == [caption[:CELL]]


def test_text_that_is_no_unicode_costs_no_image(tmp_path):
    path = bare_shard(
        tmp_path / "a.tar", {"0.jpg": encoded(0), "0.json": b'{"a": "\\ud800", "\\udc00": "b"}', "1.jpg": encoded(1)}
    )
    assert convert([path], tmp_path / "a.beton").rows == 2
    assert len(read_columns(tmp_path / "a.beton")["row"]) == 2


@pytest.mark.parametrize("table", ["file_name,age,age\np0.jpg,1,2\n", f"file_name,age\np0.jpg,{'y' * 200_000}\n"])
def test_a_table_with_a_column_twice_or_a_long_cell_is_read_or_refused_by_name(tmp_path, table):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "p0.jpg").write_bytes(encoded(0))
    (tmp_path / "source" / "metadata.csv").write_text(table)
    try:
        convert([tmp_path / "source"], tmp_path / "a.beton")
    except ValueError as error:
        named = str(error)
        assert "metadata.csv" in named
    else:
        assert len(read_columns(tmp_path / "a.beton")["age"][0]) in (1, 200_000)


@pytest.mark.parametrize("label", [2**63, 2**64 - 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("suffix", ["csv", "tar", "parquet"])
def test_a_class_number_of_any_size_is_stored_or_refused_by_name(tmp_path, suffix, label):
    path = tmp_path / f"a.{suffix}"
    if suffix == "tar":
        bare_shard(path, {"0.jpg": encoded(0), "0.cls": str(label).encode()})
    elif suffix == "csv":
        (tmp_path / "p0.jpg").write_bytes(encoded(0))
        path.write_text(f"path,label\np0.jpg,{label}\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        labels = pa.array([label], pa.uint64() if label > 0 else pa.int64())
        pq.write_table(pa.table({"image": [encoded(0)], "label": labels}), path)
    try:
        done = convert([path], tmp_path / "a.beton")
    except ValueError as error:
        named = str(error)
        assert str(path) in named
    else:
        told = open_beton(tmp_path / "a.beton").label_N.tolist()
        none = label < 0 and suffix == "parquet"  # below 0 means no class
        assert told == [-1 if none else label] or (told, done.classes) == ([0], [str(label)]) or done.rejected


if __name__ == "__main__":
    run_mutants(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

"""The .beton format, read and checked with numpy alone; writer.py writes it.

A .beton (FFCV, version 2, little-endian) is: a header; one descriptor per field; one metadata row per sample; pages of
sample bytes, no sample crossing a page; the allocation table (sample id, offset, size) at the end.

FFCV trusts a file blindly: a killed conversion "loads" as black images, a wrong size corrupts its heap. So `open_beton`
checks the whole structure, vectorised, before any engine sees the file.

Shape suffix: N = rows of the file.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...files.opening import open_to_read
from ..conversion.unreadable import told_otherwise

VERSION = 2
JPEG, RAW = 0, 1
MIN_PAGE_SIZE = 1 << 21  # FFCV's own floor: 2 MiB, a huge page
MAX_PAGE_SIZE = 1 << 31  # the header holds it in 32 bits
MAX_SIDE = (1 << 16) - 1  # width and height are 16-bit
MAX_FIELDS = 64
KNOWN_BY = 1024  # first bytes of what is no .beton
SAMPLED = 64 << 20  # bytes
MAX_PIXELS = 100_000_000  # of one image: what claims more would only be a way to fill the memory

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "V1024")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
# What one metadata row holds for each of FFCV's field types; 255 (custom) has no public layout.
FIELD_TYPES = {
    0: np.dtype("<f8"),
    1: np.dtype("<i8"),
    2: IMAGE,
    3: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    4: np.dtype([("ptr", "<u8")]),
    5: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    6: np.dtype([("ptr", "<u8")]),
}
INT_TYPE, IMAGE_TYPE = 1, 2
ROW = np.dtype([("", IMAGE), ("", "<i8")], align=True)  # the fields of our own files: image, label


class InvalidBeton(ValueError):
    """A file that is no usable .beton; the message names the file, the fault and the remedy."""


class NoBeton(InvalidBeton):
    """A file that is known to be something else."""


class Sample(NamedTuple):
    """One image on its way into a file: `data` is a JPEG stream (mode JPEG) or height*width*3 bytes of RGB (mode RAW)."""

    mode: int
    width: int
    height: int
    label: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Beton:
    """A checked file: where each image's bytes lie and what they hold. `offset_N` and `size_N` are in bytes."""

    path: Path
    page_size: int
    mode_N: np.ndarray
    height_N: np.ndarray
    width_N: np.ndarray
    offset_N: np.ndarray
    size_N: np.ndarray
    label_N: np.ndarray
    fingerprint: str
    """sha256 over header, metadata and allocation table: names the data set without reading its pixels."""

    def __len__(self) -> int:
        return len(self.mode_N)

    def sampled(self) -> str:
        """sha256 of the bytes of all rows, or of 64 in equal distances where all have more than SAMPLED bytes."""
        digest = hashlib.sha256()
        every = max(1, len(self) // 64) if int(self.size_N.sum()) > SAMPLED else 1
        with open_to_read(self.path) as file:
            for row in range(0, len(self), every):
                digest.update(self.read(file.fileno(), row))
        return digest.hexdigest()

    def read(self, descriptor: int, row: int) -> bytes:
        """The stored bytes of `row`; raises InvalidBeton where the file has shrunk since it was opened."""
        size = int(self.size_N[row])
        data = os.pread(descriptor, size, int(self.offset_N[row]))
        if len(data) != size:
            raise InvalidBeton(f"{self.path}: row {row} ends early; the file was cut while in use: convert it again")
        return data


def open_beton(path: Path) -> Beton:
    """Read and check the structure of `path` in one pass, O(rows); raises InvalidBeton with the reason and the remedy."""
    path = Path(path)  # callers of the library give texts too
    if path.is_dir():
        raise InvalidBeton(f"{path} is a folder: viewmill convert {path} {path.name or 'images'}.beton makes a .beton of it")
    try:
        with open_to_read(path) as file:
            if other := told_otherwise(path, file.read(KNOWN_BY)):
                raise NoBeton(other)
            file.seek(0)
            length = os.fstat(file.fileno()).st_size
            header = _read_header(file, length)
            fields = _read_fields(file, int(header["num_fields"]))
            metadata = _read_metadata(file, header, _row_type(fields), length)
            table = np.fromfile(file, ALLOCATION, offset=int(header["alloc_table_ptr"]) - file.tell())
    except NoBeton:
        raise
    except InvalidBeton as error:
        raise InvalidBeton(f"{path} {error}; convert its source again") from None
    except MemoryError:
        raise InvalidBeton(f"{path} claims more rows than this machine can hold; convert its source again") from None
    position = list(fields["type_id"]).index(IMAGE_TYPE)
    image, label_N = metadata[f"f{position}"], _labels(fields, metadata)
    data_start = HEADER.itemsize + fields.nbytes + metadata.nbytes
    try:
        size_N = _check_samples(image, table, header, data_start)
    except InvalidBeton as error:
        raise InvalidBeton(f"{path} {error}; convert its source again") from None
    digest = hashlib.sha256(header.tobytes() + fields.tobytes() + metadata.tobytes() + table.tobytes())
    return Beton(
        path=path,
        page_size=int(header["page_size"]),
        mode_N=np.ascontiguousarray(image["mode"]),
        height_N=image["height"].astype(np.int32),
        width_N=image["width"].astype(np.int32),
        offset_N=image["data_ptr"].astype(np.int64),
        size_N=size_N,
        label_N=label_N,
        fingerprint=digest.hexdigest(),
    )


def _read_header(file, length: int) -> np.ndarray:
    data = file.read(HEADER.itemsize)
    if len(data) < HEADER.itemsize:
        raise InvalidBeton(f"is no .beton: {length} bytes, less than a header")
    header = np.frombuffer(data, HEADER)[0]
    page_size, table = int(header["page_size"]), int(header["alloc_table_ptr"])
    if header["version"] != VERSION:
        raise InvalidBeton(f"is no .beton of version {VERSION}: its first bytes say version {header['version']}")
    if not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE or page_size & (page_size - 1):
        raise InvalidBeton(f"has a page size of {page_size}, not a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE}")
    if not 1 <= header["num_fields"] <= MAX_FIELDS:
        raise InvalidBeton(f"names {header['num_fields']} fields, outside 1 to {MAX_FIELDS}")
    if table == 0:
        raise InvalidBeton("is unfinished: its conversion was interrupted (no allocation table)")
    if table > length or (length - table) % ALLOCATION.itemsize:
        raise InvalidBeton(f"is truncated or has grown: {length} bytes do not fit an allocation table at {table}")
    if header["num_samples"] < 1:
        raise InvalidBeton("holds no sample")
    return header


def _read_fields(file, count: int) -> np.ndarray:
    data = file.read(count * FIELD.itemsize)
    if len(data) != count * FIELD.itemsize:
        raise InvalidBeton("is truncated inside its field descriptors")
    return np.frombuffer(data, FIELD)


def _row_type(fields: np.ndarray) -> np.dtype:
    unknown = [int(kind) for kind in fields["type_id"] if int(kind) not in FIELD_TYPES]
    if unknown:
        raise InvalidBeton(f"has a field of unknown type {unknown[0]}")
    if IMAGE_TYPE not in fields["type_id"]:
        raise InvalidBeton("has no image field")
    return np.dtype([("", FIELD_TYPES[int(kind)]) for kind in fields["type_id"]], align=True)


def _read_metadata(file, header: np.ndarray, row_type: np.dtype, length: int) -> np.ndarray:
    count, start, table = int(header["num_samples"]), file.tell(), int(header["alloc_table_ptr"])
    if start + count * row_type.itemsize > table:
        raise InvalidBeton(f"claims {count} samples, more than fit before its allocation table")
    entries = (length - table) // ALLOCATION.itemsize
    if not count <= entries <= count * int(header["num_fields"]):  # or a hole of gigabytes would be read
        raise InvalidBeton(f"is damaged: its allocation table has {entries} entries for {count} samples")
    size = row_type.itemsize
    if not any(os.pread(file.fileno(), size, start + (count - 1) * size)):
        raise InvalidBeton(f"is damaged: the last of its {count} rows is empty")
    return np.frombuffer(file.read(count * size), row_type)


def _labels(fields: np.ndarray, metadata: np.ndarray) -> np.ndarray:
    for position, field in enumerate(fields):
        if field["type_id"] == INT_TYPE and field["name"] == b"label":
            return metadata[f"f{position}"].astype(np.int64)
    return np.full(len(metadata), -1, np.int64)


def _check_samples(image: np.ndarray, table: np.ndarray, header: np.ndarray, data_start: int) -> np.ndarray:
    """Sizes in bytes of the images, after every pointer and size has been checked against the file's own bounds."""
    pointer_N, table_start = image["data_ptr"], header["alloc_table_ptr"]
    page_shift = np.uint64(int(header["page_size"]).bit_length() - 1)
    size_N = _sizes(pointer_N, table)
    end_N = pointer_N + size_N
    raw_size_N = image["height"].astype(np.uint64) * image["width"] * np.uint64(3)
    faults = {
        "an image outside its data pages": (pointer_N < data_start) | (end_N > table_start) | (end_N < pointer_N),
        f"an image of more than {MAX_PIXELS} pixels": image["height"].astype(np.int64) * image["width"] > MAX_PIXELS,
        "an empty image": (size_N == 0) | (image["width"] == 0) | (image["height"] == 0),
        "an image that crosses a page": pointer_N >> page_shift != (end_N - np.uint64(1)) >> page_shift,
        "an image of unknown mode": image["mode"] > RAW,
        "a raw image of the wrong size": (image["mode"] == RAW) & (size_N != raw_size_N),
    }
    for fault, bad_N in faults.items():
        if bad_N.any():
            raise InvalidBeton(f"is damaged: row {int(np.argmax(bad_N))} is {fault}")
    return size_N.astype(np.int64)


def _sizes(pointer_N: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint64 [N]: what the allocation table says of each row's image, found by (row, pointer).

    Several rows may share one pointer, each with an entry of its own; a row may have entries for other fields.
    """
    row_N = np.arange(len(pointer_N), dtype=np.uint64)
    if len(table) == len(pointer_N) and (table["sample_id"] == row_N).all() and (table["ptr"] == pointer_N).all():
        return table["size"].copy()  # one entry a row in row order: our own files, and a tenth of the time
    table = table[np.argsort(table["sample_id"], kind="stable")]
    first_N = np.searchsorted(table["sample_id"], row_N)
    last_N = np.searchsorted(table["sample_id"], row_N, side="right")
    size_N, found_N = np.zeros(len(pointer_N), np.uint64), np.zeros(len(pointer_N), bool)
    for turn in range(min(MAX_FIELDS, int((last_N - first_N).max(initial=0)))):
        at_N = np.minimum(first_N + turn, len(table) - 1)
        hit_N = (first_N + turn < last_N) & (table["ptr"][at_N] == pointer_N)
        size_N[hit_N], found_N = table["size"][at_N[hit_N]], found_N | hit_N
    if not found_N.all():
        row = int(np.argmin(found_N))
        raise InvalidBeton(f"is damaged: row {row} is an image that its allocation table does not list under that row")
    return size_N

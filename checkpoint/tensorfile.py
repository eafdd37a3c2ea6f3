"""One safetensors file: written straight from the tensors' memory, read into one block of memory that its tensors view.

safetensors' own `save` and `load` copy everything while they hold the interpreter's lock: with a bank of 656 MB (1,281,167 x
128 float32) another thread of the process stood still for .66 s and 1.7 s. Here the lock is free while bytes are hashed,
read and written. The bytes are those that `save` makes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..files.opening import Unusable, descriptor_to_make, descriptor_to_read

CHUNK = 8 << 20  # bytes hashed or written in one call: a thread waits up to 5 ms for the lock after each, so not smaller
HEADER_LIMIT = 100_000_000  # bytes, of the format itself
# in the order in which safetensors sorts a file, so that every tensor is aligned
DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


class Fault(ValueError):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


class Entry(NamedTuple):
    """What a manifest says of a file: bytes, and their sha256 in hexadecimal."""

    size: int
    sha256: str


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file of `tensors`."""
    return len(_header(tensors)[0]) + sum(_bytes(tensor) for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Entry:
    """Write a new file at `path`, synced, from tensors on any device; raises ValueError for a type that the format lacks."""
    header, names = _header(tensors)
    return write_bytes(path, _pieces([header], (tensors[name] for name in names)))


def write_bytes(path: Path, pieces: Iterable[memoryview]) -> Entry:
    """Write a new file at `path`, synced, hashed on the way; its mode honours the umask."""
    digest, size = hashlib.sha256(), 0
    descriptor = descriptor_to_make(path)
    try:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        os.fsync(descriptor)
        # what is read back afterwards comes from the disk, and images keep their place in the page cache
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return Entry(size, digest.hexdigest())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _header(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    """The first bytes of the file, and the names of its tensors in order."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided or name == "__metadata__":
            raise ValueError(
                f"{name} is {tensor.layout} {tensor.dtype}: safetensors holds dense ones of {', '.join(DTYPES)}"
            )
    names = sorted(tensors, key=lambda name: (_RANKS[tensors[name].dtype], name))
    begin, entries = 0, {}
    for name in names:
        tensor, end = tensors[name], begin + _bytes(tensors[name])
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def _pieces(first: list[bytes], tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """Bytes of up to CHUNK at a time: large tensors in place, small ones gathered."""
    gathered = bytearray().join(first)
    for tensor in tensors:
        plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        whole = plain.reshape(-1).view(torch.uint8).numpy().data
        if len(whole) < CHUNK // 64:
            gathered += whole
            if len(gathered) < CHUNK // 8:
                continue
            whole = memoryview(b"")
        if gathered:
            yield memoryview(gathered)
            gathered = bytearray()
        for begin in range(0, len(whole), CHUNK):
            yield whole[begin : begin + CHUNK]
    if gathered:
        yield memoryview(gathered)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Yield descriptor and size. Raises Fault for what is no plain file: a pipe would be waited for for ever."""
    if path.is_symlink():
        raise Fault("is a link: a checkpoint's files are its own")
    try:
        descriptor = descriptor_to_read(path, follow=False)
    except Unusable:
        raise Fault("is no plain file") from None
    try:
        yield descriptor, os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """A whole small file; raises Fault where it has more than `limit` bytes."""
    with _opened(path) as (descriptor, size):
        if size > limit:
            raise Fault(f"has {size:,} bytes, more than {limit:,}")
        block = bytearray(size)
        _fill_(memoryview(block), descriptor, hashlib.sha256())
        return bytes(block)


def check(path: Path, expected: Entry) -> None:
    """Raise Fault unless the file at `path` is what its manifest says."""
    scratch = memoryview(bytearray(CHUNK))
    with _opened(path) as (descriptor, size):
        _check_size(size, expected)
        digest = hashlib.sha256()
        for begin in range(0, size, CHUNK):
            _fill_(scratch[: min(CHUNK, size - begin)], descriptor, digest)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        _check_digest(digest.hexdigest(), expected)


def read_tensors(path: Path, expected: Entry) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, views of one block; raises Fault unless it is what its manifest says."""
    with _opened(path) as (descriptor, size):
        _check_size(size, expected)
        block, digest = torch.empty(size, dtype=torch.uint8), hashlib.sha256()
        whole = block.numpy().data
        for begin in range(0, size, CHUNK):
            _fill_(whole[begin : begin + CHUNK], descriptor, digest)
        _check_digest(digest.hexdigest(), expected)
    return _views(block)


def _check_size(size: int, expected: Entry) -> None:
    if size != expected.size:
        raise Fault(f"is damaged: it has {size:,} bytes, not the {expected.size:,} of the manifest")


def _check_digest(sha256: str, expected: Entry) -> None:
    if sha256 != expected.sha256:
        raise Fault("is damaged: its sha256 is not the manifest's")


def _fill_(block: memoryview, descriptor: int, digest: Any) -> None:
    left = block
    while left:
        count = os.readv(descriptor, [left])
        if not count:
            raise Fault("became shorter while it was read")
        left = left[count:]
    digest.update(block)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Fault("is no safetensors file: a key stands there twice")
    return found


def _views(block: Tensor) -> dict[str, Tensor]:
    """The tensors in a file's bytes; raises Fault unless they lie there end to end, as the format demands."""
    length = int.from_bytes(block[:8].numpy().tobytes(), "little")
    if len(block) < 8 or length > min(HEADER_LIMIT, len(block) - 8):
        raise Fault("is no safetensors file: its header is longer than itself")
    entries = json.loads(block[8 : 8 + length].numpy().tobytes().decode(), object_pairs_hook=_unique)
    entries.pop("__metadata__", None)
    data, place, tensors = block[8 + length :], 0, {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise Fault(f"is no safetensors file: {name} is {shape} at {begin} to {end}")
        size = dtype.itemsize
        for side in shape:
            size *= side
        if begin != place or end != begin + size or end > len(data):
            raise Fault(f"is no safetensors file: {name} does not lie where it must")
        piece = data[begin:end]
        if piece.storage_offset() % dtype.itemsize:  # of a writer that does not align
            piece = piece.clone()
        tensors[name] = piece.view(dtype).reshape(shape)
        place = end
    if place != len(data):
        raise Fault("is no safetensors file: it holds more than its tensors")
    return tensors

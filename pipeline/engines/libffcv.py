"""FFCV's compiled library, found and loaded by path, without `import ffcv`.

Importing ffcv takes 5 to 9 s, sets torch's thread count for the whole process, and its ctypes functions keep numba from
caching. The library itself needs none of that: it is C over libjpeg-turbo, whose functions are found through it.
"""

import ctypes
import importlib.util
import threading
from functools import cache
from pathlib import Path
from typing import NamedTuple

TJPF_RGB, TJFLAG_ACCURATEDCT = 0, 4096  # turbojpeg.h
_scratch = threading.local()


class EngineUnavailable(ValueError):
    """An engine that cannot work on this machine; the message says why and which command mends it."""


INSTALL = "apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++ python3-dev && pip install ffcv"


@cache
def library() -> ctypes.CDLL:
    """FFCV's library, loaded; raises EngineUnavailable where it is missing or does not load."""
    spec = importlib.util.find_spec("ffcv")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    found = sorted(path for folder in folders for path in Path(folder).glob("_libffcv*.so"))
    if not found:
        raise EngineUnavailable(f"FFCV is not installed: {INSTALL}")
    try:
        loaded = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise EngineUnavailable(f"FFCV's library does not load ({error}): {INSTALL}") from error
    # Of libjpeg-turbo, which FFCV's library is linked to: found through it.
    loaded.tjInitDecompress.restype = ctypes.c_void_p
    loaded.tjDecompressHeader3.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, *[ctypes.c_void_p] * 4]
    number = ctypes.c_int
    loaded.tjDecompress2.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[number] * 5]
    loaded.tjDecompress2.restype = number
    loaded.tjDestroy.argtypes = [ctypes.c_void_p]
    loaded.tjDecompressHeader3.restype = ctypes.c_int
    return loaded


def decodes(data: bytes, *, height: int, width: int, eighths: int = 8) -> bool:
    """Whether libjpeg-turbo decodes the whole JPEG stream `data`, as the engine asks it to, without an error or warning.

    With a decoder of its own each time (1 us): FFCV keeps one, in which a stream that lacks its tables finds those of the
    image before, so that whether it can be read would depend on its neighbours.

    `eighths` is the scale. At 1 every coefficient of the stream is still read, which is where damage shows, but only their
    means become pixels: the same verdict for 0.65 to 0.73 of the time (tests/test_fuzz.py compares them on mutants).
    """
    height, width = -(-height * eighths // 8), -(-width * eighths // 8)
    pixels = getattr(_scratch, "pixels", None)
    if pixels is None or len(pixels) < height * width * 3:  # kept: fresh memory takes a tenth of a photograph's time
        pixels = _scratch.pixels = ctypes.create_string_buffer(height * width * 3)
    loaded = library()
    handle = loaded.tjInitDecompress()
    try:
        return loaded.tjDecompress2(handle, data, len(data), pixels, width, 0, height, TJPF_RGB, TJFLAG_ACCURATEDCT) == 0
    finally:
        loaded.tjDestroy(handle)


class Frame(NamedTuple):
    """What a JPEG stream says of itself."""

    width: int
    height: int
    cmyk: bool


def jpeg_frame(data: bytes) -> Frame | None:
    """What the header of the JPEG stream `data` says; None where it cannot be read, or this library is not here."""
    try:
        loaded = library()
    except EngineUnavailable:
        return None
    handle = loaded.tjInitDecompress()  # a new one each time, 1 us: a failed header leaves one that fails ever after
    width, height, sampling, colours = (ctypes.c_int() for _ in range(4))
    places = [ctypes.byref(value) for value in (width, height, sampling, colours)]
    try:
        readable = loaded.tjDecompressHeader3(handle, data, len(data), *places) == 0
    finally:
        loaded.tjDestroy(handle)
    return Frame(width.value, height.value, colours.value in (3, 4)) if readable else None  # 3, 4: TJCS_CMYK, TJCS_YCCK

"""FFCV's compiled library, found and loaded by path, without `import ffcv`.

Importing ffcv takes 5 to 9 s, sets torch's thread count for the whole process, and its ctypes functions keep numba from
caching. The library itself needs none of that: it exports a C `imdecode` over libjpeg-turbo.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path


class EngineUnavailable(RuntimeError):
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
    size, count, flag = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_bool
    loaded.imdecode.argtypes = [ctypes.c_char_p, count, size, size, ctypes.c_void_p, *[size] * 6, flag, flag]
    loaded.imdecode.restype = ctypes.c_int
    return loaded


def decodes(data: bytes, *, height: int, width: int) -> bool:
    """Whether FFCV's decoder reads the whole JPEG stream `data` without an error or a warning."""
    pixels = ctypes.create_string_buffer(height * width * 3)
    return library().imdecode(data, len(data), height, width, pixels, height, width, 0, 0, 1, 1, False, False) == 0

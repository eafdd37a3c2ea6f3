"""`@compiled`: numba's njit without the interpreter lock, cached on disk.

numba keys its cache by the file of a function alone, so one that calls another from a changed file would keep its old copy.
Here the cache lies in a folder named after all sources of this room.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

from .manifest import cache_folder

FAST = {"contract", "reassoc", "nsz"}  # sums in any order; infinities and NaN as they are


def _digest() -> str:
    """Of the names, sizes and times of the sources."""
    facts = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(Path(__file__).parent.glob("*.py"))
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


_place = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "compiled")
setattr(config, "CACHE_DIR", str(_place / _digest()))  # noqa: B010


def compiled(*, fastmath: set[str] | bool = False, inline: bool = False) -> Callable[[Any], Any]:
    """Decorate a function that is called with arrays and numbers only."""
    return numba.njit(nogil=True, cache=True, fastmath=fastmath, inline="always" if inline else "never")

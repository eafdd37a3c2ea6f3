"""`@compiled`: numba's njit without the interpreter lock, kept on the disk from one start to the next.

numba keys its cache by the file of a function alone, so one that calls another from a changed file would keep its old copy.
Here what was compiled lies in a folder named after the contents of all sources of this room, and after what compiled it.

What is kept are pickles, which run what they say, and machine code, of which one wrong bit crashes the process. So nothing
is loaded on a doubt, it is compiled anew:

- each file begins with the sha256 of its name and contents. That tells damage: a full disk, a kill, a failing disk, a file
  of another program. Files appear whole, by a rename, so processes may compile side by side.
- the folder belongs to this user and nobody else may write there (0700, no link), and it is reached by the descriptor that
  was looked at. That tells people: who can write as this user could write a right sum as well, but needs no cache for it.
"""

import hashlib
import os
import pickle  # noqa: TID251 (our own files alone, once they are found to be: see above)
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from ..console import say
from .beton.manifest import cache_folder

FAST = {"contract", "reassoc", "nsz"}  # sums in any order; infinities and NaN as they are
MAGIC = b"viewmill compiled 1\n"
MOST = 64 << 20  # bytes of a file: of the 20 to 300 kB that ours have, far more than any needs
VERSIONS = 8  # folders of sources that stay, the last ones used: 1 to 3 MB each
STALE_S = 3600.0  # an unfinished file of that age is nobody's any more
FOLDER = re.compile("[0-9a-f]{16}")


def compiled(*, fastmath: set[str] | bool = False, inline: bool = False) -> Callable[[Any], Any]:
    """Decorate a function that is called with arrays and numbers only."""

    def made(function: Any) -> Any:
        dispatcher = numba.njit(nogil=True, fastmath=fastmath, inline="always" if inline else "never")(function)
        if hasattr(dispatcher, "_cache"):  # else NUMBA_DISABLE_JIT is set
            setattr(dispatcher, "_cache", Kept(function))  # noqa: B010
        return dispatcher

    return made


class Kept(FunctionCache):
    """What a function was compiled to, one file for each kind of arguments; in numba's eyes its cache."""

    def __init__(self, py_func: Any) -> None:
        self._name, self._py_func = repr(py_func), py_func
        self.enable()

    @property
    def cache_path(self) -> str:
        """Where it is kept, for numba's own listings."""
        return str(place())

    def flush(self) -> None:
        """Nothing is dropped: what is out of date has another name."""

    def _load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        if not self._enabled:
            return None
        key = self._index_key(sig, target_context.codegen())
        held = read(self._file(key)) if folder() is not None else None
        if held is not None:
            with suppress(Exception):  # of another numba, say; it is ours and whole, so it is compiled anew and replaced
                found, parts = pickle.loads(held)
                if found == key:
                    return CompileResult._rebuild(target_context, *parts)
        _announce()
        return None

    def _save_overload(self, sig: Any, data: CompileResult) -> None:
        if not self._enabled or folder() is None or data.lifted or data.library.has_dynamic_globals:
            return
        key = self._index_key(sig, data.codegen)
        write(self._file(key), dumps((key, data._reduce())))

    def _file(self, key: Any) -> str:
        code = self._py_func.__code__
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
        return f"{self._py_func.__module__.rpartition('.')[2]}.{code.co_name}-{code.co_firstlineno}.{digest}.nbc"


def read(name: str) -> bytes | None:
    """The contents of a file of the folder; None unless they are what was written there."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder())
    except OSError:
        return None
    with suppress(OSError), os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and status.st_size <= MOST:
            head, content = file.read(len(MAGIC) + 32), file.read(MOST)
            return content if head == MAGIC + _sum(name, content) else None
    return None


def write(name: str, content: bytes) -> None:
    """Keep `content` in a file of the folder, whole or not at all; a disk that takes none is said once."""
    into, unfinished = folder(), f".{name}.{os.getpid()}"
    try:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=into)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(unfinished, flags, 0o600, dir_fd=into), "wb") as file:
                file.write(MAGIC + _sum(name, content) + content)
            os.replace(unfinished, name, src_dir_fd=into, dst_dir_fd=into)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=into)
            raise
    except OSError as error:
        _say_once(f"what was compiled cannot be kept in {place()} ({error.strerror}): each start compiles anew")
    else:
        _tidy()


def _sum(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


@cache
def place() -> Path:
    """The folder of this version of the sources: below the user's cache, or NUMBA_CACHE_DIR, which others may share."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    above = Path(given, f"viewmill-{os.getuid()}") if given else cache_folder() / "compiled"
    return above / _digest()


@cache
def _digest() -> str:
    """Of the sources, and of what compiles them."""
    found = hashlib.sha256(
        repr((platform.python_version(), numba.__version__, llvmlite.__version__, np.__version__)).encode()
    )
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(here)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


@cache
def folder() -> int | None:
    """An open descriptor of the folder, made where it is missing; None, which is said, where it is not this user's alone."""
    above, here = place().parent, place()
    try:
        above.parent.mkdir(parents=True, exist_ok=True)
        for path in (above, here):
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
        fault = _shared(above.parent, os.stat(above.parent)) or _foreign(above, os.lstat(above))
        if not fault:
            descriptor = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if not (fault := _foreign(here, os.fstat(descriptor))):
                os.fchmod(descriptor, 0o700)
                os.utime(descriptor)
                return descriptor
            os.close(descriptor)
    except OSError as error:
        fault = f"{error.filename or here} cannot be used ({error.strerror})"
    _say_once(f"{fault}: nothing compiled is taken from there or kept, so each start compiles anew")
    return None


def _shared(path: Path, status: os.stat_result) -> str:
    """What is wrong with a folder in which ours stands: anybody could put another in our folder's place; "" if nothing."""
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return f"everybody may write to {path} (chmod o-w mends it)"
    return ""


def _foreign(path: Path, status: os.stat_result) -> str:
    """Why `path` is no folder of this user alone; "" where it is one."""
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is a link or no folder (remove it)"
    if status.st_uid != os.getuid():
        return f"{path} belongs to another user (name another with NUMBA_CACHE_DIR)"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to {path} (remove it)"
    return ""


@cache
def _announce() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        kept = "" if folder() is None else f"; kept in {place()}"
        say(f"compiling the loops that make views: 10 to 20 s of one core, the first time{kept}")


@cache
def _say_once(text: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        say(text)


@cache
def _tidy() -> None:
    """Once a process that has compiled: remove the folders of versions that were not used of late, and unfinished files."""
    with suppress(OSError):
        found = [path for path in place().parent.iterdir() if FOLDER.fullmatch(path.name) and not path.is_symlink()]
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[VERSIONS:]:
            shutil.rmtree(path, ignore_errors=True)
        for path in place().glob(".*.nbc.*"):
            if time.time() - path.lstat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)

"""The one way to open files: regular ones, bounded where they are read whole, never through a link where they are written.

`tests/files/test_opening.py` reads the sources and finds no other.

A pipe or a device that stands in a file's place would be waited for for ever, or fill the memory; a link in a run's folder
would have another file written. What is read may be reached through links: people keep data and checkpoints that way.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

SMALL = 64 << 20  # bytes: settings, manifests, tables of recipes and studies; far more than any of them has
LARGE = 16 << 30  # of what grows with a data set or a run, and is held in memory by whoever reads it
READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
KINDS = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
    stat.S_IFLNK: "is a link",
}


AnyPath = TypeVar("AnyPath", str, Path)


class Unusable(OSError):
    """A file that is not opened: its name, and in words what it is instead of a regular file, or what is too much of it."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(errno.EINVAL, why, os.fspath(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def descriptor_to_read(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """An open descriptor of the regular file `path`; raises Unusable for a pipe, a device or a folder, OSError otherwise.

    Without `follow` it raises Unusable for a link too.
    """
    try:
        descriptor = os.open(path, READING | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise Unusable(path, "is a socket, not a regular file") from None
        if error.errno == errno.ELOOP and not follow:
            raise Unusable(path, "is a link, not a regular file") from None
        raise
    try:
        _check_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_to_read(path: str | os.PathLike[str]) -> BinaryIO:
    """The regular file `path`, buffered; raises as `descriptor_to_read`."""
    return os.fdopen(descriptor_to_read(path), "rb")


def open_text(
    path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", errors: str = "strict", newline: str | None = None
) -> TextIO:
    """The same as text, to be read a line at a time (`newline` as of `open`: "" for csv)."""
    return io.TextIOWrapper(open_to_read(path), encoding=encoding, errors=errors, newline=newline)


def regular(path: AnyPath) -> AnyPath:
    """`path` itself, for a library that opens it on its own; raises as `descriptor_to_read`."""
    os.close(descriptor_to_read(path))
    return path


def read_bytes(path: str | os.PathLike[str], *, limit: int = SMALL) -> bytes:
    """All of the regular file `path`; raises Unusable where it has more than `limit` bytes or is no regular file."""
    with open_to_read(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unusable(path, f"has more than {limit:,} bytes, which is more than such a file ever has")
    return content


def read_text(
    path: str | os.PathLike[str], *, limit: int = SMALL, encoding: str = "utf-8-sig", errors: str = "strict"
) -> str:
    """The same as text: a byte order mark is left out, the ends of lines become "\\n". Raises UnicodeDecodeError too."""
    text = read_bytes(path, limit=limit).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def descriptor_to_change(path: str | os.PathLike[str], flags: int, *, mode: int = 0o666) -> int:
    """An open descriptor of a file of our own that is changed in place (a log, a lock), made where it is missing.

    `flags` say how: os.O_WRONLY | os.O_APPEND, say, but not os.O_TRUNC: cut it once it is known to be ours. Raises Unusable
    where a link stands there, symbolic or hard (what it names is somebody else's), or anything but a regular file; OSError
    otherwise.
    """
    assert not flags & os.O_TRUNC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) or os.path.islink(path):
            raise Unusable(path, "is a link, and what it names would be written: remove it") from None
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise Unusable(path, f"{_kind_of(path)}, not a regular file: remove it") from None
        raise
    try:
        _check_regular(descriptor, path)
        if os.fstat(descriptor).st_nlink > 1:
            raise Unusable(path, "is a hard link, and what else it names would be written: replace it by a copy of itself")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def descriptor_to_make(path: str | os.PathLike[str], *, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """An open descriptor of a new file; raises FileExistsError where anything stands there, be it a link."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def open_to_make(path: str | os.PathLike[str]) -> BinaryIO:
    """A new and empty file of our own in the place of `path`: what stood there, or a link, is removed and never followed."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    return os.fdopen(descriptor_to_make(path), "wb")


def make_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """The same with `content` in it."""
    with open_to_make(path) as file:
        file.write(content)


def make_text(path: str | os.PathLike[str], *, errors: str = "strict", newline: str | None = None) -> TextIO:
    """The same for text."""
    return io.TextIOWrapper(open_to_make(path), encoding="utf-8", errors=errors, newline=newline)


def partial(target: Path) -> Path:
    """The name under which `target` is written until it is whole."""
    return target.with_name(target.name + ".partial")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a path beside `target`: what is written there takes its place as the block ends; if it fails it is removed.

    The path is a new and empty file; what a killed process left there, or a link, is removed first and never followed. Where
    `target` is a link it is the link that is replaced. Its bytes are on the disk before it has its name.
    """
    unfinished = partial(target)
    open_to_make(unfinished).close()
    try:
        yield unfinished
        descriptor = descriptor_to_read(unfinished, follow=False)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(unfinished, target)
        settle_name(target)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def settle_name(path: Path) -> None:
    """Let the name that `path` has just got survive a power cut, on file systems that know how."""
    with suppress(OSError):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; file systems that sync no folders are taken as they are."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def folder_to_hold(path: Path) -> int:
    """An open descriptor of the folder `path`, to be locked; raises Unusable for a link, or for what is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unusable(path, f"{_kind_of(path)}, not a folder of our own: remove it") from None
        raise


OF_A_RUN = ("config.json", "log.jsonl", "exit.json", ".lock", "evaluation.jsonl", "results.json")


def check_output(path: Path | None, *, overwrite: bool, endings: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless a person's output may be written to `path`.

    Nothing that stands there is replaced without `overwrite`, a link and a run's own file not even so; with `endings` its
    name must end in one of them. None is no output.
    """
    if path is None:
        return
    if endings and not path.name.lower().endswith(endings):
        raise ValueError(f"{path} must end in {' or '.join(endings)}: that is what is written")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written, since {path.parent} is no folder: make it first, or name another")
    if of_a_run(path):
        raise ValueError(f"{path} is a run's own file and is never replaced: name another file")
    if path.is_symlink():
        raise ValueError(f"{path} is a link: name the file itself, or another")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} {_kind_of(path)}, not a regular file: name another")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: add --overwrite to replace it, or name another file")


def of_a_run(path: Path) -> bool:
    """Whether `path` is the place of a file that a run keeps: beside its config.json, or below its checkpoints."""
    place = Path(os.path.realpath(path.parent)) / path.name
    if (place.parent / "config.json").is_file() and (place.name in OF_A_RUN or place.name == "checkpoints"):
        return True
    return any(
        parent.name in ("checkpoints", "track") and (parent.parent / "config.json").is_file() for parent in place.parents
    )


def _check_regular(descriptor: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        raise Unusable(path, f"{KINDS.get(stat.S_IFMT(mode), 'is something else')}, not a regular file")


def _kind_of(path: str | os.PathLike[str]) -> str:
    try:
        return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "is something else")
    except OSError:
        return "is something else"

"""The place where a .beton will stand: whether it may, and that nothing unfinished is left where it does not come to be."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...files.opening import of_a_run, partial
from ...files.typed import read_json
from ..beton.manifest import Manifest, sidecars
from ..beton.reader import open_beton

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise ValueError or FileExistsError where `target` may not be written."""
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name the file to write")
    if of_a_run(target):
        raise ValueError(f"{target} is a run's own file and is never replaced: name another file")
    if target.is_symlink():
        raise ValueError(f"{target} is a link: name the file itself, or another")
    if target.exists() and not overwrite and not _unfinished(target):
        raise FileExistsError(f"{target} exists: add --overwrite to replace it, or choose another name")


def _unfinished(target: Path) -> bool:
    """Whether a conversion was killed after `target` had its name and before its sidecars had theirs."""
    if sidecars(target)["manifest"].exists():
        return False
    try:
        manifest = read_json(partial(sidecars(target)["manifest"]), Manifest)
        return manifest.fingerprint == open_beton(target).fingerprint
    except (OSError, ValueError):
        return False


@contextmanager
def placing(target: Path) -> Iterator[None]:
    """Around a writing of `target`: makes its folder; where the writing fails, removes that and unfinished sidecars.

    Errors of the disk come out as OSErrors that name the target and the remedy.
    """
    missing = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        if not isinstance(error, BlockingIOError):  # else they are those of the conversion that holds the lock
            with suppress(OSError):
                remove_partials(target)
        for folder in missing:
            with suppress(OSError):  # never made, or somebody else's file stands in it
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in FULL:
            left = "what was there is left as it was" if target.exists() else "nothing is left behind"
            raise OSError(f"no room for {target} ({error.strerror}): {left}; make room and start again") from error
        if isinstance(error, OSError) and error.errno in CLOSED and _about(error, target):
            raise OSError(f"{target} cannot be written ({error.strerror}): choose another place") from error
        raise


def _about(error: OSError, target: Path) -> bool:
    """Whether an error tells of the target, of a folder above it or of a file beside it."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    named = Path(os.path.abspath(error.filename))
    return named in target.absolute().parents or named.name.startswith(target.name)


def remove_partials(target: Path) -> None:
    """Remove sidecars that were never finished."""
    for path in sidecars(target).values():
        partial(path).unlink(missing_ok=True)

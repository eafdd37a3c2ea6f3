"""Which checkpoints of a folder count, which stay, and what becomes of the rest.

step-00001234              a checkpoint
.old-step-00001234         one that another of the same step is replacing at this moment; still counts
.tmp-*                     being written or removed; swept by the next write
step-00001234.passed-over  was newer than one written later: it had not verified; or it was written when the network no
                           longer gave a finite loss, of which the run then ended; for a person to judge

What cannot be removed is no reason to stop: it is returned as a remark, in words.
"""

import os
import re
import shutil
from pathlib import Path

_STEP = re.compile(r"(\.old-)?step-([0-9]+)")


def steps(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first; none where it is not there. Raises OSError where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            found = [folder / entry.name for entry in entries if _STEP.fullmatch(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: (step_of(path), path.name))


def step_of(path: Path) -> int | None:
    """The step that a folder's name says; None where it is no checkpoint's."""
    matched = _STEP.fullmatch(path.name)
    return matched and int(matched[2])


def name(temporary: Path, final: Path) -> None:
    """Give a complete checkpoint its name; one that has it already counts under another until then."""
    if os.path.lexists(final):
        final.with_name("latest").unlink(missing_ok=True)  # it never names what is not there, not even between two renames
        os.rename(final, final.with_name(f".old-{final.name}"))
    os.rename(temporary, final)


def sweep(folder: Path) -> list[str]:
    """Remove what a writer that was killed, or failed, left, and put back what it had not replaced yet."""
    remarks = []
    for path in sorted(folder.iterdir()):
        final = path.with_name(path.name.removeprefix(".old-"))
        if path.name.startswith(".tmp-") or (final != path and os.path.lexists(final)):
            remarks += _remove(path)
        elif final != path and step_of(final) is not None:
            remarks += _rename(path, final)
    return remarks


def put_aside(folder: Path, step: int, why: str = "had been passed over") -> list[str]:
    """Take from the count what is newer than `step`: the run has fallen back behind it.

    It is renamed and not removed: why it did not verify is not known here, and a disk that was away for a moment is no
    reason to delete. Left as it is, every start would try it first, and once it is older it would pass for one to keep.
    """
    remarks = []
    for path in steps(folder):
        if (step_of(path) or 0) > step:
            aside = path.with_name(f"{path.name}.passed-over")
            renamed = _remove(aside) or _rename(path, aside)
            text = f"{path} {why} and is now {aside.name}: remove it when you have looked at it"
            remarks += renamed or [text]
    return remarks


def prune(folder: Path, keep: int, keep_every: int, spare: Path | None = None) -> list[str]:
    """Remove all but `spare`, the newest `keep` and, unless `keep_every` is 0, those whose step is a multiple of it."""
    remarks = []
    for path in steps(folder)[:-keep]:
        if path != spare and (not keep_every or (step_of(path) or 0) % keep_every):
            doomed = folder / f".tmp-pruned-{path.name}"  # first, so that no half of it ever bears a checkpoint's name
            remarks += _rename(path, doomed) or _remove(doomed)
    return remarks


def _rename(path: Path, other: Path) -> list[str]:
    try:
        os.rename(path, other)
    except OSError as error:
        return [_stuck(path, error)]
    return []


def _remove(path: Path) -> list[str]:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        return [_stuck(path, error)]
    return []


def _stuck(path: Path, error: OSError) -> str:
    place = f" at {error.filename}" if error.filename not in (None, str(path)) else ""
    return f"{path} cannot be removed ({error.strerror}{place}): remove it by hand"

"""Where an export stands: it appears there whole, after it has been checked, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..checkpoint.tensorfile import write_bytes
from ..files.locking import hold
from ..files.opening import folder_to_hold, of_a_run, open_to_read, settle_name
from ..pipeline.conversion.target import FULL
from .formats import TARGETS

CARD = "README.md"
OWN = {CARD, "model.safetensors", "config.json", "preprocessor_config.json"}  # what a folder of ours holds
MARK = "# written by viewmill export"  # in every card: nothing without one is replaced
PICKLES = {".pth", ".pt", ".bin", ".ckpt", ".pkl"}  # endings of weights that no format of ours writes


def place(out: Path, format: str, suffix: str) -> Path:
    """Where an export to `out` stands: a folder, or a file ending in `suffix`, which is added where there is no ending.

    Raises ValueError for another ending.
    """
    if out.name in ("", ".."):
        raise ValueError(f"{out} is a folder that has a name elsewhere: name what to write")
    out = out.resolve() if out.is_symlink() else out
    ending = out.suffix.lower()
    if format == "encoder" and ending == ".safetensors":
        return out
    if suffix and ending not in endings():
        return out.with_name(out.name + suffix)
    if ending in endings() and ending != suffix:
        kind = f"a {suffix} file" if suffix else "a folder"
        raise ValueError(f"--format {format} writes {kind}, not {out.name}: name it without {out.suffix}")
    return out


def endings() -> set[str]:
    """Of files of weights: what formats write, and what they never do."""
    return PICKLES | {target.suffix for target in TARGETS.values() if target.suffix}


def card_of(out: Path) -> Path:
    """The card's place: in a folder, or beside a file."""
    return out.with_suffix(".md") if is_file(out) else out / CARD


def is_file(out: Path) -> bool:
    """Whether an export that stands at `out` is one file and its card."""
    return out.suffix.lower() in endings()


def check(out: Path, *, overwrite: bool) -> None:
    """Raise ValueError or FileExistsError unless an export may stand at `out`."""
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is no folder: make it first, or choose another OUT")
    if is_file(out) and out.is_dir():
        raise ValueError(f"{out} is a folder and this format writes a file: choose another OUT")
    if not is_file(out) and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file and this format writes a folder: choose another OUT")
    if is_file(out):
        there = [path for path in (out, card_of(out)) if path.exists()]
    else:
        there = [out] if out.is_dir() and any(out.iterdir()) else []
    if of_a_run(out):
        raise ValueError(f"{out} is a run's own file and is never replaced: choose another OUT")
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists: add --overwrite to replace it, or choose another OUT")
    if there:
        _check_own(out)


def _check_own(out: Path) -> None:
    """Raise ValueError where something else than an export would be replaced."""
    others = [] if is_file(out) else sorted(path.name for path in out.iterdir() if path.name not in OWN)
    if others:
        raise ValueError(f"{out} holds other things than an export ({', '.join(others[:3])}): choose another OUT")
    card = card_of(out)
    if card.exists() and MARK not in _beginning(card):
        raise ValueError(f"{card} is no card that viewmill wrote: choose another OUT, or move it away")


def _beginning(card: Path) -> str:
    with open_to_read(card) as file:
        return file.read(4096).decode("utf-8", "replace")


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yields the place where what will be `out` is written and checked; nothing of it is left when the block ends.

    Raises ValueError where another export is building it, and OSError where it cannot be written there.
    """
    partial = out.with_name(f".{out.name}.partial")
    with naming(out):
        with suppress(FileExistsError):
            partial.mkdir()
        descriptor = folder_to_hold(partial)
    try:
        try:
            hold(descriptor, partial)
        except BlockingIOError:
            raise ValueError(f"{out} is being written by another export: wait for it") from None
        with naming(out):
            _empty_(partial)  # of what an export left that was killed
        try:
            yield partial / out.name if is_file(out) else partial
        finally:
            with suppress(OSError):
                shutil.rmtree(partial)
    finally:
        os.close(descriptor)


def _empty_(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def settle(built: Path, out: Path, card: str) -> None:
    """Write the card beside what was built, and give both their names; what stood there before goes last."""
    with naming(out):
        write_bytes(card_of(built) if is_file(out) else built / CARD, [memoryview(card.encode())])
        if is_file(out):
            os.replace(built, out)
            os.replace(card_of(built), card_of(out))
        elif out.is_dir() and any(out.iterdir()):
            old = out.with_name(f".{out.name}.old")
            os.rename(out, old)
            try:
                os.rename(built, out)
            except OSError:
                os.rename(old, out)
                raise
            shutil.rmtree(old)
        else:
            os.rename(built, out)
        settle_name(out)


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """Errors of the disk tell of the export and of the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(f"no room for {out} ({error.strerror}): nothing of it is left behind; make room") from error
        raise OSError(f"{out} cannot be written ({error.strerror or error}): choose another place") from error

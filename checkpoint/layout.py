"""Checkpoints: a folder of safetensors and one manifest, complete or absent, verified before anything live is touched.

RUN/checkpoints/step-00001234/ is written under a temporary name, every file is synced, the manifest (sizes and sha256,
its own too) comes last, all of it is read back, then the folder gets its name in one rename and checkpoints/latest names it.
There is no pickle anywhere: a stranger's checkpoint is data, not code. Files honour the umask, which safetensors' own writer
does not.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..files.opening import sync_folder
from . import retention, tensorfile
from .retention import steps
from .tensorfile import Entry, Fault

FORMAT = 1
MANIFEST_LIMIT = 16 << 20  # bytes: of the tens of kB that a manifest has, far more than any will; it bounds what is read
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


class InvalidCheckpoint(ValueError):
    """A checkpoint that does not verify; the message names the file and the fault."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds, on the CPU: parts such as model, optimiser, bank, each a dict of tensors, and facts."""

    parts: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


class Written(NamedTuple):
    """Where a checkpoint stands, and what a person should know: what could not be removed, and what was put aside."""

    path: Path
    remarks: list[str]


def write(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    *,
    keep: int = 2,
    keep_every: int = 0,
    spare: Path | None = None,
) -> Written:
    """Write `folder`/step-NNNNNNNN; then prune to `spare`, the newest `keep`, and multiples of `keep_every` (0: none).

    One writer per folder. Raises OSError, naming the checkpoint, where it cannot be written or does not read back as it was
    written: then nothing of it is left and older ones are as they were. Raises ValueError for `keep` below 2.
    """
    if keep < 2:
        raise ValueError(f"keep must be at least 2, got {keep}: damage to an only checkpoint would be the end of the run")
    final = folder / f"step-{step:08d}"
    temporary, latest = folder / f".tmp-{final.name}", folder / ".tmp-latest"
    try:
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)  # without its parents: a run's folder that somebody removed is not made anew
            sync_folder(folder.parent)
        remarks = retention.sweep(folder)
        try:
            _fill(temporary, step, parts, facts)
            verify(temporary)
            tensorfile.write_bytes(latest, [memoryview(f"{final.name}\n".encode())])
            retention.name(temporary, final)
        except BaseException:
            with suppress(OSError):
                retention.sweep(folder)
            raise
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        raise OSError(error.errno or errno.EIO, f"{error.strerror or error}{place}", str(final)) from error
    except InvalidCheckpoint as error:
        raise OSError(errno.EIO, f"It does not read back as it was written ({error})", str(final)) from error
    try:
        sync_folder(folder)
        os.replace(latest, folder / "latest")
        sync_folder(folder)
        remarks += retention.sweep(folder)
        remarks += retention.put_aside(folder, step)
        remarks += retention.prune(folder, keep, keep_every, spare)
    except OSError as error:
        remarks.append(f"{final} is written, but its folder cannot be tidied ({error}): look at the disk")
    return Written(final, remarks)


def _fill(temporary: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    temporary.mkdir()
    files = {}
    for part, tensors in parts.items():
        name = f"{part}.safetensors"
        if not _FILE.fullmatch(name):
            raise ValueError(f"{part!r} cannot be a part of a checkpoint: use letters, digits, '-', '_' and '.'")
        files[name] = tensorfile.write_tensors(temporary / name, tensors)._asdict()
    manifest = {"format": FORMAT, "step": step, "files": files, "facts": dict(facts)}
    manifest["sha256"] = _digest(manifest)
    tensorfile.write_bytes(temporary / "manifest.json", [memoryview(_text(manifest))])
    sync_folder(temporary)


def _text(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or hostile file leads to into InvalidCheckpoint with the file's name."""
    try:
        yield
    except Fault as error:
        raise InvalidCheckpoint(f"{path} {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError, OverflowError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def manifest_of(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Files and facts as the manifest of the checkpoint at `path` has them."""
    with _naming(path / "manifest.json"):
        data = tensorfile.read_bytes(path / "manifest.json", limit=MANIFEST_LIMIT)
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise Fault(f"has format {manifest['format']!r}; this version reads {FORMAT}")
        sha256 = manifest.pop("sha256")
        if sha256 != _digest(manifest) or data != _text(manifest | {"sha256": sha256}):
            raise Fault("is damaged: its sha256 is not its own")
        step, files, facts = manifest["step"], manifest["files"], manifest["facts"]
        if not isinstance(facts, dict):
            raise Fault("is damaged: its facts are no object")
        if retention.step_of(path) not in (None, step):
            raise Fault(f"is of step {step}: the folder has been renamed")
        for name in files:
            if not _FILE.fullmatch(name):
                raise Fault(f"names {name!r}, which can be no file of a checkpoint")
        return {name: Entry(entry["size"], entry["sha256"]) for name, entry in files.items()}, facts


def verify(path: Path) -> None:
    """Hash the files of one checkpoint and keep nothing; raises InvalidCheckpoint naming the one that does not verify."""
    for name, entry in manifest_of(path)[0].items():
        with _naming(path / name):
            tensorfile.check(path / name, entry)


def read(path: Path) -> Checkpoint:
    """Verify and load one checkpoint on the CPU; raises InvalidCheckpoint naming the file that does not verify.

    Files that the manifest does not list are never opened.
    """
    files, facts = manifest_of(path)
    parts = {}
    for name, entry in files.items():
        with _naming(path / name):
            parts[name.removesuffix(".safetensors")] = tensorfile.read_tensors(path / name, entry)
    return Checkpoint(parts, facts)


class Found(NamedTuple):
    """The newest checkpoint that verifies, and what did not."""

    path: Path
    checkpoint: Checkpoint
    passed_over: list[str]


def newest(folder: Path) -> Found | None:
    """The newest checkpoint under `folder` that verifies; None where there is none at all.

    Raises InvalidCheckpoint where there are some and none verifies, or where the folder cannot be listed: starting afresh
    there would lose a run silently.
    """
    faults: dict[Path, str] = {}
    while True:
        with _naming(folder):
            paths = steps(folder)
        for path in reversed(paths):
            try:
                return Found(path, read(path), list(faults.values()))
            except InvalidCheckpoint as error:
                if _gone(path):
                    break  # pruned by the run that writes here: it has left newer ones
                faults[path] = str(error)
        else:
            break
    if faults:
        raise InvalidCheckpoint(f"no checkpoint under {folder} verifies; the newest: {next(iter(faults.values()))}")
    return None


def _gone(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's per-parameter state as flat tensors, keyed "parameter.name"; its settings are the configuration's."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
        if value is not None
    }


@torch.no_grad()
def load_optimiser_(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimiser_tensors` back, into the state that is there; raises InvalidCheckpoint where they belong to another.

    In place, for the layout: torch's fused kernels take moments to lie in memory as their parameters do, and do not look.
    """
    live = optimiser_tensors(optimiser)
    if live.keys() != tensors.keys():
        raise InvalidCheckpoint(f"the optimiser's {min(live.keys() ^ tensors.keys())} does not fit this model")
    for key, tensor in live.items():
        if tensor.shape != tensors[key].shape:
            raise InvalidCheckpoint(f"the optimiser's {key} does not fit this model")
    for key, tensor in live.items():
        tensor.copy_(tensors[key])

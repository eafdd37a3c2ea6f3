"""Checkpoints: a folder of safetensors and one manifest, complete or absent, verified before anything live is touched.

RUN/checkpoints/step-00001234/ is written under a temporary name, every file is synced, the manifest (sizes and sha256,
its own too) comes last, then the folder gets its name in one rename and RUN/checkpoints/latest points to it. There is no
pickle anywhere: a stranger's checkpoint is data, not code. Files honour the umask, which safetensors' own writer does not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1


class InvalidCheckpoint(ValueError):
    """A checkpoint that does not verify; the message names the file and the fault."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds, on the CPU: parts such as model, optimiser, bank, each a dict of tensors, and facts."""

    parts: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def write(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write `folder`/step-NNNNNNNN and prune to the newest `keep`; returns its path. One writer per folder."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-step-{step:08d}"
    for left_behind in folder.glob(".tmp-step-*"):  # by a writer that was killed
        shutil.rmtree(left_behind, ignore_errors=True)
    temporary.mkdir()
    files = {}
    for name, tensors in parts.items():
        data = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        files[f"{name}.safetensors"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        _write_synced(temporary / f"{name}.safetensors", data)
    manifest = {"format": FORMAT, "step": step, "files": files, "facts": dict(facts)}
    manifest["sha256"] = _digest(manifest)
    _write_synced(temporary / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    _sync_folder(temporary)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    _sync_folder(folder)
    _write_synced(folder / ".latest", final.name.encode() + b"\n")
    os.replace(folder / ".latest", folder / "latest")
    _sync_folder(folder)
    # what is newer than this step did not verify, or the run would not have fallen back behind it: it must not count
    for old in [path for path in steps(folder) if _number(path) <= step][: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def steps(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read(path: Path) -> Checkpoint:
    """Verify and load one checkpoint on the CPU; raises InvalidCheckpoint naming the file that does not verify."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise InvalidCheckpoint(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
        if manifest.pop("sha256") != _digest(manifest):
            raise InvalidCheckpoint(f"{path / 'manifest.json'} is damaged: its sha256 is not its own")
        parts = {}
        for name, expected in manifest["files"].items():
            data = (path / Path(name).name).read_bytes()
            if len(data) != expected["size"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise InvalidCheckpoint(f"{path / name} is damaged: its sha256 is not the manifest's")
            parts[Path(name).stem] = load(data)
        return Checkpoint(parts, manifest["facts"])
    except InvalidCheckpoint:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read: {type(error).__name__}: {error}") from error


class Found(NamedTuple):
    """The newest checkpoint that verifies, and what did not."""

    path: Path
    checkpoint: Checkpoint
    passed_over: list[str]


def newest(folder: Path) -> Found | None:
    """The newest checkpoint under `folder` that verifies; None where there is none at all.

    Raises InvalidCheckpoint where there are some and none verifies: starting afresh there would lose a run silently.
    """
    faults = []
    for path in reversed(steps(folder)):
        try:
            return Found(path, read(path), faults)
        except InvalidCheckpoint as error:
            faults.append(str(error))
    if faults:
        raise InvalidCheckpoint(f"no checkpoint under {folder} verifies; the newest: {faults[0]}")
    return None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's per-parameter state as flat tensors, keyed "parameter.name"; its settings are the configuration's."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
        if value is not None
    }


def load_optimiser_(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimiser_tensors` back; raises InvalidCheckpoint where they belong to other parameters."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        known = index.isdecimal() and int(index) < len(parameters)
        if not known or (tensor.ndim and tensor.shape != parameters[int(index)].shape):
            raise InvalidCheckpoint(f"the optimiser's {key} does not fit this model")
        state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})

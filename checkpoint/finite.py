"""Which checkpoints are sound: all their numbers are finite, and the network that they hold gave a finite loss.

The first is looked at as a checkpoint is copied, and one that is not finite is never written. The second is tried when it is
written and stands among its facts (`sound`; earlier versions do not say it, and theirs count as sound).
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from . import layout, retention, tensorfile


@torch.no_grad()
def copy_(place: Tensor, tensor: Tensor) -> bool:
    """Copy `tensor`, of any device, to `place`; returns whether all of it is finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        place.copy_(tensor)
        return True
    return _finite(place.copy_(tensor))


def _finite(tensor: Tensor) -> bool:
    # a sum is not finite where a number is not, takes a fifth of the time that looking at each takes, and seldom overflows
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def unsound(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The first tensor that is not finite, as "part name"; "" where all are."""
    for part, tensors in parts.items():
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.numel() and not _finite(tensor.detach()):
                return f"{part} {key}"
    return ""


def newest(folder: Path) -> Path | None:
    """The newest sound checkpoint of a folder, as its manifest says; None where there is none."""
    for path in reversed(retention.steps(folder)):
        try:
            if layout.manifest_of(path)[1].get("sound", True):
                return path
        except layout.InvalidCheckpoint:
            continue
    return None


def fall_back(folder: Path) -> tuple[Path | None, list[str]]:
    """Set aside what is newer than the newest sound checkpoint, which is returned with remarks on what could not be done."""
    found = newest(folder)
    remarks = retention.put_aside(folder, retention.step_of(found) or 0 if found else -1, "gave no finite loss")
    try:
        latest = folder / "latest"
        if found is None:
            latest.unlink(missing_ok=True)
        else:
            tensorfile.write_bytes(folder / ".tmp-latest", [memoryview(f"{found.name}\n".encode())])
            os.replace(folder / ".tmp-latest", latest)
    except OSError as error:
        remarks.append(f"{folder} cannot be tidied ({error}): look at the disk")
    return found, remarks

"""Extracted features, kept in the user's cache: one safetensors file for an encoder, what it was shown, and a data set.

A second evaluation of a run reads them in a second. A file that is damaged, or cannot be written, costs the time of another
extraction and nothing else.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..pipeline.beton import Beton
from ..pipeline.manifest import cache_folder
from .features import Features, Shown

FORMAT = 1  # to be raised with anything that changes what features are of the same encoder and images
KEPT_BYTES = 10 * 2**30
"""What all files together may take; the ones that were used longest ago go first."""


def identity_of(model: nn.Module, description: str) -> str:
    """What tells an encoder from any other: its tensors, and `description`, which says what they are the tensors of."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def kept(shown: Shown, beton: Beton, make: Callable[[], Features], *, engine_name: str) -> Features:
    """The features that `shown` has of `beton`: those of an earlier time where they are whole, else `make`'s, kept now."""
    if not shown.identity:
        return make()
    # engines differ by a level of 255 in some pixels, so features of one are not those of another
    facts = (FORMAT, shown.identity, repr(shown.recipe), engine_name, beton.fingerprint, len(beton))
    path = _folder() / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:40]}.safetensors"
    found = _read(path)
    if found is None:
        found = make()
        with suppress(OSError, SafetensorError):  # no room, or a read-only home: it is made again the next time
            _write(path, found)
    return found


def _folder() -> Path:
    return cache_folder() / "features"


def _read(path: Path) -> Features | None:
    try:
        with safe_open(path, framework="pt") as file:
            found = Features(*(file.get_tensor(name) for name in Features._fields))
            stamp = (file.metadata() or {}).get("digest")
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    return found if stamp == _digest(found) else None


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        partial = Path(file.name)
    try:
        tensors = {name: tensor.contiguous() for name, tensor in features._asdict().items()}
        save_file(tensors, partial, metadata={"digest": _digest(features)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _prune(path)


def _prune(newest: Path) -> None:
    """Remove what was used longest ago until the rest fits; the newest stays, whatever its size."""
    files = [(path.stat(), path) for path in newest.parent.glob("*.safetensors") if path != newest]
    left = sum(status.st_size for status, _ in files) + newest.stat().st_size
    for status, path in sorted(files, key=lambda each: each[0].st_mtime):
        if left <= KEPT_BYTES:
            return
        path.unlink(missing_ok=True)
        left -= status.st_size


def _digest(features: Features) -> str:
    digest = hashlib.sha256()
    for tensor in features:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

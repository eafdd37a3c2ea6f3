"""Extracted features and scores, kept in the user's cache: a second evaluation of a run reads them in a second.

Features are one safetensors file for an encoder, what it was shown, and a data set. Scores are one JSON file for the
features and labels of both sides and a protocol: those of raw pixels, whose probe takes longer than any encoder's, are told
once for all runs. A file that is damaged, is another's under its name, or cannot be written, costs the time of making it
again and nothing else.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files.opening import LARGE, read_text, regular
from ..pipeline.beton.manifest import cache_folder, manifest_of
from ..pipeline.beton.reader import Beton
from .features import Features, Pair, Shown
from .protocols import PROTOCOLS, Options, Told
from .scores import Interval, Score
from .tasks import Task

FORMAT = 2  # to be raised with anything that changes what features are of the same encoder and images
SCORES = 2  # the same of scores, of the same features and options
KEPT_BYTES = 10 * 2**30
"""What all features together may take, and all scores; the ones that were used longest ago go first."""


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
    facts = (FORMAT, torch.__version__, shown.identity, repr(shown.recipe), engine_name, *_images_of(beton))
    path = _named("features", facts, "safetensors")
    found = _read(path)
    if found is None:
        found = made = make()
        with suppress(OSError, SafetensorError):  # no room, or a read-only home: it is made again the next time
            tensors = {name: tensor.contiguous() for name, tensor in made._asdict().items()}
            _write(path, lambda partial: save_file(tensors, partial, metadata={"digest": _bound(path, _digest(made))}))
    return found


def digest_of(pair: Pair) -> str:
    """What tells the features of two files from any others."""
    return " ".join(map(_digest, pair))


def scores_of(protocol: str, digest: str, task: Task, options: Options, make: Callable[[], list[Told]]) -> list[Told]:
    """The scores of an earlier time of the same features, labels and options where they are whole, else `make`'s, kept now.

    `digest` is that of the features. Options that `protocol` does not read do not count.
    """
    labels = [hashlib.sha256(_bytes(label_N)).hexdigest() for label_N in (task.train_label_N, task.test_label_N)]
    read = [getattr(options, name) for name in PROTOCOLS[protocol].depends]
    path = _named("scores", (SCORES, torch.__version__, digest, labels, len(task.classes), protocol, read), "json")
    found = _scores(path)
    if found is None:
        found = make()
        text = json.dumps([_plain(told) for told in found])
        with suppress(OSError):
            _write(path, lambda partial: partial.write_text(f"{_bound(path, text)}\n{text}"))
    return found


def _named(kind: str, facts: tuple[object, ...], suffix: str) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:40]}.{suffix}"


def _read(path: Path) -> Features | None:
    try:
        with safe_open(regular(path), framework="pt") as file:
            found = Features(*(file.get_tensor(name) for name in Features._fields))
            stamp = (file.metadata() or {}).get("digest")
        os.utime(path)
    except (OSError, SafetensorError):
        return None
    return found if stamp == _bound(path, _digest(found)) else None


def _scores(path: Path) -> list[Told] | None:
    try:
        stamp, _, text = read_text(path, limit=LARGE).partition("\n")
        os.utime(path)
    except (OSError, ValueError):
        return None
    return [_told(**fields) for fields in json.loads(text)] if stamp == _bound(path, text) else None


def _plain(told: Told) -> dict[str, Any]:
    return {"name": told.name, **told.score._asdict(), "confusion_P3": told.score.confusion_P3.tolist()}


def _told(*, name: str, top1: list[float], confusion_P3: list[list[int]], **rest: Any) -> Told:
    return Told(name, Score(top1=Interval(*top1), confusion_P3=torch.tensor(confusion_P3), **rest))


def _bound(path: Path, text: str) -> str:
    """The sha256 of what an entry holds and of its name: one that was copied over another is not that other."""
    return hashlib.sha256(f"{path.name}\0{text}".encode()).hexdigest()


def _images_of(beton: Beton) -> tuple[object, ...]:
    """What tells the images of a file from any others: its manifest's sha256, or without one which file this is and when it
    was last changed: a fingerprint reads no pixel."""
    manifest = manifest_of(beton)
    if manifest is not None and manifest.get("sha256"):
        return beton.fingerprint, manifest["sha256"]
    status = os.stat(beton.path)
    return beton.fingerprint, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        partial = Path(file.name)
    try:
        fill(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _prune(path)


def _prune(newest: Path) -> None:
    """Remove what was used longest ago until the rest fits; the newest stays, whatever its size."""
    files = [(path.stat(), path) for path in newest.parent.glob(f"*{newest.suffix}") if path != newest]
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

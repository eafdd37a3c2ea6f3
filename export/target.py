"""What a format is: how it is written, how its library loads it, and what the card says of that."""

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from ..checkpoint.tensorfile import write_bytes
from ..files.opening import regular
from .trained import Trained

Features = Callable[[Tensor], Tensor]  # images [B, C, S, S] -> features [B, F]
WEIGHTS = "model.safetensors"


class Lines(NamedTuple):
    """How a person loads an export: Python that ends with the features of `image`, and what else to know."""

    code: str
    notes: str = ""
    image: str = ""
    """What `image` is, where that is not what the encoder itself takes."""


class Target(NamedTuple):
    """One format."""

    library: str
    """As Hugging Face names it."""
    suffix: str
    """Of its one file; "" where it is a folder."""
    needs: tuple[str, ...]
    """Modules without which it is neither written nor checked."""
    extra: str
    """What pip installs them by."""
    check: Callable[[Trained], object]
    """Raises ValueError where the encoder does not fit."""
    write: Callable[[Trained, Path], None]
    """Write the file, or into the folder, at a path."""
    load: Callable[[Trained, Path], Features]
    """A fresh object of the library from what stands at a path."""
    lines: Callable[[Trained, str], Lines]
    """How what stands at a path is loaded."""
    any_size: Callable[[Trained], bool] = lambda trained: True
    """Whether it takes images of every size that the encoder takes."""


def require(format: str, target: Target) -> None:
    """Raise ValueError with the command that installs what is missing. No hub is asked for anything from here on."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in target.needs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing = error.name or name
            raise ValueError(f'--format {format} needs {missing}: pip install "viewmill[{target.extra}]"') from None


def weights_at(path: Path) -> Path:
    """The file of weights: `path` itself, or in the folder that it is."""
    return path if path.suffix == ".safetensors" else path / WEIGHTS


def save(path: Path, tensors: Mapping[str, Tensor], trained: Trained) -> None:
    """Write a new safetensors file, with what the encoder is in its header."""
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {"format": "pt", "viewmill": json.dumps(identity(trained))}
    write_bytes(path, [memoryview(safetensors.torch.save(held, header))])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a new JSON file."""
    write_bytes(path, [memoryview((json.dumps(content, indent=2) + "\n").encode())])


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return safetensors.torch.load_file(regular(path))


def identity(trained: Trained) -> dict[str, Any]:
    """What the encoder is, in a few words that a program can read."""
    settings, made = trained.settings, trained.settings["architecture"]
    return {
        "method": settings["method"],
        "step": trained.step,
        "weights": "ema" if trained.ema else "model",
        "data_fingerprint": settings["data_fingerprint"],
        **{name: made[name] for name in ("encoder", "width", "size", "views")},
        "half": trained.half,
        "colours": settings["colours"],
    }

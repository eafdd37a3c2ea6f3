"""Our own layout: the encoder's tensors under our names in a safetensors file, alone or in a folder with its card."""

from pathlib import Path
from typing import Any

from torch import nn

from ..models.encoders import build
from ..models.network import Colour, channels_of
from ..models.timm_encoders import PREFIX
from .target import Features, Lines, Target, read, save, weights_at
from .trained import Trained


def check(trained: Trained) -> None:
    """Every encoder fits."""


def write(trained: Trained, path: Path) -> None:
    """One file."""
    save(weights_at(path), trained.encoder.state_dict(), trained)


def load(trained: Trained, path: Path) -> Features:
    """The encoder built anew."""
    halves = [build(trained.name, channels=channels, **_options(trained)) for channels in _channels(trained)]
    encoder: nn.Module = Colour(*halves) if len(halves) > 1 else halves[0]
    encoder.load_state_dict(read(weights_at(path)))
    return encoder.eval()


def _options(trained: Trained) -> dict[str, Any]:
    own: dict[str, Any] = {} if trained.name.startswith(PREFIX) else {"width": trained.settings["architecture"]["width"]}
    return own | {"image_size": trained.size}


def _channels(trained: Trained) -> list[int]:
    if isinstance(trained.encoder, Colour):
        return list(channels_of(len(trained.encoder.halves)))
    return [trained.channels]


def lines(trained: Trained, path: str) -> Lines:
    """By our own package; the tensors need nothing but safetensors."""
    options = ", ".join(f"{name}={value}" for name, value in _options(trained).items())
    built = [f"build({trained.name!r}, channels={channels}, {options})" for channels in _channels(trained)]
    imports, encoder = "from viewmill.models.encoders import build", built[0]
    if len(built) > 1:
        imports += "\nfrom viewmill.models.network import Colour"
        encoder = f"Colour({', '.join(built)})"
    code = f"""\
from safetensors.torch import load_file
{imports}

encoder = {encoder}
encoder.load_state_dict(load_file({str(weights_at(Path(path)))!r}))
features = encoder.eval()(image)"""
    return Lines(code, f"`viewmill train --init {path}` begins a training with it.")


TARGET = Target("viewmill", "", (), "", check, write, load, lines)

"""torchvision's ResNets, whose names are ours: at width 64, with the large stem or with ours put in its place."""

from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from .target import Features, Lines, Target, read, save
from .trained import Residual, Trained, the_residual


def check(trained: Trained) -> Residual:
    """What it is made of; raises ValueError for another width: torchvision's constructor has 64 written into it."""
    made_of = the_residual(trained, "torchvision")
    if made_of.width != 64:
        raise ValueError(f"torchvision's {made_of.design} has 64 channels in its first stage and this one {made_of.width}")
    return made_of


def write(trained: Trained, path: Path) -> None:
    """One file, without the classifier fc."""
    save(path, trained.encoder.state_dict(), trained)


def load(trained: Trained, path: Path) -> Features:
    """torchvision's model with an identity for a classifier."""
    made_of = check(trained)
    model = getattr(torchvision.models, made_of.design)()
    model.fc = nn.Identity()
    if own := stem(made_of):
        model.conv1 = nn.Conv2d(**own)
    if made_of.small_stem:
        model.maxpool = nn.Identity()
    model.load_state_dict(read(path))
    return model.eval()


def stem(made_of: Residual) -> dict[str, Any]:
    """The first convolution, where it is not the one that these libraries build for 3 channels at width 64; otherwise {}."""
    if not made_of.small_stem and (made_of.channels, made_of.width) == (3, 64):
        return {}
    side, stride, padding = (3, 1, 1) if made_of.small_stem else (7, 2, 3)
    sizes = {"in_channels": made_of.channels, "out_channels": made_of.width, "kernel_size": side}
    return sizes | {"stride": stride, "padding": padding, "bias": False}


def stem_lines(made_of: Residual) -> str:
    """The lines that put our stem in the place of `model`'s; "" where it is the same."""
    own = stem(made_of)
    first = f"model.conv1 = torch.nn.Conv2d({', '.join(f'{name}={value}' for name, value in own.items())})\n" if own else ""
    return first + ("model.maxpool = torch.nn.Identity()\n" if made_of.small_stem else "")


def lines(trained: Trained, path: str) -> Lines:
    """By torchvision."""
    made_of = check(trained)
    code = f"""\
import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{made_of.design}()
model.fc = torch.nn.Identity()
{stem_lines(made_of)}model.load_state_dict(load_file({path!r}))
features = model.eval()(image)"""
    notes = "Its stem is one 3x3 convolution of stride 1 without a max-pool, so two modules are replaced first."
    return Lines(code, notes if made_of.small_stem else "")


TARGET = Target("torchvision", ".safetensors", ("torchvision",), "", check, write, load, lines)

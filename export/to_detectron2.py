"""Detectron2's ResNet: its names in a safetensors file, since it reads pickles, which are not written here.

It cannot be installed by pip, so what is written is compared by way of its names turned back into ours;
tests/export/test_export.py has the layers of detectron2/modeling/backbone/resnet.py under these names.
"""

from pathlib import Path

from ..models.encoders import build
from ..models.layouts import from_detectron2, to_detectron2
from ..models.timm_encoders import PREFIX
from .target import Features, Lines, Target, read, save
from .trained import Residual, Trained, the_residual


def check(trained: Trained) -> Residual:
    """What it is made of; raises ValueError for the small stem."""
    made_of = the_residual(trained, "Detectron2")
    if made_of.small_stem:
        raise ValueError(
            f"Detectron2's BasicStem is a 7x7 convolution of stride 2 with a max-pool, and this stem 3x3 ({trained.size} px)"
        )
    return made_of


def write(trained: Trained, path: Path) -> None:
    """One file."""
    save(path, to_detectron2(trained.encoder.state_dict()), trained)


def load(trained: Trained, path: Path) -> Features:
    """Our encoder, from Detectron2's names."""
    made_of = check(trained)
    name = trained.name.removeprefix(PREFIX)
    encoder = build(name, width=made_of.width, image_size=trained.size, channels=made_of.channels)
    encoder.load_state_dict({**encoder.state_dict(), **from_detectron2(read(path))})
    return encoder.eval()


def lines(trained: Trained, path: str) -> Lines:
    """The backbone alone, and how a detector gets it."""
    made_of = check(trained)
    block, wide = ("BasicBlock", 1) if made_of.basic else ("BottleneckBlock", 4)
    stages, arriving = [], made_of.width
    for width, depth in zip(made_of.widths, made_of.depths, strict=True):
        strides = [1 if width == made_of.width else 2, *[1] * (depth - 1)]
        options = f"in_channels={arriving}, out_channels={width * wide}, stride_per_block={strides}"
        options += "" if made_of.basic else f", bottleneck_channels={width}"
        stages.append(f"    ResNet.make_stage({block}, {depth}, {options}),")
        arriving = width * wide
    code = f"""\
from detectron2.modeling.backbone.resnet import {block}, BasicStem, ResNet
from safetensors.torch import load_file

stages = [
{chr(10).join(stages)}
]
backbone = ResNet(BasicStem({made_of.channels}, {made_of.width}), stages)
backbone.load_state_dict(load_file({path!r}))
features = backbone.eval()(image)["res5"].mean(dim=(2, 3))"""
    return Lines(code, _notes(trained, made_of, path))


def _notes(trained: Trained, made_of: Residual, path: str) -> str:
    depth = made_of.design.removeprefix("resnet")
    wide = made_of.width * (1 if made_of.basic else 4)
    mean, std = ([round(255 * number, 4) for number in numbers] for numbers in (trained.colours.mean, trained.colours.std))
    config = f"`MODEL.RESNETS.DEPTH {depth}`, `STRIDE_IN_1X1 False`, `STEM_OUT_CHANNELS {made_of.width}`, "
    config += f"`RES2_OUT_CHANNELS {wide}`, `WIDTH_PER_GROUP {made_of.width}`, `INPUT.FORMAT RGB`, "
    config += f"`MODEL.PIXEL_MEAN {mean}`, `MODEL.PIXEL_STD {std}`"
    odd = made_of.basic and made_of.width != 64
    refused = " Detectron2's configuration refuses this width for this depth: build the backbone as above." if odd else ""
    pickle = path.removesuffix(".safetensors") + ".pth"
    return f"""\
A detector takes it by `model.backbone.bottom_up.load_state_dict(load_file({path!r}))`, or, without the FPN, \
`model.backbone`. Its configuration: {config}.{refused}

`MODEL.WEIGHTS` names a pickle, which only you should make, from this file that cannot run code:

```python
import torch
torch.save({{"model": load_file({path!r}), "matching_heuristics": True}}, {pickle!r})
```"""


TARGET = Target("detectron2", ".safetensors", (), "", check, write, load, lines)

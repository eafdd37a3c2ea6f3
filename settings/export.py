"""The command that hands an encoder to another library."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's encoder for another library, with a model card; before it says so it has loaded it there and compared
    features."""

    run: tyro.conf.Positional[Path]
    """Folder of a training."""
    out: tyro.conf.Positional[Path]
    """What to write: a folder for encoder, timm and transformers; a file (.safetensors, .onnx) for the others."""
    format: Literal["encoder", "torchvision", "timm", "transformers", "onnx", "detectron2"] = "encoder"
    """Whose layout; encoder is our own, a file too where OUT ends in .safetensors."""
    ema: bool = False
    """The moving average of the weights, instead of the weights themselves."""
    half: Literal["both", "first", "second"] = "both"
    """Of a method with two encoders (CMC), which: for L or Y, or for the two other channels. encoder and onnx hold both."""
    raw_pixels: bool = False
    """With onnx: take uint8 RGB images, and convert and normalise them inside."""
    licence: str = ""
    """Licence of the weights for the card, such as apache-2.0; none is stated by default."""
    author: str = ""
    """Whom the card names as author."""
    overwrite: bool = False
    """Replace an export that stands there."""

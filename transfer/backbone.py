"""An encoder as the backbone of a detector: where its weights come from, which of its parts learn, and what it yields.

Shape suffixes: B = images, C = channels, H, W = height and width in pixels.
"""

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from ..models import encoders, weights
from ..models.encoders import DESIGNS, ResNet, check_batch_norm
from ..pipeline.views.recipe import IMAGENET_MEAN, IMAGENET_STD
from ..training.resume import load_encoders

RANDOM = "random"
STEM = ("conv1", "bn1", "relu", "maxpool")
STAGES = ("layer1", "layer2", "layer3", "layer4")
TRIED = 256  # px: every stride that a residual network may have divides it


class Beginning(NamedTuple):
    """An encoder, what makes another of its kind (for a configuration), and what it is in words."""

    encoder: ResNet
    made_of: dict[str, Any]
    given: str


def begin(
    source: str, *, encoder: str = "resnet18", width: int = 64, size: int = 224, ema: bool = False, seed: int = 0
) -> Beginning:
    """The encoder that `source` names: a run (its newest checkpoint that verifies), a .safetensors file, or "random".

    A run says itself what its encoder is and which colours it knows; for the others `encoder`, `width` and `size` say so, as
    in a training (up to 64 px the stem is the small one), with ImageNet's mean and deviation.

    Raises:
        ValueError: where it is no residual network, where its colours are not RGB, and for what weights.initialise_ refuses.
    """
    path = Path(source)
    if source != RANDOM and (path / "config.json").is_file():
        return _of_run(path, ema=ema)
    if ema:
        raise ValueError(f"--ema is for runs, which keep a moving average; {source} is none: leave it out")
    if source != RANDOM and not path.exists():
        raise ValueError(f"{source} does not exist: name a run, a .safetensors file, or random")
    if encoder not in DESIGNS:
        raise ValueError(f"detectors take residual encoders, not {encoder!r}: use {', '.join(DESIGNS)}")
    made_of = {"encoder": encoder, "width": width, "size": size, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    torch.manual_seed(seed)
    made = build(made_of)
    if source == RANDOM:
        return Beginning(made, made_of, "random weights")
    try:
        read = weights.initialise_(_Holder(made), path)  # pyright: ignore[reportArgumentType] (it asks for no more)
    except ValueError as error:
        raise ValueError(str(error).replace("--init", source)) from error
    return Beginning(made, made_of, f"{read.loaded} tensors of {read.source}")


def build(made_of: Mapping[str, Any]) -> ResNet:
    """An encoder at random, as `made_of` describes it."""
    made = encoders.build(made_of["encoder"], width=made_of["width"], image_size=made_of["size"])
    assert isinstance(made, ResNet)
    return made


def fingerprint(source: str) -> str:
    """sha256 of the weights that `source` names; "random" for none."""
    return RANDOM if source == RANDOM else weights.fingerprint(Path(source))


def place_of(source: str) -> str:
    """`source` as a configuration keeps it, so that a start from another folder names the same."""
    return RANDOM if source == RANDOM else os.path.abspath(source)


def _of_run(run: Path, *, ema: bool) -> Beginning:
    held = load_encoders(run, ema=ema)
    settings, colours = held.settings, held.colours
    if colours.space != "rgb":
        raise ValueError(f"{run} was trained on {colours.space} images and detectors are shown RGB: take a run of RGB views")
    if not isinstance(held.trained, ResNet):
        raise ValueError(f"{run} has an encoder {settings['encoder']}: detectors take runs of {', '.join(DESIGNS)}")
    size = settings["architecture"]["size"]
    made_of = {"encoder": settings["encoder"], "width": settings["width"], "size": size}
    made = build(made_of)  # without what its training had put around it: recomputation, synchronised batch norm
    made.load_state_dict(held.trained.state_dict())
    made_of |= {"mean": list(colours.mean), "std": list(colours.std)}
    return Beginning(made, made_of, f"the encoder of run {run}" + (", the moving average of its weights" if ema else ""))


class _Holder(nn.Module):
    """What weights.initialise_ fills: a network that is nothing but its encoder."""

    def __init__(self, encoder: ResNet) -> None:
        super().__init__()
        self.encoder = encoder


def strides(encoder: ResNet) -> tuple[int, int, int, int]:
    """Pixels of the image between two positions of each stage's map, found by passing an image of no content through."""
    twin, found = copy.deepcopy(encoder).to("meta").eval(), []
    with torch.no_grad():
        x = torch.empty(1, twin.conv1.in_channels, TRIED, TRIED, device="meta")
        for name in (*STEM, *STAGES):
            x = getattr(twin, name)(x)
            if name in STAGES:
                found.append(TRIED // x.shape[-1])
    return tuple(found)  # pyright: ignore[reportReturnType]


def channels(encoder: ResNet) -> tuple[int, int, int, int]:
    """Channels of each stage's map."""
    last = encoder.features
    return last // 8, last // 4, last // 2, last


def settle_(encoder: ResNet, *, freeze: int, norm: str, device_type: str) -> None:
    """Choose what learns: of stem and stages the first `freeze` (0 to 5) do not, nor do their batch norms; of the rest
    `norm` says what batch norm does: "frozen" (trained statistics and weights), "local" or "synchronised".

    As FREEZE_AT of Detectron2. Raises ValueError for numbers and kinds that do not exist, and for synchronised on a CPU.
    """
    if not 0 <= freeze <= 5:
        raise ValueError(f"--freeze counts stem and stages, 0 to 5, got {freeze}")
    if norm not in ("frozen", "local", "synchronised"):
        raise ValueError(f"--norm is frozen, local or synchronised, not {norm!r}")
    if norm != "frozen":
        check_batch_norm(norm, device_type)
    for number, names in enumerate((("conv1", "bn1"), *((stage,) for stage in STAGES))):
        for name in names:
            part = getattr(encoder, name)
            if number < freeze:
                part.requires_grad_(False)
            if number < freeze or norm == "frozen":
                setattr(encoder, name, _frozen(part))


def _frozen(part: nn.Module) -> nn.Module:
    """`part` with batch norms that keep statistics and weights for good."""
    if isinstance(part, _BatchNorm):
        kept = FrozenBatchNorm2d(part.num_features, eps=part.eps)
        kept.load_state_dict(part.state_dict())
        return kept
    for name, child in part.named_children():
        setattr(part, name, _frozen(child))
    return part


class Stages(nn.Module):
    """[B, 3, H, W] -> the maps of the stages up to `last`, or of that one alone, under the encoder's own names.

    In float32 whatever the precision: torchvision's anchors and boxes take the type of the maps, and bfloat16 tells pixels
    above 256 apart by twos only.
    """

    def __init__(self, encoder: ResNet, *, last: int, only_last: bool) -> None:
        super().__init__()
        self._stages, self._only_last = STAGES[:last], only_last
        for name in (*STEM, *self._stages):
            self.add_module(name, getattr(encoder, name))
        self.out_channels = channels(encoder)[last - 1]

    def forward(self, image_BCHW: Tensor) -> OrderedDict[str, Tensor]:
        """Maps by number, "0" first."""
        x, maps = image_BCHW, []
        for name in (*STEM, *self._stages):
            x = self.get_submodule(name)(x)
            if name in self._stages:
                maps.append(x)
        kept = maps[-1:] if self._only_last else maps
        return OrderedDict((str(number), part.float()) for number, part in enumerate(kept))


class Pyramid(nn.Module):
    """[B, 3, H, W] -> maps of `out_channels` at all strides, and one beyond (FPN, arXiv 1612.03144), in float32."""

    def __init__(self, body: Stages, pyramid: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = body, pyramid, out_channels

    def forward(self, image_BCHW: Tensor) -> OrderedDict[str, Tensor]:
        """Maps "0" to "3" and "pool"."""
        return OrderedDict((name, part.float()) for name, part in self.fpn(self.body(image_BCHW)).items())


def in_float32_(part: nn.Module) -> None:
    """Have `part` hand on float32, for the reason that Stages names."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.float()
        return type(value)(cast(item) for item in value)

    hook: Callable[[nn.Module, Any, Any], Any] = lambda module, given, output: cast(output)  # noqa: E731
    part.register_forward_hook(hook)

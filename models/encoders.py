"""Encoders: torchvision's residual networks, with a stem for small images and a width, and by name the models of timm."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..methods.architecture import BatchNorm
from . import timm_encoders
from .timm_encoders import Foreign


class Design(NamedTuple):
    """Which block, and how many in each of the four stages."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]


DESIGNS = {
    "resnet18": Design(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Design(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Design(Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """[B, 3, S, S] -> pooled features [B, features].

    torchvision's ResNet without its classifier, layer for layer and name for name: at width 64 with the large stem their
    state dicts are interchangeable. `width` is the channel count of the first stage (torchvision fixes it at 64). The
    small stem is one 3x3 convolution of stride 1 and no max-pool, the field's practice for images up to 64 px. With
    `recompute` the backward pass computes each block again, and only what stands between them is kept (arXiv 1604.06174).
    """

    def __init__(self, design: Design, *, width: int, small_stem: bool, channels: int = 3, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        if small_stem:
            self.conv1 = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        widths = [width * 2**stage for stage in range(4)]
        arriving = [width, *(stage * design.block.expansion for stage in widths[:3])]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(design.block, arriving[i], widths[i], depth=design.depths[i], stride=1 if i == 0 else 2) for i in range(4)
        )
        self.features = widths[3] * design.block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image_BCSS: Tensor) -> Tensor:
        """Features [B, features]: the mean over positions of the last stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image_BCSS))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                # no block draws random numbers, so their state need not be kept
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if self.recompute else block(x)
        return x.mean(dim=(2, 3))


class Strided(nn.Conv2d):
    """A 1x1 convolution with a stride, by way of the pixels it looks at where it has few channels.

    oneDNN's own (torch 2.14, AVX-512) writes past its memory in the backward pass of channels_last tensors of 2, 4 or 8
    channels at 16 px: the process dies within some hundred steps. From 16 channels on it does not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv2d."""
        if self.in_channels >= 16:
            return super().forward(input)
        return functional.conv2d(input[..., :: self.stride[0], :: self.stride[1]], self.weight)


def _stage(block: Callable[..., nn.Module], arriving: int, channels: int, *, depth: int, stride: int) -> nn.Sequential:
    leaving = channels * block.expansion  # pyright: ignore[reportFunctionMemberAccess]
    downsample = None
    if stride != 1 or arriving != leaving:
        downsample = nn.Sequential(Strided(arriving, leaving, 1, stride=stride, bias=False), nn.BatchNorm2d(leaving))
    first = block(arriving, channels, stride, downsample)
    return nn.Sequential(first, *(block(leaving, channels) for _ in range(depth - 1)))


def build(name: str, *, width: int = 64, image_size: int, channels: int = 3, recompute: bool = False) -> ResNet | Foreign:
    """The encoder `name` for images [B, channels, image_size, image_size]: one of DESIGNS, or timm:NAME.

    With `recompute` the backward pass computes activations again instead of keeping them; gradients and running statistics
    are the same. Raises ValueError for an unknown name, a width below 1 or one given to a model of timm, and for what
    foreign.build refuses.
    """
    if name.startswith(timm_encoders.PREFIX):
        if width != 64:
            raise ValueError(f"width {width} means nothing to {name}: leave it at 64 and choose a model of another size")
        name = name.removeprefix(timm_encoders.PREFIX)
        encoder = timm_encoders.build(name, image_size=image_size, channels=channels, recompute=recompute)
    elif name not in DESIGNS:
        raise ValueError(f"no encoder is called {name!r}: use {', '.join(DESIGNS)} or {timm_encoders.PREFIX}NAME")
    elif width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    else:
        options = {"width": width, "small_stem": image_size <= 64, "channels": channels}
        encoder = ResNet(DESIGNS[name], **options, recompute=recompute)
    if recompute:
        count_once_(encoder)
    return encoder.to(memory_format=torch.channels_last)


def check_batch_norm(kind: str, device_type: str) -> None:
    """Raise ValueError for a kind that does not exist, and for one that devices of this type ("cpu", "cuda") cannot do."""
    if kind not in get_args(BatchNorm):
        raise ValueError(f"batch norm is {', '.join(get_args(BatchNorm))}, not {kind!r}")
    if kind == "synchronised" and device_type == "cpu":
        raise ValueError(
            "synchronised batch norm works on GPUs alone: on a CPU use local, or shuffled with a momentum encoder"
        )


def count_once_(module: nn.Module) -> None:
    """Let batch norm's running statistics count a batch once where activations are recomputed.

    A pass that autograd asks for while it runs backward works on copies. Layers that are replaced later need it again.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) and _lend not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_lend)
            part.register_forward_hook(_return, always_call=True)  # recomputation ends by an exception, as soon as it can


def _lend(norm: nn.Module, _arguments: Any) -> None:
    # when compiled, recomputation repeats kernels, and the statistics are written by the first pass alone
    if not torch.compiler.is_compiling() and norm.training and torch._C._current_graph_task_id() != -1:
        norm.__dict__["own_buffers"] = dict(norm._buffers)
        # copies, not a momentum of 0: that would make NaN of statistics where an activation is infinite
        norm._buffers.update({name: None if own is None else own.clone() for name, own in norm._buffers.items()})


def _return(norm: nn.Module, _arguments: Any, _output: Any) -> None:
    if not torch.compiler.is_compiling():
        norm._buffers.update(norm.__dict__.pop("own_buffers", {}))

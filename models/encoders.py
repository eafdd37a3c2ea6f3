"""Encoders: torchvision's residual networks, with a stem for small images and a width."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck


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
    small stem is one 3x3 convolution of stride 1 and no max-pool, the field's practice for images up to 64 px.
    """

    def __init__(self, design: Design, *, width: int, small_stem: bool, channels: int = 3) -> None:
        super().__init__()
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
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
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


def build(name: str, *, width: int = 64, image_size: int, channels: int = 3) -> ResNet:
    """The encoder `name` for images of `image_size` px; raises ValueError for an unknown name or a width below 1."""
    if name not in DESIGNS:
        raise ValueError(f"no encoder is called {name!r}: use {', '.join(DESIGNS)}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return ResNet(DESIGNS[name], width=width, small_stem=image_size <= 64, channels=channels).to(
        memory_format=torch.channels_last
    )

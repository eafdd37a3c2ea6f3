"""The decoder that predicts a view's pixels from a code: what bounds I(view; z) from below. Not part of the encoder.

Shape suffixes: B = images, F = features, C = channels, S = side in pixels.
"""

import torch
from torch import Tensor, nn


class Decoder(nn.Module):
    """[B, features] -> pixels [B, channels, size, size], unbounded, in channels-last order.

    Linear to a small map, then transposed convolutions of stride 2 with batch norm and ReLU (3 up to 32 px, 4 up to 64, 5
    above), then a linear 3x3 convolution: the shape of InfoCL's decoders (arXiv 2203.07004). The map starts at
    ceil(size / 2**blocks), 4x4 for 32 and 64 px and 7x7 for 224; what is too much is cut from the edges, evenly.

    Channels halve as the side doubles, down to 8, so that blocks cost the same. At width 256: 2.8 M parameters and 28 M
    multiply-adds an image for 512 features at 32 px, 2.8 M and 37 M at 64 px; 26.4 M (25.7 M of them the linear map) and
    165 M for 2,048 features at 224 px, where a ResNet-50 takes 4,100 M. Raises ValueError where a number is below 1.
    """

    def __init__(self, features: int, size: int, channels: int = 3, width: int = 256) -> None:
        super().__init__()
        for name, number in (("features", features), ("size", size), ("channels", channels), ("width", width)):
            if number < 1:
                raise ValueError(f"a decoder's {name} must be at least 1, got {number}")
        blocks = 3 if size <= 32 else 4 if size <= 64 else 5
        self.size, self.start = size, -(-size // 2**blocks)
        widths = [max(width >> block, min(width, 8)) for block in range(blocks + 1)]
        self.linear = nn.Linear(features, self.start**2 * width)
        self.blocks = nn.Sequential(*(_block(widths[i], widths[i + 1]) for i in range(blocks)))
        self.pixels = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, z_BF: Tensor) -> Tensor:
        """Pixels [B, C, S, S] from codes [B, F]: from samples, not from the projector's output."""
        # channels last from the start, as the linear map may put its outputs in any order
        x = self.linear(z_BF).unflatten(1, (self.start, self.start, -1)).permute(0, 3, 1, 2)
        x = self.pixels(self.blocks(x))
        edge = (x.shape[-1] - self.size) // 2
        x = x[:, :, edge : edge + self.size, edge : edge + self.size]
        return x.contiguous(memory_format=torch.channels_last)


def _block(arriving: int, leaving: int) -> nn.Sequential:
    # a kernel that the stride divides: each output pixel gets as many taps, so no checkerboard
    up = nn.ConvTranspose2d(arriving, leaving, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(up, nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))

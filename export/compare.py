"""Whether a library sees what our encoder sees: features of rendered figures, side by side.

Shape suffixes: B = images, C = channels, S = pixels, F = features.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..models.network import Colour
from ..models.timm_encoders import check_size
from ..pipeline import factors
from ..pipeline.views import colour_spaces
from ..pipeline.views.recipe import View
from .target import Features, Target
from .trained import CHANNELS, Trained

LIMIT = 1e-5  # of the largest feature: other orders of summation in float32 differ by some 1e-7
IMAGES, SEED = 4, 1


class Compared(NamedTuple):
    """The largest difference of two features, as a share of the largest feature, and the sizes in pixels that were tried."""

    difference: float
    sizes: list[int]

    @property
    def agrees(self) -> bool:
        """Not so where either has features that are not finite."""
        return self.difference <= LIMIT


@torch.no_grad()
def compare(trained: Trained, target: Target, theirs: Features, *, raw_pixels: bool = False) -> Compared:
    """Our encoder's features beside `theirs`, at the run's size and at one half larger where both take that.

    With `raw_pixels` theirs are made of uint8 images [B, 3, S, S].
    """
    sizes = [trained.size]
    if target.any_size(trained) and takes(trained.encoder, trained.size * 3 // 2):
        sizes.append(trained.size * 3 // 2)
    worst = 0.0
    for size in sizes:
        pixels_B3SS = figures(size)
        image_BCSS = normalised(pixels_B3SS, trained.colours)[:, CHANNELS[trained.half]]
        found_BF = theirs(pixels_B3SS if raw_pixels else image_BCSS)
        worst = max(worst, difference(trained.encoder(image_BCSS), found_BF), key=_badness)
    return Compared(worst, sizes)


def takes(encoder: nn.Module, size: int) -> bool:
    """Whether the encoder takes images of another size too."""
    try:
        for half in encoder.halves if isinstance(encoder, Colour) else [encoder]:
            check_size(half, size)
    except ValueError:
        return False
    return True


def figures(size: int, count: int = IMAGES) -> Tensor:
    """Rendered figures uint8 [B, 3, S, S]."""
    table = factors.draw(count, SEED)
    return torch.from_numpy(np.stack([factors.render(table[row], size) for row in range(count)])).permute(0, 3, 1, 2)


def normalised(pixels_B3SS: Tensor, colours: View) -> Tensor:
    """Images as the encoder knows them, float32, from uint8 RGB."""
    image_B3SS = colour_spaces.to_space(pixels_B3SS.float() / 255, colour_spaces.NUMBERS[colours.space])
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (colours.mean, colours.std))
    return (image_B3SS - mean) / std


def difference(ours_BF: Tensor, theirs_BF: Tensor) -> float:
    """The largest difference as a share of our largest feature; infinite where the shapes differ."""
    if ours_BF.shape != theirs_BF.shape:
        return float("inf")
    scale = ours_BF.abs().max().item()
    return (ours_BF - theirs_BF).abs().max().item() / (scale or 1.0)


def _badness(share: float) -> float:
    return share if share == share else float("inf")

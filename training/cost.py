"""What an image costs a network on this processor: measured on a few, so that a start can say what the whole will take."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.network import Colour, Network

IMAGES = 2  # enough for batch norm; a batch of 256 takes 1.0 to 1.3 times less for each image


def seconds_per_image(
    network: Network,
    tensors: Sequence[tuple[int, int]],
    *,
    followed: float,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> float:
    """Seconds of this process for all views of one image, forward and backward, by a copy of the encoder: nothing changes.

    Args:
        tensors: number of views and their side in pixels, of each tensor of a batch.
        followed: share of the views that a momentum encoder sees too, forward only.
        autocast: the context of the forward pass.
    """
    encoder = copy.deepcopy(network.encoder)
    halves: Sequence[nn.Module] = list(encoder.halves) if isinstance(encoder, Colour) else [encoder] * len(tensors)
    seconds = 0.0
    for half, (views, side) in zip(halves, tensors, strict=True):
        channels = next(parameter.shape[1] for parameter in half.parameters() if parameter.ndim == 4)
        image = torch.zeros(IMAGES, channels, side, side).contiguous(memory_format=torch.channels_last)
        _timed(half, image, autocast)  # pays for memory
        forward, both = _timed(half, image, autocast)
        seconds += views * (both + followed * forward) / IMAGES
    return seconds


def _timed(encoder: nn.Module, image: Tensor, autocast: Callable[[], AbstractContextManager[Any]]) -> tuple[float, float]:
    """Seconds of a forward pass, and of one with its backward pass."""
    began = time.perf_counter()
    with autocast():
        feature = encoder(image)
    between = time.perf_counter()
    feature.float().sum().backward()
    return between - began, time.perf_counter() - began

"""The momentum encoder: a second network that follows the first (MoCo, arXiv 1911.05722; BYOL, arXiv 2006.07733)."""

import copy
import math

import torch
from torch import nn


def follower(network: nn.Module) -> nn.Module:
    """A copy that takes no gradient. It stays in training mode, so that its batch norm uses the batch, as MoCo's does."""
    target = copy.deepcopy(network)
    return target.requires_grad_(False)


def momentum_at(step: int, *, steps: int, value: float, rising: bool) -> float:
    """The share that the target keeps; `rising` to 1 by half a cosine over the run (arXiv 2006.07733, section 3.2)."""
    if not rising:
        return value
    return 1 - (1 - value) * (math.cos(math.pi * min(1.0, step / max(1, steps))) + 1) / 2


@torch.no_grad()
def follow_(target: nn.Module, network: nn.Module, *, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * network, parameters only: each keeps its own running statistics."""
    for own, other in zip(target.parameters(), network.parameters(), strict=True):
        own.lerp_(other, 1 - momentum)

"""The momentum encoder: a second network that follows the first (MoCo, arXiv 1911.05722; BYOL, arXiv 2006.07733)."""

import copy
import math

import torch

from .network import Network


def follower(network: Network) -> Network:
    """A copy that takes no gradient and makes embeddings alone, without predictor and decoders.

    It stays in training mode, so that its batch norm uses the batch, as MoCo's does.
    """
    target = copy.deepcopy(network)
    target.predictor = target.other = target.own = None
    return target.requires_grad_(False)


def momentum_at(step: int, *, steps: int, value: float, rising: bool) -> float:
    """The share that the target keeps; `rising` to 1 by half a cosine over the run (arXiv 2006.07733, section 3.2)."""
    if not rising:
        return value
    return 1 - (1 - value) * (math.cos(math.pi * min(1.0, step / max(1, steps))) + 1) / 2


@torch.no_grad()
def follow_(target: torch.nn.Module, network: torch.nn.Module, *, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * network, parameters only: each keeps its own running statistics."""
    for name, parameter in target.named_parameters():
        parameter.lerp_(network.get_parameter(name), 1 - momentum)

"""The momentum encoder: a second network that follows the first (MoCo, arXiv 1911.05722; BYOL, arXiv 2006.07733)."""

import copy
import math

import torch
from torch import Tensor

from .network import Network


def ema_copy(network: Network) -> Network:
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
def ema_update_(target: torch.nn.Module, network: torch.nn.Module, *, momentum: float, finite: Tensor) -> None:
    """target <- momentum * target + (1 - momentum) * network, parameters only: each keeps its own running statistics.

    Nothing at all where the update that the network took was not `sound`, a bool on the device.
    """
    step = (1 - momentum) * finite.float()
    for name, parameter in target.named_parameters():
        parameter.lerp_(network.get_parameter(name), step)


def averaged(network: Network) -> Network:
    """A copy that will hold the mean of the network's weights over its last updates, to be evaluated (never trained)."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def average_(average: Network, network: torch.nn.Module, *, update: int, momentum: float, finite: Tensor) -> None:
    """An exponential moving average of weights and running statistics; after `update` sound steps of a plain mean's weight.

    Its momentum rises as (1 + update) / (10 + update) to what was asked for, or the first weights, which are random, would
    stay in it for thousands of updates.
    """
    step = (1 - min(momentum, (1 + update) / (10 + update))) * finite.float()
    new = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, held in (*average.named_parameters(), *average.named_buffers()):
        if held.is_floating_point():
            held.lerp_(new[name], step)

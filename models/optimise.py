"""The optimiser and its schedule; the schedule is a pure function of the step."""

import math

import torch
from torch import nn


def sgd(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD without decay on one-dimensional parameters (biases, norm scales): decaying them only loses accuracy.

    The learning rate is set before each step by `set_learning_rate_`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum)


def cosine(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """Learning rate at `step` of `steps`: a linear rise to `peak` over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate_(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set `rate` on every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate

"""The optimisers and their schedule; the schedule is a pure function of the step."""

import math
from typing import Any

import torch
from torch import nn


def sgd(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum; the learning rate is set before each step by `set_learning_rate_`."""
    return torch.optim.SGD(_groups(model, weight_decay), lr=0.0, momentum=momentum)


def adamw(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, `momentum` being its first beta: where SGD sits on a plateau for its first hundreds of steps."""
    return torch.optim.AdamW(_groups(model, weight_decay), lr=0.0, betas=(momentum, 0.999))


OPTIMISERS = {"sgd": sgd, "adamw": adamw}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No decay on one-dimensional parameters (biases, norm scales): decaying them only loses accuracy."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


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

"""The optimisers: SGD, LARS and AdamW as torch has them, in the form that can leave out an update without asking the host.

torch's fused kernels read two tensors that its gradient scaler sets: `grad_scale`, by which gradients are divided, and
`found_inf`, which above 0 makes a step nothing at all, moments and counters included. `update.update_` sets them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import _foreach_add_ as add_each_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_div_ as divide_each_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_mul_ as multiply_each_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_norm as length_of_each  # pyright: ignore[reportPrivateImportUsage]

TRUST = 0.001  # LARS' coefficient, of SimCLR (arXiv 2002.05709) and BYOL (arXiv 2006.07733) too


def sgd(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum; the learning rate is set before each update by `set_learning_rate_`."""
    made = torch.optim.SGD(_groups(model, weight_decay), lr=0.0, momentum=momentum, fused=True)
    return _with_state(made, *(["momentum_buffer"] if momentum else []))


def lars(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """LARS (arXiv 1708.03888), for batches of thousands; one-dimensional parameters take plain steps."""
    made = Lars(_groups(model, weight_decay), lr=0.0, momentum=momentum, fused=True)
    return _with_state(made, *(["momentum_buffer"] if momentum else []))


def adamw(model: nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, `momentum` being its first beta: where SGD sits on a plateau for its first hundreds of steps."""
    groups = _groups(model, weight_decay)
    return _with_state(torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=True), "exp_avg", "exp_avg_sq")


OPTIMISERS = {"sgd": sgd, "lars": lars, "adamw": adamw}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No decay on one-dimensional parameters (biases, norm scales): decaying them only loses accuracy."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _with_state(optimiser: torch.optim.Optimizer, *moments: str) -> torch.optim.Optimizer:
    """All state from the start, as zeros, so that a checkpoint can be held against it before anything is filled in.

    And torch's fused SGD makes momentum of whatever the memory held where the very first update is left out.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            state = {name: torch.zeros_like(parameter) for name in moments}
            if isinstance(optimiser, torch.optim.AdamW):
                state["step"] = torch.zeros((), device=parameter.device)
            if state:
                optimiser.state[parameter].update(state)
    return optimiser


class Lars(torch.optim.SGD):
    """SGD on gradients of which each matrix's is as long as TRUST times the matrix itself (LARS, arXiv 1708.03888).

    v <- momentum * v + q * (g + decay * w) and w <- w - rate * v, with q = TRUST |w| / |g + decay * w|, or 1 where one of
    them is 0: as in the code of Barlow Twins and VICReg. Algorithm 1 of the paper takes |g| + decay |w| below the line, and
    multiplies by the rate before the momentum, which differs where the rate changes.
    """

    grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update; gradients are changed."""
        scale, self.grad_scale = self.grad_scale, None
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            weights = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in weights]
            if scale is not None and gradients:
                divide_each_(gradients, scale)
            if weights and weights[0].ndim > 1:
                add_each_(gradients, weights, alpha=group["weight_decay"])
                group["weight_decay"] = 0.0
                long = length_of_each(weights)
                steep = length_of_each(gradients)
                ratios = [
                    torch.where((w > 0) & (g > 0), TRUST * w / g.clamp(min=1e-30), 1.0)
                    for w, g in zip(long, steep, strict=True)
                ]
                multiply_each_(gradients, ratios)
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


def set_learning_rate_(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set `rate` on every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate

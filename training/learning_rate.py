"""Learning rates: pure functions of the step. No torch here."""

import math
from collections.abc import Callable

# of `progress`, the share of the steps after the warm-up that are done -> share of the peak
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    "step": lambda progress: 0.1 ** ((progress >= 0.6) + (progress >= 0.8)),  # MoCo's 120 and 160 of 200 epochs
}


def rate_at(step: int, *, steps: int, warmup: int, peak: float, shape: str = "cosine") -> float:
    """Learning rate at `step` of `steps`: a linear rise to `peak` over `warmup` steps, then one of SHAPES."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SHAPES[shape](min(1.0, (step - warmup) / max(1, steps - warmup)))

"""What a training may be set to: limits of its flags, and the method that they make. No torch here."""

from .commands import Train
from .objectives.method import Method
from .settings import changed, method_named

# What may change between two starts of one run without making it another run. The data is checked by its fingerprint, the
# engine, the placement and the recipe by what they came to be.
FREE = ("set", "data", "out", "threads", "checkpoint_every", "log_every", "engine", "placement", "recipe")

INFINITY = float("inf")
LIMITS = {
    "width": (1, 4096),
    "hidden": (0, 65536),
    "embedding": (2, 65536),
    "size": (8, 4096),
    "batch": (2, INFINITY),
    "epochs": (0, 2**32 - 1),
    "steps": (0, INFINITY),
    "warmup": (0, 1),
    "momentum": (0, 1),
    "weight_decay": (0, INFINITY),
    "threads": (0, 1024),
    "seed": (0, 2**63 - 1),
    "checkpoint_every": (0, INFINITY),
    "log_every": (1, INFINITY),
}


def method_of(config: Train) -> Method:
    """The named row of the table with this configuration's settings in it; raises ValueError where one does not apply."""
    for name, (low, high) in LIMITS.items():
        if not low <= getattr(config, name) <= high:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must lie in {low:g} to {high:g}, got {getattr(config, name)}")
    if config.learning_rate is not None and config.learning_rate < 0:
        raise ValueError(f"--learning-rate must be 0 or more, got {config.learning_rate}")
    if config.epochs < 1 and not config.steps:
        raise ValueError("--epochs must be at least 1, or --steps be given")
    return changed(method_named(config.method), config.set)


def peak_rate(config: Train, method: Method) -> float:
    """The peak of the learning rate: what was asked for, or what suits the optimiser and the method."""
    if config.learning_rate is not None:
        return config.learning_rate
    return method.learning_rate if config.optimiser == "sgd" else 0.002

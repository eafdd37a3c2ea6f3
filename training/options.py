"""What a training may be set to: flags that fit one another, and the method that they make. No torch here."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ..files.typed import check_settings
from ..methods.method import Method, bounded
from ..methods.overrides import changed, method_named
from ..methods.parts import Queue
from ..settings import Train
from ..settings.training import Optimisation

# What may change between two starts of one run without making it another run. The data is checked by its fingerprint, the
# engine, the placement and the recipe by what they came to be.
FREE = ("set", "data", "out", "config", "init", "threads", "engine", "placement", "recipe", "compile", "recompute")
FREE = (*FREE, "checkpoint_every", "keep", "keep_every", "log_every", "track", "max_masked", "timeout")
# What may differ between the processes of one start: places on their machines, and what is compared as what it came to be.
MAY_DIFFER = ("set", "data", "config", "init", "threads", "engine", "placement", "recipe")

ENCODERS = ("resnet18", "resnet34", "resnet50")

QUEUE = "memory.size="  # as it is set


def method_of(config: Train) -> Method:
    """The named row of the table with this configuration's settings in it; raises ValueError where one does not apply."""
    check_settings(config)
    if config.optimisation.epochs < 1 and not config.optimisation.steps:
        raise ValueError("--epochs must be at least 1, or --steps be given")
    encoder = config.network.encoder
    if encoder not in ENCODERS and not encoder.startswith("timm:"):
        nearest = difflib.get_close_matches(encoder, ENCODERS, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(ENCODERS)} or timm:NAME"
        raise ValueError(f"no encoder is called {encoder!r}: {advice}")
    method = changed(method_named(config.method), config.set)
    if config.network.batch_norm == "shuffled" and method.target is None:
        raise ValueError(f"--batch-norm shuffled is for momentum encoders, and {config.method} has none: use local")
    return method


def for_images(method: Method, *, assigned: Sequence[str], rows: int, earlier: Mapping[str, Any]) -> Method:
    """The method for a data set of so many images: unless its size is `assigned` by --set, a queue is no longer than that.

    A run that goes on has the size that it began with, of which `earlier`, its configuration, tells.
    """
    if not isinstance(method.memory, Queue) or any(assignment.startswith(QUEUE) for assignment in assigned):
        return method
    began = earlier.get("objective", {}).get("memory.size")
    return changed(method, [f"{QUEUE}{began}"]) if began else bounded(method, rows=rows)


def peak_rate(optimisation: Optimisation, method: Method) -> float:
    """The peak of the learning rate: what was asked for, or what suits the optimiser and the method."""
    if optimisation.learning_rate is not None:
        return optimisation.learning_rate
    match optimisation.optimiser:
        case "sgd":
            return method.learning_rate
        case "lars":
            return 0.3 * optimisation.batch / 256  # arXiv 2002.05709, section 2.2
        case "adamw":
            return 0.002

"""What a training may be set to: flags that fit one another, and the method that they make. No torch here."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..files.typed import check_settings
from ..methods.method import Method, bounded
from ..methods.overrides import changed, method_named, values
from ..methods.parts import Bank, Everything, Own, Queue
from ..pipeline.order import steps_per_epoch
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


LONG = 100  # epochs from which on the presets are those of the sources, which train for 200
RATE_OF = 30  # epochs: a bank that is renewed less often is learnt from at so much less a rate
RANKED = 0.5  # of the anchors; and no warm start lasts longer than Method.latest of a run
BY_CLOCK = ("warm_start", "ranked_share", "latest")  # with one of them set by hand none is chosen
SHORT = ("memory.unvisited", "warm_start", "ranked_share", "latest")  # what is chosen for a short run


def for_run(
    method: Method, *, assigned: Sequence[str], rows: int, epochs: float, earlier: Mapping[str, Any] | None = None
) -> Method:
    """The method for a run of `epochs` over so many images: presets that nobody has `assigned` by --set fit them.

    `epochs` are how many times each row of a bank or a queue is renewed. A run that goes on has the presets that it began
    with, of which `earlier`, its configuration, tells.
    """
    names = [assignment.partition("=")[0] for assignment in assigned]
    began = (earlier or {}).get("objective")
    if began:
        kept = [f"{name}={began[name]}" for name in SHORT if name not in names and name in began]
        method = changed(method, [each for each in kept if each.partition("=")[0] in dict(values(method))])
    elif epochs < LONG:
        method = _short(method, names, epochs)
    if isinstance(method.memory, Bank) and method.memory.unvisited == "own":
        method = replace(method, learning_rate=method.learning_rate * min(1.0, epochs / RATE_OF))
    return for_images(method, assigned=assigned, rows=rows, earlier=earlier or {})


def epochs_of(config: Train, rows: int) -> float:
    """How often a run sees each of `rows` images."""
    optimisation = config.optimisation
    if not optimisation.steps:
        return optimisation.epochs
    return optimisation.steps / max(1, steps_per_epoch(rows, optimisation.batch))


def _short(method: Method, names: Sequence[str], epochs: float) -> Method:
    """The method for a bank or a queue that is renewed but a few times, whose ranking is worth little at first.

    A bank is filled before it is learnt from. A region comes into force when the bank has been filled, and RANKED of the
    anchors have their own row within its edge.
    """
    if isinstance(method.memory, Bank) and "memory.unvisited" not in names:
        method = replace(method, memory=replace(method.memory, unvisited="own"))
    plain = isinstance(method.region, Everything) and isinstance(method.positives, Own)
    by_hand = any(name.partition(".")[0] in BY_CLOCK or name.startswith("region.anneal") for name in names)
    if plain or by_hand or not isinstance(method.memory, Bank | Queue) or not method.contrast:
        return method
    first = max(1.0, min(method.warm_start, epochs / 10))
    return replace(method, warm_start=first, ranked_share=RANKED)


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

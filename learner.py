"""What learns: model, optimiser and memory, built from a configuration, saved and restored whole."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from .journal.folder import read_config
from .journal.log import versions
from .models import checkpoint
from .models.encoders import build as build_encoder
from .models.heads import Contrastive
from .models.optimise import OPTIMISERS
from .objectives.methods import Method
from .objectives.objective import Memory, start_memory

Settings = dict[str, Any]  # a run's config.json


class Learner(NamedTuple):
    """Everything that a training step changes."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    memory: Memory


def build(settings: Settings, method: Method, accelerator: Accelerator) -> Learner:
    """Model, optimiser and memory at step 0: a function of the configuration and its seed."""
    contrastive = contrastive_model(settings)
    make = OPTIMISERS[settings["optimiser"]]
    optimiser = make(contrastive, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    model, optimiser = accelerator.prepare(contrastive, optimiser)
    rows, dimension = settings["rows"], settings["embedding"]
    memory = start_memory(method, rows=rows, dimension=dimension, seed=settings["seed"], device=accelerator.device)
    return Learner(model, optimiser, memory)


def contrastive_model(settings: Settings) -> Contrastive:
    """The model that a configuration describes, with the weights of its seed."""
    torch.manual_seed(settings["seed"])
    encoder = build_encoder(settings["encoder"], width=settings["width"], image_size=settings["size"])
    return Contrastive(encoder, hidden=settings["hidden"], out=settings["embedding"])


class Restored(NamedTuple):
    """Where a run stands, and which newer checkpoints did not verify and why."""

    step: int
    passed_over: list[str]


def restore_(run: Path, learner: Learner, accelerator: Accelerator) -> Restored:
    """Put the newest checkpoint that verifies into `learner`; step 0 where there is none.

    Raises InvalidCheckpoint where there are some and none verifies, or where one is of another model.
    """
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        return Restored(0, [])
    parts, facts = found.checkpoint
    memory = {name: parts.get(_bank_file(name), {}).get("rows") for name in learner.memory}
    missing = [name for name, tensor in memory.items() if tensor is None]
    if missing or not {"model", "optimiser", "rng"} <= set(parts):
        raise checkpoint.InvalidCheckpoint(f"{found.path} lacks {', '.join(missing) or 'model, optimiser or rng'}")
    accelerator.unwrap_model(learner.model).load_state_dict(parts["model"])
    checkpoint.load_optimiser_(learner.optimiser, parts["optimiser"])
    for name, tensor in learner.memory.items():
        tensor.copy_(memory[name])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(facts["scaler"])
    torch.set_rng_state(parts["rng"]["torch"])
    return Restored(facts["step"], found.passed_over)


def save(run: Path, learner: Learner, accelerator: Accelerator, *, step: int, settings: Settings) -> None:
    """Write a checkpoint of `learner` under `run`; one process of a run calls this."""
    parts = {
        "model": accelerator.unwrap_model(learner.model).state_dict(),
        "optimiser": checkpoint.optimiser_tensors(learner.optimiser),
        "rng": {"torch": torch.get_rng_state()},
        **{_bank_file(name): {"rows": tensor} for name, tensor in learner.memory.items()},
    }
    facts = {
        "step": step,
        "world_size": accelerator.num_processes,
        "global_batch": settings["batch"],
        "data_fingerprint": settings["data_fingerprint"],
        "memory_rows": {name: [0, len(tensor)] for name, tensor in learner.memory.items()},
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        "config": settings,
        "versions": versions(),
    }
    checkpoint.write(run / "checkpoints", step, parts, facts)


def _bank_file(name: str) -> str:
    """Part 0 of 1: later versions may spread a large bank over several files."""
    return f"{name}-00000-of-00001"


class Encoders(NamedTuple):
    """A run's configuration, its trained encoder, and the same encoder as it was before training."""

    settings: Settings
    trained: nn.Module
    untrained: nn.Module


def load_encoders(run: Path) -> Encoders:
    """The encoders of the run in folder `run`; raises ValueError where it has no checkpoint that verifies."""
    settings = read_config(run)
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise ValueError(f"{run} holds no checkpoint yet: train it first")
    trained, untrained = contrastive_model(settings), contrastive_model(settings)
    trained.load_state_dict(found.checkpoint.parts["model"])
    return Encoders(settings, trained.encoder, untrained.encoder)

"""What learns: network, momentum encoder, optimiser and memory, built from a configuration, saved and restored whole."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from .journal.folder import read_config
from .journal.log import versions
from .models import checkpoint
from .models.heads import Outputs
from .models.momentum import follow_, follower, momentum_at
from .models.network import Architecture, Batch, Network
from .models.optimise import OPTIMISERS
from .objectives import memory as memories
from .objectives.memory import Memory
from .objectives.method import Method
from .objectives.schedules import Moment
from .objectives.terms import BoundedGaussian, FixedGaussian, VonMisesFisher
from .pipeline.beton import Beton
from .pipeline.loader import ViewBatch
from .pipeline.recipe import View

Settings = dict[str, Any]  # a run's config.json

HEADS = {FixedGaussian: "fixed", BoundedGaussian: "bounded", VonMisesFisher: "von-mises-fisher"}


class Learner(NamedTuple):
    """Everything that a training step changes."""

    model: nn.Module
    target: Network | None
    optimiser: torch.optim.Optimizer
    memory: Memory
    label_N: torch.Tensor | None = None
    """Classes of the images, where all have one: logged beside the negatives, never trained on."""


def architecture(settings: Settings, method: Method) -> Architecture:
    """The network that a method asks for, in the sizes of a configuration."""
    return Architecture(
        encoder=settings["encoder"],
        width=settings["width"],
        size=settings["size"],
        hidden=settings["hidden"],
        out=settings["embedding"],
        views=method.network,
        head=None if method.head is None else (HEADS[type(method.head)], dataclasses.astuple(method.head)),
        on_embedding=method.samples_embedding,
        predictor=method.predicts,
        decode_other=method.decodes_other,
        decode_own=method.decodes_own,
        seed=settings["seed"],
    )


def build(settings: Settings, method: Method, accelerator: Accelerator) -> Learner:
    """Network, momentum encoder, optimiser and memory at step 0: a function of the configuration and its seed."""
    made = network(settings)
    target = None if method.target is None else follower(made).to(accelerator.device)
    make = OPTIMISERS[settings["optimiser"]]
    optimiser = make(made, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    model, optimiser = accelerator.prepare(made, optimiser)
    sizes = {"rows": settings["rows"], "batch": settings["batch"], "dimension": settings["embedding"]}
    memory = memories.start(method, **sizes, seed=settings["seed"], device=accelerator.device)
    return Learner(model, target, optimiser, memory)


def network(settings: Settings) -> Network:
    """The network that a configuration describes, with the weights of its seed."""
    torch.manual_seed(settings["seed"])
    made_of = dict(settings["architecture"])
    if made_of["head"] is not None:  # JSON knows no tuples
        made_of["head"] = (made_of["head"][0], tuple(made_of["head"][1]))
    return Network(Architecture(**made_of))


def forward(learner: Learner, method: Method, batch: ViewBatch, moment: Moment, accelerator: Accelerator) -> Outputs:
    """The outputs of a batch: by the network that learns, and by the momentum encoder of the views that are keys."""
    online = _views(batch, range(method.online_views), method)
    outputs = learner.model(Batch(online, batch.row_B, moment.step))
    if learner.target is None:
        return outputs
    with torch.no_grad(), accelerator.autocast():
        shown = _views(batch, method.target_views, method)
        seen = Batch(shown, batch.row_B, moment.step, method.target_views)
        return outputs._replace(target_VBD=learner.target(seen).embedding_VBD)


def _views(batch: ViewBatch, which: range | tuple[int, ...], method: Method) -> tuple[torch.Tensor, ...]:
    """These views of a batch; of halves and patches, which are tensors of their own, all."""
    if method.network != "shared" or len(which) * len(batch.row_B) == len(batch.views[0]):
        return batch.views
    views = batch.views[0].split(len(batch.row_B))
    return (torch.cat([views[index] for index in which]) if len(which) > 1 else views[which[0]],)


def follow(learner: Learner, method: Method, moment: Moment, accelerator: Accelerator) -> None:
    """Let the momentum encoder follow a step of the other."""
    if learner.target is not None and method.target is not None:
        setting = {"value": method.target.value, "rising": method.target.rising}
        momentum = momentum_at(moment.step, steps=moment.steps, **setting)
        follow_(learner.target, accelerator.unwrap_model(learner.model), momentum=momentum)


def labels_of(beton: Beton, accelerator: Accelerator) -> torch.Tensor | None:
    """The classes of all rows, on the device; None where there are none."""
    if beton.label_N.max() < 0:
        return None
    return torch.from_numpy(beton.label_N.astype("int64")).to(accelerator.device)


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
    wanted = {"model", "optimiser", "rng"} | ({"target"} if learner.target is not None else set())
    if missing or not wanted <= set(parts):
        raise checkpoint.InvalidCheckpoint(f"{found.path} lacks {', '.join([*missing, *sorted(wanted - set(parts))])}")
    accelerator.unwrap_model(learner.model).load_state_dict(parts["model"])
    if learner.target is not None:
        learner.target.load_state_dict(parts["target"])
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
        **({"target": learner.target.state_dict()} if learner.target is not None else {}),
        "optimiser": checkpoint.optimiser_tensors(learner.optimiser),
        "rng": {"torch": torch.get_rng_state()},
        **{_bank_file(name): {"rows": tensor} for name, tensor in learner.memory.items()},
    }
    facts = {
        "step": step,
        "world_size": accelerator.num_processes,
        "global_batch": settings["batch"],
        "data_fingerprint": settings["data_fingerprint"],
        "memory_rows": {name: [0, len(tensor)] for name, tensor in learner.memory.items() if tensor.ndim},
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        "config": settings,
        "versions": versions(),
    }
    checkpoint.write(run / "checkpoints", step, parts, facts)


def _bank_file(name: str) -> str:
    """Part 0 of 1: later versions may spread a large bank over several files."""
    return f"{name}-00000-of-00001"


class Encoders(NamedTuple):
    """A run's configuration, its trained encoder, the same encoder as it was before training, and what it is shown."""

    settings: Settings
    trained: nn.Module
    untrained: nn.Module
    colours: View


def load_encoders(run: Path) -> Encoders:
    """The encoders of the run in folder `run`; raises ValueError where it has no checkpoint that verifies."""
    settings = read_config(run)
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise ValueError(f"{run} holds no checkpoint yet: train it first")
    trained, untrained = network(settings), network(settings)
    trained.load_state_dict(found.checkpoint.parts["model"])
    colours = settings["colours"]
    shown = View(size=settings["size"], space=colours["space"], mean=tuple(colours["mean"]), std=tuple(colours["std"]))
    return Encoders(settings, trained.encoder, untrained.encoder, shown)

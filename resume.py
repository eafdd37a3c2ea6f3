"""A run's state on disk: what a checkpoint holds, how a learner gets it back, and the encoders of a finished run."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from .journal.folder import difference, read_config
from .journal.log import versions
from .learner import Learner, Settings, network
from .models import checkpoint
from .models.checkpoint import Checkpoint, InvalidCheckpoint
from .objectives.memory import as_before_
from .pipeline.recipe import View

Parts = dict[str, dict[str, Tensor]]


def parts_of(learner: Learner) -> Parts:
    """What a checkpoint of `learner` holds: live tensors, by file and name."""
    return {
        "model": learner.network.state_dict(),
        **({"target": learner.target.state_dict()} if learner.target is not None else {}),
        **({"ema": learner.average.state_dict()} if learner.average is not None else {}),
        "optimiser": checkpoint.optimiser_tensors(learner.optimiser),
        "guard": learner.guard,
        **({"online": learner.watcher} if learner.watcher else {}),
        **{_memory_file(name): {"rows": tensor} for name, tensor in learner.memory.items()},
    }


def facts_of(learner: Learner, accelerator: Accelerator, *, step: int) -> dict[str, Any]:
    """What else its manifest says."""
    return {
        "step": step,
        "world_size": accelerator.num_processes,
        "global_batch": learner.settings["batch"],
        "data_fingerprint": learner.settings["data_fingerprint"],
        "memory_rows": {name: [0, len(tensor)] for name, tensor in learner.memory.items() if tensor.ndim},
        "config": learner.settings,
        "unwritten": "no negatives",  # see `_fill_`
        "versions": versions(),
    }


def _memory_file(name: str) -> str:
    """Part 0 of 1: later versions may spread a large bank over several files."""
    return f"{name}-00000-of-00001"


def begun(run: Path) -> bool:
    """Whether the run in this folder has checkpoints, as the main process sees it."""
    return bool(broadcast_object_list([bool(checkpoint.steps(run / "checkpoints"))])[0])


class Restored(NamedTuple):
    """Where a run stands, and which newer checkpoints did not verify and why."""

    step: int
    passed_over: list[str]


def restore_(run: Path, learner: Learner) -> Restored:
    """Put the newest checkpoint that verifies into `learner`; step 0 where there is none.

    The main process chooses and all read the same one. Raises InvalidCheckpoint, on all of them, where there are some and
    none verifies, where one is of another run, or where a process cannot read it; nothing in `learner` has changed then.
    """
    found, held, fault, told = None, None, "", [None, []]
    if torch.distributed.is_initialized() is False or torch.distributed.get_rank() == 0:
        try:
            found = checkpoint.newest(run / "checkpoints")
            told = [None, []] if found is None else [str(found.path), found.passed_over]
        except InvalidCheckpoint as error:
            fault = str(error)
    path, passed_over = broadcast_object_list(told)
    try:
        if path is not None:
            held = found.checkpoint if found is not None else checkpoint.read(Path(path))
            _check(Path(path), held, learner)
    except InvalidCheckpoint as error:
        fault = str(error)
    faults = [text for text in gather_object([fault]) if text]
    if faults:
        raise InvalidCheckpoint(faults[0])
    if held is None:
        return Restored(0, [])
    _fill_(learner, held)
    return Restored(held.facts["step"], passed_over)


def _check(path: Path, held: Checkpoint, learner: Learner) -> None:
    """Raise InvalidCheckpoint unless it is of this configuration and holds every tensor of `learner` in shape and type."""
    wanted = parts_of(learner)
    if missing := [name for name in wanted if name not in held.parts]:
        raise InvalidCheckpoint(f"{path} lacks {', '.join(missing)}")
    if other := difference(learner.settings, held.facts["config"]):
        raise InvalidCheckpoint(f"{path} is of another run: {other}")
    for part, tensors in wanted.items():
        for name, tensor in tensors.items():
            there = held.parts[part].get(name)
            if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
                is_now = "nothing" if there is None else f"{there.dtype} {list(there.shape)}"
                raise InvalidCheckpoint(f"{path} has {is_now} for {part} {name}, not {tensor.dtype} {list(tensor.shape)}")


def _fill_(learner: Learner, held: Checkpoint) -> None:
    learner.network.load_state_dict(held.parts["model"])
    for name, held_by in (("target", learner.target), ("ema", learner.average)):
        if held_by is not None:
            held_by.load_state_dict(held.parts[name])
    checkpoint.load_optimiser_(learner.optimiser, held.parts["optimiser"])
    for tensors, part in ((learner.guard, "guard"), (learner.watcher, "online")):
        for name, tensor in tensors.items():
            tensor.copy_(held.parts[part][name])
    for name, tensor in learner.memory.items():
        tensor.copy_(held.parts[_memory_file(name)]["rows"])
    if "unwritten" not in held.facts:  # what a memory began with, at random, was a negative then: a run ends as it began
        as_before_(learner.memory)


class Encoders(NamedTuple):
    """A run's configuration, its trained encoder, the same encoder as it was before training, and what it is shown."""

    settings: Settings
    step: int
    trained: nn.Module
    untrained: nn.Module
    colours: View


def read_training(run: Path) -> Settings:
    """The configuration of the training in folder `run`; raises ValueError where it is none, or one of something else."""
    settings = read_config(run)
    if "architecture" not in settings:
        kind = settings.get("command", "something else")
        raise ValueError(f"{run} is a run of {kind}, not a training of an encoder: name one of those")
    return settings


def load_encoders(run: Path, *, ema: bool = False) -> Encoders:
    """The encoders of the run in folder `run`; raises ValueError where it has no checkpoint that verifies.

    With `ema` the trained one has the moving average of the weights; raises ValueError where the run has none.
    """
    settings = read_training(run)
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise ValueError(f"{run} holds no checkpoint yet: train it first")
    if ema and "ema" not in found.checkpoint.parts:
        raise ValueError(f"{run} keeps no moving average of its weights: train with --ema, or evaluate without")
    trained, untrained = network(settings), network(settings)
    trained.load_state_dict(found.checkpoint.parts["ema" if ema else "model"])
    colours = settings["colours"]
    shown = View(size=settings["size"], space=colours["space"], mean=tuple(colours["mean"]), std=tuple(colours["std"]))
    return Encoders(settings, found.checkpoint.facts["step"], trained.encoder, untrained.encoder, shown)

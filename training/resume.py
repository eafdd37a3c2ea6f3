"""A run's state on disk: what a checkpoint holds, how a training gets it back, and the encoders of a finished run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from msgspec import Struct
from torch import Tensor, nn

from ..checkpoint import layout
from ..checkpoint.layout import Checkpoint, InvalidCheckpoint
from ..checkpoint.writer import Writer, check_room
from ..console import say
from ..distributed import collectives, rendezvous
from ..errors import Failed, Unsound
from ..evaluation import online
from ..files.typed import Misfit, fitted
from ..objectives.memory import as_before_
from ..pipeline.views.recipe import View
from . import update
from .log import versions
from .run_config import FromZero, as_now, config_of, unlike
from .run_folder import Hold, read_config
from .state import Settings, TrainState, network

Parts = dict[str, dict[str, Tensor]]


def parts_of(state: TrainState) -> Parts:
    """What a checkpoint of `state` holds: live tensors, by file and name."""
    return {
        "model": state.network.state_dict(),
        **({"target": state.target.state_dict()} if state.target is not None else {}),
        **({"ema": state.average.state_dict()} if state.average is not None else {}),
        "optimiser": layout.optimiser_tensors(state.optimiser),
        "guard": state.scaler,
        **({"online": state.online_probe} if state.online_probe else {}),
        **{_memory_file(name): {"rows": tensor} for name, tensor in state.memory.items()},
    }


def facts_of(state: TrainState, accelerator: Accelerator, *, step: int, finite: bool = True) -> dict[str, Any]:
    """What else its manifest says."""
    return {
        "sound": finite,
        "step": step,
        "world_size": accelerator.num_processes,
        "global_batch": state.settings["batch"],
        "data_fingerprint": state.settings["data_fingerprint"],
        "memory_rows": {name: [0, len(tensor)] for name, tensor in state.memory.items() if tensor.ndim},
        "config": state.settings,
        "unwritten": "no negatives",  # see `_fill_`
        "versions": versions(),
    }


@torch.no_grad()
def gives_finite_loss(state: TrainState, loss: Callable[[TrainState], Tensor]) -> bool:
    """Whether the network as it now is gives a finite `loss` on every process, and its last update took place.

    Nothing changes: a step that diverges leaves weights that are finite and worth nothing, which only a forward pass tells.
    """
    scaler = state.scaler["loss"]
    state.statistics.keep()
    with torch.random.fork_rng([scaler.device] if scaler.is_cuda else []):
        value = loss(state._replace(model=state.network))
    state.statistics.put_back_()
    broken = bool(collectives.most((~torch.isfinite(value.detach())).float()))
    searches = update.SEARCHES if state.settings["precision"] == "fp16" else 0
    return not broken and int(state.scaler["in_a_row"]) <= searches


def save(writer: Writer, hold: Hold | None, state: TrainState, accelerator: Accelerator, *, step: int, finite: bool) -> None:
    """Have the main process begin to write a checkpoint.

    Raises Failed, on every process, where the run's folder is another's by now, and Unsound where what would be written is
    not finite.
    """
    lost, broken = False, ""
    if accelerator.is_main_process:
        lost = hold is not None and not hold.still_ours()
        if not lost:
            broken = writer.submit(step, parts_of(state), facts_of(state, accelerator, step=step, finite=finite))
    lost, broken = collectives.of_main((lost, broken))
    if lost:
        raise Failed(
            f"the run's folder is no longer this run's at step {step}: it, or its .lock, was removed, moved or replaced; no "
            "checkpoint is written there. See who did that, then start again: with what is left of the folder, or anew"
        )
    if broken:
        raise Unsound(f"{broken} is not finite at step {step}, of which no checkpoint is written")


def _memory_file(name: str) -> str:
    """Part 0 of 1: later versions may spread a large bank over several files."""
    return f"{name}-00000-of-00001"


def begun(run: Path) -> bool:
    """Whether the run in this folder has checkpoints, as the main process sees it."""
    return rendezvous.current().of_main("begun", lambda: bool(layout.steps(run / "checkpoints")))


class Restored(NamedTuple):
    """Where a run stands, and which newer checkpoints did not verify and why."""

    step: int
    passed_over: list[str]


def restore_(run: Path, state: TrainState) -> Restored:
    """Put the newest checkpoint that verifies into `state`; step 0 where there is none.

    The main process chooses and all read the same one. Raises InvalidCheckpoint where there are some and none verifies,
    where one is of another run, or where this process cannot read it: then nothing in `state` has changed. Every process
    calls it before the first step, so the others hear of that at their next point.
    """
    found: list[layout.Found] = []

    def choose() -> tuple[str | None, list[str]]:
        newest = layout.newest(run / "checkpoints")
        if newest is None:
            return None, []
        found.append(newest)
        return str(newest.path), newest.passed_over

    path, passed_over = rendezvous.current().of_main("checkpoint", choose)
    if path is None:
        return Restored(0, [])
    held = found[0].checkpoint if found else layout.read(Path(path))
    _check(Path(path), held, state)
    _fill_(state, held)
    return Restored(held.facts["step"], passed_over)


class TakenUp(NamedTuple):
    """Where a start begins, and a warning where the disk has room for few checkpoints ("" where it has)."""

    step: int
    tight: str


def take_up_(run: Path, state: TrainState, *, steps: int, keep: int) -> TakenUp:
    """`restore_`; the main process says what it passed over, and looks for room where steps of `steps` are left.

    Raises InvalidCheckpoint as `restore_` does, and ValueError where there is no room for one checkpoint.
    """
    step, passed_over = restore_(run, state)
    if collectives.rank() > 0:
        return TakenUp(step, "")
    for fault in passed_over:
        say(f"passed over: {fault}")
    return TakenUp(step, (step < steps and check_room(run / "checkpoints", parts_of(state), keep=keep)) or "")


def _check(path: Path, held: Checkpoint, state: TrainState) -> None:
    """Raise InvalidCheckpoint unless it is of this configuration and holds every tensor of `state` in shape and type."""
    wanted = parts_of(state)
    if state.online_probe and state.number_C is not None and "online" in held.parts:
        held.parts["online"] = online.of_occurring(held.parts["online"], state.number_C)
    if missing := [name for name in wanted if name not in held.parts]:
        raise InvalidCheckpoint(f"{path} lacks {', '.join(missing)}")
    if other := differs(state.settings, held.facts, path):
        raise InvalidCheckpoint(f"{path} is of another run: {other}")
    for part, tensors in wanted.items():
        for name, tensor in tensors.items():
            there = held.parts[part].get(name)
            if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
                is_now = "nothing" if there is None else f"{there.dtype} {list(there.shape)}"
                raise InvalidCheckpoint(f"{path} has {is_now} for {part} {name}, not {tensor.dtype} {list(tensor.shape)}")


class Facts(Struct, frozen=True):
    """What is read of the facts in a checkpoint's manifest."""

    step: FromZero
    config: dict[str, Any]
    versions: dict[str, str | None] = {}


def differs(settings: Settings, facts: dict[str, Any], path: Path) -> str:
    """The first setting in which the checkpoint at `path` is another run's, in words; raises InvalidCheckpoint."""
    where = f"{path / 'manifest.json'}"
    try:
        return unlike(settings, as_now(fitted(facts, Facts, where=where, at=("facts",)).config, where=where).config)
    except Misfit as error:
        raise InvalidCheckpoint(str(error)) from None


def _fill_(state: TrainState, held: Checkpoint) -> None:
    state.network.load_state_dict(held.parts["model"])
    for name, held_by in (("target", state.target), ("ema", state.average)):
        if held_by is not None:
            held_by.load_state_dict(held.parts[name])
    layout.load_optimiser_(state.optimiser, held.parts["optimiser"])
    for tensors, part in ((state.scaler, "guard"), (state.online_probe, "online")):
        for name, tensor in tensors.items():
            tensor.copy_(held.parts[part][name])
    for name, tensor in state.memory.items():
        tensor.copy_(held.parts[_memory_file(name)]["rows"])
    if "unwritten" not in held.facts:  # what a memory began with, at random, was a negative then: a run ends as it began
        as_before_(state.memory)


class Encoders(NamedTuple):
    """A run's configuration, its trained encoder, the same encoder as it was before training, and what it is shown."""

    settings: Settings
    step: int
    trained: nn.Module
    untrained: nn.Module
    colours: View


def read_training(run: Path) -> Settings:
    """The configuration of the training in folder `run`; raises ValueError where it is none, or one of something else."""
    if command := read_config(run).get("command"):
        raise ValueError(f"{run} is a run of {command}, not a training of an encoder: name one of those")
    return config_of(run)


def load_encoders(run: Path, *, ema: bool = False) -> Encoders:
    """The encoders of the run in folder `run`; raises ValueError where it has no checkpoint that verifies.

    With `ema` the trained one has the moving average of the weights; raises ValueError where the run has none.
    """
    settings = read_training(run)
    found = layout.newest(run / "checkpoints")
    if found is None:
        raise ValueError(f"{run} holds no checkpoint yet: train it first")
    if other := differs(settings, found.checkpoint.facts, found.path):
        raise ValueError(f"{found.path} is of another run than {run / 'config.json'} says: {other}")
    if ema and "ema" not in found.checkpoint.parts:
        raise ValueError(f"{run} keeps no moving average of its weights: train with --ema, or evaluate without")
    trained, untrained = network(settings), network(settings)
    trained.load_state_dict(found.checkpoint.parts["ema" if ema else "model"])
    colours = settings["colours"]
    shown = View(size=settings["size"], space=colours["space"], mean=tuple(colours["mean"]), std=tuple(colours["std"]))
    return Encoders(settings, found.checkpoint.facts["step"], trained.encoder, untrained.encoder, shown)

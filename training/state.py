"""What learns: network, momentum encoder, optimiser and memory, built from a configuration; its forward pass, its update."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from ..distributed import collectives
from ..distributed.steps import autocast
from ..evaluation import online
from ..evaluation.labels import Dense, dense
from ..methods.architecture import Architecture
from ..methods.method import Method
from ..methods.outputs import Outputs
from ..methods.schedules import Moment
from ..models import weights
from ..models.encoders import check_batch_norm
from ..models.momentum import average_, averaged, ema_copy, ema_update_, momentum_at
from ..models.network import Batch, Network, compiled_
from ..models.timm_encoders import check_size
from ..objectives import memory as memories
from ..objectives.memory import Memory
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import ViewBatch
from . import update
from .optimisers import OPTIMISERS
from .update import Verdict

Settings = dict[str, Any]  # a run's config.json


class TrainState(NamedTuple):
    """Everything that a training step changes."""

    model: nn.Module
    target: Network | None
    average: Network | None
    """The moving average of the weights, where one was asked for."""
    optimiser: torch.optim.Optimizer
    memory: Memory
    scaler: update.ScalerState
    statistics: update.Statistics
    online_probe: dict[str, torch.Tensor]
    """State of the online probe; empty where there is none."""
    settings: Settings
    label_N: torch.Tensor | None
    """Classes of the images, where they have some, from 0 without gaps: logged beside the negatives, never trained on."""
    number_C: torch.Tensor | None = None
    """The numbers that these classes have in the file."""

    @property
    def network(self) -> Network:
        """The network itself, without what accelerate has put around it."""
        return getattr(self.model, "module", self.model)  # pyright: ignore[reportReturnType]


class Built(NamedTuple):
    """A training state as its seed makes it, and which weights it was given instead, in words; "" for none."""

    state: TrainState
    given: str


def build(
    settings: Settings,
    method: Method,
    beton: Beton,
    accelerator: Accelerator,
    *,
    sides: Iterable[int] = (),
    init: Path | None = None,
    recompute: bool = False,
    compiled: bool = False,
    agreed: Callable[[], None] = lambda: None,
) -> Built:
    """Everything that learns, as its seed makes it, but for weights read from `init`; `sides` are those of all its views.

    `agreed` returns once all processes have come so far: from there on they meet in collectives.

    Raises ValueError where something does not fit: sizes, weights, kinds of batch norm.
    """
    check_batch_norm(settings["batch_norm"], accelerator.device.type)
    made, given = network(settings, recompute=recompute), ""
    for side in set(sides) - {settings["size"]}:
        for half in getattr(made.encoder, "halves", [made.encoder]):
            check_size(half, side)
    if init is not None:
        read = weights.initialise_(made, init)
        left = f"; at random: {', '.join(sorted({name.split('.')[0] for name in read.left}))}" if read.left else ""
        given = f"{read.loaded} tensors of {read.source}{left}"
    target = None if method.target is None else ema_copy(made).to(accelerator.device)
    average = averaged(made).to(accelerator.device) if settings["ema"] else None
    for part in (made, target) if compiled else ():
        if part is not None:
            compiled_(part, accelerator.device)
    make = OPTIMISERS[settings["optimiser"]]
    agreed()
    model = accelerator.prepare(made)
    # not prepared by accelerate, whose wrapper asks the host after each update whether the scaler has left it out
    optimiser = make(made, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    sizes = {"rows": settings["rows"], "batch": settings["batch"], "dimension": settings["embedding"]}
    labels = dense(torch.from_numpy(beton.label_N.astype("int64")).to(accelerator.device))
    state = TrainState(
        model,
        target,
        average,
        optimiser,
        memory=memories.start(method, **sizes, seed=settings["seed"], device=accelerator.device),
        scaler=update.start(scaled=settings["precision"] == "fp16", device=accelerator.device),
        statistics=update.Statistics((made, target)),
        online_probe=_watcher(settings, made, labels, accelerator.device),
        settings=settings,
        label_N=labels.label_N if len(labels.number_C) else None,
        number_C=labels.number_C,
    )
    return Built(state, given)


def network(settings: Settings, *, recompute: bool = False) -> Network:
    """The network that a configuration describes, with the weights of its seed."""
    torch.manual_seed(settings["seed"])
    return Network(Architecture.of_record(settings["architecture"], recompute=recompute))


def _watcher(settings: Settings, made: Network, labels: Dense, device: torch.device) -> dict[str, torch.Tensor]:
    """What watches the features; nothing where there are fewer than two classes to tell apart, or too many."""
    classes = len(labels.number_C)
    if not settings["online"] or classes < 2 or online.too_large(made.features, classes):
        return {}
    return online.start(made.features, classes, device=device)


def forward(state: TrainState, method: Method, batch: ViewBatch, moment: Moment, accelerator: Accelerator) -> Outputs:
    """The outputs of a batch: by the network that learns, and by the momentum encoder of the views that are keys."""
    with autocast(accelerator):
        outputs = state.model(shown(batch, range(method.online_views), method, step=moment.step))
        if state.target is not None:
            seen = shown(batch, method.target_views, method, step=moment.step)
            with torch.no_grad():
                if state.settings["batch_norm"] == "shuffled":
                    keys_VBD = _shuffled(state.target, seen, seed=state.settings["seed"])
                else:
                    keys_VBD = state.target(seen).embedding_VBD
            outputs = outputs._replace(target_VBD=keys_VBD)
    return outputs


def shown(batch: ViewBatch, which: Sequence[int], method: Method, *, step: int) -> Batch:
    """These views of a batch, a tensor for each size; of parts and patches, which are tensors of their own, all."""
    if method.network != "shared":
        return Batch(batch.views, batch.row_B, step, tuple(which))
    images, tensors, numbers = len(batch.row_B), list[torch.Tensor](), list[int]()
    groups = [range(len(whole) // images) for whole in batch.views]
    if len(groups) > 1:
        groups = batch.plan.recipe.groups
    for members, whole in zip(groups, batch.views, strict=True):
        places = [place for place, view in enumerate(members) if view in which]
        numbers += [members[place] for place in places]
        if len(places) == len(members):
            tensors.append(whole)
        elif places:
            views = whole.split(images)
            tensors.append(torch.cat([views[place] for place in places]) if len(places) > 1 else views[places[0]])
    return Batch(tuple(tensors), batch.row_B, step, tuple(numbers))


def _shuffled(target: Network, batch: Batch, *, seed: int) -> torch.Tensor:
    """[V, B, D]: keys of a batch, each process having encoded images of all of them (arXiv 1911.05722, section 3.3).

    Otherwise batch norm tells query and key by the statistics that they share, and the loss falls without learning.
    """
    images = len(batch.row_B)
    order = torch.randperm(images * collectives.world(), generator=torch.Generator().manual_seed(seed + batch.step))
    order = order.to(batch.row_B.device)
    own = slice(collectives.rank() * images, (collectives.rank() + 1) * images)
    views = tuple(
        collectives.everyone(view.unflatten(0, (-1, images)))[:, order[own]]
        .flatten(0, 1)
        .contiguous(memory_format=torch.channels_last)
        for view in batch.views
    )
    row_B = collectives.gather(batch.row_B).flatten()[order[own]]
    encoded_VBD = target(batch._replace(views=views, row_B=row_B)).embedding_VBD
    return collectives.everyone(encoded_VBD)[:, order.argsort()[own]]


def advance_(state: TrainState, method: Method, moment: Moment, *, to_agree: Sequence[torch.Tensor]) -> Verdict:
    """Update the weights, and let the momentum encoder and the average follow."""
    settings = state.settings
    verdict = update.update_(
        state.optimiser,
        state.scaler,
        clip=settings["clip"],
        scaled=settings["precision"] == "fp16",
        to_agree=to_agree,
    )
    if state.target is not None and method.target is not None:
        momentum = momentum_at(moment.step, steps=moment.steps, value=method.target.value, rising=method.target.rising)
        ema_update_(state.target, state.network, momentum=momentum, finite=verdict.finite)
    if state.average is not None:
        done = moment.step // settings["accumulate"]
        average_(state.average, state.network, update=done, momentum=settings["ema"], finite=verdict.finite)
    return verdict


@torch.no_grad()
def update_probe_(
    state: TrainState, outputs: Outputs, batch: ViewBatch, moment: Moment, *, observe: bool
) -> dict[str, torch.Tensor]:
    """Let the online probe see the first view's features; what it makes of them where it is to `observe`."""
    if not state.online_probe or state.label_N is None:
        return {}
    feature_BF = collectives.everyone(outputs.mean_VBF[:1].detach())[0]
    row_B, valid_B = (collectives.gather(part).flatten() for part in (batch.row_B, batch.valid_B))
    label_B = state.label_N[row_B]
    return online.update_probe_(state.online_probe, feature_BF, label_B, valid_B, row_B, step=moment.step, observe=observe)

"""order -> plan -> engine -> photometrics -> ViewBatch: views of whole batches, on the device, ahead of the step.

Colour, blur and what follows them have two placements that execute one plan: `host`, in the thread that cut the crops and
while they are in its core's cache, and `device`. Host is the default on a CPU (8 times as fast there), device on a GPU.

On a GPU the host mills `ahead` batches in a thread while the device trains. On a CPU milling and training share the cores:
there a batch is milled when it is asked for, on all cores at once, which costs the same work and no contention.

Shape suffixes: V = views, B = images of this rank's batch.
"""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from . import order
from .beton.reader import Beton
from .buffers import Buffers
from .engines import engine
from .prefetch import prefetch
from .threads import Scratch, usable_cores
from .views import photometrics_device, photometrics_host
from .views.plan import ViewPlan, draw
from .views.recipe import Recipe, weak

PLACEMENTS = ("host", "device")


class ViewBatch(NamedTuple):
    """A batch of views."""

    views: tuple[Tensor, ...]
    """As `plan.recipe.tensors`, one per group, or per part of one that is split: [V*B, C, S, S], channels_last, on the
    device, normalised, view-major."""
    row_B: Tensor
    """int64 identity of each image: its row in the .beton."""
    valid_B: Tensor
    """bool: False where a sample could not be decoded; masked out of loss and bank."""
    label_B: Tensor
    """int64, -1 where there is none; training never reads it."""
    host_row_B: np.ndarray
    """`row_B` on the host, for what is drawn there: to ask the device for it would be to wait."""
    plan: ViewPlan
    """What was done to each view; its `recipe.groups` say which views of the plan a group holds."""


class ViewLoader(Protocol):
    """What the training loop and the evaluation ask of a loader."""

    def __len__(self) -> int:
        """Steps an epoch, the same on every rank."""
        ...

    def epoch(self, number: int, *, skip: int = 0) -> Generator[ViewBatch]:
        """The batches of epoch `number`, without its first `skip`."""
        ...

    def once(self) -> Generator[ViewBatch]:
        """Every row once, in order, under the weak recipe, with a ragged tail: for evaluation."""
        ...


class Milled(NamedTuple):
    """A batch as it leaves the host."""

    pixels: tuple[Tensor, ...]
    """One a group: finished views, or where the device has yet to develop them uint8 crops [V, B, S, S, 3]."""
    draws: tuple[photometrics_device.Draws, ...]
    """What the device needs for that; empty where nothing is left to do."""
    row: np.ndarray
    valid: np.ndarray
    plan: ViewPlan


class BetonLoader:
    """The ViewLoader over one .beton file.

    Args:
        batch: images of a global batch; this rank mills its share of each.
        engine_name: a name of engine.ENGINES, or "auto".
        threads: of the engine; 0 for every usable core.
        ahead: batches milled ahead of the step; None for 2 on a GPU and 0 on a CPU.
        placement: where colour, blur, solarise and normalise run: one of PLACEMENTS, or "auto".
        dtype: of the views: float32, float16 or bfloat16.
    """

    def __init__(
        self,
        beton: Beton,
        recipe: Recipe,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        engine_name: str = "auto",
        threads: int = 0,
        ahead: int | None = None,
        placement: str = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._beton, self.recipe, self._batch, self._seed, self._device = beton, recipe, batch, seed, device
        self._share = order.share(batch, rank=rank, world=world)
        self._cuda = device.type == "cuda"
        self._ahead = (2 if self._cuda else 0) if ahead is None else ahead
        self.engine_name, self.placement = engine.choose(engine_name), _placement(placement, device)
        self._engine = engine.ENGINES[self.engine_name].make(beton, threads or usable_cores())
        self.unreadable = set[int]()
        """Rows that this rank has met and could not decode."""
        self._dtype, self._scratch, self._buffers = dtype, Scratch(), Buffers()

    def __len__(self) -> int:
        return order.steps_per_epoch(len(self._beton), self._batch)

    def epoch(self, number: int, *, skip: int = 0) -> Generator[ViewBatch]:
        """See ViewLoader."""
        steps = len(self)
        rows = order.permutation(len(self._beton), seed=self._seed, epoch=number)

        def make(step: int) -> Milled:
            row_B = rows[step * self._batch : (step + 1) * self._batch][self._share]
            return self._mill(self.recipe, row_B, epoch=number)

        return self._deliver(make, range(skip, steps))

    def once(self) -> Generator[ViewBatch]:
        """See ViewLoader."""
        recipe = weak(self.recipe.views[0].size, self.recipe.views[0])
        starts = range(0, len(self._beton), self._batch)

        def make(start: int) -> Milled:
            row_B = np.arange(start, min(start + self._batch, len(self._beton)))
            return self._mill(recipe, row_B, epoch=0)

        return self._deliver(make, starts)

    def batch_of(self, row_B: np.ndarray, *, epoch: int) -> ViewBatch:
        """The views that rows `row_B` have in `epoch`, whichever batch they fall in."""
        return self._develop(self._mill(self.recipe, row_B, epoch=epoch))

    def close(self) -> None:
        """Let go of the engine's threads and files."""
        self._engine.close()

    def _mill(self, recipe: Recipe, row_B: np.ndarray, *, epoch: int) -> Milled:
        height_B, width_B = self._beton.height_N[row_B], self._beton.width_N[row_B]
        plan = draw(recipe, seed=self._seed, epoch=epoch, row_B=row_B, height_B=height_B, width_B=width_B)
        shapes = [(len(group), len(row_B), *[recipe.views[group[0]].size] * 2, 3) for group in recipe.groups]
        if self.placement == "host":
            # Here crops live until their image is developed, so every batch is cut into the same memory.
            cut = tuple(
                self._scratch.take(f"crops {at}", math.prod(shape))[: math.prod(shape)].reshape(shape)
                for at, shape in enumerate(shapes)
            )
            pixels, draws = tuple(self._views(shape) for shape in shapes), ()
            then = photometrics_host.developer(cut, plan, pixels, self._scratch)
        else:
            pixels = tuple(torch.empty(shape, dtype=torch.uint8, pin_memory=self._cuda) for shape in shapes)
            cut, then = tuple(crops.numpy() for crops in pixels), engine.nothing
            draws = tuple(photometrics_device.draws(plan, group, pin=self._cuda) for group in recipe.groups)
        valid_B = self._engine.crops(row_B, plan, cut, then)
        self.unreadable.update(row_B[~valid_B].tolist())
        return Milled(pixels, draws, row_B, valid_B, plan)

    def _views(self, shape: tuple[int, ...]) -> Tensor:
        """Room for the finished views of a group: [V*B, 3, S, S], channels_last."""
        count, size = shape[0] * shape[1], shape[2]
        flat = (count, size, size, 3)
        if self._cuda:
            return torch.empty(flat, dtype=self._dtype, pin_memory=True).permute(0, 3, 1, 2)
        return self._buffers.take(flat, self._dtype).permute(0, 3, 1, 2)

    def _deliver(self, make: Callable[[int], Milled], steps: range) -> Generator[ViewBatch]:
        milled = map(make, steps) if self._ahead == 0 else prefetch(make, steps, self._ahead)
        for item in milled:
            yield self._develop(item)

    def _develop(self, item: Milled) -> ViewBatch:
        views = tuple(pixels.to(self._device, non_blocking=True) for pixels in item.pixels)
        if self.placement == "device":
            spaces = [item.plan.recipe.views[members[0]].space for members in item.plan.recipe.groups]
            views = tuple(
                photometrics_device.apply_photometrics(crops.flatten(0, 1), draws.to(self._device), space).to(self._dtype)
                for crops, draws, space in zip(views, item.draws, spaces, strict=True)
            )
        return ViewBatch(
            views=tuple(views[group][:, first : first + count] for group, first, count in item.plan.recipe.tensors),
            row_B=self._send(item.row),
            valid_B=self._send(item.valid),
            label_B=self._send(self._beton.label_N[item.row]),
            host_row_B=item.row,
            plan=item.plan,
        )

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return (tensor.pin_memory() if self._cuda else tensor).to(self._device, non_blocking=True)


def _placement(name: str, device: torch.device) -> str:
    if name == "auto":
        return "device" if device.type == "cuda" else "host"
    if name not in PLACEMENTS:
        raise ValueError(f"no placement is called {name!r}: use auto, {', '.join(PLACEMENTS)}")
    return name


def batches(loader: ViewLoader, *, start: int, stop: int) -> Generator[ViewBatch]:
    """The batches of steps `start` to `stop`, over as many epochs as it takes."""
    while start < stop:
        epoch, skip = divmod(start, len(loader))
        with closing(loader.epoch(epoch, skip=skip)) as source:
            yield from islice(source, stop - start)
        start = (epoch + 1) * len(loader)


def every_row(
    beton: Beton, recipe: Recipe, *, batch: int, device: torch.device, engine_name: str = "auto"
) -> Iterator[ViewBatch]:
    """Every row of `beton` once under the weak recipe, in size and colours of `recipe`."""
    with closing(BetonLoader(beton, recipe, batch=batch, seed=0, device=device, engine_name=engine_name)) as loader:
        yield from loader.once()

"""The one file that talks to other ranks. With a single process everything here is the identity.

accelerate's gather drops the gradient of the other ranks' keys: 72 % off the joint batch's gradient, measured.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed


def world() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number."""
    return distributed.get_rank() if world() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # every rank's loss used every key: the sum over ranks, of which DDP's 1 / W then makes the joint gradient
        summed = grads[0].contiguous()
        distributed.all_reduce(summed)
        return summed[rank()]


def gather(x: Tensor) -> Tensor:
    """[W, *x.shape]: `x` of every rank, in rank order, with the gradient of all of them."""
    return _Gather.apply(x) if world() > 1 else x[None]  # pyright: ignore[reportReturnType]


def total(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, without gradient."""
    x = x.detach().clone()
    if world() > 1:
        distributed.all_reduce(x)
    return x


@torch.no_grad()
def most(x: Tensor) -> Tensor:
    """The largest of `x` over all ranks, elementwise; in place."""
    if world() > 1:
        distributed.all_reduce(x, distributed.ReduceOp.MAX)
    return x


ANEW = "anew://"  # the environment's way to meet, in a part of the store that is this start's own


def _anew(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[Any, int, int]]:
    """torchrun serves one store for all restarts (2.14), where a restarted process finds the addresses of the dead ones."""
    meet: Any = distributed  # whose types leave these three out
    for store, own, size in meet.rendezvous("env" + url.removeprefix("anew"), timeout=timeout, **options):
        yield meet.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store), own, size


if distributed.is_available():
    distributed.register_rendezvous_handler("anew", _anew)  # pyright: ignore[reportPrivateImportUsage]

OF_PEERS = ("gloo", "pair closure", "Connection closed", "Connection reset", "NCCL")  # what errors of talking say


@contextmanager
def main_first(task: str) -> Iterator[None]:
    """The main process before all others, however long it takes: a barrier would end with the timeout of the group."""
    if world() == 1:
        yield
        return
    store = distributed.distributed_c10d._get_default_store()
    if rank() > 0:
        store.wait([task], timedelta(days=30))
        yield
        return
    try:
        yield
    finally:
        store.set(task, "")


def lost(error: BaseException, *, seconds: float = 10.0) -> list[int] | None:
    """The ranks that no longer answer, where `error` is of talking to them; None for any other error.

    Every rank that meets such an error calls this, within `seconds` of the others. They meet at the key-value store that
    brought them together, since no collective works any more; gloo names an address at best.
    """
    talking = isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in OF_PEERS)
    )
    if world() == 1 or not talking:
        return None
    store = distributed.distributed_c10d._get_default_store()
    store.set(f"here/{rank()}", "")
    silent = []
    for other in range(world()):
        try:
            store.wait([f"here/{other}"], timedelta(seconds=seconds))
        except (RuntimeError, ValueError):
            silent.append(other)
    return silent


@torch.no_grad()
def broadcast_(x: Tensor) -> None:
    """`x` of the first rank on every rank, in place."""
    if world() > 1:
        distributed.broadcast(x, src=0)


def everyone(x_VBD: Tensor) -> Tensor:
    """[V, W*B, D]: the views of the global batch in its own order, with gradient."""
    return gather(x_VBD).movedim(0, 1).flatten(1, 2)


def mean_weight(valid_B: Tensor, dtype: torch.dtype) -> Tensor:
    """[B] weights: sum(weight * x) has the mean over all valid images of all ranks as its mean over ranks."""
    weight_B = valid_B.to(dtype)
    return weight_B * (world() / total(weight_B.sum()).clamp(min=1))

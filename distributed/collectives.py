"""The collectives of a training: with rendezvous.py what talks to other ranks. With a single process all is the identity.

accelerate's gather drops the gradient of the other ranks' keys: 72 % off the joint batch's gradient, measured.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from . import rendezvous


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


ANEW = "anew://"  # by the store at which the processes have met already


def _anew(url: str, **options: Any) -> Iterator[tuple[Any, int, int]]:
    """A store that is this start's own, also where torchrun serves one for all restarts (2.14)."""
    met = rendezvous.current()
    yield met.store, met.rank, met.world


if distributed.is_available():
    distributed.register_rendezvous_handler("anew", _anew)  # pyright: ignore[reportPrivateImportUsage]

OF_PEERS = ("gloo", "pair closure", "Connection closed", "Connection reset", "NCCL")  # what errors of talking say


def of_peers(error: BaseException) -> bool:
    """Whether `error` is of talking to other ranks: one of them is gone, or goes."""
    if world() == 1:
        return False
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in OF_PEERS)
    return told or isinstance(error, distributed.DistError)


def of_main(told: Any) -> Any:
    """What the main process has to tell all, by a collective: for small things, rarely."""
    if world() == 1:
        return told
    whole = [told]
    distributed.broadcast_object_list(whole, src=0)
    return whole[0]


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

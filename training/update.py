"""One update of the weights, which nothing that is not finite survives.

A loss or gradient that is not finite on any rank makes the update nothing on every rank: weights, moments and averages stay
what they were. All of it is decided on the device; the host reads the verdict a step late (`DelayedRead`) and never waits.
bf16 and float32 have no scaler that would do this: one such loss makes all weights not finite for good.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..distributed import collectives

ScalerState = dict[str, Tensor]

SEARCHES = 4  # updates in a row that fp16 may leave out in looking for its scale
FIRST_SCALE, LARGEST_SCALE, GROWS_AFTER = 2.0**16, 2.0**24, 2000  # of fp16's loss scale: torch's own, and a ceiling


class Part(NamedTuple):
    """Which part of an update a step is: one of its `batches`, and whether the `last`."""

    batches: int
    last: bool


def part_of(step: int, *, steps: int, per_epoch: int, accumulate: int) -> Part:
    """The part that `step` (from 0) is of its update: `accumulate` steps make one, and never of two epochs.

    What an epoch, or the run, leaves over makes an update of its own: an image counts once in an update, and where a run
    stands in its epoch says where it stands in its update.
    """
    within = step % per_epoch
    first = step - within % accumulate
    end = min(first + accumulate, step - within + per_epoch, steps)
    return Part(end - first, step + 1 == end)


def start(*, scaled: bool, device: torch.device) -> ScalerState:
    """The state of a run's first step. `scaled` for fp16, whose gradients would vanish without a scale."""
    scale = FIRST_SCALE if scaled else 1.0
    return {
        "scale": torch.full((), scale, device=device),
        "good": torch.zeros((), dtype=torch.int64, device=device),  # updates since the scale changed last
        "in_a_row": torch.zeros((), dtype=torch.int64, device=device),  # masked updates without a good one between
        "masked": torch.zeros((), dtype=torch.int64, device=device),  # in all
        "loss": torch.zeros((), device=device),  # of this update: the last, or the first that was not finite
    }


def backward(loss: Tensor, scaler: ScalerState, part: Part) -> None:
    """Add the gradients of a step's loss to its update's, scaled; notes where the loss is not finite."""
    scaler["loss"].copy_(torch.where(torch.isfinite(scaler["loss"]), loss.detach().float(), scaler["loss"]))
    (loss * (scaler["scale"] / part.batches)).backward()


class Verdict(NamedTuple):
    """What an update came to; tensors until `DelayedRead` has brought them to the host."""

    agreed: Tensor
    """float32 [4], the same on every rank: masked updates in a row, the highest rank (from 1) whose loss was not finite (0
    for none), and the largest of what each rank had to tell."""
    norm: Tensor
    """Of the gradients, before clipping."""
    scale: Tensor
    """By which the loss had been multiplied."""
    finite: Tensor
    """bool: whether the update took place."""
    loss: Tensor
    """Of this process: the update's last step's, or the first that was not finite."""

    def numbers(self) -> Tensor:
        """float32 [7] for the host: told, loss, norm, scale."""
        return torch.cat([self.agreed, torch.stack([self.loss, self.norm, self.scale]).float()])


class Agreed(NamedTuple):
    """A verdict on the host, as every process has it: the numbers of `Verdict.numbers`."""

    masked_in_a_row: float
    not_finite_on: float
    """The highest process (from 1) whose loss was not finite; 0 for none."""
    asked: float
    """The largest exit code that a process was asked for."""
    readable: float
    """Whether any process could read an image."""
    loss: float
    norm: float
    scale: float


@torch.no_grad()
def update_(
    optimiser: torch.optim.Optimizer,
    scaler: ScalerState,
    *,
    clip: float,
    scaled: bool,
    to_agree: Sequence[Tensor],
) -> Verdict:
    """Update the weights from their gradients and forget those; masked where anything was not finite.

    Args:
        clip: the largest norm of all gradients as one vector; 0 for no limit.
        scaled: whether the scale is fp16's, which halves after a masked update and doubles after GROWS_AFTER good ones.
        to_agree: two 0-dimensional tensors of which every rank learns the largest.
    """
    gradients = _aligned_([p for group in optimiser.param_groups for p in group["params"] if p.grad is not None])
    scale = scaler["scale"].clone()
    norm = nn.utils.get_total_norm(gradients) / scale
    loss = scaler["loss"].clone()
    unsound = ~torch.isfinite(loss) | ~torch.isfinite(norm)
    whose = ~torch.isfinite(loss) * (collectives.rank() + 1.0)
    masked, *agreed = collectives.most(torch.stack([unsound.float(), whose, *(part.float() for part in to_agree)]))
    # fused kernels divide by the one and do nothing where the other is set: no pass over the gradients of its own
    optimiser.grad_scale = scale * (norm / clip).clamp(min=1) if clip else scale  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.found_inf = masked  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    _count_(scaler, masked, scaled=scaled)
    return Verdict(torch.stack([scaler["in_a_row"].float(), *agreed]), norm, scale, masked == 0, loss)


def _aligned_(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Their gradients, in memory as they lie themselves: torch's fused kernels do not look at strides (2.14)."""
    for parameter in parameters:
        assert parameter.grad is not None
        if parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _count_(scaler: ScalerState, masked: Tensor, *, scaled: bool) -> None:
    bad = masked.long()
    scaler["in_a_row"].add_(1).mul_(bad)
    scaler["masked"].add_(bad)
    scaler["loss"].zero_()
    if scaled:
        scaler["good"].add_(1).mul_(1 - bad)
        grows = (scaler["good"] >= GROWS_AFTER).float()
        scaler["scale"].mul_((1 - masked / 2) * (1 + grows)).clamp_(2.0**-14, LARGEST_SCALE)
        scaler["good"].mul_(1 - grows.long())


class DelayedRead:
    """Brings small tensors to the host one call late, when the device has long finished them."""

    def __init__(self) -> None:
        self._under_way: tuple[Tensor, torch.cuda.Event | None] | None = None

    def bring(self, tensor: Tensor) -> list[float] | None:
        """The tensor of the call before, as numbers; None the first time."""
        earlier = self.rest()
        if tensor.is_cuda:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            pinned.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._under_way = pinned, event
        else:
            self._under_way = tensor, None
        return earlier

    def rest(self) -> list[float] | None:
        """What is still under way; waits for it."""
        if self._under_way is None:
            return None
        (tensor, event), self._under_way = self._under_way, None
        if event is not None:
            event.synchronize()
        return tensor.tolist()


class Statistics:
    """Buffers of batch norms, which a batch that is not finite would spoil for good: they keep what they held."""

    def __init__(self, networks: Iterable[nn.Module | None]) -> None:
        self._live = [buffer for network in networks if network is not None for buffer in network.buffers()]
        self._kept = [buffer.clone() for buffer in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Note what they hold, before a forward pass."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def put_back_(self) -> None:
        """Put back what was noted."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def mend_(self) -> None:
        """Put back what was noted where one is no longer finite; after the backward pass, which still asks for them."""
        numbers = [buffer for buffer in self._live if buffer.is_floating_point()]
        if numbers:
            finite = torch.isfinite(nn.utils.get_total_norm(numbers))
            for live, kept in zip(self._live, self._kept, strict=True):
                live.copy_(torch.where(finite, live, kept))

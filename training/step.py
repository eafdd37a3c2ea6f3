"""One step of a training: forward, loss, backward, update, memory. Nothing of it waits for the device."""

from contextlib import nullcontext

import torch
from accelerate import Accelerator

from ..distributed.steps import seed_step
from ..methods.method import Method
from ..methods.schedules import Moment
from ..objectives import candidates, memory, objective, warm_start
from ..pipeline.loader import ViewBatch
from .loop import StepOutput
from .state import TrainState, advance_, forward, update_probe_
from .update import Part, backward


def take_step(
    state: TrainState,
    method: Method,
    batch: ViewBatch,
    moment: Moment,
    accelerator: Accelerator,
    *,
    part: Part,
    observe: bool,
    asked: int = 0,
) -> StepOutput:
    """One batch of training; nothing of it waits for the device. Without `observe` the loss is the only scalar.

    `asked` is the exit code that this process has been asked for, of which an update's verdict tells every process.
    """
    seed_step(state.settings["seed"], moment.step)
    state.statistics.keep()
    with nullcontext() if part.last else accelerator.no_sync(state.model):
        outputs = forward(state, method, batch, moment, accelerator)
        images = images_of(state, method, batch, moment)  # drawn on the host while a GPU makes the outputs
        loss, scalars, pending = objective.loss(method, outputs, state.memory, images, moment, observe=observe)
        backward(loss, state.scaler, part)
    state.statistics.mend_()
    verdict = None
    if part.last:
        to_agree = (torch.full_like(loss.detach(), asked), batch.valid_B.any())
        verdict = advance_(state, method, moment, to_agree=to_agree)
    memory.write_(method, state.memory, outputs, images, moment, pending)
    scalars |= update_probe_(state, outputs, batch, moment, observe=observe)
    return StepOutput(scalars, verdict, outputs.mean_VBF.detach())


def loss_of(method: Method, batch: ViewBatch, moment: Moment, accelerator: Accelerator, state: TrainState) -> torch.Tensor:
    """The loss of a batch, of which nothing is learnt or remembered."""
    outputs = forward(state, method, batch, moment, accelerator)
    return objective.loss(method, outputs, state.memory, images_of(state, method, batch, moment), moment, observe=False)[0]


def images_of(state: TrainState, method: Method, batch: ViewBatch, moment: Moment) -> objective.Images:
    """Which images a batch shows, and which rows of the bank are on offer to them at `moment`."""
    settings, device = state.settings, batch.row_B.device
    method = warm_start.in_force(method, state.memory, moment)
    candidate_M = candidates.draw(method, settings["rows"], batch.host_row_B, moment, seed=settings["seed"], device=device)
    return objective.Images(batch.row_B, batch.valid_B, candidate_M, state.label_N, batch.views)

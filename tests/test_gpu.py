"""What only a CUDA device can show. `make test-gpu` runs these alone; elsewhere they are skipped."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from viewmill.methods.architecture import architecture
from viewmill.methods.parts import Nearest, Ring
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.models.momentum import ema_copy, ema_update_
from viewmill.models.network import Batch, Network
from viewmill.objectives import candidates, objective
from viewmill.objectives import memory as memories
from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.views.recipe import Blur, Jitter, Recipe, View, contrasted
from viewmill.training.optimisers import set_learning_rate_, sgd
from viewmill.training.update import DelayedRead, Part, backward, start, update_

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

RECIPE = Recipe((View(size=48, jitter=Jitter(0.4, 0.4, 0.4, 0.1), grey=0.2, blur=Blur(), solarise=0.3),) * 2)


def loader(beton, recipe, device: str, **options):
    return closing(BetonLoader(beton, recipe, batch=8, seed=0, device=torch.device(device), **options))


def test_the_views_are_those_of_the_cpu(photo_beton):
    with loader(photo_beton, RECIPE, "cuda") as ours, loader(photo_beton, RECIPE, "cpu") as reference:
        for batch, expected in zip(ours.epoch(0), reference.epoch(0), strict=True):
            assert batch.views[0].device.type == "cuda"
            assert (batch.views[0].cpu() - expected.views[0]).abs().quantile(0.999) < 1e-3
            assert torch.equal(batch.row_B.cpu(), expected.row_B)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_never_waits_for_the_device(photo_beton, name, dtype):
    method, device = METHODS[name], torch.device("cuda")
    if isinstance(method.region, Ring) and method.region.inner > 0:
        method = replace(method, region=Ring(0.1, 0.8))
    if isinstance(method.region, Nearest):
        method = replace(method, region=Nearest(4), warm_start=0.0)
    settings = {
        "encoder": "resnet18",
        "width": 8,
        "size": 32,
        "hidden": 16,
        "embedding": 8,
        "seed": 0,
        "batch_norm": "local",
    }
    model = Network(architecture(settings, method)).to(device)
    target = None if method.target is None else ema_copy(model)
    optimiser = sgd(model, momentum=0.9, weight_decay=1e-4)
    set_learning_rate_(optimiser, 0.01)
    scaler, late = start(scaled=dtype == torch.float16, device=device), DelayedRead()
    memory = memories.start(method, rows=len(photo_beton), batch=8, dimension=8, seed=0, device=device)
    recipe = contrasted(method.recipe, 32, views=method.views, network=method.network)
    with loader(photo_beton, recipe, "cuda") as source:
        for number, batch in enumerate(source.epoch(0)):
            torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step may allocate and tune
            moment, seen = Moment(number, 100, 10), Batch(batch.views, batch.row_B, number, range(method.views))
            drawn = candidates.draw(method, len(photo_beton), batch.host_row_B, moment, seed=0, device=device)
            images = objective.Images(batch.row_B, batch.valid_B, drawn, None, batch.views)
            with torch.autocast("cuda", dtype=dtype):
                outputs = model(seen)
                if target is not None:
                    views = target(seen).embedding_VBD[: len(method.target_views)]
                    outputs = outputs._replace(target_VBD=views)
            loss, scalars, pending = objective.loss(method, outputs, memory, images, moment, observe=number == 0)
            backward(loss, scaler, Part(1, True))
            to_agree = (torch.zeros((), device=device), batch.valid_B.any())
            verdict = update_(optimiser, scaler, clip=1.0, scaled=dtype == torch.float16, to_agree=to_agree)
            told = late.bring(verdict.numbers())
            if target is not None:
                ema_update_(target, model, momentum=0.99, finite=verdict.finite)
            memories.write_(method, memory, outputs, images, moment, pending)
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(scalars["loss"].item())
    assert told[:2] == [0, 0]  # nothing was masked


def test_memory_does_not_grow_from_epoch_to_epoch(photo_beton):
    used = []
    with loader(photo_beton, RECIPE, "cuda") as source:
        for epoch in range(6):
            for batch in source.epoch(epoch):
                del batch
            torch.cuda.synchronize()
            used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]

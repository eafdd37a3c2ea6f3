"""What would run on a GPU, on fake CUDA tensors: nothing lands on the wrong device, nothing waits for the device.

FakeTensorMode refuses operations over two devices, `.item()` and `nonzero`; Watch also the copies and host indices that it
lets pass.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from watching import Watch

from viewmill.methods.architecture import architecture
from viewmill.methods.parts import Bank, Nearest, Queue, Ring
from viewmill.methods.schedules import Moment
from viewmill.methods.synthetic import MixedQueue
from viewmill.methods.table import METHODS
from viewmill.models.momentum import ema_update_
from viewmill.models.network import Batch, Network
from viewmill.objectives import memory as memories
from viewmill.objectives.objective import Images, loss
from viewmill.pipeline.views import photometrics_device, plan
from viewmill.pipeline.views.recipe import RECIPES
from viewmill.training.loaders import own_recipe

ROWS = 200


@pytest.mark.parametrize("name", RECIPES)
def test_photometrics_stay_on_their_device(name):
    recipe, count = RECIPES[name](96), 4
    sizes = {"height_B": np.full(count, 120), "width_B": np.full(count, 130)}
    made = plan.draw(recipe, seed=0, epoch=0, row_B=np.arange(count), **sizes)
    for members in recipe.groups:
        view = recipe.views[members[0]]
        shapes = [(part.shape, part.dtype) for part in photometrics_device.draws(made, members)]
        with FakeTensorMode():
            crops = torch.empty(len(members) * count, view.size, view.size, 3, dtype=torch.uint8, device="cuda")
            what = photometrics_device.Draws(*(torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in shapes))
            with Watch():
                out = photometrics_device.apply_photometrics(crops, what, view.space)
        assert out.device.type == "cuda"
        assert out.shape == (len(crops), 3, view.size, view.size)


def fitted(method):
    """The method in sizes that fit a bank of ROWS."""
    if isinstance(method.region, Nearest):
        method = replace(method, region=Nearest(20), warm_start=0.0)
    if isinstance(method.region, Ring) and method.region.relative:
        method = replace(method, region=Ring(0.2, 0.8))
    if isinstance(method.memory, Queue):
        method = replace(method, memory=replace(method.memory, size=ROWS))
    if isinstance(method.memory, MixedQueue):
        method = replace(method, memory=replace(method.memory, hardest=20, since=0.0))
    return method


def draws(method):
    """Which rows of a bank may be on offer."""
    return (
        ["whole", "sampled", "for each image", "in blocks", "filled first"] if isinstance(method.memory, Bank) else ["whole"]
    )


@pytest.mark.parametrize(("name", "drawn"), [(name, drawn) for name in METHODS for drawn in draws(METHODS[name])])
def test_network_loss_and_memory_stay_on_their_device_and_never_wait_for_it(name, drawn, monkeypatch):
    method, cuda = fitted(METHODS[name]), torch.device("cuda")
    if drawn == "filled first":
        method = replace(method, memory=replace(method.memory, unvisited="own"))
    if drawn == "in blocks":
        monkeypatch.setattr("viewmill.objectives.regions.BLOCK", 1000)
        monkeypatch.setattr("viewmill.objectives.attach.BLOCK", 100)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, **options: self)  # fake parameters cannot change their layout
    settings = {"encoder": "resnet18", "width": 2, "size": 16, "hidden": 8, "embedding": 6, "seed": 0, "batch_norm": "local"}
    made, now = own_recipe(method, 16), Moment(1, 100, 10)
    with FakeTensorMode():
        memory = memories.start(method, rows=ROWS, batch=4, dimension=6, seed=0, device=cuda)
        with cuda:
            network = Network(architecture(settings, method))
            for name, table in network.named_buffers():  # made on the host, as numpy's are; `prepare` would move it
                if name.endswith("angle_K"):
                    network.head.angle_K = torch.empty(table.shape)
            views = tuple(
                torch.empty(len(made.groups[group]) * 4, channels, *[made.views[made.groups[group][0]].size] * 2)
                for group, _, channels in made.tensors
            )
            shape = {"whole": (0,), "in blocks": (0,), "filled first": (0,), "sampled": (150,), "for each image": (4, 50)}[
                drawn
            ]
            candidate_M = torch.empty(shape, dtype=torch.int64)
            row_B, valid_B = torch.arange(4), torch.ones(4, dtype=torch.bool)
            batch = Images(row_B, valid_B, candidate_M, torch.arange(ROWS), views)
        with Watch():
            outputs = network(Batch(views, row_B, 1, range(method.views)))
            if method.target is not None:
                outputs = outputs._replace(target_VBD=outputs.embedding_VBD[: len(method.target_views)])
            result = loss(method, outputs, memory, batch, now)
            memories.write_(method, memory, outputs, batch, now, result.pending)
    tensors = [result.loss, *result.scalars.values(), *(memory[name] for name in memory if name != "outer")]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert result.loss.shape == ()


def test_a_step_of_the_momentum_encoder_stays_on_its_device():
    with FakeTensorMode(), torch.device("cuda"):
        network, target = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        with Watch():
            ema_update_(target, network, momentum=0.9, finite=torch.ones((), dtype=torch.bool, device="cuda"))


@pytest.mark.parametrize(
    "slip",
    [
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3, device="cuda").cpu().sum(),
        lambda x: x[torch.arange(2)],
        lambda x: x[x > 0],
        lambda x: x * x.sum().item(),
        lambda x: x + torch.tensor([1.0], device="cuda"),
    ],
    ids=["cpu", "host tensor", "host index", "mask", "item", "constant"],
)
def test_the_watch_sees_every_slip(slip):
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with Watch(), pytest.raises(Exception, match=r".+"):
            slip(x)

"""What would run on a GPU, on fake CUDA tensors: nothing lands on the wrong device, nothing waits for the device.

FakeTensorMode refuses operations over two devices, `.item()` and `nonzero`; Watch also the copies and host indices that it
lets pass.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewmill.pipeline import photometric, plan
from viewmill.pipeline.recipe import RECIPES


class Watch(TorchDispatchMode):
    """Raises where an operation has tensors on both sides, or makes one on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1 or devices == {"cpu"}:
            raise RuntimeError(f"{func} works on {sorted(devices)}")
        return out


@pytest.mark.parametrize("name", RECIPES)
def test_photometrics_stay_on_their_device(name):
    recipe, count = RECIPES[name](96), 4
    sizes = {"height_B": np.full(count, 120), "width_B": np.full(count, 130)}
    made = plan.draw(recipe, seed=0, epoch=0, row_B=np.arange(count), **sizes)
    for members in recipe.groups:
        view = recipe.views[members[0]]
        shapes = [(part.shape, part.dtype) for part in photometric.draws(made, members)]
        with FakeTensorMode():
            crops = torch.empty(len(members) * count, view.size, view.size, 3, dtype=torch.uint8, device="cuda")
            what = photometric.Draws(*(torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in shapes))
            with Watch():
                out = photometric.develop(crops, what, view.space)
        assert out.device.type == "cuda"
        assert out.shape == (len(crops), 3, view.size, view.size)


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

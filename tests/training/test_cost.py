"""What an image costs, as a start tells it: of every kind of network, and without a trace in it."""

import contextlib
import hashlib

import pytest
import torch

from viewmill.methods.architecture import Architecture
from viewmill.models.network import Network
from viewmill.training.cost import seconds_per_image


def network(views: str = "shared", encoder: str = "resnet18") -> Network:
    torch.manual_seed(0)
    return Network(Architecture(encoder=encoder, width=4, size=32, hidden=8, out=8, views=views, seed=0))


def digest(model: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()


def cost(made: Network, *tensors: tuple[int, int], followed: float = 0.0) -> float:
    return seconds_per_image(made, tensors, followed=followed, autocast=contextlib.nullcontext)


@pytest.mark.parametrize(
    ("views", "tensors"),
    [("shared", ((2, 32),)), ("colour", ((1, 32), (1, 32))), ("jigsaw", ((1, 32), (9, 16)))],
)
def test_it_is_told_of_each_kind_of_network_and_leaves_no_trace_in_it(views, tensors):
    made = network(views)
    before, state = digest(made), torch.get_rng_state()
    assert cost(made, *tensors) > 0
    assert digest(made) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in made.parameters())


def test_larger_and_more_views_cost_more():
    made = network()
    small = min(cost(made, (2, 32)) for _ in range(3))
    assert min(cost(made, (2, 256)) for _ in range(3)) > 2 * small  # 64 times the arithmetic
    assert min(cost(made, (64, 32)) for _ in range(3)) > 2 * small  # 32 times

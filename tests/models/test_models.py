"""Encoders that are torchvision's, unit embeddings, optimiser and schedule."""

import copy
import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from viewmill.methods.architecture import Architecture
from viewmill.models.encoders import build
from viewmill.models.network import Batch, Network
from viewmill.training.learning_rate import rate_at
from viewmill.training.optimisers import set_learning_rate_, sgd


def small_model():
    torch.manual_seed(0)
    return Network(Architecture("resnet18", width=2, size=16, hidden=8, out=4))


def seen(views, images):
    """A batch of one group of views."""
    return Batch((views,), torch.arange(images), step=0)


# Encoders


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_encoder_is_torchvisions_without_its_classifier(name):
    torch.manual_seed(0)
    theirs, ours = torchvision.models.get_model(name).double(), build(name, image_size=224).double()
    theirs.fc = nn.Identity()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for training in (True, False):  # training first, so that evaluation sees running statistics that have moved
        expected, found = theirs.train(training)(image), ours.train(training)(image)
        assert found.shape == (4, ours.features)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(("size", "side"), [(32, 32), (64, 64), (65, 17), (224, 56)])
def test_images_up_to_64_px_keep_their_resolution_through_the_stem_and_larger_ones_lose_a_quarter_a_side(size, side):
    encoder = build("resnet18", width=2, image_size=size)
    stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool)
    assert stem(torch.randn(2, 3, size, size)).shape == (2, 2, side, side)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_twice_the_width_is_twice_the_features_and_four_times_the_weights(name):
    narrow, wide = (build(name, width=width, image_size=32) for width in (8, 16))
    assert wide.features == 2 * narrow.features
    weights = [
        sum(p.numel() for p in encoder.parameters() if p.ndim > 1) - encoder.conv1.weight.numel()
        for encoder in (narrow, wide)
    ]
    assert weights[1] == 4 * weights[0]
    assert wide.conv1.weight.numel() == 2 * narrow.conv1.weight.numel()


def test_weights_are_stored_channels_last():
    assert build("resnet18", width=4, image_size=32).layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_unknown_encoder_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'resnet19': use resnet18, resnet34, resnet50"):
        build("resnet19", image_size=32)


@pytest.mark.parametrize("width", [0, -4])
def test_a_width_below_one_is_refused(width):
    with pytest.raises(ValueError, match=f"width must be at least 1, got {width}"):
        build("resnet18", width=width, image_size=32)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 autocast"])
def test_embeddings_are_unit_vectors_in_single_precision(half):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        embedding = small_model()(seen(torch.randn(6, 3, 16, 16), 3)).embedding_VBD
    assert embedding.dtype == torch.float32
    assert embedding.shape == (2, 3, 4)
    torch.testing.assert_close(embedding.norm(dim=2), torch.ones(2, 3), rtol=0, atol=1e-6)


def test_an_embedding_of_nothing_has_a_gradient_that_does_not_explode():
    model = small_model()
    nn.init.zeros_(model.projector[0][-1].weight)
    nn.init.zeros_(model.projector[0][-1].bias)
    model(seen(torch.randn(6, 3, 16, 16), 6)).embedding_VBD.sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.isfinite(gradients).all()
    assert gradients.abs().max() < 1e8


# Optimiser and schedule


def test_weight_decay_shrinks_weights_and_leaves_biases_and_norms_alone():
    model = small_model()
    optimiser = sgd(model, momentum=0.9, weight_decay=0.5)
    set_learning_rate_(optimiser, 0.1)
    before = copy.deepcopy(dict(model.named_parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim > 1 else before[name]
        torch.testing.assert_close(parameter, expected, msg=name)


def test_frozen_parameters_are_not_optimised_and_all_others_once():
    model = small_model()
    model.encoder.conv1.weight.requires_grad_(False)
    optimised = [
        id(parameter) for group in sgd(model, momentum=0, weight_decay=0).param_groups for parameter in group["params"]
    ]
    assert sorted(optimised) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_along_half_a_cosine_to_zero():
    rates = [rate_at(step, steps=10, warmup=2, peak=0.4) for step in range(11)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[4] == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)
    assert rates[6] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(0, abs=1e-15)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rate_at(0, steps=10, warmup=0, peak=0.4) == 0.4


@given(steps=st.integers(1, 200), warmup=st.integers(0, 250), peak=st.floats(1e-6, 100))
def test_the_learning_rate_is_never_above_its_peak_nor_below_zero_and_has_one_summit(steps, warmup, peak):
    rates = [rate_at(step, steps=steps, warmup=warmup, peak=peak) for step in range(steps + 1)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    summit = rates.index(max(rates))
    assert rates == sorted(rates[: summit + 1]) + sorted(rates[summit + 1 :], reverse=True)

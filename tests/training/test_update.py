"""Updates: what masks them, how they are scaled, clipped and accumulated, and the steps that each optimiser takes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from viewmill.distributed import collectives
from viewmill.methods.architecture import Architecture
from viewmill.models.momentum import average_, averaged
from viewmill.models.network import Network
from viewmill.training import update
from viewmill.training.learning_rate import SHAPES, rate_at
from viewmill.training.optimisers import OPTIMISERS, TRUST, set_learning_rate_
from viewmill.training.update import GROWS_AFTER, DelayedRead, Part, Statistics, backward, part_of, update_

CPU = torch.device("cpu")
WHOLE = Part(1, last=True)
NOTHING = (torch.zeros(()), torch.ones((), dtype=torch.bool))


@pytest.fixture(autouse=True, scope="module")
def _the_third_process():
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(collectives, "rank", lambda: 2)
        yield


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def step(model, optimiser, scaler, *, factor=1.0, clip=0.0, scaled=False, part=WHOLE):
    """A forward pass, a backward pass and an update on the same images each time; `factor` multiplies the loss."""
    image = torch.linspace(-1, 1, 20).reshape(5, 4)
    backward(model(image).square().mean() * factor, scaler, part)
    return update_(optimiser, scaler, clip=clip, scaled=scaled, to_agree=NOTHING)


def state(model, optimiser):
    moments = [value.clone() for entry in optimiser.state.values() for value in entry.values()]
    return [parameter.detach().clone() for parameter in model.parameters()] + moments


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("at", [0, 2])
def test_what_is_not_finite_changes_neither_weights_nor_moments_and_the_next_update_goes_on(name, bad, at):
    def trained(bad_at):
        model = small()
        optimiser, scaler = OPTIMISERS[name](model, momentum=0.9, weight_decay=0.1), update.start(scaled=False, device=CPU)
        set_learning_rate_(optimiser, 0.1)
        for number in range(4):
            if number == bad_at:
                before = state(model, optimiser)
                verdict = step(model, optimiser, scaler, factor=bad)
                assert same(state(model, optimiser), before)
                assert not verdict.finite
                assert verdict.agreed[:2].tolist() == [1, 3]  # one in a row; process 2, counted from 1
            verdict = step(model, optimiser, scaler)
            assert verdict.finite
            assert verdict.agreed[:2].tolist() == [0, 0]
        return state(model, optimiser), int(scaler["masked"])

    (found, masked), (expected, none) = trained(at), trained(None)
    assert same(found, expected)
    assert (masked, none) == (1, 0)
    assert all(torch.isfinite(tensor).all() for tensor in found)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_finite_loss_with_a_gradient_that_is_not_is_masked_too(name):
    model = small()
    optimiser, scaler = OPTIMISERS[name](model, momentum=0.9, weight_decay=0.1), update.start(scaled=False, device=CPU)
    set_learning_rate_(optimiser, 0.1)
    before = state(model, optimiser)
    weight = model[0].weight
    backward((weight - weight.detach()).abs().sqrt().sum(), scaler, WHOLE)  # the slope of a root at 0
    verdict = update_(optimiser, scaler, clip=1.0, scaled=False, to_agree=NOTHING)
    assert torch.isfinite(verdict.loss)
    assert not torch.isfinite(verdict.norm)
    assert same(state(model, optimiser), before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_updates_are_those_of_torchs_own_loop(name):
    model, reference = small(), small()
    optimiser, scaler = OPTIMISERS[name](model, momentum=0.8, weight_decay=0.1), update.start(scaled=False, device=CPU)
    matrices = [p for p in reference.parameters() if p.ndim > 1]
    groups = [{"params": matrices}, {"params": [p for p in reference.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    if name == "sgd":
        theirs = torch.optim.SGD(groups, lr=0.1, momentum=0.8, weight_decay=0.1)
    else:
        theirs = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.999), weight_decay=0.1)
    set_learning_rate_(optimiser, 0.1)
    image = torch.linspace(-1, 1, 20).reshape(5, 4)
    for _ in range(5):
        verdict = step(model, optimiser, scaler, clip=0.05)
        reference(image).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        theirs.step()
        theirs.zero_grad()
        assert verdict.norm.item() == pytest.approx(norm.item(), rel=1e-5)
    torch.testing.assert_close(dict(model.named_parameters()), dict(reference.named_parameters()), rtol=1e-4, atol=1e-6)


def test_lars_steps_are_a_thousandth_of_each_matrix_and_plain_for_vectors():
    model = small()
    optimiser, scaler = OPTIMISERS["lars"](model, momentum=0.9, weight_decay=0.01), update.start(scaled=True, device=CPU)
    set_learning_rate_(optimiser, 0.5)
    image = torch.linspace(-1, 1, 20).reshape(5, 4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradient = dict(zip(before, torch.autograd.grad(model(image).square().mean(), list(model.parameters())), strict=True))
    step(model, optimiser, scaler, scaled=True)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            long = gradient[name] + 0.01 * before[name]
            expected = before[name] - 0.5 * TRUST * before[name].norm() / long.norm() * long
        else:
            expected = before[name] - 0.5 * gradient[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
    assert optimiser.param_groups[0]["weight_decay"] == 0.01


def test_lars_of_zero_weights_or_zero_gradients_takes_plain_steps():
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimiser, scaler = OPTIMISERS["lars"](model, momentum=0.0, weight_decay=0.0), update.start(scaled=False, device=CPU)
    set_learning_rate_(optimiser, 1.0)
    backward(model.weight.sum(), scaler, WHOLE)
    update_(optimiser, scaler, clip=0.0, scaled=False, to_agree=NOTHING)
    assert torch.equal(model.weight.detach(), -torch.ones(2, 3))
    backward(0 * model.weight.sum(), scaler, WHOLE)
    update_(optimiser, scaler, clip=0.0, scaled=False, to_agree=NOTHING)
    assert torch.equal(model.weight.detach(), -torch.ones(2, 3))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_scale_of_fp16_changes_no_update(name):
    def trained(scaled):
        model = small()
        optimiser, scaler = OPTIMISERS[name](model, momentum=0.9, weight_decay=0.1), update.start(scaled=scaled, device=CPU)
        set_learning_rate_(optimiser, 0.1)
        for _ in range(3):
            verdict = step(model, optimiser, scaler, scaled=scaled, clip=0.1)
        return verdict, [parameter.detach() for parameter in model.parameters()]

    (one, plain), (other, scaled) = trained(False), trained(True)
    assert (one.scale, other.scale) == (1, 2**16)
    assert one.norm.item() == pytest.approx(other.norm.item(), rel=1e-6)
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-7)


def test_the_scale_halves_at_each_masked_update_and_doubles_after_two_thousand_good_ones():
    model = small()
    optimiser, scaler = OPTIMISERS["sgd"](model, momentum=0.9, weight_decay=0.0), update.start(scaled=True, device=CPU)
    for expected in (2**15, 2**14):
        assert not step(model, optimiser, scaler, factor=math.inf, scaled=True).finite
        assert scaler["scale"] == expected
    assert step(model, optimiser, scaler, factor=math.nan, scaled=True).agreed[0] == 3
    scaler["good"].fill_(GROWS_AFTER - 2)
    step(model, optimiser, scaler, scaled=True)
    assert scaler["scale"] == 2**13
    step(model, optimiser, scaler, scaled=True)
    assert scaler["scale"] == 2**14
    assert scaler["good"] == 0


@given(steps=st.integers(1, 60), per_epoch=st.integers(1, 17), accumulate=st.integers(1, 20))
def test_every_step_is_part_of_one_update_which_never_mixes_two_epochs(steps, per_epoch, accumulate):
    updates, current = [], []
    for number in range(steps):
        part = part_of(number, steps=steps, per_epoch=per_epoch, accumulate=accumulate)
        current.append((number, part))
        if part.last:
            updates.append(current)
            current = []
    assert not current  # the run ends with an update
    for members in updates:
        assert {part.batches for _, part in members} == {len(members)}
        assert len(members) <= accumulate
        assert len({number // per_epoch for number, _ in members}) == 1
        end = members[-1][0] + 1
        assert (
            len(members) == accumulate or end % per_epoch == 0 or end == steps
        )  # short ones only where an epoch or the run ends


def test_ten_steps_an_epoch_by_four_make_updates_of_four_four_and_two():
    parts = [part_of(number, steps=20, per_epoch=10, accumulate=4) for number in range(20)]
    assert [part.batches for part in parts if part.last] == [4, 4, 2, 4, 4, 2]


def test_an_update_of_several_steps_is_that_of_their_mean_loss():
    model, whole = small(), small()
    optimisers = [OPTIMISERS["sgd"](each, momentum=0.9, weight_decay=0.1) for each in (model, whole)]
    scalers = [update.start(scaled=False, device=CPU) for _ in optimisers]
    images = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    for optimiser in optimisers:
        set_learning_rate_(optimiser, 0.1)
    for index in range(3):
        backward(model(images[index]).square().mean(), scalers[0], Part(3, last=index == 2))
    backward(whole(images).square().mean(), scalers[1], WHOLE)
    for optimiser, scaler in zip(optimisers, scalers, strict=True):
        update_(optimiser, scaler, clip=0.0, scaled=False, to_agree=NOTHING)
    torch.testing.assert_close(dict(model.named_parameters()), dict(whole.named_parameters()), rtol=1e-6, atol=1e-7)


def test_one_bad_step_of_several_masks_their_update_and_says_which_loss():
    model = small()
    optimiser, scaler = OPTIMISERS["sgd"](model, momentum=0.9, weight_decay=0.1), update.start(scaled=False, device=CPU)
    set_learning_rate_(optimiser, 0.1)
    before = state(model, optimiser)
    image = torch.linspace(-1, 1, 20).reshape(5, 4)
    backward(model(image).square().mean() * math.inf, scaler, Part(2, last=False))
    verdict = step(model, optimiser, scaler, part=Part(2, last=True))
    assert verdict.loss == math.inf
    assert same(state(model, optimiser), before)
    assert step(model, optimiser, scaler).finite  # and is forgotten


def test_what_the_processes_tell_one_another_comes_with_the_verdict():
    model = small()
    optimiser, scaler = OPTIMISERS["sgd"](model, momentum=0.9, weight_decay=0.1), update.start(scaled=False, device=CPU)
    backward(model(torch.ones(1, 4)).sum(), scaler, WHOLE)
    to_agree = (torch.tensor(75.0), torch.tensor(True))
    verdict = update_(optimiser, scaler, clip=0.0, scaled=False, to_agree=to_agree)
    assert verdict.numbers().tolist()[:4] == [0, 0, 75, 1]


def test_the_host_hears_of_each_update_one_late():
    late = DelayedRead()
    assert late.bring(torch.tensor([1.0])) is None
    assert late.bring(torch.tensor([2.0])) == [1.0]
    assert late.rest() == [2.0]
    assert late.rest() is None


def test_running_statistics_survive_a_batch_that_is_not_finite():
    model, twin = (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    statistics = Statistics((model, None))
    for factor in (1.0, math.nan, 2.0):
        image = torch.linspace(-1, 1, 20).reshape(5, 4) * factor
        statistics.keep()
        model(image)
        statistics.mend_()
        if not math.isnan(factor):
            twin(image)
    for name in ("running_mean", "running_var"):
        assert torch.equal(model[1].get_buffer(name), twin[1].get_buffer(name))


def test_networks_without_batch_norm_have_no_statistics_to_mend():
    statistics = Statistics((nn.Linear(2, 2),))
    statistics.keep()
    statistics.mend_()


def test_the_average_is_the_mean_of_the_first_weights_and_then_forgets_exponentially():
    made_of = Architecture("resnet18", width=2, size=16, hidden=0, out=4)
    torch.manual_seed(0)
    network = Network(made_of)
    average = averaged(network)
    weight, expected = network.encoder.conv1.weight, network.encoder.conv1.weight.detach().clone()
    for number in range(40):
        with torch.no_grad():
            weight.add_(0.1)
            network.encoder.bn1.running_mean.add_(1.0)
        average_(average, network, update=number, momentum=0.5, finite=torch.tensor(number % 2 == 0))
        if number % 2 == 0:
            momentum = min(0.5, (1 + number) / (10 + number))
            expected = momentum * expected + (1 - momentum) * weight.detach()
    torch.testing.assert_close(average.encoder.conv1.weight, expected)
    assert 36 < average.encoder.bn1.running_mean.mean() < 40
    assert not average.encoder.conv1.weight.requires_grad


@pytest.mark.parametrize("shape", SHAPES)
def test_every_schedule_rises_to_its_peak_and_never_rises_again(shape):
    rates = [rate_at(number, steps=50, warmup=5, peak=0.3, shape=shape) for number in range(51)]
    assert rates[:5] == pytest.approx([0.06, 0.12, 0.18, 0.24, 0.3])
    assert rates[5] == 0.3
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx({"constant": 0.3, "step": 0.003}.get(shape, 0), abs=1e-15)


def test_the_step_schedule_falls_to_a_tenth_at_60_and_at_80_percent():
    rates = [rate_at(number, steps=200, warmup=0, peak=1.0, shape="step") for number in range(200)]
    assert [rates[at] for at in (119, 120, 159, 160)] == pytest.approx([1, 0.1, 0.1, 0.01])

"""The networks of the methods: what each yields, which views it sees, its noise, and the momentum encoder that follows it.

Shape suffixes: V = views, B = images, D = embedding, F = features, S = pixels.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from viewmill.methods.architecture import Architecture, architecture
from viewmill.methods.table import METHODS
from viewmill.methods.terms import BoundedGaussian, FixedGaussian, VonMisesFisher
from viewmill.models.momentum import ema_copy, ema_update_, momentum_at
from viewmill.models.network import Batch, Colour, Network
from viewmill.pipeline.views.recipe import RECIPES
from viewmill.training.loaders import own_recipe

SIZE, COUNT, OUT = 16, 5, 6
PLAIN = Architecture("resnet18", width=2, size=SIZE, hidden=8, out=OUT)
SOUND = torch.ones((), dtype=torch.bool)
SETTINGS = {"encoder": "resnet18", "width": 2, "size": SIZE, "hidden": 8, "embedding": OUT, "seed": 1, "batch_norm": "local"}


def views_of(recipe, count=COUNT, seed=0):
    """Tensors as a ViewBatch of `recipe`, or of one that is called so, has them."""
    generator = torch.Generator().manual_seed(seed)
    made = RECIPES[recipe](SIZE) if isinstance(recipe, str) else recipe
    sizes = [(len(made.groups[group]), made.views[made.groups[group][0]].size, n) for group, _, n in made.tensors]
    return tuple(torch.randn(views * count, channels, side, side, generator=generator) for views, side, channels in sizes)


def batch(recipe, *, step=0, rows=None):
    return Batch(views_of(recipe), torch.arange(COUNT) if rows is None else rows, step)


def built(made_of, seed=0):
    torch.manual_seed(seed)
    return Network(made_of)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_network_that_yields_what_its_loss_asks_for(name):
    method = METHODS[name]
    network = built(architecture(SETTINGS, method))
    views = method.views
    outputs = network(batch(own_recipe(method, SIZE))._replace(numbers=range(views)))
    assert outputs.embedding_VBD.shape == outputs.projected_VBD.shape == (views, COUNT, OUT)
    torch.testing.assert_close(outputs.embedding_VBD.norm(dim=2), torch.ones(views, COUNT))
    assert (outputs.sample_VBD is not None) == method.samples_embedding
    assert (outputs.scale_VBF is not None) == (method.head is not None and not method.samples_embedding)
    assert (outputs.prediction_VBD is not None) == method.predicts
    assert (outputs.other_VBCSS is not None) == method.decodes_other
    assert (outputs.own_VBCSS is not None) == method.decodes_own
    for pixels in (outputs.other_VBCSS, outputs.own_VBCSS):
        assert pixels is None or pixels.shape == (2, COUNT, 3, SIZE, SIZE)
    kept = [part for part in outputs if part is not None and part.requires_grad]
    sum(part.float().square().sum() for part in kept).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_evaluated_is_the_encoder_alone_on_whole_images(name):
    network = built(architecture(SETTINGS, METHODS[name])).eval()
    feature = network.encoder(torch.randn(3, 3, SIZE, SIZE))
    assert feature.shape == (3, network.encoder.features)


def test_without_a_head_a_network_is_encoder_and_projector():
    network, seen = built(PLAIN), batch("simclr")
    outputs = network(seen)
    expected = network.projector[0](network.encoder(seen.views[0]))
    torch.testing.assert_close(outputs.projected_VBD.flatten(0, 1), expected)
    torch.testing.assert_close(outputs.embedding_VBD.flatten(0, 1), F.normalize(expected, dim=1))


def test_a_linear_projector_is_one_layer():
    network = built(replace(PLAIN, hidden=0))
    assert isinstance(network.projector[0], torch.nn.Linear)
    assert network(batch("simclr")).embedding_VBD.shape == (2, COUNT, OUT)


def test_cmc_sends_each_half_of_a_view_through_its_own_encoder():
    network, seen = built(replace(PLAIN, views="colour")).eval(), batch("lab")
    assert isinstance(network.encoder, Colour)
    outputs = network(seen)
    for half in range(2):
        feature = network.encoder.halves[half](seen.views[half])
        torch.testing.assert_close(outputs.mean_VBF[half], feature)
        torch.testing.assert_close(outputs.projected_VBD[half], network.projector[half](feature))
    whole = torch.cat(seen.views, dim=1)
    torch.testing.assert_close(network.encoder(whole), torch.cat(tuple(outputs.mean_VBF), dim=1))


def test_pirls_second_view_is_its_nine_patches_in_their_slots():
    network, seen = built(replace(PLAIN, views="jigsaw")).eval(), batch("pirl")
    outputs = network(seen)
    patch = network.patch(network.encoder(seen.views[1])).view(9, COUNT, OUT)
    expected = network.jigsaw(torch.cat(tuple(patch), dim=1))
    torch.testing.assert_close(outputs.projected_VBD[1], expected)
    torch.testing.assert_close(outputs.projected_VBD[0], network.projector[0](network.encoder(seen.views[0])))


@pytest.mark.parametrize("head", [FixedGaussian(0.5), BoundedGaussian(0.1, 1.0), VonMisesFisher(20.0)])
def test_noise_belongs_to_image_view_and_step_and_evaluation_has_none(head):
    network = built(replace(PLAIN, head=head, seed=3))
    network.encoder.eval()  # batch norm would let images see each other
    network.projector.eval()

    def embedded(**options):
        return network(batch("simclr", **options)).embedding_VBD

    assert torch.equal(embedded(), embedded())
    assert not torch.allclose(embedded(), embedded(step=1))
    moved = embedded(rows=torch.arange(COUNT) + torch.tensor([0, 0, 7, 0, 0]))
    same = torch.tensor([True, True, False, True, True])
    torch.testing.assert_close(moved[:, same], embedded()[:, same])
    assert not torch.allclose(moved[:, 2], embedded()[:, 2])
    seen = batch("simclr")
    twins = Batch((seen.views[0][:COUNT].repeat(2, 1, 1, 1),), seen.row_B, 0)
    one, other = network(twins).embedding_VBD
    assert not torch.allclose(one, other)
    network.eval()
    one, other = network(twins).embedding_VBD
    torch.testing.assert_close(one, other)


def test_a_direction_is_drawn_around_the_embedding_itself():
    network = built(replace(PLAIN, head=VonMisesFisher(1e5), on_embedding=True))
    outputs = network(batch("simclr"))
    cosine = (outputs.sample_VBD * outputs.embedding_VBD).sum(dim=2)
    assert (cosine > 0.99).all()
    assert not torch.equal(outputs.sample_VBD, outputs.embedding_VBD)


def test_the_momentum_encoder_starts_as_a_copy_and_follows_by_its_share():
    network = built(PLAIN)
    target = ema_copy(network)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    torch.testing.assert_close(before, network.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    ema_update_(target, network, momentum=0.9, finite=SOUND)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(target.state_dict()[name], 0.9 * before[name] + 0.1 * parameter)
        assert not target.get_parameter(name).requires_grad
    assert torch.equal(target.encoder.bn1.running_mean, before["encoder.bn1.running_mean"])
    ema_update_(target, network, momentum=0.0, finite=SOUND)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(target.get_parameter(name), parameter.detach(), rtol=0, atol=1e-7)


def test_byols_momentum_rises_to_one_by_half_a_cosine():
    rising = [momentum_at(step, steps=100, value=0.996, rising=True) for step in range(101)]
    assert rising[0] == pytest.approx(0.996)
    assert rising[50] == pytest.approx(0.998)
    assert rising[100] == 1
    assert rising == sorted(rising)
    assert momentum_at(70, steps=100, value=0.99, rising=False) == 0.99
    assert math.isclose(momentum_at(10**6, steps=100, value=0.996, rising=True), 1)

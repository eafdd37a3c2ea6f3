"""Encoders of timm, recomputed activations, compiled encoders, kinds of batch norm.

Shape suffixes: B = images, C = channels, S = pixels.
"""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock

from viewmill.methods.architecture import Architecture
from viewmill.models.encoders import DESIGNS, Design, build, check_batch_norm
from viewmill.models.momentum import ema_copy, ema_update_
from viewmill.models.network import Batch, Network, compiled_
from viewmill.models.timm_encoders import check_size

TIMM = ("timm:test_vit", "timm:test_convnext", "timm:test_efficientnet")
SIZE, COUNT, OUT = 32, 6, 6
PLAIN = Architecture("resnet18", width=2, size=SIZE, hidden=8, out=OUT)


def built(made_of, seed=0):
    torch.manual_seed(seed)
    return Network(made_of)


def encoder(name, seed=0, **options):
    torch.manual_seed(seed)
    width = {} if name.startswith("timm:") else {"width": 2}
    return build(name, image_size=SIZE, **width, **options)


def images(count=COUNT, channels=3, size=SIZE, seed=0):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def batch(views="shared", size=SIZE):
    shapes = {
        "shared": [(2, 3, size)],
        "colour": [(1, 1, size), (1, 2, size)],
        "jigsaw": [(1, 3, size), (9, 3, size * 2 // 7)],
    }
    shown = tuple(images(number * COUNT, channels, side) for number, channels, side in shapes[views])
    return Batch(shown, torch.arange(COUNT), step=0)


# timm


@pytest.mark.parametrize("name", [*TIMM, "timm:rexnet_100"])  # the last one has a part called `features`
def test_a_model_of_timm_keeps_its_own_keys_and_yields_pooled_features(name):
    ours = encoder(name).eval()
    options = {"img_size": SIZE} if "vit" in name else {}
    theirs = timm.create_model(name.removeprefix("timm:"), num_classes=0, **options).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    theirs.load_state_dict(ours.state_dict())
    feature_BF = ours(images())
    assert feature_BF.shape == (COUNT, ours.features)
    torch.testing.assert_close(feature_BF, theirs(images()))


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("views", ["shared", "colour", "jigsaw"])
def test_every_kind_of_network_learns_with_a_model_of_timm(name, views):
    network = built(replace(PLAIN, encoder=name, width=64, size=112, views=views))
    outputs = network(batch(views, size=112))
    assert outputs.embedding_VBD.shape == (2, COUNT, OUT)
    assert outputs.mean_VBF.shape[2] == network.features
    outputs.projected_VBD.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.encoder(images(size=112)).shape == (COUNT, network.encoder.features)


@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm_is_a_function_of_the_seed(name):
    one, same, other = (encoder(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_trying_a_size_takes_no_random_numbers_and_leaves_no_trace():
    made = encoder("timm:convit_tiny")  # remembers the size that it saw last
    before = torch.get_rng_state()
    check_size(made, SIZE)
    assert torch.equal(before, torch.get_rng_state())
    assert made(images()).shape == (COUNT, made.features)


@pytest.mark.parametrize("name", TIMM)
def test_a_momentum_encoder_of_timm_is_a_copy_of_its_own(name):
    network = built(replace(PLAIN, encoder=name, width=64))
    target, seen = ema_copy(network), batch()
    assert network.eval()(seen).embedding_VBD.equal(target.eval()(seen).embedding_VBD)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not network(seen).embedding_VBD.equal(target(seen).embedding_VBD)
    ema_update_(target, network, momentum=0.0, finite=torch.ones((), dtype=torch.bool))
    torch.testing.assert_close(target(seen).embedding_VBD, network(seen).embedding_VBD)
    torch.testing.assert_close(dict(target.encoder.model.named_parameters()), dict(network.encoder.named_parameters()))


@pytest.mark.parametrize("name", TIMM)
def test_features_are_finite_under_bf16(name):
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(name)(images()).isfinite().all()


@pytest.mark.parametrize("name", TIMM)
def test_weights_are_stored_channels_last(name):
    kernels = [value for value in encoder(name).parameters() if value.ndim == 4]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm_stays_on_its_device(name):
    network = built(replace(PLAIN, encoder=name, width=64))
    held = network.state_dict(keep_vars=True) | dict(network.named_buffers())
    with FakeTensorMode(), torch.device("cuda"):
        moved = {key: torch.empty(value.shape, dtype=value.dtype) for key, value in held.items()}
        seen = Batch((torch.empty(2 * COUNT, 3, SIZE, SIZE),), torch.arange(COUNT), 0)
        outputs = functional_call(network, moved, (seen,))
    assert outputs.embedding_VBD.device.type == outputs.mean_VBF.device.type == "cuda"


def test_drop_path_is_drawn_while_training_alone_and_the_same_again_where_activations_are_recomputed():
    gradients = []
    for recompute in (False, True):
        made = encoder("timm:test_vit", recompute=recompute)
        for block in made.model.blocks:
            block.drop_path1 = timm.layers.DropPath(0.5)
        torch.manual_seed(1)
        first = made(images())
        first.square().sum().backward()
        gradients.append({name: value.grad for name, value in made.named_parameters()})
        assert not first.equal(made(images()))
        assert made.eval()(images()).equal(made(images()))
        assert not made.model.training
        assert made.train().model.training
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "size", "options", "words"),
    [
        ("test_vitt", 32, {}, r"no model called 'test_vitt'; the nearest names are test_vit"),
        ("resnet18.a1_in1k", 32, {}, r"the nearest names are resnet18"),
        ("hf-hub:timm/resnet18", 32, {}, r"from a network: use the plain name"),
        ("timm/resnet18", 32, {}, r"from a network: use the plain name"),
        ("test_vit", 40, {}, r"does not take images of 40 px \(its patches have 16 px\): use 32 or 48"),
        ("test_vit", 8, {}, r"does not take images of 8 px .*: use 16$"),
        ("test_vit", 0, {}, r"does not take images of 0 px"),
        ("inception_v3", 32, {}, r"does not take images of 32 px .*: use 96"),
        ("efficientformer_l1", 64, {}, r"does not take images of 64 px .*: use 224"),
        ("test_vit", 32, {"width": 32}, r"width 32 means nothing to timm:test_vit: leave it at 64"),
        ("test_vit", 32, {"channels": 0}, r"channels must be at least 1, got 0"),
        ("dla34", 32, {"recompute": True}, r"cannot recompute activations"),
    ],
)
def test_what_timm_cannot_do_is_refused_with_what_it_can(name, size, options, words):
    with pytest.raises(ValueError, match=words):
        build(f"timm:{name}", image_size=size, **options)


def test_other_sizes_are_judged_before_training():
    for fits in (16, 48):
        check_size(encoder("timm:test_vit"), fits)
    with pytest.raises(ValueError, match=r"timm:test_vit, built for 32 px, does not take images of 9 px too \(its patches"):
        check_size(encoder("timm:test_vit"), 9)
    check_size(encoder("resnet18"), 9)


def test_without_timm_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"need timm: pip install 'viewmill\[timm\]'"):
        build("timm:test_vit", image_size=SIZE)


# Recomputed activations

RECOMPUTED = ["resnet18", "resnet50", "timm:test_resnet", "timm:test_efficientnet", "timm:test_vit", "timm:test_convnext"]
PRECISIONS = {"float32": contextlib.nullcontext, "bf16": lambda: torch.autocast("cpu", torch.bfloat16)}


def learnt(model, module, precision, steps=3):
    """Gradients of each of some steps, and parameters and statistics after them."""
    found = {}
    for step in range(steps):
        with PRECISIONS[precision]():
            feature_BF = model(images(seed=step))
        feature_BF.float().square().mean().backward()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                found[f"gradient {step} {name}"] = parameter.grad.clone()
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
    return found | {name: value.clone() for name, value in module.state_dict().items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", RECOMPUTED)
def test_recomputed_activations_change_no_bit_of_gradients_and_statistics(name, precision):
    plain, recomputed = encoder(name), encoder(name, recompute=True)
    own = dict(recomputed.named_buffers())
    expected = learnt(plain, plain, precision)
    same(learnt(recomputed, recomputed, precision), expected)
    assert all(value is own[key] for key, value in recomputed.named_buffers())  # what was lent has come back
    counted = [value.item() for key, value in expected.items() if key.endswith("num_batches_tracked")]
    assert counted == [3] * len(counted)


def kept(model):
    """Bytes that wait for the backward pass: what autograd saves, and what enters the blocks."""
    saved = {}

    def note(value):
        saved[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    def entering(_, arguments):
        note(arguments[0])

    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            block.register_forward_pre_hook(entering)
    with saved_tensors_hooks(note, lambda value: value):
        feature_BF = model(images(32))
    assert feature_BF.requires_grad
    weights = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    return sum(size for place, size in saved.items() if place not in weights)


def test_recomputed_activations_take_less_memory():
    for name in ("resnet18", "resnet50"):
        assert kept(encoder(name, recompute=True)) < kept(encoder(name)) / 2


def test_an_infinite_activation_leaves_the_statistics_that_it_leaves_without_recomputation():
    statistics = []
    for recompute in (False, True):
        made = encoder("resnet18", recompute=recompute)
        with torch.no_grad():
            made.layer1[0].bn1.weight.fill_(3e38)
            made.layer1[0].conv2.weight.abs_()
        made(images()).sum().backward()
        statistics.append(dict(made.named_buffers()))
    assert any(value.isinf().any() for value in statistics[0].values())  # 0 * inf would have made them NaN
    torch.testing.assert_close(*statistics, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("views", ["shared", "jigsaw", "colour"])
@pytest.mark.parametrize("kind", ["local", "synchronised"])
def test_networks_recompute_whatever_their_views_and_their_batch_norm(views, kind):
    made_of, results = replace(PLAIN, views=views, batch_norm=kind), []
    for recompute in (False, True):
        network = built(replace(made_of, recompute=recompute))
        network(batch(views)).projected_VBD.square().sum().backward()
        results.append(network.state_dict() | {f"gradient {name}": value.grad for name, value in network.named_parameters()})
    same(*results)


def test_ranks_recompute_as_they_compute(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error", __file__]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    results = [[load_file(tmp_path / f"{rank}-{recompute}.safetensors") for recompute in (0, 1)] for rank in range(2)]
    for plain, recomputed in results:
        same(recomputed, plain)
    gradients = [{name: value for name, value in of[0].items() if "gradient" in name} for of in results]
    same(*gradients)


def _rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for recompute in (False, True):
        module, found = encoder("resnet18", recompute=recompute), {}
        model = DistributedDataParallel(module)
        for precision in PRECISIONS:
            learning = learnt(lambda x, model=model: model(x + rank), module, precision)
            found |= {f"{precision} {name}": value.contiguous() for name, value in learning.items()}
        save_file(found, folder / f"{rank}-{int(recompute)}.safetensors")
    distributed.destroy_process_group()


# Compiled encoders


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_encoder_computes_the_same_under_the_same_keys_and_only_once(recompute, monkeypatch):
    monkeypatch.setitem(DESIGNS, "short", Design(BasicBlock, (1, 1, 1, 1)))
    torch._dynamo.reset()
    counters.clear()
    made_of = replace(PLAIN, encoder="short")
    # in double precision, as batch norm in float32 differs by 1e-5 where it is fused with a convolution
    plain, compiled = built(made_of).double(), built(replace(made_of, recompute=recompute)).double()
    compiled_(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for step in range(3):
        shown = Batch((batch().views[0].double(),), torch.arange(COUNT) + step, step)
        found, expected = compiled(shown), plain(shown)
        torch.testing.assert_close(found.mean_VBF, expected.mean_VBF, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.embedding_VBD, expected.embedding_VBD, rtol=0, atol=1e-5)
        for outputs in (found, expected):
            outputs.projected_VBD.square().sum().backward()
    assert counters["stats"]["unique_graphs"] == 2  # the encoder, and the trial of the compiler
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=0, atol=1e-6)
    gradients = [{name: value.grad for name, value in network.named_parameters()} for network in (compiled, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert ema_copy(compiled).encoder._compiled_call_impl is None


def test_where_nothing_can_be_compiled_the_remedy_is_named(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        ValueError, match=r"compiled for cpu here \(no C\+\+ compiler\): leave --compile out, or install g\+\+"
    ):
        compiled_(built(PLAIN))


# Kinds of batch norm


@pytest.mark.parametrize("name", ["resnet18", "timm:test_efficientnet"])
def test_synchronised_batch_norm_has_the_keys_and_the_activations_of_the_local_one(name):
    made_of = replace(PLAIN, encoder=name, width=2 if name == "resnet18" else 64)
    local, synchronised = (built(replace(made_of, batch_norm=kind)).eval() for kind in ("local", "synchronised"))
    kinds = [type(module) for module in synchronised.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
    assert list(synchronised.state_dict()) == list(local.state_dict())
    same(synchronised.state_dict(), local.state_dict())
    assert synchronised(batch()).embedding_VBD.equal(local(batch()).embedding_VBD)
    other = built(made_of, seed=1).eval()
    synchronised.load_state_dict(other.state_dict())
    assert synchronised(batch()).embedding_VBD.equal(other(batch()).embedding_VBD)


def test_shuffled_batch_norm_is_the_local_network():
    local, shuffled = (built(replace(PLAIN, batch_norm=kind)) for kind in ("local", "shuffled"))
    assert [type(module) for module in shuffled.modules()] == [type(module) for module in local.modules()]


def test_kinds_of_batch_norm_that_cannot_work_are_refused():
    for kind, device in (("local", "cpu"), ("shuffled", "cpu"), ("synchronised", "cuda")):
        check_batch_norm(kind, device)
    with pytest.raises(ValueError, match="works on GPUs alone: on a CPU use local, or shuffled"):
        check_batch_norm("synchronised", "cpu")
    with pytest.raises(ValueError, match="local, synchronised, shuffled, not 'global'"):
        check_batch_norm("global", "cpu")


def test_synchronised_batch_norm_without_any_is_refused():
    made_of = replace(PLAIN, encoder="timm:test_vit", width=64, batch_norm="synchronised")
    assert isinstance(built(made_of).projector[0][1], nn.SyncBatchNorm)
    with pytest.raises(ValueError, match="changes nothing in timm:test_vit with a linear projector: use local"):
        built(replace(made_of, hidden=0))


if __name__ == "__main__":
    _rank(int(sys.argv[1]), Path(sys.argv[2]))

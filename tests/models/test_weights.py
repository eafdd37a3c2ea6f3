"""Weights to begin with: every layout that is taken, and every file that is refused before anything is touched."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from viewmill.checkpoint import layout
from viewmill.methods.architecture import Architecture
from viewmill.models.network import Batch, Network
from viewmill.models.weights import CONVERT, fingerprint, initialise_

PLAIN = Architecture("resnet18", width=64, size=65, hidden=8, out=4)  # from 65 px on the stem is torchvision's
NARROW = replace(PLAIN, width=2, size=16)


def built(made_of, seed=0):
    torch.manual_seed(seed)
    return Network(made_of).eval()


def images(size, channels=3):
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(0))


def moved(module, seed=1):
    """The module with running statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running" in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module.eval()


def theirs(maker=torchvision.models.resnet18):
    torch.manual_seed(7)
    return moved(maker())


def features(model, size=65):
    model.fc = nn.Identity()
    with torch.no_grad():
        return model(images(size))


def saved(path, tensors, prefix=""):
    save_file({prefix + key: value.clone().contiguous() for key, value in tensors.items()}, path)
    return path


def trained(made_of, seed=5):
    """A network of ours that is not at its start."""
    network = moved(built(made_of, seed), seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return network


def a_run(folder, network, steps=(3,)):
    for step in steps:
        folder.mkdir(exist_ok=True)
        layout.write(folder / "checkpoints", step, {"model": network.state_dict(), "optimiser": {}}, {"step": step})
    return folder


def refused(network, path, words):
    """Nothing of the network is touched."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=words) as caught:
        initialise_(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    return str(caught.value)


# Other makers


@pytest.mark.parametrize("maker", [torchvision.models.resnet18, lambda: timm.create_model("resnet18")])
def test_an_encoder_of_torchvision_or_timm_is_taken_whole(tmp_path, maker):
    model, network = theirs(maker), built(PLAIN)
    heads = {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("encoder.")}
    found = initialise_(network, saved(tmp_path / "a.safetensors", model.state_dict()))
    torch.testing.assert_close(network.encoder(images(65)), features(model), rtol=0, atol=1e-6)
    assert found.unused == ["fc.bias", "fc.weight"]
    assert found.loaded == len(network.encoder.state_dict()) == 120
    assert {name.split(".")[0] for name in found.left} == {"projector"}
    assert "a.safetensors: a residual network of 2+2+2+2 basic blocks" in found.source
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in heads.items())


def test_an_encoder_of_timm_takes_a_file_of_timm(tmp_path):
    model = theirs(lambda: timm.create_model("test_vit", img_size=32))
    network = built(replace(PLAIN, encoder="timm:test_vit", size=32))
    found = initialise_(network, saved(tmp_path / "a.safetensors", model.state_dict()))
    torch.testing.assert_close(network.encoder(images(32)), model.forward_head(model.forward_features(images(32)), True))
    assert found.unused == ["head.bias", "head.weight"]
    assert "a vision transformer" in found.source


@pytest.mark.parametrize(
    "prefix",
    ["module.encoder_q.", "encoder.", "backbone.", "module.", "base_encoder.", "module.base_encoder.", "momentum_encoder."],
)
def test_an_encoder_is_found_below_any_prefix(tmp_path, prefix):
    model, network = theirs(), built(PLAIN)
    found = initialise_(network, saved(tmp_path / "a.safetensors", model.state_dict(), prefix))
    torch.testing.assert_close(network.encoder(images(65)), features(model), rtol=0, atol=1e-6)
    assert found.unused == [f"{prefix}fc.bias", f"{prefix}fc.weight"]
    assert found.source.endswith(f" below {prefix}")


@pytest.mark.parametrize(
    ("online", "follower"),
    [("module.encoder_q.", "module.encoder_k."), ("base_encoder.", "momentum_encoder."), ("student.", "teacher.")],
)
def test_the_encoder_that_learnt_is_taken_and_not_the_one_that_followed(tmp_path, online, follower):
    model, network = theirs(), built(PLAIN)
    tensors = {online + key: value.clone() for key, value in model.state_dict().items()}
    tensors |= {follower + key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    tensors |= {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    found = initialise_(network, saved(tmp_path / "moco.safetensors", dict(reversed(tensors.items()))))
    torch.testing.assert_close(network.encoder(images(65)), features(model), rtol=0, atol=1e-6)
    assert {"module.queue", f"{follower}conv1.weight"} <= set(found.unused)


def test_weights_of_half_precision_and_without_counters_are_taken(tmp_path):
    model, network = theirs(), built(PLAIN)
    tensors = {key: value.bfloat16() for key, value in model.state_dict().items() if "num_batches" not in key}
    found = initialise_(network, saved(tmp_path / "a.safetensors", tensors))
    assert network.encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(network.encoder.conv1.weight, model.conv1.weight.bfloat16().float())
    assert not [name for name in found.left if name.startswith("encoder.")]


# Our own


@pytest.mark.parametrize("place", ["run", "checkpoints", "step", "file"])
def test_a_network_of_ours_is_taken_with_its_heads(tmp_path, place):
    source, network = trained(NARROW), built(NARROW)
    run = a_run(tmp_path / "run", source, steps=(3, 20))
    step = run / "checkpoints" / "step-00000020"
    path = {"run": run, "checkpoints": run / "checkpoints", "step": step, "file": step / "model.safetensors"}[place]
    found = initialise_(network, path)
    seen = Batch((images(16).repeat(2, 1, 1, 1),), torch.arange(3), 0)
    assert network(seen).embedding_VBD.equal(source(seen).embedding_VBD)
    assert found.loaded == len(network.state_dict())
    assert found.left == found.unused == []
    assert ("file" if place == "file" else "checkpoint step-00000020") in found.source
    assert fingerprint(path) == fingerprint(run)


def test_heads_that_do_not_fit_stay_at_random_and_are_named(tmp_path):
    source = trained(replace(NARROW, predictor=True))
    network = built(replace(NARROW, hidden=16, views="jigsaw"))
    before = network.projector.state_dict()["0.0.weight"].clone()
    found = initialise_(network, a_run(tmp_path, source))
    assert network.encoder(images(16)).equal(source.encoder(images(16)))
    assert {name.split(".")[0] for name in found.left} == {"projector", "patch", "jigsaw"}
    assert {name.split(".")[0] for name in found.unused} == {"projector", "predictor"}
    assert torch.equal(network.projector[0][0].weight, before)


def test_half_a_head_is_not_taken(tmp_path):
    source, network = trained(NARROW), built(replace(NARROW, out=5))
    before = network.projector[0][0].weight.clone()
    found = initialise_(network, a_run(tmp_path, source))
    assert torch.equal(network.projector[0][0].weight, before)
    assert "projector.0.0.weight" in found.left


def test_colour_networks_begin_with_their_own_kind(tmp_path):
    made_of = replace(NARROW, views="colour")
    source, network = trained(made_of), built(made_of)
    initialise_(network, a_run(tmp_path / "run", source))
    assert network.encoder(images(16)).equal(source.encoder(images(16)))
    words = r"it seems to hold a residual network of 2\+2\+2\+2 basic .* Colour networks \(two encoders\) begin with those"
    refused(network, saved(tmp_path / "a.safetensors", theirs().state_dict()), words)


def test_the_newest_checkpoint_that_verifies_is_taken(tmp_path):
    source, network = trained(NARROW), built(NARROW)
    run = a_run(tmp_path, source, steps=(3, 20))
    damaged = run / "checkpoints" / "step-00000020" / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert "step-00000003" in initialise_(network, run).source
    refused(network, damaged.parent, r"model.safetensors is damaged")


def test_a_network_wrapped_or_in_another_precision_of_batch_norm_takes_the_same(tmp_path):
    source = trained(NARROW)
    for options in ({"batch_norm": "synchronised"}, {"recompute": True}):
        network = built(replace(NARROW, **options))
        initialise_(network, a_run(tmp_path, source))
        assert network.encoder(images(16)).equal(source.encoder(images(16)))


# Refusals


def changed(tensors, **changes):
    return {key: changes.get(key.replace(".", "_"), value) for key, value in tensors.items()}


def test_an_encoder_that_does_not_fit_is_refused_by_key_and_shape(tmp_path):
    path = saved(tmp_path / "a.safetensors", theirs().state_dict())
    words = r"conv1.weight is \[64, 3, 7, 7\] there and \[64, 3, 3, 3\] in the network.*2\+2\+2\+2 basic.*the stem is 3x3"
    refused(built(replace(PLAIN, size=32)), path, words)
    refused(built(NARROW), path, r"100 tensors differ \(conv1.weight is \[64, 3, 7, 7\] there and \[2, 3, 3, 3\]")
    words = r"it seems to hold a residual network of 2\+2\+2\+2 basic blocks, .* has most of conv1.weight, .* and 315 more"
    refused(built(replace(PLAIN, encoder="resnet50")), path, words)


def test_a_file_whose_first_byte_is_that_of_a_pickle_is_taken(tmp_path):
    model, network = theirs(), built(PLAIN)
    for padding in range(32):  # the length of the header comes first
        path = saved(tmp_path / "a.safetensors", model.state_dict(), "x" * padding + ".")
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert initialise_(network, path).loaded == 120


def test_a_deeper_encoder_is_refused_though_it_covers_the_network(tmp_path):
    path = saved(tmp_path / "a.safetensors", theirs(torchvision.models.resnet34).state_dict())
    refused(built(PLAIN), path, r"have no place in the network \(layer1.2.*a residual network of 3\+4\+6\+3 basic")


def test_an_encoder_that_is_not_whole_is_refused(tmp_path):
    tensors = theirs().state_dict()
    del tensors["layer3.1.bn2.running_var"]
    refused(built(PLAIN), saved(tmp_path / "a.safetensors", tensors), r"1 are missing there \(layer3.1.bn2.running_var\)")


def test_another_kind_of_encoder_is_refused(tmp_path):
    path = saved(tmp_path / "vit.safetensors", timm.create_model("test_vit").state_dict())
    refused(built(PLAIN), path, r"seems to hold a vision transformer, and none .* conv1.weight, .* that it was trained with")
    path = saved(tmp_path / "next.safetensors", timm.create_model("test_convnext").state_dict())
    refused(built(PLAIN), path, r"seems to hold a network of stages")
    path = saved(tmp_path / "linear.safetensors", nn.Linear(2, 2).state_dict())
    refused(built(PLAIN), path, r"seems to hold 2 tensors, such as bias, weight")
    refused(built(PLAIN), saved(tmp_path / "empty.safetensors", {}), r"seems to hold no tensors")


def test_two_encoders_that_learnt_are_refused(tmp_path):
    state = theirs().state_dict()
    tensors = {prefix + key: value.clone() for prefix in ("left.", "right.") for key, value in state.items()}
    refused(built(PLAIN), saved(tmp_path / "a.safetensors", tensors), r"several encoders, below left., right.: leave one")


@pytest.mark.parametrize("key", ["conv1.weight", "layer4.1.bn2.running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, key, value):
    tensors = theirs().state_dict()
    tensors[key].view(-1)[-1] = value
    refused(built(PLAIN), saved(tmp_path / "a.safetensors", tensors), rf"is not finite in {key}: take an earlier")


def test_weights_too_large_for_the_network_are_refused(tmp_path):
    tensors = {key: value.double() if value.is_floating_point() else value for key, value in theirs().state_dict().items()}
    tensors["conv1.weight"].view(-1)[0] = 1e300
    refused(built(PLAIN), saved(tmp_path / "a.safetensors", tensors), r"is not finite in conv1.weight")


def test_weights_of_another_kind_of_number_are_refused(tmp_path):
    tensors = theirs().state_dict()
    tensors["conv1.weight"] = tensors["conv1.weight"].to(torch.int8)
    refused(built(PLAIN), saved(tmp_path / "a.safetensors", tensors), r"conv1.weight is \[64, 3, 7, 7\] of int8 there")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pth", b"anything"),
        ("a.PT", b""),
        ("pytorch_model.bin", b"x"),
        ("a.safetensors", b"PK\3\4rest"),
        ("a", b"\x80\x02}q"),
    ],
)
def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    told = refused(
        built(NARROW), path, r"is a pickle, which could run any code. Where you trust it, convert it once: python"
    )
    assert CONVERT in told
    with pytest.raises(ValueError, match="is a pickle"):
        fingerprint(path)


def test_the_command_that_converts_pickles_works(tmp_path):
    model = theirs()
    plain = saved(tmp_path / "plain.safetensors", model.state_dict(), "module.encoder_q.")
    pickle, out = tmp_path / "moco.pth.tar", tmp_path / "out.safetensors"
    pickling = "import sys, torch; from safetensors.torch import load_file; d = load_file(sys.argv[1]); "
    pickling += "torch.save({'epoch': 3, 'arch': 'resnet18', 'state_dict': d, 'optimizer': {}}, sys.argv[2])"
    subprocess.run([sys.executable, "-c", pickling, plain, pickle], check=True)
    command = shlex.split(CONVERT.replace("IN OUT.safetensors", f"{pickle} {out}"))
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert load_file(out).keys() == load_file(plain).keys()
    network = built(PLAIN)
    initialise_(network, out)
    torch.testing.assert_close(network.encoder(images(65)), features(model), rtol=0, atol=1e-6)
    assert fingerprint(out) == fingerprint(plain)


def test_paths_without_weights_are_refused(tmp_path):
    network = built(NARROW)
    refused(network, tmp_path / "missing", r"missing does not exist: --init takes a run, one of its checkpoints, or")
    refused(network, tmp_path, r"holds no checkpoint: --init takes")
    broken = tmp_path / "a.safetensors"
    broken.write_bytes(b"{}")
    refused(network, broken, r"is no safetensors file \(.*download or convert it again")
    (tmp_path / "lacking").mkdir()
    lacking = layout.write(tmp_path / "lacking" / "checkpoints", 1, {"bank": {"rows": torch.eye(2)}}, {"step": 1})
    path = next((tmp_path / "lacking" / "checkpoints").glob("step-*"))
    refused(network, path, r"step-00000001 holds no model, only bank")
    assert lacking


# Fingerprints


def test_a_fingerprint_is_of_names_and_values_and_not_of_the_file(tmp_path):
    state = trained(NARROW).state_dict()
    expected = fingerprint(saved(tmp_path / "a.safetensors", state))
    assert len(expected) == 64
    noted = {key: value.clone().contiguous() for key, value in reversed(state.items())}
    save_file(noted, tmp_path / "b.safetensors", metadata={"note": json.dumps({"by": "someone"})})
    assert fingerprint(tmp_path / "b.safetensors") == expected
    assert fingerprint(saved(tmp_path / "c.safetensors", state, "module.")) != expected
    state["encoder.conv1.weight"][0, 0, 0, 0] += 1
    assert fingerprint(saved(tmp_path / "d.safetensors", state)) != expected

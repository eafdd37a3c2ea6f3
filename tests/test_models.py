"""Encoders that are torchvision's, unit embeddings, optimiser and schedule, and checkpoints that tell damage from data."""

import copy
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from viewmill.models import checkpoint
from viewmill.models.checkpoint import InvalidCheckpoint, load_optimiser_, newest, optimiser_tensors, read, write
from viewmill.models.encoders import build
from viewmill.models.network import Architecture, Batch, Network
from viewmill.models.optimise import cosine, set_learning_rate_, sgd

PARTS = {
    "model": {
        "weight": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([1.5, -0.0]).bfloat16(),
        "count": torch.tensor(7),
    },
    "optimiser": {},
    "bank": {"rows": torch.eye(4)},
}
FACTS = {"step": 3, "config": {"name": "simclr", "rate": 0.1, "sizes": [1, 2]}, "scaler": None}


def small_model():
    torch.manual_seed(0)
    return Network(Architecture("resnet18", width=2, size=16, hidden=8, out=4))


def seen(views, images):
    """A batch of one group of views."""
    return Batch((views,), torch.arange(images), step=0)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fault(path):
    """Why a checkpoint does not verify; empty where it does."""
    try:
        read(path)
    except InvalidCheckpoint as error:
        return str(error)
    return ""


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def reseal(path, change):
    """Let `change` edit a checkpoint's manifest as someone would who means harm: with every digest right."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("sha256", None)
    change(manifest)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


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
    rates = [cosine(step, steps=10, warmup=2, peak=0.4) for step in range(11)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[4] == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)
    assert rates[6] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(0, abs=1e-15)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert cosine(0, steps=10, warmup=0, peak=0.4) == 0.4


@given(steps=st.integers(1, 200), warmup=st.integers(0, 250), peak=st.floats(1e-6, 100))
def test_the_learning_rate_is_never_above_its_peak_nor_below_zero_and_has_one_summit(steps, warmup, peak):
    rates = [cosine(step, steps=steps, warmup=warmup, peak=peak) for step in range(steps + 1)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    summit = rates.index(max(rates))
    assert rates == sorted(rates[: summit + 1]) + sorted(rates[summit + 1 :], reverse=True)


# Checkpoints


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path):
    path = write(tmp_path / "checkpoints", 3, PARTS, FACTS)
    parts, facts = read(path)
    assert path.name == "step-00000003"
    assert facts == FACTS
    assert parts.keys() == PARTS.keys()
    for name, tensors in PARTS.items():
        torch.testing.assert_close(parts[name], tensors, rtol=0, atol=0)


def test_latest_names_the_newest_and_nothing_temporary_is_left(tmp_path):
    for step in (1, 2):
        write(tmp_path, step, PARTS, FACTS)
    assert (tmp_path / "latest").read_text() == "step-00000002\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001", "step-00000002"]


def test_what_is_on_another_device_or_needs_a_gradient_is_written_as_plain_values(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    found = read(write(tmp_path, 1, {"model": {"weight": weight}}, {})).parts["model"]["weight"]
    assert torch.equal(found, weight)
    assert not found.requires_grad


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "bank.safetensors", "manifest.json"])
def test_damage_to_any_file_is_found_and_named(tmp_path, name):
    written = write(tmp_path / "good", 3, PARTS, FACTS)
    size = (written / name).stat().st_size
    damages = {
        "deleted": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: os.truncate(path, size - 2),
        "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        **{f"bit of byte {at}": lambda path, at=at: flip(path, at) for at in range(0, size, max(1, size // 150))},
    }
    for damage, inflict in damages.items():
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        path = Path(shutil.copytree(written, tmp_path / "bad" / written.name))
        inflict(path / name)
        assert (str(path) if name == "manifest.json" else name) in fault(path), damage


def test_the_newest_that_verifies_is_found_and_the_others_are_said_to_be_damaged(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, PARTS, FACTS | {"step": step}, keep=3)
    flip(tmp_path / "step-00000003" / "bank.safetensors", -1)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    found = newest(tmp_path)
    assert found.path.name == "step-00000001"
    assert found.checkpoint.facts["step"] == 1
    assert ["step-00000003" in fault for fault in found.passed_over] == [True, False]
    assert "bank.safetensors is damaged: its sha256 is not the manifest's" in found.passed_over[0]
    assert "step-00000002 cannot be read: FileNotFoundError" in found.passed_over[1]


def test_where_all_are_damaged_nothing_starts_afresh(tmp_path):
    for step in (1, 2):
        flip(write(tmp_path, step, PARTS, FACTS) / "model.safetensors", -1)
    with pytest.raises(
        InvalidCheckpoint, match=r"no checkpoint under .* verifies; the newest: .*step-00000002/model.safetensors"
    ):
        newest(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_where_there_is_none_there_is_none(tmp_path, exists):
    assert newest(tmp_path if exists else tmp_path / "absent") is None


def test_what_a_killed_writer_left_is_neither_read_nor_in_the_way(tmp_path):
    write(tmp_path, 1, PARTS, FACTS)
    for step in (2, 5):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / f".tmp-step-{step:08d}")
    assert newest(tmp_path).path.name == "step-00000001"
    assert write(tmp_path, 2, PARTS, FACTS) == newest(tmp_path).path
    assert list(tmp_path.glob(".tmp*")) == []


def test_a_folder_of_another_name_is_neither_read_nor_pruned(tmp_path):
    shutil.copytree(write(tmp_path, 1, PARTS, FACTS), tmp_path / "step-best")
    for step in (2, 3):
        assert write(tmp_path, step, PARTS, FACTS, keep=1) == newest(tmp_path).path
    assert fault(tmp_path / "step-best") == ""


def test_a_step_written_again_replaces_the_first(tmp_path):
    write(tmp_path, 1, PARTS, {"try": 1})
    assert read(write(tmp_path, 1, {}, {"try": 2})) == ({}, {"try": 2})


@pytest.mark.parametrize(("keep", "kept"), [(1, [30]), (2, [20, 30]), (5, [5, 10, 20, 30])])
def test_pruning_keeps_the_newest(tmp_path, keep, kept):
    for step in (5, 10, 20, 30):
        write(tmp_path, step, PARTS, FACTS, keep=keep)
    assert [path.name for path in checkpoint.steps(tmp_path)] == [f"step-{step:08d}" for step in kept]


def test_newer_means_the_larger_step_also_beyond_eight_digits(tmp_path):
    for step in (99_999_999, 100_000_000):
        write(tmp_path, step, {}, {"step": step})
    assert newest(tmp_path).checkpoint.facts["step"] == 100_000_000


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_fell_back_does_not_prune_what_it_has_just_written(tmp_path, keep):
    for step in (10, 20, 30):
        write(tmp_path, step, PARTS, {"step": step}, keep=3)
    for step in (20, 30):
        flip(tmp_path / f"step-{step:08d}" / "model.safetensors", -1)
    assert newest(tmp_path).checkpoint.facts["step"] == 10
    write(tmp_path, 12, PARTS, {"step": 12}, keep=keep)
    assert newest(tmp_path).checkpoint.facts["step"] == 12


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"), [(0o027, 0o640, 0o750), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_files_and_folders_honour_the_umask(tmp_path, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        path = write(tmp_path / "checkpoints", 1, PARTS, FACTS)
    finally:
        os.umask(before)
    files = files_of(path.parent)
    assert {file.stat().st_mode & 0o777 for file in files} == {file_mode}
    assert {folder.stat().st_mode & 0o777 for folder in (path, path.parent)} == {folder_mode}


@pytest.mark.parametrize("absolute", [True, False])
def test_a_manifest_cannot_reach_outside_its_folder(tmp_path, absolute):
    data = save({"secret": torch.ones(3)})
    (tmp_path / "outside.safetensors").write_bytes(data)
    path = write(tmp_path / "checkpoints", 1, PARTS, FACTS)
    name = str(tmp_path / "outside.safetensors") if absolute else "../../outside.safetensors"
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(path, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(InvalidCheckpoint, match="outside"):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(format=99),
        lambda manifest: manifest.pop("facts"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(files={"model.safetensors": None}),
        lambda manifest: manifest["files"].update({"..": {"size": 0, "sha256": ""}}),
        lambda manifest: manifest["files"].update({"a\0b": {"size": 0, "sha256": ""}}),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_invalid_checkpoint_and_not_a_crash(tmp_path, change):
    path = write(tmp_path, 1, PARTS, FACTS)
    reseal(path, change)
    with pytest.raises(InvalidCheckpoint, match="step-00000001"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", "9" * 5_000, "[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_an_invalid_checkpoint_and_not_a_crash(tmp_path, text):
    path = write(tmp_path, 1, PARTS, FACTS)
    (path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidCheckpoint, match="step-00000001"):
        read(path)


def test_bytes_that_are_no_safetensors_are_refused_even_with_the_right_digest(tmp_path):
    path = write(tmp_path, 1, PARTS, FACTS)
    junk = b"\x80\x04K\x01."  # a pickle of 1
    (path / "model.safetensors").write_bytes(junk)
    entry = {"size": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}
    reseal(path, lambda manifest: manifest["files"].update({"model.safetensors": entry}))
    with pytest.raises(InvalidCheckpoint, match="SafetensorError"):
        read(path)


def test_every_file_of_a_checkpoint_is_safetensors_or_text(tmp_path):
    write(tmp_path, 1, PARTS, FACTS)
    for path in files_of(tmp_path):
        if path.suffix == ".safetensors":
            load(path.read_bytes())
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert (path.name, path.read_text()) == ("latest", "step-00000001\n")


def train(model, optimiser, steps):
    set_learning_rate_(optimiser, 0.05)
    for step in steps:
        optimiser.zero_grad(set_to_none=True)
        image = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        embedding = model(seen(image, 6)).embedding_VBD[0]
        (embedding @ embedding.T)[0].sum().backward()
        optimiser.step()


@pytest.mark.parametrize(
    "optimiser_of",
    [lambda model: sgd(model, momentum=0.9, weight_decay=0.01), lambda model: torch.optim.AdamW(model.parameters())],
    ids=["sgd with momentum", "adamw"],
)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path, optimiser_of):
    model = small_model()
    optimiser = optimiser_of(model)
    train(model, optimiser, range(3))
    path = write(tmp_path, 3, {"model": model.state_dict(), "optimiser": optimiser_tensors(optimiser)}, {})
    train(model, optimiser, range(3, 6))
    resumed = small_model()
    resumed_optimiser = optimiser_of(resumed)
    parts, _ = read(path)
    resumed.load_state_dict(parts["model"])
    load_optimiser_(resumed_optimiser, parts["optimiser"])
    train(resumed, resumed_optimiser, range(3, 6))
    torch.testing.assert_close(resumed.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(optimiser_tensors(resumed_optimiser), optimiser_tensors(optimiser), rtol=0, atol=0)


def test_an_optimiser_that_has_not_stepped_has_nothing_to_save_and_nothing_to_load():
    optimiser = sgd(small_model(), momentum=0.9, weight_decay=0)
    assert optimiser_tensors(optimiser) == {}
    load_optimiser_(optimiser, {})
    assert optimiser_tensors(optimiser) == {}


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.momentum_buffer": torch.zeros(3, 3)},
        {"99.momentum_buffer": torch.zeros(2, 3)},
        {"-1.momentum_buffer": torch.zeros(2)},
        {"momentum_buffer": torch.zeros(2, 3)},
        {"first.momentum_buffer": torch.zeros(2, 3)},
    ],
)
def test_the_state_of_another_model_is_refused_and_nothing_live_is_touched(tensors):
    linear = nn.Linear(3, 2)
    optimiser = sgd(linear, momentum=0.9, weight_decay=0)
    linear(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    before = copy.deepcopy(optimiser_tensors(optimiser))
    with pytest.raises(InvalidCheckpoint, match="does not fit this model"):
        load_optimiser_(optimiser, tensors)
    torch.testing.assert_close(optimiser_tensors(optimiser), before, rtol=0, atol=0)

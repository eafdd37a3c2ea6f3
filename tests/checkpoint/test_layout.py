"""Checkpoints: whole or absent, told from damage and from malice, pruned with care, and written beside the training."""

import copy
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from viewmill.checkpoint import layout, tensorfile, writer
from viewmill.checkpoint.layout import InvalidCheckpoint, load_optimiser_, newest, optimiser_tensors, read, verify
from viewmill.checkpoint.tensorfile import DTYPES, read_tensors, write_tensors
from viewmill.checkpoint.writer import Writer, check_room, needed_bytes
from viewmill.methods.architecture import Architecture
from viewmill.models.network import Batch, Network
from viewmill.training.optimisers import adamw, set_learning_rate_, sgd

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


NAMES = ["model.safetensors", "optimiser.safetensors", "bank.safetensors", "manifest.json"]


def write(*arguments, **options):
    """Where `checkpoint.write` wrote."""
    return layout.write(*arguments, **options).path


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
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.parametrize("name", NAMES)
def test_damage_to_any_file_is_found_and_named(tmp_path, name):
    written = write(tmp_path / "good", 3, PARTS, FACTS)
    size = (written / name).stat().st_size
    damages = {
        "deleted": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: os.truncate(path, size - 2),
        "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        **{f"bit of byte {at}": lambda path, at=at: flip(path, at) for at in range(0, size, max(1, size // 50))},
    }
    for damage, inflict in damages.items():
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        path = Path(shutil.copytree(written, tmp_path / "bad" / written.name))
        inflict(path / name)
        assert str(path / name) in fault(path), damage
        with pytest.raises(InvalidCheckpoint, match=name):
            verify(path)


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
    assert "step-00000002/manifest.json cannot be read: FileNotFoundError" in found.passed_over[1]


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
        assert write(tmp_path, step, PARTS, FACTS) == newest(tmp_path).path
    assert fault(tmp_path / "step-best") == ""


def test_a_step_written_again_replaces_the_first(tmp_path):
    write(tmp_path, 1, PARTS, {"try": 1})
    assert read(write(tmp_path, 1, {}, {"try": 2})) == ({}, {"try": 2})


@pytest.mark.parametrize(("keep", "kept"), [(2, [20, 30]), (3, [10, 20, 30]), (5, [5, 10, 20, 30])])
def test_pruning_keeps_the_newest(tmp_path, keep, kept):
    for step in (5, 10, 20, 30):
        write(tmp_path, step, PARTS, FACTS, keep=keep)
    assert [path.name for path in layout.steps(tmp_path)] == [f"step-{step:08d}" for step in kept]


def test_newer_means_the_larger_step_also_beyond_eight_digits(tmp_path):
    for step in (99_999_999, 100_000_000):
        write(tmp_path, step, {}, {"step": step})
    assert newest(tmp_path).checkpoint.facts["step"] == 100_000_000


@pytest.mark.parametrize("keep", [2, 3])
def test_a_run_that_fell_back_does_not_prune_what_it_has_just_written(tmp_path, keep):
    for step in (10, 20, 30):
        write(tmp_path, step, PARTS, {"step": step}, keep=3)
    for step in (20, 30):
        flip(tmp_path / f"step-{step:08d}" / "model.safetensors", -1)
    assert newest(tmp_path).checkpoint.facts["step"] == 10
    remarks = layout.write(tmp_path, 12, PARTS, {"step": 12}, keep=keep).remarks
    assert newest(tmp_path).checkpoint.facts["step"] == 12
    assert newest(tmp_path).passed_over == []
    assert [remark.split(": ")[0] for remark in remarks] == [
        f"{tmp_path}/step-000000{step} had been passed over and is now step-000000{step}.passed-over" for step in (20, 30)
    ]
    write(tmp_path, 14, PARTS, {"step": 14}, keep=keep)
    kept = [10, 12, 14][-keep:]
    aside = ["step-00000020.passed-over", "step-00000030.passed-over"]
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in kept), *aside]


def test_what_is_put_aside_twice_is_there_once(tmp_path):
    for _ in range(2):
        write(tmp_path, 30, PARTS, {})
        assert layout.write(tmp_path, 10, PARTS, {}).remarks
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000030.passed-over"]


def test_milestones_stay(tmp_path):
    for step in range(1, 12):
        write(tmp_path, step, {}, {}, keep=2, keep_every=4)
    assert [int(path.name[5:]) for path in layout.steps(tmp_path)] == [4, 8, 10, 11]


@pytest.mark.parametrize("keep", [1, 0, -3])
def test_keeping_fewer_than_two_is_refused_before_anything_is_written(tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep must be at least 2, got {keep}"):
        write(tmp_path / "new", 1, PARTS, FACTS, keep=keep)
    assert names(tmp_path) == []


def test_a_checkpoint_that_the_disk_gives_back_otherwise_is_not_written_and_nothing_is_pruned(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step, PARTS, FACTS)
    whole = tensorfile.write_bytes

    def failing_disk(path, pieces):
        entry = whole(path, pieces)
        if path.name == "bank.safetensors":
            flip(path, 5)
        return entry

    monkeypatch.setattr(tensorfile, "write_bytes", failing_disk)
    with pytest.raises(OSError, match=r"does not read back as it was written .*bank.safetensors is damaged") as caught:
        write(tmp_path, 3, PARTS, FACTS)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "step-00000003"))
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]
    assert (tmp_path / "latest").read_text() == "step-00000002\n"


def test_where_latest_cannot_be_written_the_checkpoint_counts_and_nothing_is_pruned(tmp_path):
    for step in (1, 2):
        write(tmp_path, step, PARTS, FACTS)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    done = layout.write(tmp_path, 3, PARTS, FACTS)
    assert newest(tmp_path).path == done.path
    assert [path.name for path in layout.steps(tmp_path)] == [f"step-{step:08d}" for step in (1, 2, 3)]
    assert "cannot be tidied" in done.remarks[0]


def test_a_checkpoint_that_cannot_be_removed_is_a_remark_and_no_fault(tmp_path):
    for step in (1, 2):
        write(tmp_path, step, PARTS, FACTS)
    stuck = tmp_path / "step-00000001"
    if (done := subprocess.run(["chattr", "+i", str(stuck)], capture_output=True, text=True)).returncode:
        pytest.skip(f"no folder can be made immutable here: {done.stderr.strip()}")
    try:
        for step in (3, 4):
            remarks = layout.write(tmp_path, step, PARTS, FACTS).remarks
            assert remarks == [f"{stuck} cannot be removed (Operation not permitted): remove it by hand"]
            assert [path.name for path in layout.steps(tmp_path)] == [
                stuck.name,
                *(f"step-{n:08d}" for n in (step - 1, step)),
            ]
    finally:
        subprocess.run(["chattr", "-i", str(stuck)], check=True)
    assert layout.write(tmp_path, 5, PARTS, FACTS).remarks == []
    assert names(tmp_path) == ["latest", "step-00000004", "step-00000005"]


def test_a_link_to_a_checkpoint_is_read_and_pruning_takes_the_link_alone(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", 1, PARTS, FACTS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / elsewhere.name).symlink_to(elsewhere)
    assert newest(tmp_path / "run").checkpoint.facts == FACTS
    for step in (2, 3):
        assert layout.write(tmp_path / "run", step, PARTS, FACTS).remarks == []
    assert names(tmp_path / "run") == ["latest", "step-00000002", "step-00000003"]
    assert fault(elsewhere) == ""


def test_a_checkpoint_that_was_about_to_be_replaced_still_counts_and_is_put_back(tmp_path):
    shutil.move(write(tmp_path, 4, PARTS, FACTS), tmp_path / ".old-step-00000004")
    assert newest(tmp_path).checkpoint.facts == FACTS
    write(tmp_path, 5, PARTS, FACTS)
    assert names(tmp_path) == ["latest", "step-00000004", "step-00000005"]


def test_everything_is_on_the_disk_before_it_has_its_name_and_the_name_before_anything_goes(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step, PARTS, FACTS)
    said, places = [], {}

    def spy(name):
        real = getattr(os, name)

        def call(place, *more, **options):
            done = real(place, *more, **options)
            if name == "open":
                places[done] = place
            path = Path(places[place] if isinstance(place, int) else place)
            said.append((name, str(path.relative_to(tmp_path)) if path.is_absolute() else str(path)))
            return done

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "rename", "replace", "unlink"):
        spy(name)
    write(tmp_path, 3, PARTS, FACTS)
    monkeypatch.undo()

    def last(name, place):
        return max(i for i, what in enumerate(said) if what == (name, place))

    temporary = ".tmp-step-00000003"
    named = last("rename", temporary)
    for file in NAMES:
        written, synced, read_back = (last(name, f"{temporary}/{file}") for name in ("write", "fsync", "open"))
        assert written < synced < last("fsync", temporary) < read_back < named
    synced = said.index(("fsync", "."))
    assert last("fsync", ".tmp-latest") < named < synced < last("replace", ".tmp-latest")
    gone = [i for i, (name, _) in enumerate(said) if name == "unlink"]
    assert len(gone) == len(NAMES)
    assert synced < last("replace", ".tmp-latest") < last("fsync", ".") < last("rename", "step-00000001") < min(gone)


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"),
    [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)],
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
        lambda manifest: manifest.update(facts=[]),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(step=2),
        lambda manifest: manifest["files"].update({"model.safetensors": {"size": "many", "sha256": ""}}),
        lambda manifest: manifest["files"].update({"model.safetensors": {"size": -1, "sha256": None}}),
        lambda manifest: manifest["files"].update({"deep/model.safetensors": manifest["files"]["model.safetensors"]}),
        lambda manifest: manifest["files"].update({"../step-00000001/model.safetensors": {"size": 1, "sha256": ""}}),
        lambda manifest: manifest["files"].update({".safetensors": {"size": 0, "sha256": ""}}),
        lambda manifest: manifest["files"].update({"manifest.json": {"size": 0, "sha256": ""}}),
        lambda manifest: manifest.update(files={"model.safetensors": None}),
        lambda manifest: manifest["files"].update({"..": {"size": 0, "sha256": ""}}),
        lambda manifest: manifest["files"].update({"a\0b": {"size": 0, "sha256": ""}}),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_invalid_checkpoint_and_not_a_crash(tmp_path, change):
    path = write(tmp_path, 1, PARTS, FACTS)
    reseal(path, change)
    with pytest.raises(InvalidCheckpoint, match=r"step-00000001/\S"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", "9" * 5_000, "[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_an_invalid_checkpoint_and_not_a_crash(tmp_path, text):
    path = write(tmp_path, 1, PARTS, FACTS)
    (path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidCheckpoint, match=r"step-00000001/\S"):
        read(path)


def test_bytes_that_are_no_safetensors_are_refused_even_with_the_right_digest(tmp_path):
    path = write(tmp_path, 1, PARTS, FACTS)
    junk = b"\x80\x04K\x01."  # a pickle of 1
    (path / "model.safetensors").write_bytes(junk)
    entry = {"size": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}
    reseal(path, lambda manifest: manifest["files"].update({"model.safetensors": entry}))
    with pytest.raises(InvalidCheckpoint, match=r"model.safetensors is no safetensors file"):
        read(path)


@pytest.mark.parametrize("size", [10**15, 1 << 62, -1])
def test_a_size_that_the_manifest_makes_up_is_held_against_the_file_before_memory_is_asked_for(tmp_path, size, monkeypatch):
    path = write(tmp_path, 1, PARTS, FACTS)
    reseal(path, lambda manifest: manifest["files"]["bank.safetensors"].update(size=size))
    with pytest.raises(
        InvalidCheckpoint, match=r"bank.safetensors is damaged: it has \d+ bytes, not the .* of the manifest"
    ):
        read(path)


def test_a_manifest_of_many_megabytes_is_refused(tmp_path):
    path = write(tmp_path, 1, PARTS, FACTS)
    os.truncate(path / "manifest.json", 1 << 40)  # a hole: nothing of it is on the disk
    with pytest.raises(InvalidCheckpoint, match=r"manifest.json has 1,099,511,627,776 bytes, more than"):
        read(path)


def put(path, data):
    """Make `data` the model of a checkpoint, with every digest right."""
    (path / "model.safetensors").write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(path, lambda manifest: manifest["files"].update({"model.safetensors": entry}))


def filed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "nothing": b"",
    "a length alone": (5).to_bytes(8, "little"),
    "a header beyond the file": (1 << 60).to_bytes(8, "little") + b"{}",
    "a header of another encoding": filed(b"\xff\xfe{}"),
    "nested lists": filed(b"[" * 100_000),
    "nested objects": filed(b'{"a":' * 100_000),
    "a list": filed(b"[]"),
    "a number of 5,000 digits": filed(b'{"a":' + b"9" * 5_000 + b"}"),
    "no entry": filed({"a": 3}),
    "a type that there is not": filed({"a": entry("F31")}, bytes(4)),
    "a shape that is no shape": filed({"a": entry(shape=[1.0])}, bytes(4)),
    "a negative side": filed({"a": entry(shape=[-1, -1])}, bytes(4)),
    "a side that is true": filed({"a": entry(shape=[True])}, bytes(4)),
    "an absurd side": filed({"a": entry(shape=[1 << 62])}, bytes(4)),
    "an absurd empty shape": filed({"a": entry(shape=[1 << 62, 1 << 62, 0], offsets=[0, 0])}),
    "an absurd shape beyond 64 bits": filed({"a": entry(shape=[1 << 70, 0], offsets=[0, 0])}),
    "offsets beyond the file": filed({"a": entry(shape=[2], offsets=[0, 8])}, bytes(4)),
    "offsets backwards": filed({"a": entry(offsets=[4, 0])}, bytes(4)),
    "one offset": filed({"a": entry(offsets=[0])}, bytes(4)),
    "overlap": filed({"a": entry(), "b": entry()}, bytes(4)),
    "a hole": filed({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
    "a tail": filed({"a": entry()}, bytes(5)),
    "a key twice": filed(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_file_made_by_one_who_means_harm_is_an_invalid_checkpoint_and_not_a_crash(tmp_path, data):
    path = write(tmp_path, 1, PARTS, FACTS)
    put(path, data)
    with pytest.raises(InvalidCheckpoint, match=r"step-00000001/model.safetensors (is|cannot be read)"):
        read(path)


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(20)
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path, kind, name):
    path = write(tmp_path, 1, PARTS, FACTS)
    file = path / name
    if kind == "link":
        file.rename(tmp_path / "same")
        file.symlink_to(tmp_path / "same")
    else:
        file.unlink()
        {"broken link": lambda: file.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[kind]()
    with pytest.raises(InvalidCheckpoint, match=rf"{name} (is a link|is no plain file|cannot be read)"):
        read(path)


@pytest.mark.timeout(20)
def test_files_that_the_manifest_does_not_list_are_never_opened(tmp_path):
    path = write(tmp_path, 1, PARTS, FACTS)
    (path / "notes.txt").write_text("a good one")
    for name in ("extra.safetensors", "optimizer.bin", "data.pkl"):
        os.mkfifo(path / name)  # one who opened it would wait
    assert newest(tmp_path).checkpoint.parts.keys() == PARTS.keys()
    verify(path)


def test_files_and_folders_that_changed_places_are_refused(tmp_path):
    first, second = (write(tmp_path, step, PARTS, {"step": step}) for step in (1, 2))
    model, bank = first / "model.safetensors", first / "bank.safetensors"
    for one, other, named in (
        (model, bank, "model.safetensors"),
        (first, second, r"manifest.json is of step 2: .* renamed"),
    ):
        one.rename(tmp_path / "third")
        other.rename(one)
        (tmp_path / "third").rename(other)
        with pytest.raises(InvalidCheckpoint, match=named):
            read(first)
        one.rename(tmp_path / "third")
        other.rename(one)
        (tmp_path / "third").rename(other)
    assert fault(first) == fault(second) == ""


def test_a_byte_changed_anywhere_is_found_and_the_older_one_taken(tmp_path):
    write(tmp_path, 1, PARTS, {"step": 1})
    path, rng = write(tmp_path, 2, PARTS, {"step": 2}), random.Random(0)
    places = [(path / name, at) for name in NAMES for at in range((path / name).stat().st_size)]
    for file, at in rng.sample(places, 300):
        data = file.read_bytes()
        file.write_bytes(data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :])
        found = newest(tmp_path)
        assert (found.checkpoint.facts["step"], len(found.passed_over)) == (1, 1), (file.name, at)
        assert str(file) in found.passed_over[0]
        file.write_bytes(data)
    assert newest(tmp_path).checkpoint.facts["step"] == 2


def test_a_file_cut_anywhere_or_zeroed_is_found_and_the_older_one_taken(tmp_path):
    write(tmp_path, 1, PARTS, {"step": 1})
    path = write(tmp_path, 2, PARTS, {"step": 2})
    for file in (path / name for name in NAMES):
        data = file.read_bytes()
        for damaged in [data[:length] for length in range(len(data))] + [bytes(len(data)), data + b"\n", data + data]:
            file.write_bytes(damaged)
            found = newest(tmp_path)
            assert (found.checkpoint.facts["step"], len(found.passed_over)) == (1, 1), (file.name, len(damaged))
            assert str(file) in found.passed_over[0]
        file.write_bytes(data)
    assert newest(tmp_path).checkpoint.facts["step"] == 2


def bombs(marker):
    """Files that make `marker` where they are unpickled, as one would load them: plain, and as torch packs them."""
    bomb = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    with zipfile.ZipFile(marker.with_suffix(".zip"), "w") as archive:
        for name, data in {"data.pkl": bomb, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", data)
    return {"plain": bomb, "packed": marker.with_suffix(".zip").read_bytes()}


def test_the_bombs_of_these_tests_go_off(tmp_path):
    plain, packed = bombs(tmp_path / "marker").values()
    for data, load_it in (
        (plain, "import pickle; pickle.load(f)"),
        (packed, "import torch; torch.load(f, weights_only=False)"),
    ):
        (tmp_path / "bomb").write_bytes(data)
        subprocess.run([sys.executable, "-c", f"f = open(r'{tmp_path / 'bomb'}', 'rb'); {load_it}"], capture_output=True)
        (tmp_path / "marker").unlink()


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_a_file_that_would_run_code_where_unpickled_never_runs_and_is_refused(tmp_path, kind):
    bomb = bombs(tmp_path / "marker")[kind]
    others = [
        "optimizer.bin",
        "scheduler.bin",
        "scaler.pt",
        "random_states_0.pkl",
        "custom_checkpoint_0.pkl",
        "rng.safetensors",
    ]
    entry = {"size": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest()}
    for i, name in enumerate([*NAMES, *others]):
        path = write(tmp_path / str(i), 1, PARTS, FACTS)
        for other in others:  # beside what is listed: never opened
            (path / other).write_bytes(bomb)
        assert fault(path) == ""
        (path / name).write_bytes(bomb)
        assert name in others or name in fault(path)
        if name != "manifest.json":  # listed, with every digest right
            reseal(path, lambda manifest, name=name: manifest["files"].update({name: entry}))
            assert name in fault(path)
        with pytest.raises(InvalidCheckpoint, match=name):
            newest(tmp_path / str(i))
    assert not (tmp_path / "marker").exists()


def test_every_file_of_a_checkpoint_is_safetensors_or_text(tmp_path):
    write(tmp_path, 1, PARTS, FACTS)
    for path in files_of(tmp_path):
        if path.suffix == ".safetensors":
            load(path.read_bytes())
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert (path.name, path.read_text()) == ("latest", "step-00000001\n")


# The files themselves


def some(dtype, *shape):
    """A tensor of every bit pattern that comes along; booleans are true or false."""
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return torch.arange(count).remainder(2).bool().reshape(shape)
    size = dtype.itemsize * count
    return torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size)).byte().view(dtype).reshape(shape)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        ours, theirs = (each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (found[name], tensor))
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("chunk", [64, 1024, 8 << 20])
@pytest.mark.parametrize("name", [*DTYPES, "all"])
def test_files_are_safetensors_own_byte_for_byte(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(tensorfile, "CHUNK", chunk)
    tensors = {}
    for dtype in DTYPES.values() if name == "all" else [DTYPES[name]]:
        plain = some(dtype, 5, 7, 3, 3)
        more = {
            "scalar": some(dtype),
            "empty": some(dtype, 0, 3),
            "one": some(dtype, 1),
            "large": some(dtype, 3000),
            "turned": plain.permute(3, 2, 1, 0),
            "channels last": plain.to(memory_format=torch.channels_last),
            "striped": plain[::2, 1:, :, 1],
            "repeated": some(dtype, 1, 3).expand(4, 3),
            "naïve ☃": some(dtype, 2),
        }
        tensors |= {f"{dtype} {key}": tensor for key, tensor in more.items()}
    expected = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    written = write_tensors(tmp_path / "file", tensors)
    assert (tmp_path / "file").read_bytes() == expected
    assert written == (len(expected), hashlib.sha256(expected).hexdigest())
    assert tensorfile.size_of(tensors) == len(expected)
    assert_same_bits(load(expected), tensors)
    assert_same_bits(read_tensors(tmp_path / "file", written), tensors)
    tensorfile.check(tmp_path / "file", written)


def test_conjugates_and_negatives_are_written_as_the_numbers_that_they_are(tmp_path):
    number = torch.tensor([1 + 2j, 3 - 4j])
    tensors = {"conjugate": number.conj(), "negative": number.conj().imag}
    written = write_tensors(tmp_path / "file", tensors)
    assert torch.equal(read_tensors(tmp_path / "file", written)["conjugate"], torch.tensor([1 - 2j, 3 + 4j]))
    assert torch.equal(load((tmp_path / "file").read_bytes())["negative"], torch.tensor([-2.0, 4.0]))


def test_tensors_that_share_memory_are_written_each_for_itself(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "again": whole, "part": whole[2:4]}
    assert_same_bits(read_tensors(tmp_path / "file", write_tensors(tmp_path / "file", tensors)), tensors)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("double", torch.zeros(2, dtype=torch.complex128)),
        ("sparse", torch.eye(3).to_sparse()),
        ("__metadata__", torch.zeros(2)),
    ],
)
def test_what_the_format_lacks_is_refused_and_leaves_nothing(tmp_path, name, tensor):
    with pytest.raises(ValueError, match=f"{name} is .*: safetensors holds dense ones of U64"):
        write(tmp_path, 1, {"model": {name: tensor}}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("part", ["", "../model", "a/b", ".hidden", "a\0b", "a b"])
def test_a_part_whose_name_is_no_files_is_refused_and_leaves_nothing(tmp_path, part):
    with pytest.raises(ValueError, match="cannot be a part of a checkpoint"):
        write(tmp_path, 1, {part: {}}, {})
    assert names(tmp_path) == []


def read_data(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    return read_tensors(tmp_path / "file", tensorfile.Entry(len(data), hashlib.sha256(data).hexdigest()))


def test_a_file_of_a_writer_that_does_not_align_is_read(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "a": entry("U8", [1], [0, 1]), "b": entry("F32", [2], [1, 9])}
    for spaces in range(4):
        text = json.dumps(header).encode() + b" " * spaces
        found = read_data(tmp_path, filed(text, b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes()))
        assert_same_bits(found, {"a": torch.tensor([7], dtype=torch.uint8), "b": torch.tensor([1.5, -2.0])})


@given(data=st.data())
def test_a_header_that_is_accepted_is_one_that_safetensors_accepts(tmp_path_factory, data):
    whole = save({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int16), "c": torch.zeros(0)})
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for _ in range(data.draw(st.integers(0, 2))):
        name, key = data.draw(st.sampled_from("abc")), data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        numbers = st.lists(st.integers(-1, 24) | st.sampled_from([1 << 63, 1 << 64, 2.0, True, None]), max_size=3)
        header[name][key] = data.draw(st.sampled_from(sorted(DTYPES)) if key == "dtype" else numbers)
    text = bytearray(json.dumps(header).encode())
    for _ in range(data.draw(st.integers(0, 2))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    changed = filed(
        bytes(text),
        whole[8 + length :][: data.draw(st.integers(0, 20))] if data.draw(st.booleans()) else whole[8 + length :],
    )
    try:
        found = read_data(tmp_path_factory.getbasetemp(), changed)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError):
        found = None
    try:
        theirs = load(changed)
    except (SafetensorError, KeyError, AssertionError, RuntimeError, ValueError):
        theirs = None
    if found is not None:
        assert theirs is not None
        assert_same_bits(found, theirs)


def longest_pause(work):
    """The longest that this thread did not run while another did `work`, as a share of the time that it took."""
    thread = threading.Thread(target=work)
    longest = 0.0
    thread.start()
    started = last = time.perf_counter()
    while thread.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest / (last - started)


def test_other_threads_run_while_a_file_is_written_and_read(tmp_path):
    """Of the time of safetensors' `save` they stand still for a half, of that of `load` for all."""
    tensors = {"rows": torch.zeros(16 << 20)}  # 64 MB

    def write_and_check():
        tensorfile.check(tmp_path / "file", write_tensors(tmp_path / "file", tensors))

    def again():
        (tmp_path / "file").unlink(missing_ok=True)
        return longest_pause(write_and_check)

    assert min(again() for _ in range(4)) < 0.25  # the least: others run on this machine too
    with open(tmp_path / "file", "rb") as file:
        written = tensorfile.Entry(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    assert min(longest_pause(lambda: read_tensors(tmp_path / "file", written)) for _ in range(4)) < 0.25


# Written beside the training


class Gate:
    """Holds a writer's thread back until it is opened."""

    def __init__(self, monkeypatch):
        self.open, self.reached, self.running = threading.Event(), threading.Event(), []
        whole = layout.write

        def held(*arguments, **options):
            self.running.append(threading.current_thread())
            assert len(self.running) == 1
            self.reached.set()
            assert self.open.wait(30)
            try:
                return whole(*arguments, **options)
            finally:
                self.running.pop()

        monkeypatch.setattr(layout, "write", held)


def test_what_is_written_is_what_was_submitted_whatever_the_training_does_meanwhile(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    rows, facts = torch.ones(3, 4), {"step": 1, "config": {"rate": 0.1}}
    live = {"model": {"weight": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)}, "bank": {"rows": rows}}
    with Writer(tmp_path) as held:
        held.submit(1, live, facts)
        assert gate.reached.wait(30)
        rows.fill_(7)
        live["model"]["weight"].fill_(7)
        live["model"]["another"] = torch.ones(1)
        facts["config"]["rate"] = 7
        assert (held.saved, held.failed_step) == (None, None)
        gate.open.set()
        before = time.monotonic()
        held.wait()
        assert held.saved[:2] == (1, tmp_path / "step-00000001")
        assert before <= held.saved.time <= time.monotonic()
    found = read(tmp_path / "step-00000001")
    assert_same_bits(found.parts["bank"], {"rows": torch.ones(3, 4)})
    assert_same_bits(found.parts["model"], {"weight": torch.zeros(2, 3, 4, 4)})
    assert found.facts == {"step": 1, "config": {"rate": 0.1}}
    assert held.take_faults() == []


def test_live_tensors_are_as_they_were(tmp_path):
    live = {"model": {"weight": torch.arange(12.0).reshape(3, 4).T.requires_grad_()}}
    before = copy.deepcopy(live)
    with Writer(tmp_path) as held:
        held.submit(1, live, {})
    assert live["model"]["weight"].stride() == before["model"]["weight"].stride()
    assert_same_bits(live["model"], before["model"])
    assert_same_bits(read(held.saved.path).parts["model"], before["model"])


def test_one_checkpoint_is_under_way_at_a_time(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with Writer(tmp_path, keep=9) as held:
        held.submit(1, PARTS, FACTS)
        assert gate.reached.wait(30)
        threading.Timer(0.2, gate.open.set).start()
        for step in range(2, 6):
            held.submit(step, PARTS, FACTS)
            assert held.saved.step == step - 1
    assert [int(path.name[5:]) for path in layout.steps(tmp_path)] == [1, 2, 3, 4, 5]
    assert held.saved.step == 5


def test_the_copy_uses_its_memory_again_and_fits_what_has_changed(tmp_path, monkeypatch):
    places, whole = [], layout.write

    def seen_by(folder, step, parts, facts, **options):
        places.append({key: tensor.data_ptr() for key, tensor in parts["bank"].items()})
        return whole(folder, step, parts, facts, **options)

    monkeypatch.setattr(layout, "write", seen_by)
    submitted = [
        {"rows": torch.zeros(1000, 64), "age": torch.zeros(1000)},
        {"rows": torch.ones(1000, 64), "age": torch.ones(1000)},
        {"rows": torch.ones(1000, 64).bfloat16(), "age": torch.ones(1000)},
        {"rows": torch.ones(10, 64).bfloat16(), "more": torch.ones(4)},
    ]
    with Writer(tmp_path, keep=9) as held:
        for step, bank in enumerate(submitted):
            held.submit(step, {"bank": bank}, {})
    assert places[0] == places[1]
    assert places[1]["age"] == places[2]["age"]
    for step, bank in enumerate(submitted):
        assert_same_bits(read(tmp_path / f"step-{step:08d}").parts["bank"], bank)


def test_a_checkpoint_that_fails_is_told_once_and_training_goes_on(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with Writer(tmp_path / "run" / "checkpoints") as held:
        held.submit(3, PARTS, FACTS)
        held.wait()
        assert (held.saved, held.failed_step) == (None, 3)
        (text,) = held.take_faults()
        assert held.take_faults() == []
        for said in (
            "no checkpoint of step 3",
            str(tmp_path / "run/checkpoints/step-00000003"),
            "Not a directory",
            "goes on",
        ):
            assert said in text
        (tmp_path / "run").unlink()
        held.submit(4, PARTS, FACTS)
        held.wait()
        assert "No such file" in held.take_faults()[0]
        assert not (tmp_path / "run").exists()  # a run's folder that was removed is not made anew
        (tmp_path / "run").mkdir()
        held.submit(4, PARTS, FACTS)
        held.wait()
        assert (held.saved.step, held.failed_step, held.take_faults()) == (4, None, [])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "make that folder writable"),
        (errno.EACCES, "make that folder writable"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_a_write_that_fails_is_undone_and_says_what_to_do(tmp_path, monkeypatch, number, remedy):
    """By the error that only a failing disk would give."""
    with Writer(tmp_path) as held:
        for step in (1, 2):
            held.submit(step, PARTS, FACTS)
        held.wait()
        before = {path: path.read_bytes() for path in files_of(tmp_path)}

        def failing(descriptor):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                write(tmp_path, 3, PARTS, FACTS)
            assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "step-00000003"))
            held.submit(3, PARTS, FACTS)
            held.wait()
        assert (held.failed_step, held.saved.step) == (3, 2)
        (text,) = held.take_faults()
        for said in (str(tmp_path / "step-00000003"), os.strerror(number), remedy, "training goes on"):
            assert said in text
        assert {path: path.read_bytes() for path in files_of(tmp_path)} == before
        assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]


def test_a_fault_that_nobody_thought_of_is_told_and_not_raised_in_the_thread(tmp_path):
    with Writer(tmp_path) as held:
        held.submit(1, {"model": {"weight": torch.zeros(2, dtype=torch.complex128)}}, {})
        held.wait()
        assert held.failed_step == 1
        assert "ValueError: weight is" in held.take_faults()[0]


def test_facts_that_are_no_json_are_refused_at_once(tmp_path):
    with Writer(tmp_path) as held, pytest.raises(TypeError, match="set is not JSON"):
        held.submit(1, PARTS, {"seen": {1, 2}})
    assert names(tmp_path) == []


def test_what_was_remarked_is_told_too(tmp_path):
    write(tmp_path, 9, PARTS, FACTS)
    with Writer(tmp_path) as held:
        held.submit(3, PARTS, FACTS)
        held.wait()
        assert held.saved.step == 3
        assert "step-00000009 had been passed over" in held.take_faults()[0]


def test_leaving_waits_for_the_checkpoint_also_through_an_exception(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    held = Writer(tmp_path)

    def training():
        with held:
            held.submit(1, PARTS, FACTS)
            threading.Timer(0.2, gate.open.set).start()
            raise RuntimeError("the loss is nan")

    with pytest.raises(RuntimeError, match="the loss is nan"):
        training()
    assert held.saved.step == 1
    assert newest(tmp_path).path == held.saved.path


@pytest.mark.parametrize("lacking", ["thread", "memory"])
def test_without_another_thread_or_memory_for_a_copy_training_waits(tmp_path, monkeypatch, lacking):
    def refuse(*arguments, **options):
        raise RuntimeError("can't start new thread") if lacking == "thread" else MemoryError("no memory")

    monkeypatch.setattr(*((threading.Thread, "start") if lacking == "thread" else (writer.torch, "empty")), refuse)
    with Writer(tmp_path) as held:
        held.submit(1, PARTS, FACTS)
        assert held.saved.step == 1
        assert "training waited for the checkpoint of step 1" in held.take_faults()[0]
    monkeypatch.undo()
    assert fault(held.saved.path) == ""


def test_what_a_checkpoint_needs_is_what_it_takes(tmp_path):
    path = write(tmp_path, 1, PARTS, FACTS)
    assert needed_bytes(PARTS) == sum((path / name).stat().st_size for name in NAMES if name != "manifest.json")


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
    [lambda model: sgd(model, momentum=0.9, weight_decay=0.01), lambda model: adamw(model, momentum=0.9, weight_decay=0.01)],
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


def test_an_optimiser_that_has_not_stepped_has_its_state_to_save_and_to_load_already():
    optimiser = adamw(small_model(), momentum=0.9, weight_decay=0)
    tensors = optimiser_tensors(optimiser)
    assert len(tensors) == 3 * len(list(small_model().parameters()))
    assert not any(tensor.any() for tensor in tensors.values())
    load_optimiser_(optimiser, {key: torch.ones_like(tensor) for key, tensor in tensors.items()})
    assert all(tensor.all() for tensor in optimiser_tensors(optimiser).values())


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


# Room


def disk(free, blocks=1000):
    """What `os.statvfs` says of a disk with `free` bytes."""
    return lambda place: SimpleNamespace(f_bavail=free // 512, f_frsize=512, f_blocks=blocks)


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path, monkeypatch):
    parts = {"bank": {"rows": torch.zeros(1, 1, dtype=torch.uint8).expand(4_000_000, 1000)}}  # 4 GB that are not there
    monkeypatch.setattr(os, "statvfs", disk(3_990_000_000))
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(ValueError, match=rf"{folder} has 3.99 GB free and a checkpoint takes 4.01 GB: make room there"):
        check_room(folder, parts)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("there", "keep", "free", "warned"), [
    (0, 2, 30_000_000, ""),
    (0, 2, 24_000_000, "3 more checkpoints, before the first is removed, take 0.03 GB"),
    (1, 2, 24_000_000, ""),
    (2, 2, 9_000_000, ""),
    (2, 5, 24_000_000, "4 more checkpoints"),
    (3, 2, 9_000_000, ""),
])  # fmt: skip
def test_a_disk_with_room_for_one_but_not_for_all_that_will_stand_there_is_warned_of(
    tmp_path, monkeypatch, there, keep, free, warned
):
    for step in range(there):
        write(tmp_path, step, PARTS, FACTS, keep=9)
    monkeypatch.setattr(os, "statvfs", disk(free))
    assert (check_room(tmp_path, PARTS, keep=keep) or "").find(warned) >= 0
    assert bool(check_room(tmp_path, PARTS, keep=keep)) == bool(warned)


def test_a_file_system_that_does_not_say_how_much_is_free_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", disk(0, blocks=0))
    assert check_room(tmp_path, PARTS) is None


def test_a_folder_beneath_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"run/checkpoints cannot be used \(Not a directory\): choose another"):
        check_room(tmp_path / "run" / "checkpoints", PARTS)


# Beside readers


def test_one_who_reads_what_is_pruned_at_that_moment_takes_a_newer_one(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step, PARTS, {"step": step})
    whole = tensorfile.read_tensors

    def overtaken(path, expected):
        monkeypatch.undo()
        for step in (3, 4):  # two are kept: that which is being read goes, and the one before it too
            write(tmp_path, step, PARTS, {"step": step})
        return whole(path, expected)

    monkeypatch.setattr(tensorfile, "read_tensors", overtaken)
    found = newest(tmp_path)
    assert (found.path.name, found.checkpoint.facts, found.passed_over) == ("step-00000004", {"step": 4}, [])


def test_one_who_reads_while_a_run_writes_and_prunes_always_finds_one_that_is_whole(tmp_path):
    parts = {"bank": {"rows": torch.zeros(256, 128)}}
    write(tmp_path, 0, parts, {"step": 0})
    done, found = threading.Event(), []

    def reading():
        while not done.is_set():
            seen_now = newest(tmp_path).checkpoint
            found.append(seen_now.facts["step"] if (seen_now.parts["bank"]["rows"] == seen_now.facts["step"]).all() else -1)

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for step in range(1, 60):
            write(tmp_path, step, {"bank": {"rows": torch.full((256, 128), float(step))}}, {"step": step})
    finally:
        done.set()
        reader.join()
    assert found == sorted(found)
    assert found[0] >= 0
    assert len(set(found)) > 10

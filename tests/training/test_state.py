"""What stands between networks and objectives: batch norm over shuffled images, the plan of a run, weights to begin with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults import TINY, records, run, state
from safetensors.torch import load_file, save_file
from torch import distributed

from viewmill.methods.architecture import Architecture
from viewmill.models.momentum import ema_copy
from viewmill.models.network import Batch, Network
from viewmill.pipeline import factors
from viewmill.pipeline.conversion.convert import convert
from viewmill.training.state import _shuffled

IMAGES, WORLD, SEED, STEP = 12, 2, 3, 5


def momentum_encoder():
    torch.manual_seed(0)
    return ema_copy(Network(Architecture("resnet18", width=2, size=16, hidden=8, out=4)))


def pictures():
    """Two views of all images, whose brightness rises with their number: batch norm sees who is beside whom."""
    noise = torch.randn(2, IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return noise + torch.arange(IMAGES)[:, None, None, None] / 3


def order():
    return torch.randperm(IMAGES, generator=torch.Generator().manual_seed(SEED + STEP))


def encoded(target, members):
    """[2, images, D]: keys of these images, in one batch."""
    views = (pictures()[:, members].flatten(0, 1),)
    return target(Batch(views, torch.as_tensor(members), STEP)).embedding_VBD


def _rank(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    own = torch.arange(rank * IMAGES // WORLD, (rank + 1) * IMAGES // WORLD)
    with torch.no_grad():
        batch = Batch((pictures()[:, own].flatten(0, 1),), own, STEP)
        found = _shuffled(momentum_encoder(), batch, seed=SEED)
    save_file({"keys": found.contiguous()}, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


def test_shuffled_batch_norm_encodes_each_image_among_others_and_brings_its_key_home(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])  # where faults.py lies
    started = [
        subprocess.Popen([sys.executable, "-W", "error", __file__, str(rank), str(tmp_path)], env=environment)
        for rank in range(WORLD)
    ]
    assert [process.wait(timeout=100) for process in started] == [0] * WORLD
    found = torch.cat([load_file(tmp_path / f"{rank}.safetensors")["keys"] for rank in range(WORLD)], dim=1)
    with torch.no_grad():
        groups = order().chunk(WORLD)
        assert not torch.equal(groups[0].sort().values, torch.arange(IMAGES // WORLD))
        expected = torch.empty_like(found)
        for members in groups:
            expected[:, members] = encoded(momentum_encoder(), members)
        unshuffled = torch.cat([encoded(momentum_encoder(), part) for part in torch.arange(IMAGES).chunk(WORLD)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - unshuffled).abs().max() > 0.05


def test_one_process_has_nobody_to_shuffle_with():
    with torch.no_grad():
        batch = Batch((pictures().flatten(0, 1),), torch.arange(IMAGES), STEP)
        found = _shuffled(momentum_encoder(), batch, seed=SEED)
        torch.testing.assert_close(found, encoded(momentum_encoder(), range(IMAGES)), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("factors") / "images"
    factors.write_folder(folder, 64, seed=0)
    return folder


@pytest.fixture(scope="module")
def beton(images) -> Path:
    convert([images], images.parent / "factors.beton")
    return images.parent / "factors.beton"


def test_the_plan_of_a_run_is_told_before_its_first_step_in_ten_lines(beton, tmp_path):
    more = ("--steps", "4", "--accumulate", "2", "--clip", "1", "--ema", "0.9")
    done = run(
        "train",
        "ring",
        "--data",
        beton,
        *TINY,
        *more,
        "--set",
        "region.inner=0.05",
        "region.outer=0.5",
        out=tmp_path / "run",
    )
    assert done.code == 0, done.said()
    told = done.said().splitlines()
    first = next(at for at, line in enumerate(told) if line.startswith("viewmill train ring"))
    names = [line.split("  ")[1] for line in told[first + 1 :] if line.startswith("  ") and line[2] != " "][:13]
    assert names == [
        "data",
        "views",
        "method",
        "settings",
        "short run",
        "encoder",
        "begins with",
        "optimiser",
        "batch",
        "runs on",
        "steps",
        "time",
        "results",
    ]
    for words in (
        "64 images, 8 classes",
        "5% to 50%",
        "clipped at 1",
        "moving average 0.9",
        "2 batches an update",
        "0 to 4, 4 an",
        "images/s on this processor",
    ):
        assert words in done.said(), words


def test_two_processes_convert_a_folder_once(images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("train", "--data", images, *TINY, "--steps", "2", out=tmp_path / "run", world=2, environment=dict(os.environ))
    assert done.code == 0, done.said()
    assert done.said().count("converted") == 1
    assert len(records(tmp_path / "run")) == 2


def test_shuffled_batch_norm_trains_on_two_processes_and_on_one(beton, tmp_path):
    arguments = ("train", "moco-v2", "--data", beton, *TINY, "--set", "memory.size=64", "--batch-norm", "shuffled")
    for world in (1, 2):
        done = run(*arguments, "--steps", "3", out=tmp_path / str(world), world=world)
        assert done.code == 0, done.said()
    assert len(records(tmp_path / "2")) == 3


def test_a_run_begins_with_the_weights_it_is_given_and_remembers_which(beton, tmp_path):
    common = ("train", "--data", beton, *TINY)
    assert run(*common, "--steps", "4", out=tmp_path / "first").code == 0
    given = ("--init", tmp_path / "first", "--learning-rate", "0", "--weight-decay", "0")
    done = run(*common, *given, "--steps", "1", out=tmp_path / "second")
    assert done.code == 0, done.said()
    before, after = (
        load_file(tmp_path / name / f"checkpoints/step-0000000{step}/model.safetensors")
        for name, step in (("first", 4), ("second", 1))
    )
    weights = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert run(*common, *given, "--steps", "1", out=tmp_path / "second").code == 0
    (tmp_path / "second" / "checkpoints").rename(tmp_path / "aside")  # killed before its first checkpoint
    refused = run(*common, "--learning-rate", "0", "--weight-decay", "0", "--steps", "1", out=tmp_path / "second")
    assert refused.code == 2
    assert "init = " in refused.said()
    refused = run(
        *common,
        "--learning-rate",
        "0",
        "--weight-decay",
        "0",
        "--init",
        tmp_path / "nothing",
        "--steps",
        "1",
        out=tmp_path / "third",
    )
    assert refused.code == 2
    assert "nothing" in refused.said()


def test_recomputed_activations_give_the_same_run(beton, tmp_path):
    common = ("train", "--data", beton, *TINY, "--steps", "4", "--checkpoint-every", "2")
    assert run(*common, out=tmp_path / "plain").code == 0
    assert run(*common, "--recompute", out=tmp_path / "again").code == 0
    assert state(tmp_path / "plain", 4) == state(tmp_path / "again", 4)


def test_a_vit_and_a_convnext_of_timm_train_and_resume(beton, tmp_path):
    for name in ("test_vit", "test_convnext"):
        common = ("train", "--data", beton, *TINY, "--encoder", f"timm:{name}", "--width", "64", "--size", "32")
        common = (*common, "--steps", "4", "--checkpoint-every", "2", "--optimiser", "adamw")
        assert run(*common, out=tmp_path / name).code == 0
        assert records(tmp_path / name)[-1]["step"] == 4


if __name__ == "__main__":
    _rank(int(sys.argv[1]), Path(sys.argv[2]))

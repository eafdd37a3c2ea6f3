"""Numbers that are not finite: what is saved is sound or says that it is not, and how a run ends that has come to them."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from faults import TINY, Fault, ending, figures, records, run
from safetensors.torch import load_file

from viewmill.checkpoint import finite, layout, retention
from viewmill.checkpoint.writer import Writer
from viewmill.methods.table import METHODS
from viewmill.objectives import memory
from viewmill.training.run_folder import locked
from viewmill.training.update import Statistics

BLOCK = 1 << 16


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    return figures(tmp_path_factory.mktemp("factors"), 165)


def train(beton: Path, *more: object) -> tuple[object, ...]:
    return ("train", "simclr", "--data", beton, *TINY, "--threads", "1", "--warmup", "0", "--precision", "no", *more)


def standing(out: Path) -> list[int]:
    """The steps of the checkpoints that count."""
    return [int(path.name.removeprefix("step-")) for path in retention.steps(out / "checkpoints")]


# what is copied


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(kind, value):
    size = 2 * BLOCK + 3
    for place in (0, BLOCK - 1, BLOCK, size - 1):
        tensor = torch.randn(size).to(kind)
        copy = torch.empty_like(tensor)
        assert finite.copy_(copy, tensor)
        assert torch.equal(copy, tensor)
        tensor[place] = value
        assert not finite.copy_(copy, tensor)
        assert torch.equal(copy.isnan(), tensor.isnan())


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_large_numbers_whose_sum_is_none_any_more_are_finite_all_the_same(kind):
    tensor = torch.full((BLOCK + 5,), torch.finfo(kind).max, dtype=kind)
    assert finite.copy_(torch.empty_like(tensor), tensor)


def test_whatever_lies_in_memory_otherwise_is_copied_as_it_is():
    for tensor in (torch.randn(3, 5, 7, 2).to(memory_format=torch.channels_last), torch.zeros(0), torch.tensor(3.0)):
        copy = torch.empty(tensor.shape)
        assert finite.copy_(copy, tensor)
        assert torch.equal(copy, tensor)
    counts = torch.arange(9)
    assert finite.copy_(copied := torch.empty(9, dtype=torch.int64), counts)
    assert torch.equal(copied, counts)


@pytest.mark.parametrize("name", METHODS)
def test_no_memory_begins_with_what_is_not_finite(name):
    held = memory.start(METHODS[name], rows=8192, batch=16, dimension=8, seed=0, device=torch.device("cpu"))
    assert not finite.unsound({"memory": held})


def facts(is_sound: bool) -> dict:
    return {"sound": is_sound}


def submit(writer: Writer, step: int, *, is_sound: bool, value: float = 1.0) -> str:
    fault = writer.submit(step, {"model": {"weight": torch.full((4,), value)}}, facts(is_sound))
    writer.wait()
    return fault


def test_what_is_not_finite_is_named_and_not_written_and_nothing_is_pruned_for_it(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (1, 2):
            assert submit(writer, step, is_sound=True) == ""
        assert submit(writer, 3, is_sound=True, value=float("inf")) == "model weight"
        assert writer.saved is not None
        assert writer.saved.step == 2
    assert [retention.step_of(path) for path in retention.steps(tmp_path)] == [1, 2]


def test_the_newest_sound_checkpoint_outlives_any_number_that_are_not(tmp_path):
    with Writer(tmp_path) as writer:
        for step in range(1, 12):
            submit(writer, step, is_sound=step in (1, 2, 4))
            newest = finite.newest(tmp_path)
            assert newest is not None
            assert retention.step_of(newest) == max(good for good in (1, 2, 4) if good <= step)
        assert [retention.step_of(path) for path in retention.steps(tmp_path)] == [4, 10, 11]
    with Writer(tmp_path) as writer:  # another start knows it too
        submit(writer, 12, is_sound=False)
        assert [retention.step_of(path) for path in retention.steps(tmp_path)] == [4, 11, 12]
        assert writer.fall_back() == tmp_path / "step-00000004"
    assert [retention.step_of(path) for path in retention.steps(tmp_path)] == [4]
    assert (tmp_path / "latest").read_text() == "step-00000004\n"
    with Writer(tmp_path) as writer:
        for step in (5, 6):
            submit(writer, step, is_sound=True)
    assert [retention.step_of(path) for path in retention.steps(tmp_path)] == [5, 6]


def test_checkpoints_of_earlier_versions_count_as_sound(tmp_path):
    layout.write(tmp_path, 3, {"model": {"weight": torch.zeros(2)}}, {})
    assert finite.newest(tmp_path) == tmp_path / "step-00000003"


def test_batch_norms_are_put_back_as_they_were():
    norm = torch.nn.BatchNorm1d(3)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    kept = Statistics((norm,))
    kept.keep()
    norm(torch.randn(8, 3))
    kept.put_back_()
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())


# a folder that is another's


def test_a_folder_is_ours_until_it_or_its_lock_is_another(tmp_path):
    out = tmp_path / "run"
    with locked(out) as hold:
        assert hold.still_ours()
        (out / ".lock").unlink()
        assert not hold.still_ours()
        (out / ".lock").write_text("another's")
        assert not hold.still_ours()
    with locked(out) as hold:
        out.rename(tmp_path / "moved")
        assert not hold.still_ours()


@pytest.mark.parametrize("world", [1, 2])
def test_a_folder_that_is_removed_while_training_is_found_at_the_next_checkpoint(world, beton, tmp_path):
    out = tmp_path / "run"
    more = ("--steps", "12", "--checkpoint-every", "4")
    done = run(*train(beton, *more), out=out, world=world, faults=[Fault("gone", 6, rank=0)])
    assert [process.exitcode for process in done.processes] == [1] * world, done.said()
    assert "no longer this run's at step 8" in done.said()
    assert "Traceback" not in done.said()
    assert done.said().count("viewmill: ") == 1
    assert not out.exists()


# whole runs


def test_a_step_that_breaks_the_network_ends_in_code_1_with_the_newest_sound_checkpoint(beton, tmp_path):
    """Step 7 leaves weights that are finite and worth nothing; its own loss was."""
    out = tmp_path / "run"
    more = ("--steps", "40", "--checkpoint-every", "1", "--max-masked", "5")
    done = run(*train(beton, *more), out=out, faults=[Fault("broken", 7, 1e20)])
    assert done.code == 1, done.said()
    told = ending(out)
    assert "5 updates in a row were not finite" in told["reason"]
    assert f"the newest sound checkpoint is that of step 6 ({out / 'checkpoints' / 'step-00000006'})" in told["reason"]
    assert (told["step"], told["steps"]) == (6, 40)
    assert standing(out)[-1] == 6
    assert (out / "checkpoints" / "latest").read_text() == "step-00000006\n"
    weights = load_file(out / "checkpoints" / "step-00000006" / "model.safetensors")
    assert max(float(tensor.abs().max()) for tensor in weights.values()) < 1e3
    assert records(out, "failed")[0]["text"] == told["reason"]
    shutil.copytree(out, tmp_path / "again")
    assert run(*train(beton, *more), out=tmp_path / "again").code == 0  # without the fault it goes on from there


@pytest.mark.parametrize(
    ("steps", "at", "rate", "words"),
    [
        (3, 2, 1e38, "is not finite at step 3"),
        (1, 1, 1e20, "no finite loss any more"),
        (4, 2, 1e20, "the last updates were left out, since they were not finite: 2 in a row"),
    ],
)
def test_a_run_that_ends_broken_is_not_done(steps, at, rate, words, beton, tmp_path):
    out = tmp_path / "run"
    done = run(*train(beton, "--steps", steps), out=out, faults=[Fault("broken", at, rate)])
    assert done.code == 1, done.said()
    assert words in ending(out)["reason"]
    assert "no checkpoint was sound" in ending(out)["reason"]
    assert ending(out)["step"] == 0
    assert not standing(out)


@pytest.mark.chaos
@pytest.mark.parametrize("world", [1, 2])
def test_fine_tuning_ends_in_the_same_way(world, beton, tmp_path):
    out = tmp_path / "tuned"
    arguments = ("finetune", "random", "--train", beton, "--test", beton, "--width", "4", "--size", "16", "--epochs", "1")
    arguments = (*arguments, "--batch", "16", "--threads", "1", "--precision", "no", "--checkpoint-every", "2")
    done = run(*arguments, out=out, world=world, faults=[Fault("broken", 5, 1e25)])
    assert [process.exitcode for process in done.processes] == [1] * world, done.said()
    assert ending(out)["step"] == 4
    assert "the newest sound checkpoint is that of step 4" in ending(out)["reason"]
    assert standing(out)[-1] == 4
    assert done.said().count("viewmill: ") == 1


@pytest.mark.chaos
def test_looking_at_what_is_copied_takes_less_than_the_copy_and_a_hundredth_of_a_thousand_steps():
    bank = torch.randn(1_281_167, 128)
    place = torch.empty_like(bank)
    place.copy_(bank)

    def best(do) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            do()
            times.append(time.perf_counter() - began)
        return min(times)

    plain, looked = best(lambda: place.copy_(bank)), best(lambda: finite.copy_(place, bank))
    print(json.dumps({"copy_ms": plain * 1e3, "copy_and_look_ms": looked * 1e3}))  # noqa: T201
    assert looked < 2 * plain + 0.2

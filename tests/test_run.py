"""The program as a person meets it: commands, refusals, exit codes, interruption, continuation."""

import contextlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from faults import TINY, figures, records, state
from safetensors.torch import load_file

from viewmill.benchmarks.trace import fitting
from viewmill.methods.parts import Clusters
from viewmill.methods.table import METHODS
from viewmill.run import main
from viewmill.training import pretraining
from viewmill.training.log import Log
from viewmill.training.precision import fastest

ROOT = Path(__file__).resolve().parent.parent


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def viewmill(*arguments: object) -> Done:
    """The command in this process, which has torch loaded already, as if it were the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
    return Done(code, out.getvalue(), err.getvalue())


def script(*arguments: object, **options) -> subprocess.CompletedProcess:
    """The command as a person starts it."""
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    return figures(tmp_path_factory.mktemp("factors"), 64)


@pytest.fixture(scope="module")
def trained(beton, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "simclr"
    done = viewmill("train", "simclr", "--data", beton, "--out", run, *TINY, "--steps", 6)
    assert done.returncode == 0, done.stderr
    return run


def weights(run: Path) -> bytes:
    latest = (run / "checkpoints" / "latest").read_text().strip()
    return (run / "checkpoints" / latest / "model.safetensors").read_bytes()


def test_a_training_leaves_config_log_checkpoint_and_exit_code(trained):
    ended = json.loads((trained / "exit.json").read_text())
    assert (ended["code"], ended["step"], ended["steps"], ended["reason"]) == (0, 6, 6, "done")
    assert json.loads((trained / "config.json").read_text())["method"] == "simclr"
    assert [record["step"] for record in records(trained)] == [1, 2, 3, 4, 5, 6]
    assert all(-1 < record["bound"] <= record["ceiling"] for record in records(trained))
    start = records(trained, "start")[0]
    assert {"command", "versions", "hardware", "config"} <= set(start)
    assert (trained / "checkpoints" / "latest").read_text().strip() == "step-00000006"


def test_a_run_that_learns_nothing_says_so_on_the_screen_at_the_end_in_the_log_and_to_a_scheduler(beton, tmp_path):
    settings = ("--learning-rate", 0, "--steps", 60, "--log-every", 4, "--no-online", "--precision", "no")
    done = viewmill(
        "train", "ball", "--data", beton, "--out", tmp_path / "run", *TINY, *settings, "--set", "region.outer=0.5"
    )
    assert done.returncode == 0, done.stderr
    said = [record for record in records(tmp_path / "run", "alarm") if record["kind"] == "chance"]
    assert len(said) == 1
    assert "and tells nothing, for information is never below 0" in said[0]["text"]
    assert f"warning: step {said[0]['step']}: {said[0]['text']}" in done.stderr + done.stdout
    ended = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert ended["code"] == 0
    assert re.match(r"done, but it looks wrong: .*chance", ended["reason"])
    assert "chance" in records(tmp_path / "run", "end")[-1]["alarms"]
    assert re.search(r"ball: done, but it looks wrong: .*chance", done.stdout)
    assert "(tells nothing)" in done.stdout
    assert "settings" in done.stdout + done.stderr
    assert "region.outer 0.5 (preset 0.1)" in re.sub(r"\s+", " ", done.stdout + done.stderr)


def test_a_queue_is_as_long_as_the_data_and_the_plan_says_so(beton, tmp_path):
    done = viewmill("train", "moco-v2", "--data", beton, "--out", tmp_path / "run", *TINY, "--steps", 2)
    assert done.returncode == 0, done.stderr
    told = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert "memory.size 64 (preset 65536)" in told
    assert "64 keys, as many as there are images; --set memory.size=N for another number" in told
    first, second = records(tmp_path / "run")
    assert (first["bound"], first["ceiling"]) == (0, 0)  # an empty queue
    assert second["ceiling"] == pytest.approx(math.log(17))  # the keys of one batch
    again = viewmill("train", "moco-v2", "--data", beton, "--out", tmp_path / "run", *TINY, "--steps", 2)
    assert again.returncode == 0, again.stderr
    longer = viewmill(
        "train", "moco-v2", "--data", beton, "--out", tmp_path / "long", *TINY, "--steps", 2, "--set", "memory.size=128"
    )
    assert "128 keys of 64 images, 2 of each" in re.sub(r"\s+", " ", longer.stdout + longer.stderr)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(trained, beton, tmp_path):
    script("train", "simclr", "--data", beton, "--out", tmp_path / "again", *TINY, "--steps", 6)
    viewmill("train", "simclr", "--data", beton, "--out", tmp_path / "other", *TINY, "--steps", 6, "--seed", 1)
    assert weights(tmp_path / "again") == weights(trained)
    assert weights(tmp_path / "other") != weights(trained)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_resumes_to_the_same_bits_and_can_be_evaluated(method, beton, tmp_path, monkeypatch):
    common = ("train", method, "--data", beton, *TINY, *fitting(method), "--steps", 5, "--checkpoint-every", 2)
    done = viewmill(*common, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    last = records(tmp_path / "run")[-1]
    assert last["step"] == 5
    assert {"bound", "ceiling", "bound_valid", "alignment", "uniformity", "effective_rank", "spread"} <= set(last)
    assert last["bound"] <= last["ceiling"] + 1e-6
    found = records(tmp_path / "run", "clusters")
    assert [record["step"] for record in found] == ([2] if isinstance(METHODS[method].positives, Clusters) else [])
    both = ("--train", beton, "--test", beton)
    answer = viewmill("evaluate", tmp_path / "run", *both, "--protocols", "knn", "--k", 5, "--no-floors", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["top1"] > 1 / 8

    def breaking(train_state, method, batch, moment, *rest, **options):
        if moment.step == 3:
            raise KeyboardInterrupt
        return usual(train_state, method, batch, moment, *rest, **options)

    usual = pretraining.take_step
    monkeypatch.setattr(pretraining, "take_step", breaking)
    assert viewmill(*common, "--out", tmp_path / "cut").returncode == 130
    monkeypatch.undo()
    resumed = viewmill(*common, "--out", tmp_path / "cut")
    assert f"continuing {tmp_path / 'cut'} at step 2 of 5" in resumed.stderr
    assert state(tmp_path / "cut", 5) == state(tmp_path / "run", 5)
    assert [record["loss"] for record in records(tmp_path / "cut")] == [r["loss"] for r in records(tmp_path / "run")]


@pytest.mark.parametrize("method", ["ir", "ring"])
def test_bank_methods_train_and_keep_their_bank(method, beton, tmp_path):
    done = viewmill("train", method, "--data", beton, "--out", tmp_path / method, *TINY, "--steps", 5, *fitting(method))
    assert done.returncode == 0, done.stderr
    bank = load_file(tmp_path / method / "checkpoints" / "step-00000005" / "bank-00000-of-00001.safetensors")["rows"]
    assert bank.shape == (64, 8)
    assert (bank.norm(dim=1) - 1).abs().max() < 1e-5
    last = records(tmp_path / method)[-1]
    if method == "ir":
        assert last["bound_valid"] == pytest.approx(1)  # negatives from everywhere: a bound without a condition
    else:
        assert 0 <= last["bound_valid_strict"] <= last["bound_valid"] <= 1


def endless(beton: Path, run: Path) -> tuple[list[str], subprocess.Popen]:
    """A training that ends by no means of its own, past its first step, and the arguments that started it."""
    arguments = ["train", "--data", str(beton), "--out", str(run), *TINY, "--steps", "100000"]
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not ((run / "log.jsonl").exists() and records(run)):
        assert process.poll() is None
        time.sleep(0.02)
    return arguments, process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_run_with_a_checkpoint(number, code, beton, tmp_path):
    run = tmp_path / "run"
    _, process = endless(beton, run)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert json.loads((run / "exit.json").read_text())["code"] == code
    last = records(run)[-1]["step"]
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{last:08d}"


def test_a_folder_is_trained_on_directly_and_converted_once(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = viewmill("train", "--data", photos, "--out", tmp_path / "a", *TINY, "--steps", 1)
    second = viewmill("train", "--data", photos, "--out", tmp_path / "b", *TINY, "--steps", 1)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "converted" in first.stderr
    assert "converted" not in second.stderr


def test_doctor_names_the_engines():
    done = viewmill("doctor")
    assert done.returncode == 0
    assert "ffcv" in done.stdout
    assert "works" in done.stdout


def damaged(beton: Path, path: Path, change) -> Path:
    data = bytearray(beton.read_bytes())
    path.write_bytes(change(data))
    return path


REFUSED = {
    "missing data": (lambda b, t: ["train", "--data", t / "none", "--out", t / "r"], "does not exist"),
    "no beton": (lambda b, t: ["train", "--data", ROOT / "run.py", "--out", t / "r"], "is no .beton"),
    "truncated": (
        lambda b, t: ["train", "--data", damaged(b, t / "x.beton", lambda d: d[: len(d) // 2]), "--out", t / "r"],
        "truncated",
    ),
    "unfinished": (
        lambda b, t: ["train", "--data", damaged(b, t / "x.beton", lambda d: d[:16] + bytes(8) + d[24:]), "--out", t / "r"],
        "unfinished",
    ),
    "batch too large": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", "--batch", 65],
        "larger than the data set of 64",
    ),
    "synchronised batch norm on a CPU": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--batch-norm", "synchronised"],
        "synchronised",
    ),
    "shuffled batch norm without a momentum encoder": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--batch-norm", "shuffled"],
        "simclr has none: use local",
    ),
    "no such encoder": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--encoder", "resnet19"],
        "did you mean resnet1",
    ),
    "no such model of timm": (
        lambda b, t: [
            "train",
            "--data",
            b,
            "--out",
            t / "r",
            *TINY,
            "--width",
            64,
            "--encoder",
            "timm:vit_tinny_patch16_224",
        ],
        "timm has no model called 'vit_tinny",
    ),
    "a width for a model of timm": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--encoder", "timm:test_vit"],
        "width",
    ),
    "a momentum of 1": (lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--ema", 1], "--ema must lie in"),
    "one checkpoint only": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--keep", 1],
        "--keep must be 2 or more",
    ),
    "no average to evaluate": (lambda b, t: ["evaluate", t, "--train", b, "--test", b, "--ema"], "no config.json"),
    "weights that are not there": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--init", t / "none.safetensors"],
        "none.safetensors",
    ),
    "a ring for SimCLR": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", "--set", "region.inner=0.1"],
        "no setting 'region.inner'",
    ),
    "an empty ring": (
        lambda b, t: [
            "train",
            "ring",
            "--data",
            b,
            "--out",
            t / "r",
            *TINY,
            "--set",
            "region.inner=0",
            "region.outer=0.002",
        ],
        "is empty",
    ),
    "an impossible ring": (
        lambda b, t: ["train", "ring", "--data", b, "--out", t / "r", "--set", "region.inner=0.5"],
        "inner < outer",
    ),
    "no such method": (lambda b, t: ["train", "rnig", "--data", b, "--out", t / "r"], "did you mean ring"),
    "no method at all": (lambda b, t: ["train", "supervised!", "--data", b, "--out", t / "r"], "viewmill methods"),
    "a method that is not listed": (lambda b, t: ["methods", "simcler"], "did you mean simclr"),
    "a setting without a value": (lambda b, t: ["train", "--data", b, "--out", t / "r", "--set", "bound"], "name=value"),
    "a setting of another kind": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", "--set", "bound.temperature=warm"],
        "a value like 0.2, got 'warm'",
    ),
    "a temperature of 0": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", "--set", "bound.temperature=0"],
        "temperature must be above 0",
    ),
    "too few images for local aggregation": (
        lambda b, t: ["train", "la", "--data", b, "--out", t / "r", *TINY],
        "nearest 4096 of 64 rows are no region: lower region.count",
    ),
    "views of another method": (
        lambda b, t: ["train", "cmc", "--data", b, "--out", t / "r", *TINY, "--recipe", "instance"],
        "cmc takes tensors of [1, 2] channels; instance makes [3]",
    ),
    "nothing to measure": (lambda b, t: ["bench", "pipeline"], "name a .beton of JPEG images"),
    "no width": (lambda b, t: ["train", "--data", b, "--out", t / "r", "--width", 0], "width"),
    "no steps": (lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--epochs", 0], "--epochs"),
    "negative rate": (
        lambda b, t: ["train", "--data", b, "--out", t / "r", *TINY, "--learning-rate", -1],
        "--learning-rate",
    ),
    "out is a file": (lambda b, t: ["train", "--data", b, "--out", b, *TINY], "is a file"),
    "nothing to convert": (lambda b, t: ["convert", t / "x.beton"], "name what to convert and the .beton to write"),
    "no beton to write": (lambda b, t: ["convert", b.parent / "images", t / "x.jpg"], "must end in .beton"),
    "no workers": (lambda b, t: ["convert", b.parent / "images", t / "x.beton", "--workers", -1], "--workers"),
    "no quality": (lambda b, t: ["convert", b.parent / "images", t / "x.beton", "--quality", 0], "--quality"),
    "no side": (lambda b, t: ["convert", b.parent / "images", t / "x.beton", "--side", -1], "--side"),
    "bad share": (lambda b, t: ["convert", b.parent / "images", t / "x.beton", "--max-bad", -1], "--max-bad"),
    "inspect no beton": (lambda b, t: ["inspect", ROOT / "run.py"], "is no .beton"),
    "inspect nothing": (lambda b, t: ["inspect", t / "none.beton"], "none.beton"),
    "a grid that cannot be written": (lambda b, t: ["inspect", b, "--grid", t / "no" / "grid.png"], "grid.png"),
    "a grid of no known kind": (lambda b, t: ["inspect", b, "--grid", t / "grid.xyz"], "xyz"),
    "nothing chosen": (lambda b, t: ["subset", b, t / "x.beton"], "exactly one of --fraction, --labels and --rows"),
    "chosen twice": (
        lambda b, t: ["subset", b, t / "x.beton", "--fraction", 0.5, "--labels", 1],
        "exactly one of --fraction, --labels and --rows",
    ),
    "all of it": (lambda b, t: ["subset", b, t / "x.beton", "--fraction", 1.5], "must be above 0 and below 1"),
    "no such class": (lambda b, t: ["subset", b, t / "x.beton", "--labels", "cow"], "no class 'cow'; it has crescent"),
    "no such list": (lambda b, t: ["subset", b, t / "x.beton", "--rows", t / "none.txt"], "none.txt"),
    "both parts one file": (
        lambda b, t: ["split", b, t / "x.beton", t / "x.beton", "--fraction", 0.5],
        "name two files",
    ),
    "an empty rest": (
        lambda b, t: ["split", b, t / "x.beton", t / "y.beton", "--labels", *range(8)],
        "y.beton would hold no row",
    ),
    "no folder": (lambda b, t: ["convert", t / "none", t / "x.beton"], "does not exist"),
    "empty folder": (lambda b, t: ["convert", t, t / "x.beton"], "holds no file"),
    "output exists": (lambda b, t: ["convert", b.parent / "images", b], "--overwrite"),
    "no run": (lambda b, t: ["evaluate", t, "--train", b, "--test", b], "no config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_reason_and_exit_code_2(case, beton, tmp_path):
    arguments, reason = REFUSED[case]
    done = viewmill(*arguments(beton, tmp_path))
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusal_leaves_no_configuration_that_would_refuse_the_remedy(beton, tmp_path):
    common = ("train", "simclr", "--data", beton, "--out", tmp_path / "run", *TINY, "--steps", 1)
    done = viewmill(*common, "--set", "region=nearest", "region.count=64")
    assert done.returncode == 2
    assert "lower region.count" in done.stderr
    done = viewmill(*common, "--set", "region=nearest", "region.count=20")
    assert done.returncode == 0, done.stderr


def test_another_configuration_in_a_runs_folder_is_refused_naming_the_key(trained, beton):
    before = weights(trained)
    done = viewmill(
        "train", "simclr", "--data", beton, "--out", trained, *TINY, "--steps", 6, "--set", "bound.temperature=0.5"
    )
    assert done.returncode == 2
    assert "bound.temperature = 0.2, this one has 0.5" in done.stderr
    assert weights(trained) == before


def test_a_finished_run_is_not_trained_again(trained, beton):
    before = weights(trained)
    done = viewmill("train", "simclr", "--data", beton, "--out", trained, *TINY, "--steps", 6)
    assert done.returncode == 0
    assert "complete already" in done.stderr
    assert weights(trained) == before
    longer = viewmill("train", "simclr", "--data", beton, "--out", trained, *TINY, "--steps", 9)
    assert longer.returncode == 2
    assert f"begin another with its weights, --init {trained} --out OTHER" in longer.stderr
    assert weights(trained) == before


def test_an_unknown_flag_suggests_the_nearest(beton, tmp_path):
    done = viewmill("train", "--data", beton, "--out", tmp_path / "r", "--learnin-rate", "0.1")
    assert done.returncode == 2
    assert "--learning-rate" in done.stderr + done.stdout


def test_a_damaged_checkpoint_is_passed_over_and_said_so(beton, tmp_path):
    common = ("train", "--data", beton, "--out", tmp_path / "run", *TINY, "--checkpoint-every", 2, "--steps", 4)
    viewmill(*common)
    newest = tmp_path / "run" / "checkpoints" / "step-00000004" / "model.safetensors"
    expected = newest.read_bytes()
    newest.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    done = viewmill(*common)
    assert done.returncode == 0, done.stderr
    assert "passed over" in done.stderr
    assert newest.read_bytes() == expected


def test_two_runs_cannot_share_a_folder(beton, tmp_path):
    arguments, first = endless(beton, tmp_path / "run")
    second = script(*arguments)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert second.returncode == 2
    assert "in use by another run" in second.stderr


@pytest.mark.slow
def test_two_processes_see_the_batch_of_one(beton, tmp_path):
    common = ["--data", str(beton), *TINY, "--steps", "4", "--precision", "no"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, str(ROOT / "run.py"), "train", "ir", *common, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "two", "start")[0]["processes"] == 2
    assert [record["step"] for record in records(tmp_path / "two")] == [1, 2, 3, 4]
    script("train", "ir", *common, "--out", tmp_path / "one")
    # batch norm is local to a process, so only the first loss, before any update, is nearly equal
    first = [records(tmp_path / name)[0] for name in ("one", "two")]
    assert abs(first[0]["ceiling"] - first[1]["ceiling"]) < 1e-5


def test_a_log_cut_in_mid_line_is_mended_and_never_repeats_a_step(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"event": "step", "step": step}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"event": "step", "st')
    with Log(path, resumed_step=2) as log:
        log.write("step", step=3)
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]


def test_auto_is_the_precision_that_this_machine_computes_in_and_a_run_keeps_what_it_began_with(beton, tmp_path):
    expected = fastest()
    for asked, written in (((), expected), (("--precision", "bf16"), "bf16")):
        run = tmp_path / written / str(len(asked))
        arguments = ("train", "--data", beton, "--out", run, *TINY, "--steps", "2")
        assert viewmill(*arguments, *asked).returncode == 0
        assert json.loads((run / "config.json").read_text())["precision"] == written
        other = "no" if written == "bf16" else "bf16"
        assert f"precision = '{written}'" in viewmill(*arguments, "--precision", other).stderr
        assert viewmill(*arguments).returncode == 0  # "auto" is what it began with


@pytest.mark.parametrize(
    ("gpu", "ampere", "forced", "avx512", "amx", "expected"),
    [
        (False, False, False, False, False, "no"),
        (False, False, False, True, False, "bf16"),
        (False, False, False, False, True, "bf16"),
        (True, True, False, False, False, "bf16"),
        (True, False, False, True, True, "fp16"),
        (True, True, True, False, False, "no"),
    ],
)
def test_what_auto_takes_on_other_machines(gpu, ampere, forced, avx512, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true" if forced else "false")
    assert fastest() == expected


def test_auto_measures_the_engines_says_so_and_keeps_its_choice(beton, tmp_path):
    arguments = ("train", "--data", beton, "--out", tmp_path, *TINY, "--engine", "auto")
    done = viewmill(*arguments, "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stderr
    assert " ffcv " in done.stderr
    chosen = json.loads((tmp_path / "config.json").read_text())["engine"]
    assert f"engine {chosen};" in done.stderr
    again = viewmill(*arguments, "--steps", "1")
    assert again.returncode == 0
    assert "images/s:" not in again.stderr


def test_a_recipe_of_ones_own_is_kept_with_the_run_and_must_suit_the_method(beton, tmp_path):
    (tmp_path / "mine.toml").write_text("[[views]]\ncount = 2\ncrop = {scale = [0.5, 1.0]}\n")
    arguments = ("train", "--data", beton, "--out", tmp_path / "run", *TINY, "--steps", "1")
    assert viewmill(*arguments, "--recipe", tmp_path / "mine.toml").returncode == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert [view["crop"]["scale"] for view in kept["views"]] == [[0.5, 1.0]] * 2
    (tmp_path / "mine.toml").write_text("[[views]]\ncount = 2\ncrop = {scale = [0.4, 1.0]}\n")
    changed = viewmill(*arguments, "--recipe", tmp_path / "mine.toml")
    assert changed.returncode == 2
    assert "recipe.views[0].crop.scale = [0.5, 1.0], this one has [0.4, 1.0]" in changed.stderr
    unsuited = viewmill(*arguments, "--recipe", "multicrop")
    assert unsuited.returncode == 2
    assert "simclr takes 2 views of an image; multicrop makes 8: --set contrast=graph contrast.views=8" in unsuited.stderr

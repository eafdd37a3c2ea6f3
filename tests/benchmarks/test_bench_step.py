import json
import resource
import subprocess
import sys

import pytest

from viewmill import run
from viewmill.benchmarks import launched, step
from viewmill.benchmarks.measured import Measured
from viewmill.commands.bench import bench
from viewmill.errors import Refused
from viewmill.settings import Bench

TOY = {"width": 4, "size": 16, "batch": 16}
ADDED = ("finiteness guard", "moving average", "running statistics kept", "seed of the step", "online probe")
HELD = {
    "training at 16 px over batches in memory": "at least 0.5",
    "checkpoint, training stands still, bank of 3,000 x 128, of the time between two": "at most 1",
    "resume with a bank of 3,000 x 128": "at most 10",
    "start to first step, warm": "at most 10",
    "images/s that a second process costs": "at most 10",
    "memory from step 20 to 40": "at most 2",
    "train --help, processor time": "at most 1",
}


def here(commands):
    """A command that is one process runs in this one, which has torch loaded already; several, for real."""
    if len(commands) > 1:
        return REAL(commands)
    try:
        code = run.main(commands[0][0][2:])
    except SystemExit as ended:  # of --help
        code = ended.code
    assert code == 0
    return [resource.getrusage(resource.RUSAGE_SELF)]


REAL = launched.ended


def test_bench_step_prints_a_json_line_for_every_claim_and_a_table(monkeypatch, capsys):
    for name, value in TOY.items():
        monkeypatch.setitem(launched.WALKTHROUGH, name, value)
    fed = step.Fed(launched.WALKTHROUGH, 64, 24, block=2, pairs=2, least=0.5)
    sizes = {"FED": (fed,), "BANK_ROWS": 3000, "ROUNDS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(step, name, value)
    for name, value in {"STEADY": 20, "GROWN": 20, "LATER": 40, "WINDOW": 20, "ended": here}.items():
        monkeypatch.setattr(launched, name, value)
    monkeypatch.delitem(launched.OPTIONS, "--compile")  # half a minute
    assert bench(Bench("step", repeats=1, threads=1)) == 0
    printed = capsys.readouterr().out
    lines = {line["name"]: line for line in map(json.loads, filter(lambda text: text[:1] == "{", printed.splitlines()))}
    assert HELD.items() <= {name: line["limit"] for name, line in lines.items()}.items()
    assert {f"what is added to a step: {name}" for name in ADDED} <= set(lines)
    assert {"speed with --recompute over that without", "peak memory that --recompute adds"} <= set(lines)
    for line in lines.values():
        assert line["lowest"] <= line["median"] <= line["highest"]
        assert line["n"] >= 1
        assert line["hardware"]["cores"]
        assert line["versions"]["torch"]
    assert lines["training at 16 px over batches in memory"]["n"] == 2
    assert lines["a step"]["median"] > lines["what is added to a step: seed of the step"]["median"] > 0
    assert lines["images/s of a training"]["median"] > 0
    assert "start to first step" in printed[printed.index("on 1 threads") :]


def test_a_file_is_measured_instead_of_rendered_images_but_at_no_other_size(photo_beton):
    with pytest.raises(Refused, match="sizes of their own"):
        bench(Bench("step", data=photo_beton.path, size=64))
    with pytest.raises(Refused, match="24 images, less than a batch of 256"):
        bench(Bench("step", data=photo_beton.path))


def test_a_process_that_fails_is_told_with_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="no method is called"):
        launched.ended([([sys.executable, str(launched.PROGRAM), "train", "simclrr", "--data", "x", "--out", "y"], {})])


def test_no_process_outlives_an_error_of_another(tmp_path):
    marker = f"import time; time.sleep(600)  # {tmp_path}"
    commands = [([sys.executable, "-c", marker], {}), (["/no/such/program"], {})]
    with pytest.raises(FileNotFoundError):
        launched.ended(commands)
    listed = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed


def test_a_median_is_held_against_its_limit():
    assert Measured("x", "s", [1, 9, 50], most=10).holds is True
    assert Measured("x", "s", [1, 11, 12], most=10).holds is False
    assert Measured("x", "times", [0.9, 0.96], least=0.95).holds is False
    assert Measured("x", "s", [1]).holds is None
    assert Measured("x", "times", [0.98], least=0.97).row()[1:6] == ("0.98 times", "", "1", "at least 0.97", "yes")
    assert Measured("x", "ms", [4.61234, 1234.5, 7], most=2).line()["highest"] == 1234

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import mounted

from viewmill.errors import Failed, Refused
from viewmill.training import log as logs
from viewmill.training.log import Log, Records, log_of

NAN, INFINITE = float("nan"), float("inf")


def strict(line: str) -> dict:
    """A record as any other program would read it: JSON without NaN."""

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refused)


def read(path: Path) -> list[dict]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [strict(line) for line in text.splitlines()]


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read(path)]


def test_what_is_not_finite_becomes_null_however_deep(tmp_path):
    with Log(tmp_path / "log.jsonl", resumed_step=0) as log:
        log.write("step", step=1, loss=NAN, parts={"a": [1.5, -INFINITE, {"b": (NAN, 2)}]}, name="NaN", none=None, flag=True)
    record = read(tmp_path / "log.jsonl")[0]
    assert {name: record[name] for name in ("loss", "parts", "name", "none", "flag")} == {
        "loss": None,
        "parts": {"a": [1.5, None, {"b": [None, 2]}]},
        "name": "NaN",
        "none": None,
        "flag": True,
    }


def test_the_first_record_of_a_start_says_command_versions_and_hardware(tmp_path):
    with Log(tmp_path / "log.jsonl", resumed_step=0) as log:
        log.started(step=0, config={"seed": 0})
    record = read(tmp_path / "log.jsonl")[0]
    assert record["command"] == sys.argv
    assert record["versions"]["torch"]
    assert record["hardware"]["cores"] == len(os.sched_getaffinity(0))


def test_a_record_is_in_the_file_when_write_returns(tmp_path):
    with Log(tmp_path / "log.jsonl", resumed_step=0) as log:
        for step in (1, 2, 3):
            log.write("step", step=step)
            assert steps(tmp_path / "log.jsonl")[-1] == step


def test_a_resumed_run_cuts_what_comes_after_and_drops_and_counts_what_is_damaged(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = [json.dumps({"event": "step", "step": step}).encode() for step in range(1, 7)]
    damage = [b"\0" * 5000, b'{"event": "step", "st', b"[1, 2]", b"\xff\xfe{}", b'{"step": "two"}', b"[" * 100_000]
    mixed = [line for pair in zip(whole, damage, strict=True) for line in pair]
    path.write_bytes(b"\n".join([b'{"event": "start"}', *mixed, b'{"event": "step", "step": 3, "torn": tr']))
    with Log(path, resumed_step=4) as log:
        assert log.damaged == len(damage) + 1
        log.write("step", step=5)
    assert [record.get("step") for record in read(path)] == [None, 1, 2, 3, 4, 5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_whole_last_record_without_its_line_end_is_kept(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "step", "step": 1}\n{"event": "step", "step": 2}')
    with Log(tmp_path / "log.jsonl", resumed_step=2) as log:
        assert log.damaged == 0
        log.write("step", step=3)
    assert steps(tmp_path / "log.jsonl") == [1, 2, 3]


def test_a_log_is_cut_in_little_memory_even_where_a_line_never_ends(tmp_path):
    """A crash may leave a file full of zeros: 1 GB of them, and 100 MB of records, in less than 200 MB more."""
    path = tmp_path / "log.jsonl"
    line = json.dumps({"event": "step", "step": 1, "pad": "x" * 100_000}).encode() + b"\n"
    with open(path, "wb") as file:
        for _ in range(1000):
            file.write(line)
        file.truncate(file.tell() + (1 << 30))
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom viewmill.training.log import Log\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "log = Log(Path(sys.argv[1]), resumed_step=1)\nlog.close()\n"
        "print(log.damaged, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    damaged, kilobytes = map(int, done.stdout.split())
    assert damaged == 1
    assert kilobytes < 200_000
    assert path.stat().st_size == 1000 * len(line)


def test_a_log_that_cannot_be_opened_is_an_error_that_names_it(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OSError, match=r"log\.jsonl"):
        Log(tmp_path / "log.jsonl", resumed_step=0)
    with pytest.raises(OSError, match="missing"):
        Log(tmp_path / "missing" / "log.jsonl", resumed_step=0)


def test_a_log_that_is_no_regular_file_is_refused_and_one_that_cannot_be_written_fails(tmp_path):
    quiet = {"step": 0, "visible": True, "warn": lambda text: None}
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(Refused, match=r"log\.jsonl"), log_of(tmp_path, **quiet):
        pass
    with pytest.raises(Failed, match=r"missing/log\.jsonl cannot be written .*: make room there"):
        log_of(tmp_path / "missing", **quiet).__enter__()


def test_what_goes_wrong_is_written_and_said_and_on_other_processes_neither(tmp_path):
    told: list[str] = []
    with log_of(tmp_path, step=4, visible=True, warn=told.append, config={"seed": 3}) as log:
        Records(log, told.append).faults(["one", "two"], step=5)
    assert told == ["step 5: one", "step 5: two"]
    start, *rest = read(tmp_path / "log.jsonl")
    assert (start["event"], start["step"], start["config"]) == ("start", 4, {"seed": 3})
    assert [(record["event"], record["step"], record["text"]) for record in rest] == [
        ("checkpoint", 5, "one"),
        ("checkpoint", 5, "two"),
    ]
    with log_of(tmp_path / "other", step=4, visible=False, warn=told.append) as log:
        Records(log, told.append).fault("masked", "three", step=6)
    assert len(told) == 2
    assert not (tmp_path / "other").exists()


def fill(disk: Path) -> Path:
    """Another program takes all that is left."""
    with open(disk / "filler", "wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    return disk / "filler"


def test_a_full_disk_ends_nothing_and_every_record_is_there_once_there_is_room(tmp_path):
    told: list[str] = []
    with mounted(tmp_path / "disk", "tmpfs", "size=256k") as disk:
        with Log(disk / "log.jsonl", resumed_step=0, warn=told.append) as log:
            log.write("step", step=1)
            filler = fill(disk)
            for step in range(2, 60):
                log.write("step", step=step, pad="x" * 500)
                read(disk / "log.jsonl")  # at every moment nothing but whole records
            assert len(told) == 1
            assert "No space left on device" in told[0]
            assert steps(disk / "log.jsonl")[-1] < 59
            filler.unlink()
            log.write("step", step=60)
            assert len(told) == 2
            assert "again" in told[1]
        assert steps(disk / "log.jsonl") == list(range(1, 61))
        assert len(told) == 2


def test_what_the_disk_never_took_is_told_at_the_end(tmp_path):
    told: list[str] = []
    with mounted(tmp_path / "disk", "tmpfs", "size=64k") as disk:
        with Log(disk / "log.jsonl", resumed_step=0, warn=told.append) as log:
            fill(disk)
            for step in range(20):
                log.write("step", step=step, pad="x" * 500)
        written = len(read(disk / "log.jsonl"))
        assert told[1].startswith(f"{20 - written} records could not be written")


def test_a_full_disk_at_the_start_of_a_resumed_run_leaves_the_log_as_it_was(tmp_path):
    with mounted(tmp_path / "disk", "tmpfs", "size=64k") as disk:
        path = disk / "log.jsonl"
        path.write_text("".join(json.dumps({"event": "step", "step": step, "pad": "x" * 100}) + "\n" for step in range(100)))
        before = path.read_bytes()
        fill(disk)
        with pytest.raises(OSError, match="No space"):
            Log(path, resumed_step=90)
        assert path.read_bytes() == before
        assert {entry.name for entry in disk.iterdir()} == {"log.jsonl", "filler"}


LIMITED = """
import json, resource, sys
from pathlib import Path
from viewmill.training import log as logs
logs.KEPT = 20
told, limit = [], 2000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
with logs.Log(Path(sys.argv[1]), resumed_step=0, warn=told.append) as log:
    for step in range(100):
        log.write("step", step=step)
    fitting = Path(sys.argv[1]).read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write("step", step=100)
    print(json.dumps([told, log.lost, fitting]))
"""


def test_a_limit_on_the_files_size_is_a_full_disk_and_the_oldest_records_are_lost_past_so_many(tmp_path):
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    told, lost, fitting = json.loads(done.stdout)
    first = len(fitting.splitlines())
    assert 1990 - 80 < len(fitting) <= 2000
    assert fitting.endswith("\n")
    assert lost == 101 - first - 20
    assert steps(path) == [*range(first), *range(81, 101)]
    assert [("too large" in text, f"{lost} are lost" in text) for text in told] == [(True, False), (False, True)]


KILLED = """
import sys
from pathlib import Path
from viewmill.training.log import Log
with Log(Path(sys.argv[1]), resumed_step=10**9) as log:
    step = 0
    while True:
        log.write("step", step=step, pad="x" * 3000)
        step += 1
"""


def test_kill_9_in_mid_writing_costs_no_more_than_the_record_under_way(tmp_path):
    path = tmp_path / "log.jsonl"
    for round_ in range(1, 5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path])
        while not path.exists() or path.stat().st_size < round_ * 1_000_000:
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        torn = 0 if path.read_bytes().endswith(b"\n") else 1  # the kernel may stop a write between two pages
        with Log(path, resumed_step=10**9) as log:
            assert log.damaged == torn
        assert steps(path)[-1] > 50
    assert [step for step in steps(path) if step == 0] == [0] * 4


def test_a_warning_that_is_logged_itself_waits_with_the_others(tmp_path):
    path, told = tmp_path / "log.jsonl", []

    def warn(text: str) -> None:
        told.append(text)
        log.write("alarm", text=text)

    log = Log(path, resumed_step=0, warn=warn)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    real = os.dup(log._descriptor)
    os.dup2(descriptor, log._descriptor)
    log.write("step", step=1)
    log.write("step", step=2)
    os.dup2(real, log._descriptor)
    log.write("step", step=3)
    log.close()
    os.close(descriptor)
    os.close(real)
    assert [record["event"] for record in read(path)] == ["step", "alarm", "step", "step", "alarm"]
    assert len(told) == 2


def test_the_records_that_wait_are_as_many_as_the_docstring_says():
    assert f"{logs.KEPT:,}" in (Log.__doc__ or "")

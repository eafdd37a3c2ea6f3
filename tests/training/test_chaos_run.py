"""A training that suffers a hundred faults at random ends with the bytes and the log of one that suffered none.

Every start of it is ended by something; the last one is let go to the end. What runs always suffers each kind once,
`make chaos` torments three methods, one of them with a hundred faults. A test's name ends with its seed.
"""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import fill_up, mounted
from faults import ROOT, TINY, Fault, Started, ending, figures, run, state

from viewmill.checkpoint import layout

PER_EPOCH = 31  # odd: an update of two batches is of one at the end of each epoch
GRACE = 3  # steps that a signal may take: the rest of its update, and one
OF_THE_MOMENT = {"time", "images_per_s", "wait", "left_s", "memory_bytes", "saved_step", "saved_age_s"}
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
CAPPED = 137  # a start that nothing else has ended by then dies in mid-step
COMMON = ("--accumulate", "2", "--clip", "1", "--ema", "0.9", "--checkpoint-every", "3", "--keep", "3")
BANK = ("ir", "--set", "memory.negatives=40")
KINDS_OF_RUN = {
    "a bank, AdamW, bf16": (*BANK, "--optimiser", "adamw"),
    "a bank, LARS, float32": (*BANK, "--optimiser", "lars", "--precision", "no"),
    "momentum encoder, queue and noise": ("superinfo-moco", "--set", "memory.size=64"),
}


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    return figures(tmp_path_factory.mktemp("factors"), 16 * PER_EPOCH + 5)


def sound(out: Path) -> list[int]:
    """The steps of the checkpoints that verify, oldest first."""
    found = []
    for path in layout.steps(out / "checkpoints"):
        with contextlib.suppress(layout.InvalidCheckpoint):
            layout.verify(path)
            found.append(int(path.name.split("-")[-1]))
    return found


def told(out: Path) -> list[dict[str, Any]]:
    """The records of steps without what is of the moment; lines that are none are passed over."""
    found = []
    for line in (out / "log.jsonl").read_bytes().split(b"\n") if (out / "log.jsonl").exists() else []:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and record.get("event") == "step":
                found.append({key: value for key, value in record.items() if key not in OF_THE_MOMENT})
    return found


class Victim:
    """A run and what befalls it; `first` is where its next start begins, `last` where a fault strikes at the latest."""

    def __init__(self, arguments: tuple[object, ...], out: Path, *, steps: int, rng: random.Random) -> None:
        self.arguments, self.out, self.steps, self.rng = arguments, out, steps, rng
        self.first = self.last = 0
        self.largest = 0
        """Bytes of the largest file of a checkpoint."""

    def aim(self, rounds: int) -> None:
        """Choose `last` so that `rounds` more faults strike before the end of the run."""
        self.first = max(sound(self.out), default=0)
        reach = self.rng.randint(2, max(2, (self.steps - self.first) // rounds))
        self.last = min(self.first + reach, self.steps - 2 * GRACE)
        files = (self.out / "checkpoints").glob("step-*/*.safetensors")
        self.largest = max((path.stat().st_size for path in files), default=100_000)

    def step(self) -> int:
        return self.rng.randint(self.first + 1, self.last)

    def begin(self, *faults: Fault) -> Started:
        self.out.with_name(self.out.name + ".output").unlink(missing_ok=True)
        capped = [*faults, Fault("exit", self.last + GRACE)]
        return Started(*self.arguments, "--steps", self.steps, out=self.out, faults=capped)

    def suffer(self, *faults: Fault, codes: set[int]) -> Started:
        """A start to which `faults` happen; it ends in one of `codes`."""
        started = self.begin(*faults)
        code = started.finish()
        assert code in codes, f"{faults}: {code}, not of {codes}: {started.said()}"
        return started

    def struck(self, *numbers: int, within: float) -> int:
        """A start that is signalled from outside at a random time; returns how it ended."""
        started = self.begin()
        time.sleep(self.rng.uniform(0, within))
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                started.signal(number)
        code = started.finish()
        assert "Traceback" not in started.said() or signal.SIGINT in numbers, started.said()
        return code


# The kinds of faults: each ends a start of the run, or spoils something and sees the next one through that.


def killed_in_a_step(run: Victim) -> None:
    run.suffer(Fault("signal", run.step(), signal.SIGKILL), codes={-signal.SIGKILL})


def killed_from_outside(run: Victim) -> None:
    assert run.struck(signal.SIGKILL, within=0.8) in (-signal.SIGKILL, CAPPED)


def killed_while_it_starts(run: Victim) -> None:
    assert run.struck(signal.SIGKILL, within=0.1) in (-signal.SIGKILL, CAPPED)


def dies_at_a_file_operation(run: Victim) -> None:
    run.suffer(Fault("death", value=run.rng.randint(1, 60)), codes={137})


def signalled_in_a_step(run: Victim) -> None:
    number = run.rng.choice(list(CODES))
    run.suffer(Fault("signal", run.step(), number), codes={CODES[number]})
    check_stopped(run, {CODES[number]})


def signalled_twice_at_once(run: Victim) -> None:
    step, numbers = run.step(), run.rng.sample(list(CODES), 2)
    codes = {CODES[number] for number in numbers}
    run.suffer(*(Fault("signal", step, number) for number in numbers), codes=codes)
    check_stopped(run, codes)


def check_stopped(run: Victim, codes: set[int]) -> None:
    said = ending(run.out)
    assert said["code"] in codes
    assert said["step"] == max(sound(run.out)) == told(run.out)[-1]["step"]


def signalled_from_outside(run: Victim) -> None:
    numbers = run.rng.sample(list(CODES), run.rng.choice([1, 1, 2]))
    codes = {CODES[number] for number in numbers} | {-number for number in numbers} | {CAPPED}
    code = run.struck(*numbers, within=0.8)
    assert code in codes | ({1} if signal.SIGINT in numbers else set())  # 1: of an interpreter that has only begun


def cannot_write_a_checkpoint(run: Victim) -> None:
    """The limit lies above or below the log's size: where it cannot be cut the start ends before its first step."""
    faults = Fault("full", value=run.rng.randrange(4096, run.largest)), Fault("signal", run.step(), signal.SIGTERM)
    before = sound(run.out)
    run.suffer(*faults, codes={1})
    assert ending(run.out)["code"] == 1
    assert sound(run.out) == before


def has_no_room_for_a_while(run: Victim) -> None:
    step, limit = run.step(), run.rng.choice([0, 100, run.largest - 1])
    run.suffer(Fault("full", step, limit), Fault("full", run.rng.randint(step + 1, step + 3), -1), codes={CAPPED})


def damaged(run: Victim) -> None:
    path = run.out / "checkpoints" / f"step-{max(sound(run.out)):08d}"
    file, rng = run.rng.choice(sorted(path.iterdir())), run.rng
    match rng.choice(["flip", "cut", "delete", "no manifest", "empty manifest"]):
        case "flip":
            data = bytearray(file.read_bytes())
            data[rng.randrange(len(data))] ^= rng.randint(1, 255)
            file.write_bytes(data)
        case "cut":
            os.truncate(file, rng.randrange(file.stat().st_size))
        case "delete":
            file.unlink()
        case "no manifest":
            (path / "manifest.json").unlink()
        case "empty manifest":
            os.truncate(path / "manifest.json", 0)
    before = run.first
    run.first = max(sound(run.out))
    assert run.first < before
    said = run.suffer(codes={CAPPED}).said()
    assert f"passed over: {path}" in said
    assert f"continuing {run.out} at step {run.first} of {run.steps}" in said


def finds_a_torn_log(run: Victim) -> None:
    line = b'{"event": "step", "time": 1.0, "step": 7, "loss": 1.0}'
    tails = [line[: run.rng.randrange(1, len(line))], b"\xff" + run.rng.randbytes(500), bytes(5000), b"[]\n{}\n\n7\nnull"]
    with open(run.out / "log.jsonl", "ab") as file:
        file.write(run.rng.choice(tails))
    run.suffer(codes={CAPPED})


def finds_leftovers(run: Victim) -> None:
    folder = run.out / "checkpoints"
    for name in (".tmp-step-00000005", f".tmp-step-{run.first + 2:08d}", ".tmp-pruned-step-00000001"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.safetensors").write_bytes(b"half")
    (folder / ".tmp-latest").write_bytes(b"step-0")
    for name in ("config.json.partial", "log.jsonl.partial", "exit.json.partial"):
        (run.out / name).write_bytes(b'{"half": ')
    run.suffer(codes={CAPPED})


def finds_latest_astray(run: Victim) -> None:
    latest = run.out / "checkpoints" / "latest"
    latest.unlink(missing_ok=True)
    match run.rng.choice(["nowhere", "missing", "garbage", "a link to nowhere"]):
        case "nowhere":
            latest.write_text("step-99999999\n")
        case "garbage":
            latest.write_bytes(run.rng.randbytes(100))
        case "a link to nowhere":
            latest.symlink_to("step-99999999")
    run.suffer(codes={CAPPED})


def finds_what_a_dead_one_left(run: Victim) -> None:
    (run.out / "exit.json").write_bytes(run.rng.choice([b"", b"{", b'{"code": 0}', run.rng.randbytes(50)]))
    (run.out / ".lock").write_text("process 4194303 on another-host, since 2020-01-01 00:00:00\n" * 3)
    run.suffer(codes={CAPPED})
    assert not (run.out / "exit.json").exists()


def meets_a_second_start(run: Victim) -> None:
    held, go = (run.out.with_name(run.out.name + end) for end in (".held", ".go"))
    for path in (held, go):
        path.unlink(missing_ok=True)
    first = run.begin(Fault("hold", run.step()))
    while not held.exists():
        assert first.processes[0].exitcode is None, first.said()
        time.sleep(0.01)
    second = Started(*run.arguments, "--steps", run.steps, out=run.out)
    assert second.finish() == 2, second.said()
    assert f"in use by another run (process {first.processes[0].pid} on " in second.said()
    assert not (run.out / "exit.json").exists()
    go.touch()
    assert first.finish() == CAPPED, first.said()


KINDS: list[Callable[[Victim], None]] = [
    killed_in_a_step,
    killed_from_outside,
    killed_while_it_starts,
    dies_at_a_file_operation,
    signalled_in_a_step,
    signalled_twice_at_once,
    signalled_from_outside,
    cannot_write_a_checkpoint,
    has_no_room_for_a_while,
    damaged,
    finds_a_torn_log,
    finds_leftovers,
    finds_latest_astray,
    finds_what_a_dead_one_left,
    meets_a_second_start,
]


def possible(kind: Callable[[Victim], None], out: Path) -> bool:
    """Whether what `kind` needs is there: without an older checkpoint damage is the end, and there is a test of that."""
    if kind is damaged:
        return len(sound(out)) > 1
    return (out / "log.jsonl").exists() and (out / "checkpoints").exists() if kind.__name__.startswith("finds") else True


def torment(run: Victim, faults: int) -> Counter[str]:
    """Let a run suffer so many faults of all kinds; returns how many of each."""
    kinds = (KINDS * (faults // len(KINDS) + 1))[:faults]
    run.rng.shuffle(kinds)
    suffered = Counter[str]()
    while kinds:
        kind = next((kind for kind in kinds if possible(kind, run.out)), killed_in_a_step)
        run.aim(len(kinds))
        kind(run)
        if kind in kinds:
            kinds.remove(kind)
            suffered[kind.__name__] += 1
        after = sound(run.out)
        told_steps = [record["step"] for record in told(run.out)]
        assert max(after, default=0) >= run.first, f"{kind.__name__} cost a checkpoint"
        assert told_steps == list(range(1, len(told_steps) + 1)), f"{kind.__name__} tore the log"
        assert len(told_steps) >= max(after, default=0), f"{kind.__name__}: the log is behind the checkpoints"
    return suffered


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "steps", "faults", "seed"),
    [
        pytest.param("a bank, AdamW, bf16", 80, len(KINDS), 0, marks=pytest.mark.chaos),
        pytest.param("a bank, AdamW, bf16", 500, 100, 1, marks=pytest.mark.chaos),
        pytest.param("a bank, LARS, float32", 250, 45, 2, marks=pytest.mark.chaos),
        pytest.param("momentum encoder, queue and noise", 250, 45, 3, marks=pytest.mark.chaos),
    ],
)
def test_a_tormented_run_ends_with_the_bytes_and_the_log_of_an_undisturbed_one(name, steps, faults, seed, beton, tmp_path):
    arguments = ("train", *KINDS_OF_RUN[name][:1], "--data", beton, *TINY, *COMMON, *KINDS_OF_RUN[name][1:])
    undisturbed = Started(*arguments, "--steps", steps, out=tmp_path / "undisturbed")
    victim = Victim(arguments, tmp_path / "run", steps=steps, rng=random.Random(seed))
    suffered = torment(victim, faults)
    assert suffered.total() == faults
    assert len(suffered) == len(KINDS), suffered
    assert max(sound(victim.out)) < steps
    last = run(*arguments, "--steps", steps, out=victim.out)
    assert last.code == 0, last.said()
    assert ending(victim.out)["code"] == 0
    assert undisturbed.finish() == 0, undisturbed.said()
    assert state(victim.out, steps) == state(undisturbed.out, steps)
    assert told(victim.out) == told(undisturbed.out)
    assert [record["step"] for record in told(victim.out)] == list(range(1, steps + 1))
    assert (victim.out / "checkpoints" / "latest").read_text() == f"step-{steps:08d}\n"
    left = {path.name for path in (victim.out / "checkpoints").iterdir() if not path.name.endswith(".passed-over")}
    assert left == {path.name for path in (undisturbed.out / "checkpoints").iterdir()}


def test_where_no_checkpoint_verifies_the_start_is_refused_and_changes_nothing(beton, tmp_path):
    arguments, out = ("train", *BANK, "--data", beton, *TINY, "--steps", "6", "--checkpoint-every", "2"), tmp_path / "run"
    assert run(*arguments, out=out).code == 0
    for path in (out / "checkpoints").glob("step-*/guard.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in ("exit.json", ".lock")}
    done = run(*arguments, out=out)
    assert done.code == ending(out)["code"] == 2, done.said()
    assert "no checkpoint under" in ending(out)["reason"]
    assert "step-00000006/guard.safetensors" in done.said()
    assert "Traceback" not in done.said()
    now = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in ("exit.json", ".lock")}
    assert now == kept


def test_a_disk_that_is_full_when_a_run_ends_costs_no_more_than_the_last_steps(beton, tmp_path):
    arguments = ("train", *BANK, "--data", beton, *TINY, "--steps", "10", "--checkpoint-every", "2")
    with mounted(tmp_path / "disk", "tmpfs", "size=32m") as disk:
        out = disk / "run"
        started = Started(*arguments, out=out, faults=[Fault("hold", 6)])
        while not (disk / "run.held").exists():
            assert started.processes[0].exitcode is None, started.said()
            time.sleep(0.01)
        fill_up(disk, 0)
        (disk / "run.go").touch()  # an entry of its folder, which takes no page
        assert started.finish() == 1, started.said()
        assert "Traceback" not in started.said()
        assert max(sound(out)) in (2, 4)
        (disk / "filler").unlink()
        again = run(*arguments, out=out)
        assert again.code == 0, again.said()
        assert [record["step"] for record in told(out)] == list(range(1, 11))
        assert run(*arguments, out=tmp_path / "whole").code == 0
        assert state(out, 10) == state(tmp_path / "whole", 10)


def test_every_promise_names_a_test_that_exists():
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (P\d+) \|(.*)\|$", page, flags=re.M)
    assert [name for name, _ in rows] == [f"P{number}" for number in range(1, len(rows) + 1)]
    assert len(rows) >= 46
    for name, row in rows:
        assert re.search(r"`test_\w+\.py::test_\w+`", row), f"{name} names no test"
    for file, test in re.findall(r"`(test_\w+)\.py::(\w+)`", page):
        (path,) = (ROOT / "tests").rglob(f"{file}.py")
        assert f"def {test}(" in path.read_text(), f"{file}.py has no {test}"

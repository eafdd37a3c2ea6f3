"""Real launchers: what becomes of a run whose launcher is signalled, or one of whose processes dies.

Each start takes 10 to 20 s on two cores: one case runs always, `make chaos` runs the others.
"""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import ROOT, TINY, Started, ending, figures, records

from viewmill.checkpoint import layout

STARTED_S = 90.0  # within which a launched run has taken its first steps
ENDED_S = 30.0  # within which nothing of it is left


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    return figures(tmp_path_factory.mktemp("factors"), 165)


class Launched:
    """`accelerate launch run.py train ...` in a process group of its own; its processes bear a mark in their environment."""

    def __init__(self, beton: Path, out: Path, *more: str, processes: int, steps: int = 100_000, **environment: str) -> None:
        self.out, self.mark = out, f"viewmill-launched-{os.getpid()}-{time.monotonic_ns()}"
        self.output = out.with_name(f"{out.name}-{time.monotonic_ns()}.output")
        how = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
        launch = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", str(processes), *more]
        self.arguments = ["train", "simclr", "--data", beton, *TINY, "--steps", steps]
        self.arguments += ["--checkpoint-every", 50, "--timeout", 20]
        command = [*launch, str(ROOT / "run.py"), *map(str, self.arguments), "--out", str(out)]
        own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "VIEWMILL_MARK": self.mark}
        with open(self.output, "wb") as said:
            self.launcher = subprocess.Popen(
                command, env=os.environ | own | environment, stdout=said, stderr=said, start_new_session=True
            )

    def said(self) -> str:
        return self.output.read_text()

    def await_step(self, step: int) -> None:
        until = time.monotonic() + STARTED_S
        while not any(record["step"] >= step for record in records(self.out)):
            assert self.launcher.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.02)

    def alive(self) -> dict[int, dict[str, str]]:
        """The processes of this run with their environments, by number; those that have ended are none."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                pairs = (entry / "environ").read_text(errors="replace").split("\0")
                own = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
                if own.get("VIEWMILL_MARK") == self.mark:
                    found[int(entry.name)] = own
        return found

    def rank(self, rank: int) -> int:
        """The number of the process of this rank."""
        (found,) = [pid for pid, own in self.alive().items() if own.get("RANK") == str(rank)]
        return found

    def leaves_nobody(self) -> None:
        """The launcher ends, and nothing of the run outlives it for long."""
        self.launcher.wait(timeout=ENDED_S)
        until = time.monotonic() + ENDED_S
        while left := self.alive():
            assert time.monotonic() < until, f"{left.keys()} are left: {self.said()}"
            time.sleep(0.05)

    def sweep(self) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait(timeout=60)


@contextlib.contextmanager
def launched(*arguments, **options) -> Iterator[Launched]:
    run = Launched(*arguments, **options)
    try:
        yield run
    finally:
        run.sweep()


def last_of(out: Path) -> int:
    """The last step that is logged: its checkpoint is there and verifies, and exit.json says the same step."""
    last = records(out)[-1]["step"]
    assert (out / "checkpoints" / "latest").read_text() == f"step-{last:08d}\n"
    layout.verify(out / "checkpoints" / f"step-{last:08d}")
    assert ending(out)["step"] == last
    return last


def test_sigterm_to_the_launcher_of_two_ends_both_with_a_checkpoint_from_which_the_run_goes_on(beton, tmp_path):
    out = tmp_path / "run"
    with launched(beton, out, processes=2) as run:
        run.await_step(3)
        run.launcher.send_signal(signal.SIGTERM)
        run.leaves_nobody()
    assert ending(out)["code"] == 75, run.said()
    last = last_of(out)
    again = Started(*run.arguments, out=out, world=2)
    again.await_step(last + 1)
    again.signal(signal.SIGTERM)
    assert again.finish() == 75, again.said()
    assert [record["step"] for record in records(out, "start")] == [0, last]
    assert [record["step"] for record in records(out)] == list(range(1, last_of(out) + 1))


HANDLED = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1"}
CASES = {
    "SIGTERM, one process": (1, "launcher", [signal.SIGTERM], {}, 75),
    "SIGINT, one process": (1, "launcher", [signal.SIGINT], {}, 75),  # the launcher dies of it and passes nothing on
    "SIGINT, two": (2, "launcher", [signal.SIGINT], {}, 130),
    "SIGUSR1, one process": (1, "launcher", [signal.SIGUSR1], {}, 75),
    "SIGUSR1, two": (2, "launcher", [signal.SIGUSR1], {}, 75),
    "SIGUSR1 passed on to two": (2, "launcher", [signal.SIGUSR1], HANDLED, 75),
    "SIGHUP, two": (2, "launcher", [signal.SIGHUP], {}, 75),
    "Ctrl-C, one process": (1, "group", [signal.SIGINT], {}, 130),
    "Ctrl-C, two": (2, "group", [signal.SIGINT], {}, 130),
    "Ctrl-C twice at once, one process": (1, "group", [signal.SIGINT] * 2, {}, 130),
    "Ctrl-C twice at once, two": (2, "group", [signal.SIGINT] * 2, {}, 130),
}


@pytest.mark.chaos
@pytest.mark.parametrize("case", CASES)
def test_whatever_ends_a_launcher_leaves_nobody_behind_and_a_run_that_the_same_command_continues(case, beton, tmp_path):
    processes, to, numbers, environment, code = CASES[case]
    out = tmp_path / "run"
    with launched(beton, out, processes=processes, **environment) as run:
        run.await_step(3)
        for number in numbers:
            (os.killpg if to == "group" else os.kill)(run.launcher.pid, number)
            time.sleep(0.2 if len(numbers) > 1 else 0)  # as fast as a finger
        run.leaves_nobody()
    assert ending(out)["code"] == code, run.said()
    last = last_of(out)
    with launched(beton, out, processes=processes, **environment) as again:
        again.await_step(last + 1)
        again.launcher.send_signal(signal.SIGTERM)
        again.leaves_nobody()
    assert ending(out)["code"] == 75, again.said()
    assert [record["step"] for record in records(out, "start")] == [0, last]
    assert [record["step"] for record in records(out)] == list(range(1, last_of(out) + 1))


def test_a_terminal_that_is_closed_ends_a_run_as_sigterm_does(beton, tmp_path):
    """The kernel sends SIGHUP, and nothing can be printed any more."""
    out = tmp_path / "run"
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "run.py"), "train", "simclr", "--data", str(beton), *TINY, "--steps", "100000"]
    options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    with subprocess.Popen([*command, "--out", str(out)], env=environment, **options) as run:
        os.close(theirs)
        until = time.monotonic() + STARTED_S
        while not records(out):
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        os.close(ours)
        run.send_signal(signal.SIGHUP)
        assert run.wait(timeout=ENDED_S) == 75
    assert ending(out)["code"] == 75
    last_of(out)


@pytest.mark.chaos
@pytest.mark.parametrize("rank", [0, 1])
def test_a_launcher_that_may_restart_takes_a_run_past_a_killed_process_to_its_end(rank, beton, tmp_path):
    out = tmp_path / "run"
    with launched(beton, out, "--max_restarts", "2", processes=2, steps=600) as run:
        run.await_step(120)
        os.kill(run.rank(rank), signal.SIGKILL)
        assert run.launcher.wait(timeout=120) == 0, run.said()
        run.leaves_nobody()
    assert ending(out)["code"] == 0
    first, second = (record["step"] for record in records(out, "start"))
    assert first == 0
    assert second >= 100
    assert second % 50 == 0
    assert [record["step"] for record in records(out)] == list(range(1, 601))

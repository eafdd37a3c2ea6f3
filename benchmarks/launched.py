"""What a training costs as a person starts it: whole processes of `viewmill train`, read from their own logs."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..files.opening import LARGE, read_text
from ..pipeline.threads import usable_cores
from .measured import Measured, percent

PROGRAM = Path(__file__).resolve().parent.parent / "run.py"
WALKTHROUGH = {"width": 16, "size": 32, "batch": 256}
"""The training of the README's walk-through: ResNet-18 of width 16 at 32 px."""
TINY = {"width": 4, "hidden": 16, "embedding": 8, "size": 16, "batch": 16, "checkpoint-every": 1000}
WARM, STEADY = 10, 40  # steps: speeds are of those from the one to the other
GROWN, LATER, WINDOW = 2_000, 10_000, 100  # steps between which memory may not grow, and records of how many are a median
OPTIONS = {"--recompute": ("--recompute",), "--compile": ("--compile",)}


class Run(NamedTuple):
    """A training that has ended: its step records, time.time() at its start, and the most memory that it held."""

    steps: list[dict[str, Any]]
    began: float
    peak_mb: float

    @property
    def start_s(self) -> float:
        """From the start of the process until the first step was in the log."""
        return self.steps[0]["time"] - self.began

    @property
    def rate(self) -> float:
        """Steps/s after the first WARM."""
        first = next(record for record in self.steps if record["step"] >= WARM)
        return (self.steps[-1]["step"] - first["step"]) / (self.steps[-1]["time"] - first["time"])


def trained(
    data: Path,
    folder: Path,
    settings: Mapping[str, Any],
    *flags: str,
    ranks: int = 1,
    threads: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """A SimCLR training in a new folder, `threads` for each of `ranks` processes; raises RuntimeError where it fails.

    Ranks find each other as under torchrun, by environment variables, and talk through gloo.
    """
    out, threads = Path(tempfile.mkdtemp(dir=folder)), threads or usable_cores()
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(PROGRAM), "train", "simclr", "--data", str(data), "--out", str(out), *given, *flags]
    shared = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    ranked = [{}]
    if ranks > 1:
        group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        ranked = [group | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"} for rank in range(ranks)]
    command += ["--threads", str(threads)]
    began = time.time()
    peaks = ended([(command, shared | {name: str(value) for name, value in own.items()}) for own in ranked])
    records = map(json.loads, read_text(out / "log.jsonl", limit=LARGE).splitlines())
    return Run([record for record in records if record["event"] == "step"], began, peaks[0].ru_maxrss * 1024 / 1e6)


def ended(commands: Sequence[tuple[list[str], dict[str, str]]]) -> list[Any]:
    """Run commands side by side to their end; what each has used (getrusage). None outlives an error or an interruption."""
    with tempfile.TemporaryFile("w+") as said:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
        processes, used = list[subprocess.Popen](), []
        try:
            for command, environment in commands:
                processes.append(subprocess.Popen(command, env=environment, **quiet))
            for process in processes:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                used.append(usage)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    process.wait()
        if any(process.returncode for process in processes):
            said.seek(0)
            raise RuntimeError(f"{' '.join(commands[0][0])} ended with {processes[0].returncode}: {said.read()[-2000:]}")
    return used


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """This process, and those that it starts, on `count` cores at most."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def start(data: Path, folder: Path, engine: str, *, repeats: int) -> Iterator[Measured]:
    """Seconds until the first step of a new run is in the log, with the engine to be measured first and without."""
    flags = {"": ("--engine", "auto"), f", --engine {engine}": ("--engine", engine)}
    for name, given in flags.items():
        settings = {**WALKTHROUGH, "steps": 1}
        found = [trained(data, folder, settings, *given).start_s for _ in range(repeats + 1)][1:]  # the first is cold
        yield Measured(f"start to first step, warm{name}", "s", found, most=10, note=f"simclr, {described(WALKTHROUGH)}")


def second_rank(data: Path, folder: Path, engine: str, *, repeats: int) -> Iterator[Measured]:
    """What two processes of a thread each cost over one of two threads, on the same two cores and global batches."""
    settings, found = {**WALKTHROUGH, "steps": STEADY}, []
    with on_cores(2):
        for turn in range(repeats):
            rates = {}
            for ranks in (1, 2) if turn % 2 else (2, 1):
                flags = ("--engine", engine)
                rates[ranks] = trained(data, folder, settings, *flags, ranks=ranks, threads=2 // ranks).rate
            found.append(percent(rates[2], rates[1]))
    yield Measured("images/s that a second process costs", "%", found, most=10, note=f"gloo, {described(WALKTHROUGH)}")


def growth(data: Path, folder: Path, engine: str) -> Iterator[Measured]:
    """How the resident memory of one long training grows, of a tiny network, in which anything that leaks stands out."""
    run = trained(data, folder, {**TINY, "steps": LATER}, "--engine", engine)
    early, late = (
        median(record["memory_bytes"] / 1e6 for record in run.steps if end - WINDOW < record["step"] <= end)
        for end in (GROWN, LATER)
    )
    name = f"memory from step {GROWN:,} to {LATER:,}"
    yield Measured(name, "% more", [-percent(late, early)], most=2, note=f"{early:,.1f} to {late:,.1f} MB")
    yield Measured(f"{name}, of 1,000 steps", "MB", [(late - early) / (LATER - GROWN) * 1000])


def options(data: Path, folder: Path, engine: str, *, repeats: int) -> Iterator[Measured]:
    """Speed, memory and start with an option over those without; compiled code is kept from round to round."""
    settings, environment = {**WALKTHROUGH, "steps": STEADY}, {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    turns = []
    for _ in range(repeats):
        given = {"": (), **OPTIONS}
        turns.append(
            {
                name: trained(data, folder, settings, "--engine", engine, *flags, environment=environment)
                for name, flags in given.items()
            }
        )
    note = described(WALKTHROUGH)
    yield Measured("images/s of a training", "images/s", [turn[""].rate * WALKTHROUGH["batch"] for turn in turns], note=note)
    yield Measured("peak memory of a training", "MB", [turn[""].peak_mb for turn in turns], note=note)
    for name in OPTIONS:
        pairs = [(turn[name], turn[""]) for turn in turns]
        yield Measured(f"speed with {name} over that without", "times", [one.rate / other.rate for one, other in pairs])
        yield Measured(f"peak memory that {name} adds", "MB", [one.peak_mb - other.peak_mb for one, other in pairs])
        later = [one.start_s - other.start_s for one, other in pairs]
        yield Measured(f"start that {name} delays", "s", later, note=f"the first, nothing cached, {later[0]:.1f} s")


def help_time(*, repeats: int) -> Iterator[Measured]:
    """Processor time of `--help`: what others run here does not count."""
    command = ([sys.executable, str(PROGRAM), "train", "--help"], dict(os.environ))
    used = [ended([command])[0] for _ in range(repeats + 1)][1:]
    yield Measured("train --help, processor time", "s", [usage.ru_utime + usage.ru_stime for usage in used], most=1)


def described(settings: Mapping[str, Any]) -> str:
    """A training's network and batch in words."""
    return f"ResNet-18 of width {settings['width']}, {settings['size']} px, batch {settings['batch']}"

"""Real runs of `viewmill` in processes of their own, with something that befalls them at a chosen step.

A fork server that has torch loaded starts them: a second and a half each, not seven.
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--width", "4", "--hidden", "16", "--embedding", "8", "--size", "16", "--batch", "16", "--log-every", "1")
TINY = (*TINY, "--engine", "ffcv")
PRELOADED = [
    "viewmill.run",
    "viewmill.training.state",
    "viewmill.training.resume",
    "viewmill.checkpoint.writer",
    "viewmill.pipeline.loader",
]
PRELOADED += ["torch._dynamo", "accelerate.utils"]


def figures(folder: Path, count: int) -> Path:
    """A .beton of rendered images, in `folder` beside them."""
    from viewmill.pipeline import factors
    from viewmill.pipeline.conversion.convert import convert

    factors.write_folder(folder / "images", count, seed=0)
    convert([folder / "images"], folder / "factors.beton")
    return folder / "factors.beton"


class Fault(NamedTuple):
    """What befalls a process. Steps count from 1, as in the log; `rank` None is every process."""

    kind: str
    """signal, nan, exit, death (at a file operation), full (no file may grow past `value` bytes: from `step` on, from the
    start where it is 0), room (`value` blocks are free), nohup, zeroed (the bytes of row `value`, as by a failing disk),
    hold (OUT.held says that the step has been reached, and it waits for OUT.go), late (it comes to its `step`-th meeting
    with the others, or to the end where that is 0, `value` seconds late), gone (the run's folder is removed),
    broken (its update has a learning rate of `value`)."""
    step: int = 0
    value: float = 0
    """A negative number of bytes is no limit."""
    rank: int | None = None
    last: int = 0
    """Last step, for what lasts."""


def _signalled(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    os.kill(os.getpid(), int(fault.value))
    return batch


def _not_finite(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    return batch._replace(views=tuple(view * float("nan") for view in batch.views))


def _zeroed(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    from viewmill.pipeline.beton.reader import open_beton

    beton, row = open_beton(Path(given[given.index("--data") + 1])), int(fault.value)
    with open(beton.path, "r+b", buffering=0) as file:
        file.seek(int(beton.offset_N[row]))
        file.write(bytes(int(beton.size_N[row])))
    return batch


def _ended(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    os._exit(137)


def _limited(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = int(fault.value) if fault.value >= 0 else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return batch


def _held(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    out, until = given[given.index("--out") + 1], time.monotonic() + 60
    Path(f"{out}.held").touch()
    while not Path(f"{out}.go").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return batch


def _gone(fault: Fault, given: Sequence[str], batch: Any) -> Any:
    out = Path(given[given.index("--out") + 1])
    while out.exists():  # the thread that writes a checkpoint may take what rmtree has listed, or add to it
        shutil.rmtree(out, ignore_errors=True)
    return batch


IN_A_STEP = {"signal": _signalled, "nan": _not_finite, "zeroed": _zeroed, "exit": _ended, "full": _limited}
IN_A_STEP |= {"hold": _held, "gone": _gone, "broken": lambda fault, given, batch: batch}


def _dying(count: int) -> None:
    """End at the `count`-th call that changes a file."""
    left = count
    for name in ("write", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir"):
        original = getattr(os, name)

        def counting(*arguments: Any, _original: Any = original, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(137)
            return _original(*arguments, **options)

        setattr(os, name, counting)


def _late(fault: Fault) -> None:
    """Be late at one of the points at which processes meet."""
    from viewmill.distributed.rendezvous import Meeting

    usual_part, points = Meeting.part, 0

    def point(original: Any) -> Any:
        def late(self: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal points
            points += 1
            if points == fault.step:
                time.sleep(fault.value)
            return original(self, *arguments, **options)

        return late

    def part(self: Any, *arguments: Any, **options: Any) -> Any:
        if not fault.step:
            time.sleep(fault.value)
        return usual_part(self, *arguments, **options)

    Meeting.part, Meeting.agree, Meeting.of_main = part, point(Meeting.agree), point(Meeting.of_main)


def _rate(train_state: Any, rate: float) -> None:
    for group in train_state.optimiser.param_groups:
        group["lr"] = rate


def _break_fine_tuning(fault: Fault) -> None:
    from viewmill.transfer import tuning

    usual = tuning.take_step

    def take_step(run: Any, batch: Any, *, step: int, asked: int) -> Any:
        if step + 1 == fault.step:
            _rate(run.state, fault.value)
        return usual(run, batch, step=step, asked=asked)

    tuning.take_step = take_step


def _afflict(fault: Fault, given: Sequence[str]) -> None:  # noqa: C901 (a table)
    """Have `fault` befall this process."""
    from viewmill.training import pretraining

    if fault.rank is not None and fault.rank != int(os.environ.get("RANK", 0)):
        return
    usual = pretraining.take_step

    def step(train_state: Any, method: Any, batch: Any, moment: Any, *rest: Any, **options: Any) -> Any:
        if fault.step <= moment.step + 1 <= max(fault.step, fault.last):
            batch = IN_A_STEP[fault.kind](fault, given, batch)
        if fault.kind == "broken" and moment.step + 1 == fault.step:
            _rate(train_state, fault.value)
        return usual(train_state, method, batch, moment, *rest, **options)

    match fault.kind:
        case "broken" if given[0] != "train":
            _break_fine_tuning(fault)
        case "full" if not fault.step:
            _limited(fault, given, None)
        case "nohup":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        case "room":
            os.statvfs = lambda path: os.statvfs_result((4096, 4096, 10**6, 9, int(fault.value), 10, 10, 10, 0, 255))
        case "late":
            _late(fault)
        case "death":
            _dying(int(fault.value))
        case _:
            pretraining.take_step = step


def _child(arguments: Sequence[str], faults: Sequence[Fault], output: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.setpgid(0, 0)
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    import torch

    from viewmill.run import main

    torch.set_num_threads(1)
    for fault in faults:
        _afflict(fault, arguments)
    sys.exit(main(list(arguments)))


class Started:
    """A run of one or several processes under way."""

    def __init__(
        self,
        *arguments: object,
        out: Path,
        faults: Sequence[Fault] = (),
        world: int = 1,
        environment: Mapping[str, str] | None = None,
        own: Mapping[int, Sequence[object]] | None = None,
    ) -> None:
        """`own` are arguments that a rank has besides, after those of all."""
        self.out, self.output = out, out.with_name(out.name + ".output")
        self.code: int | None = None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        words = [*map(str, arguments), "--out", str(out)]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
        self.processes = []
        for rank in range(world):
            ranked = common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
            mine = [*words, *map(str, (own or {}).get(rank, ()))]
            given = (mine, faults, self.output, dict(environment or {}) | (ranked if world > 1 else {}))
            process = context.Process(target=_child, args=given)
            process.start()
            self.processes.append(process)

    def finish(self, timeout: float = 120) -> int:
        """Wait for the end; returns the main process's exit code (negative: the signal that ended it)."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.1, until - time.monotonic()))
        alive = [process for process in self.processes if process.exitcode is None]
        for process in alive:
            process.kill()
            process.join()
        assert not alive, f"a process did not end within {timeout} s: {self.said()}"
        return self.processes[0].exitcode

    def signal(self, number: int, rank: int = 0) -> None:
        """Send a signal to one process."""
        os.kill(self.processes[rank].pid, number)

    def await_step(self, step: int, timeout: float = 60) -> None:
        """Until the log has reached `step`."""
        until = time.monotonic() + timeout
        while not any(record["step"] >= step for record in records(self.out)):
            assert self.processes[0].exitcode is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)

    def said(self) -> str:
        """What all processes have printed so far."""
        return self.output.read_text() if self.output.exists() else ""


def run(*arguments: object, out: Path, timeout: float = 120, **options: Any) -> Started:
    """A whole run; its `code` is the main process's. Options are those of `Started`."""
    started = Started(*arguments, out=out, **options)
    started.code = started.finish(timeout)
    return started


def records(out: Path, event: str = "step") -> list[dict[str, Any]]:
    """The records of a log that are whole."""
    path = out / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return [record for record in whole if record["event"] == event]


def ending(out: Path) -> dict[str, Any]:
    """RUN/exit.json."""
    return json.loads((out / "exit.json").read_text())


def state(out: Path, step: int) -> dict[str, bytes]:
    """The tensors' files of a checkpoint."""
    return {path.name: path.read_bytes() for path in (out / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")}

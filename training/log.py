"""log.jsonl: one record a line, each written whole or not at all, never two records of one step."""

import json
import math
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ..errors import Failed, Refused
from ..files.opening import Unusable, descriptor_to_change, open_to_make, settle_name

PACKAGES = ("viewmill", "torch", "torchvision", "accelerate", "ffcv", "numba", "numpy", "pillow", "safetensors")
KEPT = 10_000  # records in memory while the disk takes none: 20 MB of a training's
LONGEST = 1 << 24  # bytes of a record; a longer line is damage: a crash may leave a file full of zeros


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on; "none" where a package is missing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def hardware() -> dict[str, Any]:
    """The processor's name and the cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux on x86: the plain name has to do
    return {"cpu": name, "cores": len(os.sched_getaffinity(0))}


class Log:
    """An open log. A resumed run cuts what came after its checkpoint: those steps happen again.

    A disk that takes no more (full, over a quota, failing) ends no run: records are kept in memory, the newest 10,000, and
    are written once there is room. `warn` is told once when that begins, and once when it is over.
    Numbers that are not finite become null: JSON knows none.

    Raises:
        OSError: where the log cannot be opened or cut; it is then as it was.
    """

    def __init__(self, path: Path, *, resumed_step: int, warn: Callable[[str], None] = lambda text: None) -> None:
        self.damaged = _cut(path, resumed_step)
        """Lines of an earlier start that could not be read, and were dropped."""
        self.lost = 0
        """Records that were dropped because too many waited for the disk."""
        self._path, self._warn, self._lock = path, warn, threading.RLock()
        self._waiting = deque[bytes]()
        self._descriptor = descriptor_to_change(path, os.O_WRONLY | os.O_APPEND)
        self._end, self._torn, self._fault = os.fstat(self._descriptor).st_size, False, ""

    def write(self, event: str, **facts: Any) -> None:
        """Append one record; it is in the kernel's hands when this returns, so not even kill -9 loses it."""
        record = finite({"event": event, "time": round(time.time(), 3), **facts})
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            self._waiting.append(line)
            if len(self._waiting) > KEPT:
                self._waiting.popleft()
                self.lost += 1
            self._flush()

    def started(self, *, step: int, **facts: Any) -> None:
        """The first record of a start: command line, versions, hardware."""
        self.write("start", step=step, command=sys.argv, versions=versions(), hardware=hardware(), **facts)

    def close(self) -> None:
        """Write what still waits, where that is possible."""
        with self._lock:
            if self._descriptor < 0:
                return
            self._flush()
            if self._waiting:
                self._warn(f"{len(self._waiting) + self.lost} records could not be written to {self._path} and are lost")
            with suppress(OSError):
                os.fsync(self._descriptor)
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        """Write the waiting records, oldest first, until one is not taken."""
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not self._fault:
                self._fault = error.strerror or type(error).__name__
                self._warn(f"{self._path} takes no more records ({self._fault}): they wait in memory; make room")
        else:
            if self._fault:
                self._fault = ""
                gone = f", {self.lost} are lost" if self.lost else ""
                self._warn(f"{self._path} takes records again: those that waited are written{gone}")

    def _append(self, line: bytes) -> None:
        """One write, so that nothing can come between the parts of a line; what a full disk took of it is cut away again."""
        if self._torn:
            os.ftruncate(self._descriptor, self._end)
            self._torn = False
        try:
            taken = os.write(self._descriptor, line)
            if taken < len(line):
                self._torn = True
                taken += os.write(self._descriptor, line[taken:])  # which says why, unless there is room again
            if taken < len(line):
                raise OSError("only a part of a record was taken")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
                self._torn = False
            raise
        self._end, self._torn = self._end + len(line), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextmanager
def log_of(run: Path, *, step: int, visible: bool, warn: Callable[[str], None], **facts: Any) -> Iterator[Log | None]:
    """The log of a start at `step` of the run in the folder `run`, its first record written; None where not `visible`.

    Raises Refused where log.jsonl is no regular file, and Failed where it cannot be written.
    """
    if not visible:
        yield None
        return
    try:
        log = Log(run / "log.jsonl", resumed_step=step, warn=warn)
    except Unusable as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Failed(f"{run / 'log.jsonl'} cannot be written ({error.strerror}): make room there") from error
    with log:
        log.started(step=step, **facts)
        yield log


class Records:
    """What a run writes and says; without a log, as on other processes than the main one, it does neither."""

    def __init__(self, log: Log | None, warn: Callable[[str], None]) -> None:
        self._log, self._warn = log, warn

    def event(self, name: str, **facts: Any) -> None:
        """Write a record."""
        if self._log is not None:
            self._log.write(name, **facts)

    def fault(self, kind: str, text: str, *, step: int) -> None:
        """Write and say what went wrong."""
        self.event(kind, step=step, text=text)
        if self._log is not None:
            self._warn(f"step {step}: {text}")

    def faults(self, texts: Sequence[str], *, step: int) -> None:
        """Write and say what went wrong with checkpoints."""
        for text in texts:
            self.fault("checkpoint", text, step=step)


def finite(value: Any) -> Any:
    """`value` with None in place of every number that is not finite, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def _cut(path: Path, step: int) -> int:
    """Leave out the records after `step`, whole or not at all; returns how many lines were damaged and went with them."""
    if not os.path.lexists(path):
        return 0
    partial, damaged = path.with_name(path.name + ".partial"), 0
    try:
        with os.fdopen(descriptor_to_change(path, os.O_RDWR), "rb") as old, open_to_make(partial) as new:
            for line in _lines(old):
                try:
                    record = json.loads(line)
                    keep = bool(record["event"]) and record.get("step", 0) <= step
                except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
                    damaged += 1
                    continue
                if keep:
                    new.write(line.rstrip(b"\n") + b"\n")
            new.flush()
            os.fsync(new.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    settle_name(path)
    return damaged


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none longer than LONGEST: of what is, the first part stands for the whole."""
    while line := file.readline(LONGEST):
        part = line
        while not part.endswith(b"\n") and (part := file.readline(LONGEST)):
            pass
        yield line

"""log.jsonl: one record a line, flushed as it is written, never two records of one step."""

import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PACKAGES = ("viewmill", "torch", "torchvision", "accelerate", "ffcv", "numba", "numpy", "pillow", "safetensors")


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
    """An open log. A resumed run cuts what came after its checkpoint: those steps happen again."""

    def __init__(self, path: Path, *, resumed_step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line).get("step", 0) <= resumed_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def write(self, event: str, **facts: Any) -> None:
        """Append one record."""
        self._file.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")

    def started(self, *, step: int, **facts: Any) -> None:
        """The first record of a start: command line, versions, hardware."""
        self.write("start", step=step, command=sys.argv, versions=versions(), hardware=hardware(), **facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """The lines of a log that may have been cut in mid-line by a crash."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [line for line in lines if line.startswith("{") and line.endswith("}")]

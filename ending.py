"""How a run ends: its exit code, and RUN/exit.json, since launchers turn every child's code into 1."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .journal.dashboard import say
from .journal.folder import Refused, locked, write_json

REASONS = {0: "done", 75: "stopped early by a signal", 130: "interrupted"}


class Failed(RuntimeError):
    """A run that cannot go on, for a reason that needs no trace; the message names step, cause and remedy. Exit code 1."""


@contextmanager
def noting_refusals(folder: Path) -> Iterator[None]:
    """Around what is refused before a start holds its folder: what an earlier one left there must not be read as its."""
    try:
        yield
    except Refused as error:
        if (folder / "exit.json").exists() and os.environ.get("RANK", "0") == "0":
            with suppress(OSError, Refused), locked(folder):  # another run's stays
                write_json(folder / "exit.json", {"code": 2, "step": 0, "steps": 0, "reason": str(error), "time": _now()})
        raise


def _now() -> float:
    return round(time.time(), 3)


@contextmanager
def ending(folder: Path, *, visible: bool) -> Iterator[dict[str, Any]]:
    """Yields what will stand in RUN/exit.json, to be brought up to date; writes it however the block ends.

    `Failed` and the loss of another process end here, as code 1; everything else goes on. Of an earlier start nothing is
    left from the beginning: a scheduler must not read it again.
    """
    ended: dict[str, Any] = {"code": 1, "step": 0, "steps": 0, "reason": "it failed before its first step"}
    if visible:
        (folder / "exit.json").unlink(missing_ok=True)
    try:
        yield ended
    except Failed as error:
        ended["reason"] = str(error)
        say(f"viewmill: {error}")
    except Refused as error:
        ended |= {"code": 2, "reason": str(error)}
        raise
    except KeyboardInterrupt:
        ended |= {"code": 130, "reason": "interrupted at once: before the first step, or by a second Ctrl-C"}
        raise
    except BaseException as error:
        from .objectives.gather import lost

        ended["reason"] = f"{type(error).__name__}: {error}"
        if (ranks := lost(error)) is None:
            raise
        who = f"process {', '.join(map(str, ranks))} no longer answers" if ranks else "another process broke off"
        ended["reason"] = f"{who} ({error}); checkpoints are intact: start it again to continue"
        say(f"viewmill: {ended['reason']}")
    finally:
        if visible:
            with suppress(OSError):  # on a full disk the code of the process has to do
                write_json(folder / "exit.json", ended | {"time": _now()})

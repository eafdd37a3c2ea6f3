"""How a start of a run meets, holds its folder and ends: RUN/exit.json has the code, since launchers turn all into 1."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .console import say
from .datasets import refusing
from .errors import Failed, Refused
from .journal.folder import check_folder, locked, write_json
from .journal.signals import end_with_launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

REASONS = {0: "done", 75: "stopped early by a signal", 130: "interrupted"}


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


class Start(NamedTuple):
    """A start that holds its folder: accelerate's processes, what is closed when it ends, and what exit.json will say."""

    accelerator: "Accelerator"
    stack: ExitStack
    ended: dict[str, Any]


@contextmanager
def starting(folder: Path, *, precision: str, timeout: int) -> Iterator[Start]:
    """The processes of a run meet and the main one holds its folder, until the block ends; see `ending` for how."""
    end_with_launcher()
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from .models.heap import keep_freed
    from .objectives import gather

    waits = InitProcessGroupKwargs(init_method=gather.ANEW, timeout=timedelta(seconds=timeout))
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[waits])
    if accelerator.device.type == "cpu":
        keep_freed()
    with ExitStack() as stack:
        if accelerator.is_main_process:
            with refusing():
                stack.enter_context(locked(folder))
                check_folder(folder)
        with ending(folder, visible=accelerator.is_main_process) as ended:
            yield Start(accelerator, stack, ended)
            # together: a process that ends while gloo's threads still serve the other one is aborted at times
            accelerator.wait_for_everyone()
            accelerator.end_training()


def left_out(told: Sequence[float], *, step: int, rate: float, most: int, precision: str) -> str:
    """What to say of the update at `step`, whose verdict's numbers are `told`: "" unless it was not finite.

    Raises Failed where it is the last of `most` in a row.
    """
    in_a_row, whose, _, _, loss, norm, scale = told
    if not in_a_row:
        return ""
    facts = f"loss {loss:.4g}, gradient norm {norm:.4g}, learning rate {rate:.4g}, scale {scale:g}"
    facts += f", the loss of process {whose - 1:.0f}" if whose else ""
    if in_a_row >= most:
        raise Failed(
            f"{in_a_row:.0f} updates in a row were not finite, the last at step {step} ({facts}); the checkpoints are "
            "intact: take a lower --learning-rate, --clip 1, or --precision no, and another --out"
        )
    if precision == "fp16" and in_a_row <= 4:  # it looks for its scale in that way
        return ""
    return f"an update was left out, since it was not finite ({facts})"


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

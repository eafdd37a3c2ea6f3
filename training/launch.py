"""How a start of a run meets, holds its folder and ends: RUN/exit.json has the code, since launchers turn all into 1."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.retention import step_of, steps
from ..console import say
from ..distributed import rendezvous
from ..distributed.rendezvous import Finding, Parted
from ..errors import Failed, Refused, Unsound, refusing
from .log import versions
from .run_config import recorded
from .run_folder import Hold, check_folder, locked, read_config, write_json
from .signals import end_with_launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..checkpoint.writer import Writer
    from .state import TrainState
    from .update import Agreed

REASONS = {0: "done", 75: "stopped early by a signal", 130: "interrupted"}
AT_ONCE = "interrupted at once: before the first step, or by a second Ctrl-C"
# For how long one that ends in the middle of its steps waits for the others, which may be in a collective with it: they hear
# of it only when its sockets close. Where all end for the same reason they come at once.
ALONE_S, OF_PEERS_S, INTERRUPTED_S = 5.0, 10.0, 1.0


class Start:
    """A start of a run: its processes, what is closed when it ends, and what exit.json will say."""

    def __init__(self, folder: Path, stack: ExitStack, *, timeout: int) -> None:
        self.folder, self.stack = folder, stack
        self.met = rendezvous.current()
        self.met.seconds = float(max(timeout, 1))
        self.hold: Hold | None = None
        """The folder, on the main process once it has met the others."""
        self.training = False
        """Whether collectives are under way, with which others may be waiting for this process."""
        self.ended: dict[str, Any] = {"code": 1, "step": 0, "steps": 0, "reason": "it failed before its first step"}

    def meet(self, facts: Callable[[], Mapping[str, Any]], *, precision: str) -> "Accelerator":
        """Hold the folder, agree on what all were started with, and join the processes; raises Refused, on all of them.

        "auto" stands for the precision that the run began with, or for what suits the main process's machine.
        """
        if self.met.rank == 0:
            with refusing():
                held = self.stack.enter_context(locked(self.folder))
                check_folder(self.folder)
                self.hold = held
                self.ended |= stood(self.folder)
                (self.folder / "exit.json").unlink(missing_ok=True)  # a scheduler must not read it again
        self.met.agree("settings", lambda: {**facts(), "versions": versions(), "processes": self.met.world})
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        from ..distributed.collectives import ANEW
        from .malloc import keep_freed
        from .precision import fastest

        if precision == "auto":
            precision = self.met.of_main("precision", lambda: recorded(self.folder).get("precision") or fastest())

        waits = InitProcessGroupKwargs(init_method=ANEW, timeout=timedelta(seconds=self.met.seconds))
        accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[waits])
        if accelerator.device.type == "cpu":
            keep_freed()
        return accelerator

    def ready(self) -> None:
        """The last point before the first step: what is refused is refused by now."""
        self.met.agree("ready", dict)
        self.training = True

    def note(self) -> None:
        """Write exit.json, if this process is the one to do it; a refusal also where the folder could not be held."""
        told = self.ended | {"time": round(time.time(), 3)}
        held = self.hold is not None and self.hold.still_ours()
        run = any((self.folder / name).exists() for name in ("exit.json", "config.json")) or self.met.world > 1
        if self.met.rank > 0 or not (held or (self.hold is None and self.ended["code"] == 2 and run)):
            return
        with suppress(OSError, Refused), nullcontext() if held else locked(self.folder):  # another run's stays
            if not held:
                told |= stood(self.folder)
            write_json(self.folder / "exit.json", told)  # on a full disk the code of the process has to do


def stood(folder: Path) -> dict[str, int]:
    """Where the run in a folder stands as far as names tell: `step` of its newest checkpoint, `steps` of all of it."""
    step = total = 0
    with suppress(OSError):
        step = next((step_of(path) or 0 for path in reversed(steps(folder / "checkpoints"))), 0)
    with suppress(Refused, TypeError, ValueError):
        total = int(read_config(folder).get("steps", 0))
    return {"step": step, "steps": total}


@contextmanager
def starting(folder: Path, *, timeout: int) -> Iterator[Start]:
    """A start of the run in `folder`, however it ends: all its processes end with one code, for one reason, said once.

    `Failed` and the loss of another process end here, as code 1; everything else goes on. A refusal (code 2) is raised on
    every process, whichever has found it.
    """
    end_with_launcher()
    with ExitStack() as stack:
        start = Start(folder, stack, timeout=timeout)
        try:
            yield start
        except BaseException as error:
            _end(start, error)
        else:
            _end(start, None)


def _end(start: Start, error: BaseException | None) -> None:
    own, seconds, fallback = _finding(start, error)
    outcome = start.met.part(own, seconds=seconds, fallback=fallback)
    start.ended |= {"code": outcome.code, "reason": outcome.words}
    start.note()
    traced = error is not None and not isinstance(error, Failed | Refused | Parted) and own is not None
    alone = start.met.world == 1
    if outcome.first == start.met.rank and not traced and (outcome.code == 1 or (outcome.code == 2 and not alone)):
        say(f"viewmill: {outcome.words}")
    start.met.farewell(outcome)
    if not outcome.silent and error is None and not alone:
        import torch

        # together: a process that ends while gloo's threads still serve the other one is aborted at times
        torch.distributed.destroy_process_group()
    if traced and error is not None:
        raise error
    if outcome.code == 2:
        refused = error if isinstance(error, Refused) and alone else Refused(outcome.words)
        refused.said = not alone
        raise refused


def _finding(start: Start, error: BaseException | None) -> tuple[Finding | None, float | None, str]:
    """How this process ends, for how long it waits for the others, and what is said where nobody knows why."""
    alone = ALONE_S if start.training else None
    if error is None:
        return Finding(start.ended["code"], start.ended["reason"]), None, ""
    if isinstance(error, Refused):
        return Finding(2, str(error)), alone, ""
    if isinstance(error, Failed):
        return Finding(1, str(error)), alone, ""
    if isinstance(error, Parted):
        return None, None, ""
    if isinstance(error, KeyboardInterrupt):
        return Finding(130, AT_ONCE), INTERRUPTED_S, ""
    words = f"{type(error).__name__}: {error}"
    if start.met.world > 1:
        from ..distributed.collectives import of_peers

        if of_peers(error):
            return None, OF_PEERS_S, str(error).strip().splitlines()[0]
    return Finding(1, words), alone, ""


def shared(error: Refused) -> None:
    """Tell the other processes of what this one refuses before it has begun; then the person, once."""
    met = rendezvous.current()
    if met.world == 1 or error.said:
        return
    outcome = met.part(Finding(2, str(error)))
    if outcome.first == met.rank:
        say(f"viewmill: {outcome.words}")
    met.farewell(outcome)
    error.said = True


@contextmanager
def standing(start: Start, writer: "Writer", note: Callable[..., None], *, first: int, init: bool = False) -> Iterator[None]:
    """Around the steps of a start that began at step `first`: exit.json will say where the run stands however they end.

    Where numbers were no longer finite, the run falls back to its newest sound checkpoint, and is told so; `note` writes a
    record. With `init` the command takes weights to begin with.
    """
    saved = first

    def stand() -> int:
        return saved if writer.saved is None else writer.saved.step

    try:
        yield
    except Failed as error:
        words = str(error)
        writer.wait()
        if isinstance(error, Unsound) and start.met.rank == 0:
            found = writer.fall_back()
            writer.saved, saved = None, (step_of(found) or 0) if found else 0
            left = "no checkpoint was sound, and what was written is set aside"
            if found:
                left = f"the newest sound checkpoint is that of step {saved} ({found}), later ones are set aside"
            begin = f" (--init {found} begins with its weights)" if found and init else ""
            advice = f"take a lower --learning-rate, --clip 1, or --precision no, and another --out{begin}"
            words = f"{words}; {left}; {advice}"
        note("failed", step=stand(), text=words)
        raise type(error)(words) from error
    finally:
        writer.wait()
        start.ended["step"] = stand()


def at_its_end(state: "TrainState", *, step: int) -> str:
    """Why a training that has taken all its steps has failed all the same."""
    if left := int(state.scaler["in_a_row"]):
        return f"the last updates were left out, since they were not finite: {left} in a row, up to step {step}"
    return f"after the last update, of step {step}, the network gives no finite loss any more"


def left_out(agreed: "Agreed", *, step: int, rate: float, most: int, precision: str) -> str:
    """What to say of the update at `step` that all have `agreed` on: "" unless it was not finite.

    Raises Unsound where it is the last of `most` in a row.
    """
    from .update import SEARCHES

    in_a_row = agreed.masked_in_a_row
    if not in_a_row:
        return ""
    facts = f"loss {agreed.loss:.4g}, gradient norm {agreed.norm:.4g}, learning rate {rate:.4g}, scale {agreed.scale:g}"
    facts += f", the loss of process {agreed.not_finite_on - 1:.0f}" if agreed.not_finite_on else ""
    if in_a_row >= most:
        raise Unsound(f"{in_a_row:.0f} updates in a row were not finite, the last at step {step} ({facts})")
    if precision == "fp16" and in_a_row <= SEARCHES:  # it looks for its scale in that way
        return ""
    return f"an update was left out, since it was not finite ({facts})"

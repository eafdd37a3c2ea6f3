"""A run's folder: one run at a time, one configuration, and how it ended.

RUN/config.json    what the run is; a second start must say the same
RUN/log.jsonl      what happened, one record a line: the truth, of which every screen is a view
RUN/checkpoints/   see checkpoint/layout.py
RUN/exit.json      how it ended: launchers turn every child's exit code into 1, so the code stands here too
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Refused
from ..files.locking import hold
from ..files.opening import Unusable, descriptor_to_change, replacing
from ..files.typed import Misfit, read_json

KEPT = ("log.jsonl", "evaluation.jsonl", "results.json", "detections.json", "predictions.png")
"""What stands in a run's folder only after its config.json."""


class Hold(NamedTuple):
    """A run's folder that this process holds, by an open file that is its lock."""

    folder: Path
    descriptor: int

    def still_ours(self) -> bool:
        """Whether the file that is locked is still the folder's: either may have been removed, moved or replaced."""
        try:
            there = os.stat(self.folder / ".lock", follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self.descriptor))


@contextmanager
def locked(folder: Path) -> Iterator[Hold]:
    """Hold `folder` for one run, made where it is missing; the kernel lets go of it even after kill -9."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise Refused(f"{folder} is a file: name a folder for the run") from None
    except OSError as error:
        raise Refused(f"{folder} cannot be made ({error.strerror}): choose another --out") from None
    try:
        descriptor = descriptor_to_change(folder / ".lock", os.O_RDWR)
    except Unusable as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(f"{folder} cannot be written to ({error.strerror}): choose another --out") from None
    try:
        hold(descriptor, folder, unheld="see to it that no other run writes there")
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise Refused(
            f"{folder} is in use by another run ({holder or 'which has only begun'}): wait for it, or choose another --out"
        ) from None
    try:
        job = f", Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # a full disk: the lock itself needs no room
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}{job}, since {began}\n".encode(), 0)
        yield Hold(folder, descriptor)
    finally:
        os.close(descriptor)


def check_folder(folder: Path) -> None:
    """Raise Refused where `folder` has files under a run's names without being a run's: those are somebody else's."""
    if (folder / "config.json").exists():
        return
    if found := [name for name in KEPT if os.path.lexists(folder / name)]:
        raise Refused(f"{folder} has a file {found[0]} that is of no run, since it has no config.json: choose another --out")


def difference(config: Mapping[str, Any], earlier: Mapping[str, Any]) -> str:
    """The first key, dotted, in which two configurations differ, in words; "" where they are the same."""
    config, earlier = _flat(config), _flat(earlier)
    for key in [*config, *(key for key in earlier if key not in config)]:
        if config.get(key) != earlier.get(key):
            return f"{key} = {earlier.get(key)!r}, this one has {config.get(key)!r}"
    return ""


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries by dotted names, so that a difference is named where it lies and none hides another of its name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found |= _flat({f"{key}[{place}]": item for place, item in enumerate(value)}, prefix)
        elif isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """What stands in the configuration of the run in `folder`; raises Refused where there is none.

    As whichever version wrote it: run_config.py makes of it what this version has.
    """
    try:
        return read_json(folder / "config.json", dict[str, Any])
    except FileNotFoundError:
        raise Refused(f"{folder} holds no run: it has no config.json; name the --out of a training") from None
    except Misfit as error:
        raise Refused(f"{error}: it is damaged") from None
    except OSError as error:
        raise Refused(f"{folder / 'config.json'} cannot be read: {error}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

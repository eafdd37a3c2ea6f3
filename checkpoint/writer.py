"""Checkpoints written beside the training: it stands still while its tensors are copied, not while they go to the disk."""

import errno
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import finite, layout, tensorfile

SPARE = 8 << 20  # bytes: manifest, folders and the blocks that files round up to, with much to spare
ROOM = "make room there"
WRITABLE = "make that folder writable"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
    errno.EROFS: WRITABLE,
    errno.EACCES: WRITABLE,
    errno.EPERM: WRITABLE,
    errno.EEXIST: "remove what is in its place",
}
Parts = Mapping[str, Mapping[str, Tensor]]


class Saved(NamedTuple):
    """The newest checkpoint that is complete, and time.monotonic() when it was."""

    step: int
    path: Path
    time: float


class Writer:
    """Writes checkpoints to `folder` in a thread of its own, one at a time; see `checkpoint.write` for what stays there.

    On leaving it waits for the one under way. What fails is told by `take_faults`, not raised: a run outlives a full disk.
    The thread is no daemon: a process that ends by an exception completes the checkpoint too. Killed, it leaves older ones.
    """

    def __init__(self, folder: Path, *, keep: int = 2, keep_every: int = 0) -> None:
        self.saved: Saved | None = None
        self.failed_step: int | None = None
        """Step of the last one submitted, if that has failed; None while it is under way."""
        self._folder, self._keep, self._keep_every = folder, keep, keep_every
        self._copies: dict[str, dict[str, Tensor]] = {}
        self._faults = deque[str]()
        # not the thread itself: its join(), once interrupted, takes it for ended (Python 3.11), and so does leaving
        self._under_way: threading.Event | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wait()

    def submit(self, step: int, parts: Parts, facts: Mapping[str, Any]) -> str:
        """Wait for the one under way, copy `parts` (tensors on any device) and `facts`, and begin to write them.

        Returns the first tensor that is not finite, "" where all are: otherwise nothing is written. Where the facts say that
        it is not `sound`, the newest that is stays too.
        """
        self.wait()
        self.failed_step = None
        told = json.loads(json.dumps(facts))
        ended = threading.Event()
        try:
            if name := self._copy(parts):
                return name
            what = (step, self._copies, told, ended)
            threading.Thread(target=self._write, args=what, name=f"checkpoint of step {step}").start()
        except (MemoryError, RuntimeError) as error:  # no memory for a copy, no further thread: training waits instead
            if name := finite.unsound(parts):
                return name
            self._faults.append(f"training waited for the checkpoint of step {step}: {error}")
            self._write(step, parts, told, ended)
        else:
            self._under_way = ended
        return ""

    def fall_back(self) -> Path | None:
        """Set aside what is newer than the newest sound checkpoint, which is returned; None where there is none."""
        self.wait()
        found, remarks = finite.fall_back(self._folder)
        self._faults.extend(remarks)
        return found

    def wait(self) -> None:
        """Until nothing is under way."""
        if self._under_way is not None:
            self._under_way.wait()
            self._under_way = None

    def take_faults(self) -> list[str]:
        """What failed, and what else a person should know, since this was last asked."""
        taken = []
        while self._faults:
            taken.append(self._faults.popleft())
        return taken

    @torch.no_grad()
    def _copy(self, parts: Parts) -> str:
        """Into memory that is used again each time: new memory costs several times as long as the copy, in page faults.

        Returns the first tensor that is not finite, "" where all are.
        """
        fault = ""
        before = {(part, key): tensor for part, tensors in self._copies.items() for key, tensor in tensors.items()}
        self._copies = {part: {} for part in parts}
        for part, tensors in parts.items():
            for key, tensor in tensors.items():
                place = before.pop((part, key), None)
                if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
                    place = torch.empty(tensor.shape, dtype=tensor.dtype)
                self._copies[part][key] = place
                if not finite.copy_(place, tensor):
                    fault = fault or f"{part} {key}"
        return fault

    def _write(self, step: int, parts: Parts, facts: dict[str, Any], ended: threading.Event) -> None:
        try:
            spare = None if facts.get("sound", True) else finite.newest(self._folder)
            keeps = {"keep": self._keep, "keep_every": self._keep_every, "spare": spare}
            done = layout.write(self._folder, step, parts, facts, **keeps)
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, "look at the disk")
            self._fail(step, f"{error.filename}: {error.strerror}; {remedy}")
        except Exception as error:
            self._fail(step, f"{self._folder}: {type(error).__name__}: {error}")
        else:
            self.saved = Saved(step, done.path, time.monotonic())
            self._faults.extend(done.remarks)
        finally:
            ended.set()

    def _fail(self, step: int, text: str) -> None:
        self.failed_step = step
        self._faults.append(f"no checkpoint of step {step}: {text}; training goes on, older ones are as they were")


def needed_bytes(parts: Parts) -> int:
    """Bytes of a checkpoint's tensors on the disk."""
    return sum(tensorfile.size_of(tensors) for tensors in parts.values())


def check_room(folder: Path, parts: Parts, *, keep: int = 2) -> str | None:
    """Whether `folder`, which need not exist, has room for checkpoints of `parts`; returns a warning where that may end.

    `keep` stay and one more is written before any goes; those that are there have their room already. Raises ValueError
    where not even one fits, or none can be written.
    """
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        status, there = os.statvfs(place), len(layout.steps(folder))
    except OSError as error:
        raise ValueError(f"{folder} cannot be used ({error.strerror}): choose another folder") from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{place} cannot be written: {WRITABLE}, or choose another")
    if not status.f_blocks:  # a file system that does not say
        return None
    free, one = status.f_bavail * status.f_frsize, needed_bytes(parts) + SPARE
    room, more = f"{folder} has {free / 1e9:.2f} GB free", keep + 1 - min(there, keep)
    if free < one:
        raise ValueError(f"{room} and a checkpoint takes {one / 1e9:.2f} GB: {ROOM}, or choose another folder")
    if free < more * one:
        return f"{room}; {more} more checkpoints, before the first is removed, take {more * one / 1e9:.2f} GB: {ROOM}"
    return None

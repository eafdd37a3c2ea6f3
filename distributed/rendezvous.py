"""Where the processes of a run agree before its first step, and hear how each of them ends: by a store, no collective.

A collective with a process that refuses meanwhile ends as that one does, with an error of sockets in place of the reason.
So, until the first step, processes wait for one another here alone, and collectives are begun only where all have agreed.
Three rules make every refusal that of all, however it falls in time:

1. What a process finds it posts, wherever it stands (`part`); then it waits until all have posted how they end.
   That another process has come to another point is such a finding too: it would wait for ever (`_arrive`).
2. One that waits at a point looks for such posts too, and comes to `part` itself (`Parted`). One that works finds them at
   its next point. What is collective before the first step (the mesh of gloo, the wrapping of the network) follows at once
   on a point that all have reached, and nothing in it refuses.
3. Each reads all posts and takes the same one: refusals before failures, lower ranks before higher. Nobody ends before the
   main process has written it down and all have read it (`farewell`).

So nobody closes a socket while another is still building the mesh: to end, it needs the posts of all, and a process posts
only once it has left the making of the mesh. What remains are processes that are killed: those are waited for as long as
`--timeout` says, or, while steps are taken, for some seconds after their sockets have closed.

With one process there is no store, and everything here is the identity. No torch is loaded before the first point.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from ..errors import Failed, Refused
from .difference import difference, processes

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # as accelerate looks for them
WORLDS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
FOR_EVER_S = 30 * 86400.0  # a conversion may take days; a main process that is killed meanwhile takes the store with it
SEVERITY = (2, 1, 130, 75, 0)  # of exit codes
HANDSHAKE_S = 10.0


class Parted(Exception):
    """Another process ends before its time: `part` says why."""


class Finding(NamedTuple):
    """How a process ends: the exit code, and the reason in words."""

    code: int
    words: str


class Outcome(NamedTuple):
    """How all of them end. `first` says it to the person: the lowest rank that is there."""

    code: int
    words: str
    first: int
    present: Sequence[int]
    silent: Sequence[int]


class Meeting:
    """The processes of this start, of which this one is `rank` of `world`."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.seconds = 600.0
        """How long one waits for the others."""
        self._store: Any = None
        self._points = 0

    @property
    def store(self) -> Any:
        """The key-value store, in a part that is this start's own: torchrun serves one for all restarts.

        Raises Failed where it cannot be reached.
        """
        if self._store is None:
            self._store = _connected(self.rank, self.world, self.seconds)
        return self._store

    def agree(self, point: str, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Wait until all are here; raises Refused, on all, where one has other facts, and Parted where one ends instead."""
        if self.world == 1:
            return
        told = self._exchange(point, json.dumps(facts(), default=str))
        if fault := difference([json.loads(text) for text in told]):
            raise Refused(fault)

    def of_main(self, point: str, compute: Callable[[], Any], *, seconds: float | None = None) -> Any:
        """What the main process computes (JSON); the others wait for it `seconds`. Raises Parted where one ends instead."""
        if self.world == 1:
            return compute()
        key = self._arrive(point)
        if self.rank == 0:
            told = compute()
            _talking(lambda: self.store.set(key, json.dumps(told)))
            return told
        if self._await([key], self.seconds if seconds is None else seconds):
            raise Failed(self._late(point, [0]))
        return json.loads(_talking(lambda: self.store.get(key)))

    def part(self, own: Finding | None, *, seconds: float | None = None, fallback: str = "") -> Outcome:
        """How all of them end, of whom this one ends as `own` says: None where it has only heard of it.

        Args:
            seconds: how long to wait for the others' posts.
            fallback: what to say where nobody knows a reason.
        """
        if self.world == 1:
            return Outcome(*(own or Finding(1, fallback)), first=0, present=[0], silent=[])
        seconds, everyone = self.seconds if seconds is None else seconds, list(range(self.world))
        told: dict[int, Finding | None] = {self.rank: own}
        leaving = set[int]()
        try:
            self._post(own, stays=True)
            missing = self._await([f"left {rank}" for rank in everyone], seconds, heed=False)
            silent = [rank for rank in everyone if f"left {rank}" in missing]
            if len(silent) == self.world - 1:  # it goes alone: nobody is to wait for it any more
                self._post(own, stays=False)
            for rank in everyone:
                if rank not in silent:
                    found, stays = json.loads(_talking(lambda rank=rank: self.store.get(f"left {rank}")))
                    told[rank] = found and Finding(*found)
                    leaving |= set() if stays else {rank}
        except Failed as error:  # the store went with the main process, or with the launcher
            if own is not None and own.code not in (1, 2) and served_by_launcher():
                return Outcome(*own, first=self.rank, present=[self.rank], silent=[0])  # as all had agreed before it went
            silent, fallback = [0], fallback or str(error)
        present = sorted((told.keys() - leaving) | {self.rank})
        return Outcome(*_common(told, silent, fallback), first=present[0], present=present, silent=silent)

    def farewell(self, outcome: Outcome) -> None:
        """Once the first of `outcome` has told the person: nobody ends before all know."""
        if self.world == 1:
            return
        try:
            if self.rank == outcome.first:
                _talking(lambda: self.store.set("told", ""))
                self._await([f"read {rank}" for rank in outcome.present[1:]], HANDSHAKE_S, heed=False)
            else:
                self._await(["told"], HANDSHAKE_S, heed=False)
                _talking(lambda: self.store.set(f"read {self.rank}", ""))
        except Failed:  # it is over in any case
            return

    def _post(self, own: Finding | None, *, stays: bool) -> None:
        _talking(lambda: self.store.set(f"left {self.rank}", json.dumps([own, stays])))
        _talking(lambda: self.store.set("left", ""))

    def _arrive(self, point: str) -> str:
        """The key of a point; raises Refused where the first process to get this far came to another one."""
        self._points += 1
        others = _talking(lambda: self.store.compare_set(f"point {self._points}", "", point)).decode()
        if others != point:
            raise Refused(
                f"the processes were not started alike: this one is at the point {point!r}, another at {others!r}. Start "
                "all of them with the same command, settings, data and versions"
            )
        return f"{self._points} {point}"

    def _exchange(self, point: str, text: str) -> list[str]:
        at = self._arrive(point)
        keys = [f"{at} {rank}" for rank in range(self.world)]
        _talking(lambda: self.store.set(keys[self.rank], text))
        if missing := self._await(keys, self.seconds):
            raise Failed(self._late(point, [rank for rank, key in enumerate(keys) if key in missing]))
        return [text.decode() for text in _talking(lambda: self.store.multi_get(keys))]

    def _await(self, keys: list[str], seconds: float, *, heed: bool = True) -> list[str]:
        """Until all `keys` are there; returns those that are not after `seconds`. By looking, so that Ctrl-C is heard.

        Raises Parted where a process ends before its time, unless none of them is to `heed` that.
        """
        until, pause = time.monotonic() + seconds, 0.001
        while not self._there(keys):
            if heed and self._there(["left"]) and not self._there(keys):  # the last to come may have left already
                raise Parted
            if time.monotonic() >= until:
                return [key for key in keys if not self._there([key])]
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return []

    def _there(self, keys: list[str]) -> bool:
        return not keys or _talking(lambda: self.store.check(keys))

    def _late(self, point: str, ranks: Sequence[int]) -> str:
        return (
            f"{processes(ranks)} did not come to the point {point!r} within {self.seconds:.0f} s (--timeout): look at what "
            "it printed, or give it longer"
        )


@cache
def current() -> Meeting:
    """The meeting of this process's start."""
    rank, world = (_number(names) for names in (RANKS, WORLDS))
    return Meeting(rank or 0, world or 1)


def served_by_launcher() -> bool:
    """Whether the store is torchrun's, which outlives the processes; else it is process 0's."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _number(names: Iterable[str]) -> int | None:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), None)


def _connected(rank: int, world: int, seconds: float) -> Any:
    from datetime import timedelta

    from torch import distributed

    keys: Any = distributed  # whose types leave the stores out
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT", "29500")
    serves = rank == 0 and not served_by_launcher()
    try:
        waits = {"timeout": timedelta(seconds=seconds), "wait_for_workers": False, "multi_tenant": True}
        store = keys.TCPStore(host, int(port), world, is_master=serves, **waits)
    except (RuntimeError, ValueError) as error:
        doing = "cannot be opened" if serves else f"did not answer within {seconds:.0f} s (--timeout)"
        raise Failed(
            f"the processes cannot meet: {host} port {port} {doing} ({_line(error)}); is MASTER_ADDR that of process 0, and "
            "is it running?"
        ) from error
    return keys.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _talking(ask: Callable[[], Any]) -> Any:
    """What the store answers; raises Failed where it is gone, with the process that serves it."""
    try:
        return ask()
    except Failed:
        raise
    except RuntimeError as error:  # torch's own kinds of it differ between versions
        raise Failed(
            f"process 0, or its launcher, no longer answers ({_line(error)}): start it again to continue"
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _common(told: Mapping[int, Finding | None], silent: Sequence[int], fallback: str) -> Finding:
    """The same for all who have read the same."""
    found = {rank: finding for rank, finding in sorted(told.items()) if finding is not None}
    code = min((finding.code for finding in found.values()), key=SEVERITY.index, default=1)
    if found and code in (1, 2):
        rank, words = next((rank, finding.words) for rank, finding in found.items() if finding.code == code)
        return Finding(code, words if rank == 0 else f"process {rank}: {words}")
    if silent:
        because = f" ({fallback})" if fallback else ""
        return Finding(1, f"{processes(silent)} no longer answers{because}; start it again to continue")
    if not found:
        return Finding(1, f"another process broke off ({fallback}); start it again to continue")
    return Finding(code, next(finding.words for finding in found.values() if finding.code == code))

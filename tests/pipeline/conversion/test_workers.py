"""Workers: results come in order whatever happens to the processes, and a death or a hang costs one image."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from viewmill.pipeline.beton.reader import RAW
from viewmill.pipeline.conversion import workers
from viewmill.pipeline.conversion.encoding import Encoding
from viewmill.pipeline.conversion.workers import encoded
from viewmill.pipeline.sources.candidate import Candidate, Fetched, Rejected

PIXELS = Encoding(mode="raw")


class Dot(NamedTuple):
    """A place that holds one pixel of colour `number`."""

    number: int

    def fetch(self) -> Fetched:
        return Fetched(np.full((1, 1, 3), self.number % 256, np.uint8))


class Killer(NamedTuple):
    """A place that kills whoever fetches it."""

    number: int

    def fetch(self) -> Fetched:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Sleeper(NamedTuple):
    """A place that never answers."""

    number: int

    def fetch(self) -> Fetched:
        time.sleep(1_000)
        raise AssertionError


def serving() -> set[int]:
    """The workers of this process: what its fork server has forked."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    servers = {pid for pid, parent in parents.items() if parent == os.getpid()}
    return {pid for pid, parent in parents.items() if parent in servers}


def candidate(place) -> Candidate:
    name = f"{type(place).__name__} {place.number}"
    return Candidate(name, name, place, None, 10)


def told(outcomes) -> list[str | int]:
    """Of each outcome the path that was rejected, or the colour of its pixel."""
    return [outcome.path if isinstance(outcome, Rejected) else outcome[1].data[0] for outcome in outcomes]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_outcomes_come_in_the_order_of_the_items(count):
    items = [candidate(Dot(i)) if i % 7 else Rejected(f"no {i}", "listed so") for i in range(250)]
    outcomes = list(encoded(iter(items), PIXELS, workers=count))
    assert told(outcomes) == [i if i % 7 else f"no {i}" for i in range(250)]
    assert all(outcome[1].mode == RAW for outcome in outcomes if not isinstance(outcome, Rejected))


def test_only_rejected_items_and_none_at_all_need_no_worker(monkeypatch):
    monkeypatch.setattr(workers, "_Worker", None)  # calling it would raise
    assert list(encoded(iter([Rejected("a", "b")]), PIXELS, workers=2)) == [Rejected("a", "b")]
    assert list(encoded(iter([]), PIXELS, workers=2)) == []


def test_an_image_that_kills_its_worker_is_rejected_and_all_others_come_through():
    deadly = {0, 70, 71, 199}
    items = [candidate(Killer(i) if i in deadly else Dot(i)) for i in range(200)]
    outcomes = list(encoded(iter(items), PIXELS, workers=2))
    assert told(outcomes) == [f"Killer {i}" if i in deadly else i for i in range(200)]
    reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Rejected)}
    assert reasons == {"the process that decoded it died with exit code -9 (out of memory?)"}


def test_an_image_that_takes_for_ever_is_rejected_after_the_limit(monkeypatch):
    monkeypatch.setattr(workers, "LIMIT_S", 1.0)
    items = [candidate(Sleeper(i) if i == 5 else Dot(i)) for i in range(20)]
    outcomes = list(encoded(iter(items), PIXELS, workers=1))
    assert told(outcomes) == [f"Sleeper {i}" if i == 5 else i for i in range(20)]
    assert isinstance(outcomes[5], Rejected)
    assert outcomes[5].reason == "took longer than 1 s"


def test_a_worker_killed_from_outside_costs_nothing():
    def items():
        for i in range(2_000):
            if i in (700, 1_500):
                os.kill(max(serving()), signal.SIGKILL)
            yield candidate(Dot(i))

    assert told(encoded(items(), PIXELS, workers=2)) == [i % 256 for i in range(2_000)]


def test_workers_that_cannot_start_are_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(workers, "_serve", os._exit)  # dies with its pipe as the exit code, which is none
    with pytest.raises(OSError, match="conversion workers do not start"):
        list(encoded(iter([candidate(Dot(0))]), PIXELS, workers=1))


class Block(NamedTuple):
    """A place that holds a megabyte of pixels."""

    number: int

    def fetch(self) -> Fetched:
        return Fetched(np.full((500, 700, 3), self.number % 256, np.uint8))


def test_large_results_wait_in_their_pipes_until_it_is_their_turn(monkeypatch):
    monkeypatch.setattr(workers, "HELD_BYTES", 8 << 20)
    most = 0

    def watched(self, place, result, *, note=workers.Chunk.note):
        nonlocal most
        note(self, place, result)
        chunks.add(self)
        most = max(most, sum(chunk.held for chunk in chunks))

    chunks = set()
    monkeypatch.setattr(workers.Chunk, "note", watched)
    items = [candidate(Block(i)) for i in range(300)]
    for number, outcome in enumerate(encoded(iter(items), PIXELS, workers=3)):
        assert outcome[1].data[0] == number % 256
        time.sleep(0.001)  # a slow disk
    assert number == 299
    assert most < 24 << 20  # what was held, and a piece of each worker on top


def test_a_worker_that_waits_to_be_heard_is_not_taken_for_one_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "HELD_BYTES", 0)
    monkeypatch.setattr(workers, "LIMIT_S", 1.0)
    outcomes = encoded((candidate(Block(i)) for i in range(200)), PIXELS, workers=2)
    first = next(outcomes)
    time.sleep(2.5)  # nobody listens
    assert all(not isinstance(outcome, Rejected) for outcome in [first, *outcomes])


def test_no_worker_outlives_the_conversion():
    before = serving()
    outcomes = encoded((candidate(Dot(i)) for i in range(10_000)), PIXELS, workers=2)
    next(outcomes)
    assert len(serving() - before) == 2
    outcomes.close()
    assert not serving() - before

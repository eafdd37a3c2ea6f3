"""Processes that differ, or of which one refuses: all end with one code and the same words, however it falls in time."""

import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from faults import TINY, Fault, Started, ending, figures, records, run

from viewmill.distributed.difference import difference, processes
from viewmill.distributed.rendezvous import Finding, Meeting, Parted
from viewmill.errors import Failed, Refused

IMAGES = 165


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    return figures(tmp_path_factory.mktemp("factors"), IMAGES)


def train(beton: Path, *more: object) -> tuple[object, ...]:
    return ("train", "simclr", "--data", beton, *TINY, "--threads", "1", "--steps", "4", *more)


def refused(done: Started, *words: str) -> None:
    """All ended with code 2 for one reason, which was said once and stands in exit.json."""
    said = done.said()
    assert [process.exitcode for process in done.processes] == [2] * len(done.processes), said
    assert "Traceback" not in said
    assert said.count("viewmill: ") == 1
    told = ending(done.out)
    assert told["code"] == 2
    assert f"viewmill: {told['reason']}\n" in said
    assert [word for word in words if word not in told["reason"]] == []
    assert not records(done.out)


# meetings themselves, of threads that each believe to be a process


@pytest.fixture
def meet(monkeypatch):
    """`meet(world, of_rank)` runs `of_rank(meeting)` for each rank at once; what it returns or raises, by rank."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    def started(world, of_rank, seconds=20.0):
        found = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))

        def go(rank):
            meeting = Meeting(rank, world)
            meeting.seconds = seconds
            try:
                found[rank] = of_rank(meeting)
            except BaseException as error:
                found[rank] = error

        threads = [threading.Thread(target=go, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [found[rank] for rank in range(world)]

    return started


def ended(meeting: Meeting, do) -> tuple[int, str]:
    """What a process does that `do`es what it likes and then ends as it should."""
    try:
        do()
        outcome = meeting.part(Finding(0, "done"))
    except Refused as error:
        outcome = meeting.part(Finding(2, str(error)))
    except Failed as error:
        outcome = meeting.part(Finding(1, str(error)))
    except Parted:
        outcome = meeting.part(None)
    meeting.farewell(outcome)
    return outcome.code, outcome.words


def test_what_all_have_is_agreed_on_and_what_one_has_is_named_with_its_rank(meet):
    facts = [{"rate": 1, "more": {"seed": 0}}] * 3
    assert meet(3, lambda met: ended(met, lambda: met.agree("a", lambda: facts[met.rank]))) == [(0, "done")] * 3
    facts = [*facts[:2], {"rate": 1, "more": {"seed": 7}}]
    found = meet(3, lambda met: ended(met, lambda: met.agree("a", lambda: facts[met.rank])))
    assert len(set(found)) == 1
    assert found[0][0] == 2
    assert "differ in more.seed: 0 on processes 0, 1; 7 on process 2" in found[0][1]


@pytest.mark.parametrize("late", range(3), ids=lambda rank: f"process {rank} late")
@pytest.mark.parametrize("finder", range(3), ids=lambda rank: f"found by {rank}")
@pytest.mark.parametrize("at", range(5))
def test_a_refusal_anywhere_is_that_of_all_whoever_is_late(at, finder, late, meet):
    """Before the first point, between two, at one that the main process alone computes, and after the last."""

    def of_rank(met):
        def work(place):
            if met.rank == late:
                time.sleep(0.1)
            if (place, met.rank) == (at, finder):
                raise Refused("it is too small")

        def do():
            work(0)
            met.agree("first", lambda: {"a": 1})
            work(1)
            told = met.of_main("main's", lambda: work(2) or 5)
            if met.rank:
                assert told == 5
                work(2)
            met.agree("last", lambda: {"b": told})
            work(3)
            met.agree("ready", dict)
            work(4)

        return ended(met, do)

    words = "it is too small" if finder == 0 else f"process {finder}: it is too small"
    assert meet(3, of_rank) == [(2, words)] * 3


def test_processes_that_come_to_other_points_are_told_at_once_in_place_of_waiting(meet):
    """One converts where the other has its file: each would wait for the other at another point."""
    began = time.monotonic()

    def of_rank(met):
        def do():
            met.agree("settings", dict)
            if met.rank == 1:
                met.of_main("converted", dict)
            met.agree("configuration", dict)

        return ended(met, do)

    found = meet(3, of_rank, seconds=60)
    assert len(set(found)) == 1
    assert found[0][0] == 2
    assert "'converted'" in found[0][1]
    assert "'configuration'" in found[0][1]
    assert time.monotonic() - began < 20


def test_of_two_refusals_all_tell_the_same_and_a_refusal_comes_before_a_failure(meet):
    kinds = [Failed("zero"), Refused("one"), Refused("two")]

    def of_rank(met):
        def fail():
            time.sleep(0.05 * (2 - met.rank))
            raise kinds[met.rank]

        return ended(met, fail)

    assert meet(3, of_rank) == [(2, "process 1: one")] * 3


def test_a_process_that_never_comes_is_named_within_the_time_that_was_given(meet):
    began = time.monotonic()

    def of_rank(met):
        return None if met.rank == 1 else ended(met, lambda: met.agree("settings", dict))

    main, _, other = meet(3, of_rank, seconds=1.0)
    assert main[0] == other[0] == 1
    assert "process 1 did not come to the point 'settings' within 1 s" in main[1]
    assert time.monotonic() - began < 15


def test_one_process_needs_no_store(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    met = Meeting(0, 1)
    met.agree("a", lambda: pytest.fail("facts are for others"))
    assert met.of_main("b", lambda: 5) == 5
    assert met.part(Finding(75, "stopped"))[:2] == (75, "stopped")
    assert met._store is None


def test_long_values_are_shown_where_they_begin_to_differ():
    told = difference([{"recipe": "x" * 300 + "blur=1" + "y" * 300}, {"recipe": "x" * 300 + "blur=2" + "y" * 300}])
    assert "blur=1" in told
    assert "blur=2" in told
    assert len(told) < 400
    assert processes([0, 1, 2, 5]) == "processes 0 to 2, 5"
    assert "not given on process 0; 0.1 on process 1" in difference([{"rate": None}, {"rate": 0.1}])
    assert difference([{"a": 1}, {"b": 2}]) == ""


# whole runs


def test_another_setting_of_one_process_is_refused_by_both_and_the_folder_is_free_again(beton, tmp_path):
    out = tmp_path / "run"
    done = run(*train(beton), out=out, world=2, own={1: ("--learning-rate", "0.3")})
    refused(done, "differ in learning_rate: not given on process 0; 0.3 on process 1")
    assert not (out / "config.json").exists()
    assert run(*train(beton), out=out, world=2, own={1: ("--threads", "2")}).code == 0


def reordered(beton: Path, folder: Path) -> Path:
    """The same images in another order."""
    from viewmill.pipeline.conversion.convert import convert

    paths = sorted((beton.parent / "images").rglob("*.jpg")) or sorted((beton.parent / "images").rglob("*.png"))
    lines = ["path", *(str(path.relative_to(beton.parent / "images")) for path in reversed(paths))]
    shutil.copytree(beton.parent / "images", folder / "copy")
    (folder / "copy" / "list.csv").write_text("\n".join(lines) + "\n")
    convert([folder / "copy" / "list.csv"], folder / "other.beton")
    return folder / "other.beton"


def test_the_same_images_in_another_order_are_other_data(beton, tmp_path):
    other = reordered(beton, tmp_path)
    refused(run(*train(beton), out=tmp_path / "run", world=2, own={1: ("--data", other)}), "differ in data_fingerprint")


class Gone:
    """A store whose server has ended."""

    def __getattr__(self, name):
        raise RuntimeError("Broken pipe")


@pytest.mark.parametrize("code", [0, 75, 130, 1, 2])
@pytest.mark.parametrize("launcher", [True, False])
def test_an_end_that_all_had_agreed_on_outlives_the_launcher_that_serves_the_store(launcher, code, monkeypatch):
    """Of SIGUSR1 to a launcher, say: its processes stop with a checkpoint, and cannot tell one another any more."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", str(launcher))
    met = Meeting(1, 2)
    met._store = Gone()
    outcome = met.part(Finding(code, "stopped"))
    met.farewell(outcome)
    assert outcome.code == (2 if code == 2 else 1 if code == 1 or not launcher else code)
    assert ("no longer answers" in outcome.words) == (not launcher and code not in (1, 2))


@pytest.mark.parametrize("folder_of", [0, 1])
def test_a_folder_of_images_on_one_process_and_a_file_on_another_are_refused_at_once(folder_of, beton, tmp_path):
    own = {folder_of: ("--data", beton.parent / "images")}
    began = time.monotonic()
    refused(run(*train(beton), out=tmp_path / "run", world=2, own=own), "differ in data: ", "images, to be converted")
    assert time.monotonic() - began < 60


DIFFERENT = {
    "steps": ("--steps", "5"),
    "seed": ("--seed", "1"),
    "region.outer": ("--set", "region.outer=0.3"),
    "temperature": ("--set", "temperature=0.3"),
    "batch": ("--batch", "32"),
    "precision": ("--precision", "no"),
    "timeout": ("--timeout", "30"),
    "keep": ("--keep", "3"),
    "engine": ("--engine", "torch"),
    "placement": ("--placement", "device"),
    "recipe": ("--recipe", "weak"),
    "out": ("--out", "elsewhere"),
    "process 1: ": ("--no-such-flag",),
    "--batch must be 2 or more": ("--batch", "1"),
}


@pytest.mark.chaos
@pytest.mark.parametrize("again", [False, True], ids=["first start", "resumed"])
@pytest.mark.parametrize("key", DIFFERENT)
def test_whatever_differs_is_named_at_once_at_every_start(key, again, beton, tmp_path):
    method = "ring" if key == "region.outer" else "simclr"
    arguments = ("train", method, *train(beton)[2:])
    if again:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert run(*arguments, out=tmp_path / "run", faults=[Fault("signal", 2, 15)]).code == 75
        (tmp_path / "run" / "log.jsonl").unlink()
    began = time.monotonic()
    refused(run(*arguments, out=tmp_path / "run", world=2, own={1: DIFFERENT[key]}), key)
    assert time.monotonic() - began < 60
    if again:
        assert ending(tmp_path / "run")["step"] >= 2
        assert ending(tmp_path / "run")["steps"] == 4


@pytest.mark.chaos
@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("point", range(8))
def test_a_batch_that_does_not_divide_is_refused_alike_whoever_is_late_at_whatever_point(point, late, beton, tmp_path):
    """The race of `connectFullMesh closed by peer`: one side is late at each point, the last of them the end."""
    fault = Fault("late", point, 3.0, rank=late)
    done = run(*train(beton), out=tmp_path / "run", world=3, faults=[fault])
    refused(done, "the global batch of 16 does not divide over 3 processes: use 1, 2, 4, 8 or 16 of them")


@pytest.mark.chaos
def test_what_the_other_process_alone_finds_is_said_by_all(beton, tmp_path):
    gone = {1: ("--data", tmp_path / "gone.beton")}
    refused(run(*train(beton), out=tmp_path / "run", world=2, own=gone), "process 1: ", "gone.beton does not exist")
    gone = {0: ("--data", tmp_path / "gone.beton")}
    refused(run(*train(beton), out=tmp_path / "other", world=2, own=gone), "gone.beton does not exist")
    held = Started("train", "simclr", "--data", beton, *TINY, "--steps", "100000", out=tmp_path / "held")
    held.await_step(1)
    second = run(*train(beton), out=tmp_path / "held", world=2, timeout=60)
    assert [process.exitcode for process in second.processes] == [2, 2]
    assert json.dumps(second.said()).count("in use by another run") == 1
    held.signal(15)
    assert held.finish() == 75

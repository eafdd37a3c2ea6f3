"""Conversions killed, interrupted, starved of room and flooded: whole or not there, again to be had, in flat memory.

What takes minutes bears the mark `chaos` (`make chaos`); a smaller share of each runs always.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from disks import fill_up, mounted
from PIL import Image

from viewmill.pipeline.beton import select
from viewmill.pipeline.beton.manifest import open_trusted, read_columns, sidecars
from viewmill.pipeline.beton.reader import ALLOCATION, FIELD, HEADER, ROW, InvalidBeton, open_beton
from viewmill.pipeline.conversion import workers
from viewmill.pipeline.conversion.convert import convert

ROOT = Path(__file__).resolve().parents[3]
COUNT = 600  # images: enough that encoding takes as long as starting
MOMENTS, LATER = 50, 1.15  # moments of a kill, the last somewhat later than an undisturbed conversion takes
END_S = 5.0  # within which the workers of a killed conversion are gone


def jpeg(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def fill(folder: Path, count: int, *, distinct: int = 12) -> Path:
    """Write `count` images to `folder`, links to a few real files, in three classes."""
    for name in "abc":
        (folder / name).mkdir(parents=True)
    originals = []
    for i in range(min(distinct, count)):
        path = folder / "abc"[i % 3] / f"{i:06d}.jpg"
        path.write_bytes(jpeg(i))
        originals.append(path)
    for i in range(distinct, count):
        os.link(originals[i % distinct], folder / "abc"[i % 3] / f"{i:06d}.jpg")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Conversion:
    """A real `python run.py convert`, in a process group of its own, whose descendants can be told by their environment."""

    def __init__(self, source: Path, target: Path, *flags: str, command: Sequence[str] = (), **options) -> None:
        self.mark = f"viewmill-chaos-{os.getpid()}-{time.monotonic_ns()}"
        usual = [sys.executable, str(ROOT / "run.py"), "convert", str(source), str(target), "--workers", "2", *flags]
        self.process = subprocess.Popen(
            command or usual,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"VIEWMILL_MARK": self.mark},
            **options,
        )

    def finish(self) -> subprocess.CompletedProcess:
        out, err = self.process.communicate(timeout=120)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)

    def kill(self) -> None:
        """As the system does where memory ends. Its workers still hold the other ends of its pipes: those are read later."""
        self.process.kill()
        self.process.wait()

    def alive(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def survivors(self) -> list[int]:
        """The processes of this conversion that are still there END_S later."""
        deadline = time.monotonic() + END_S
        while (found := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def sweep(self) -> None:
        """End what is left of it."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=60)


class Undisturbed(NamedTuple):
    source: Path
    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """Images with a table and with two files that are none, what they become, and how long that takes."""
    source = fill(tmp_path_factory.mktemp("chaos") / "images", COUNT)
    (source / "a" / "bad.jpg").write_bytes(b"no image")
    (source / "c" / "cut.jpg").write_bytes(jpeg(3)[:-200])
    (source / "metadata.csv").write_text("file_name,age\na/000003.jpg,4\n")
    times = []
    for name in ("first", "second"):  # the first fills the caches
        started = time.monotonic()
        done = Conversion(source, tmp_path_factory.mktemp(name) / "out.beton").finish()
        times.append(time.monotonic() - started)
        assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.getbasetemp() / "second0"
    files = contents(folder)
    assert set(files) == {f"out.beton{end}" for end in ("", ".json", ".columns.csv", ".quarantine.jsonl", ".remarks.jsonl")}
    assert files == contents(tmp_path_factory.getbasetemp() / "first0")
    return Undisturbed(source, files, times[1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def moments(count: int, seed: int) -> list[float]:
    """Shares of an undisturbed conversion's time, one at random in each of `count` equal parts."""
    rng = random.Random(seed)
    return [LATER * (i + rng.random()) / count for i in range(count)]


def spread(few: int, seed: int) -> list:
    """`few` moments for every day, MOMENTS others for the chaos."""
    names = lambda values: [pytest.param(value, id=f"{value:.2f}") for value in values]  # noqa: E731
    often = [pytest.param(value, id=f"{value:.3f}", marks=pytest.mark.chaos) for value in moments(MOMENTS, seed + 1)]
    return [*names(moments(few, seed)), *often]


def check_target(target: Path, *, allowed: list[bytes]) -> None:
    """A target is not there, or opens and is one of those that were allowed, byte for byte."""
    if target.exists():
        open_trusted(target)
        assert target.read_bytes() in allowed


@pytest.mark.parametrize("moment", spread(4, seed=1))
def test_a_killed_conversion_leaves_a_whole_file_or_none_and_can_be_started_again(undisturbed, tmp_path, moment):
    target = tmp_path / "out" / "out.beton"
    killed = Conversion(undisturbed.source, target)
    try:
        time.sleep(moment * undisturbed.seconds)
        killed.kill()
        check_target(target, allowed=[undisturbed.files["out.beton"]])
        assert killed.survivors() == []
    finally:
        killed.sweep()
    if not sidecars(target)["manifest"].exists():  # which is there last
        done = Conversion(undisturbed.source, target).finish()
        assert done.returncode == 0, done.stderr
    assert contents(target.parent) == undisturbed.files


@pytest.mark.parametrize("moment", spread(2, seed=7))
def test_a_killed_conversion_over_an_old_file_leaves_the_old_or_the_new_one_whole(undisturbed, tmp_path, moment):
    target = tmp_path / "out" / "out.beton"
    convert([undisturbed.source / "b"], target)
    old, new = target.read_bytes(), undisturbed.files["out.beton"]
    killed = Conversion(undisturbed.source, target, "--overwrite")
    try:
        time.sleep(moment * undisturbed.seconds)
        killed.kill()
        assert target.exists()
        check_target(target, allowed=[old, new])
        assert killed.survivors() == []
    finally:
        killed.sweep()
    done = Conversion(undisturbed.source, target, "--overwrite").finish()
    assert done.returncode == 0, done.stderr
    assert contents(target.parent) == undisturbed.files


@pytest.mark.parametrize("moment", [0.5, *(pytest.param(i, marks=pytest.mark.chaos) for i in moments(MOMENTS, seed=20))])
def test_a_conversion_whose_helpers_are_killed_goes_on_and_loses_nothing(undisturbed, tmp_path, moment):
    """At some moment one of the processes it started, of which the fork server and the tracker are two."""
    target, rng = tmp_path / "out" / "out.beton", random.Random(moment)
    conversion = Conversion(undisturbed.source, target)
    try:
        time.sleep(moment * undisturbed.seconds)
        if helpers := sorted(set(conversion.alive()) - {conversion.process.pid}):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(rng.choice(helpers), signal.SIGKILL)
        done = conversion.finish()
        assert done.returncode == 0, done.stderr
        assert contents(target.parent) == undisturbed.files
        assert conversion.survivors() == []
    finally:
        conversion.sweep()


def test_a_fork_server_that_dies_right_before_its_workers_are_needed_costs_nothing(tmp_path):
    source = fill(tmp_path / "images", 200)
    for number in range(8):
        killed = []

        def kill(estimate, killed=killed) -> None:
            pid = forkserver._forkserver._forkserver_pid  # private, and the only name it has
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        done = convert([source], tmp_path / f"{number}.beton", workers=2, announce=kill)
        assert (done.rows, done.rejected, len(killed)) == (200, 0, 1)


# Dies at every call that changes a file, one after the other: FOLDER/1, FOLDER/2, ... hold what each death left.
DYING = """
import itertools, os, shutil, signal, sys
from pathlib import Path

import numpy as np

from viewmill.pipeline.beton import select
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert

work, source, folder, old = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
left = 0


def mortal(name):
    real = getattr(os, name)

    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            if name == "pwrite":  # a torn write
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, name, call)


for step in itertools.count(1):
    place = folder / str(step)
    if old:
        shutil.copytree(old, place)
    else:
        place.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        try:
            left = step
            for name in ("open", "pwrite", "ftruncate", "fsync", "replace", "unlink"):
                mortal(name)
            if work == "convert":
                convert([source], place / "out.beton", overwrite=bool(old))
            else:
                select.copy_rows(open_beton(source), np.array([4, 1]), place / "out.beton", overwrite=bool(old))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status != signal.SIGKILL:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def few(tmp_path) -> Path:
    """Six images, one of them none, in two classes."""
    folder = fill(tmp_path / "few", 6)
    (folder / "b" / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("work", ["convert", "subset"])
def test_a_death_at_any_step_leaves_what_the_same_command_makes_whole(few, tmp_path, work, old):
    if work == "subset":
        convert([few], tmp_path / "whole.beton")
    source = few if work == "convert" else tmp_path / "whole.beton"
    (tmp_path / "old").mkdir()
    if old:
        convert([few / "a"], tmp_path / "old" / "out.beton")

    def again(target: Path) -> None:
        if work == "convert":
            convert([source], target, overwrite=old)
        else:
            select.copy_rows(open_beton(source), np.array([4, 1]), target, overwrite=old)

    (tmp_path / "new").mkdir()
    again(tmp_path / "new" / "out.beton")
    expected, before = contents(tmp_path / "new"), contents(tmp_path / "old")
    arguments = [work, source, tmp_path / "deaths", tmp_path / "old" if old else ""]
    done = subprocess.run([sys.executable, "-c", DYING, *map(str, arguments)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    deaths = sorted((tmp_path / "deaths").iterdir(), key=lambda path: int(path.name))
    assert contents(deaths[-1]) == expected  # that one was let live
    faults = []
    for place in deaths[:-1]:
        left = contents(place)
        target = place / "out.beton"
        try:
            check_target(target, allowed=[before["out.beton"], expected["out.beton"]] if old else [expected["out.beton"]])
            assert target.exists() or not old
            for name, files in (("manifest", "out.beton.json"), ("columns", "out.beton.columns.csv")):
                assert left.get(files) in (None, before.get(files), expected[files]), f"a {name} of neither file"
            if not sidecars(target)["manifest"].exists() or old:
                again(target)
            assert contents(place) == expected
        except (AssertionError, ValueError, OSError) as error:
            faults.append(f"death {place.name} left {sorted(left)}: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert len(deaths) > 15
    assert not faults, "\n".join(faults)


def test_a_subset_does_not_take_up_what_a_killed_conversion_of_that_name_left(few, tmp_path):
    convert([few], tmp_path / "whole.beton")
    target = tmp_path / "out" / "out.beton"
    target.parent.mkdir()
    (target.parent / "out.beton.quarantine.jsonl.partial").write_text('{"path": "of another", "reason": "conversion"}\n')
    select.copy_rows(open_beton(tmp_path / "whole.beton"), np.array([1, 2]), target)
    assert set(contents(target.parent)) == {"out.beton", "out.beton.json", "out.beton.columns.csv"}


@pytest.mark.parametrize(
    "delay",
    [
        *(0.0, 0.1, 0.3),
        *(pytest.param(i / 1_000, marks=pytest.mark.chaos) for i in range(1, 20)),
        *(pytest.param(i / 20 + 0.02, marks=pytest.mark.chaos) for i in range(25)),
    ],
)
def test_control_c_ends_a_conversion_quietly_and_leaves_nothing(undisturbed, tmp_path, delay):
    target = tmp_path / "out" / "out.beton"
    conversion = Conversion(undisturbed.source, target)
    try:
        assert conversion.process.stderr is not None
        head = conversion.process.stderr.readline()  # what it is going to do: it has begun
        time.sleep(delay)
        os.killpg(conversion.process.pid, signal.SIGINT)
        done = conversion.finish()
        said = head + done.stderr
        # The interpreter itself says so where the signal meets it inside the machinery of an import.
        assert said.count("Traceback") == said.count("Exception ignored in"), said
        if done.returncode == 0 or sidecars(target)["manifest"].exists():  # it was done, and about to end by itself
            assert contents(target.parent) == undisturbed.files
            return
        assert done.returncode == 130
        assert "interrupted" in done.stderr
        assert not target.parent.exists()
        assert conversion.survivors() == []
    finally:
        conversion.sweep()


def refused(done: subprocess.CompletedProcess, target: Path, remedy: str) -> None:
    """Exit code 2 and a message, no traceback, that names the target and the remedy."""
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert done.returncode == 2, said
    joined = said.replace("\n", "")
    assert str(target) in joined, said
    assert remedy in " ".join(said.split()), said


# The data page begins at 2 MiB, the table at 4 MiB.
@pytest.mark.parametrize("limit", [0, 1_000, 1 << 20, (2 << 20) + 10_000, (4 << 20) + 1_000])
def test_no_room_for_a_larger_file_is_a_refusal_that_leaves_nothing(undisturbed, tmp_path, limit):
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    target = tmp_path / "out" / "out.beton"
    refused(Conversion(undisturbed.source, target, preexec_fn=limited).finish(), target, "make room")
    assert not target.parent.exists()


def test_a_small_disk_is_a_refusal_that_leaves_nothing(undisturbed, tmp_path):
    with mounted(tmp_path / "disk", "tmpfs", "size=1m") as disk:
        target = disk / "out" / "out.beton"
        refused(Conversion(undisturbed.source, target).finish(), disk, "make room")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("work", ["convert", "overwrite", "subset"])
def test_a_disk_that_fills_at_any_place_is_an_error_that_leaves_what_was_there(few, tmp_path, work):
    """From no room at all, page by page, until it suffices: data, table, header, columns, quarantine, manifest."""
    (few / "metadata.csv").write_text("file_name,note\na/000003.jpg," + "y" * 20_000 + "\n")
    convert([few], tmp_path / "whole.beton")
    expected, page, faults = (tmp_path / "whole.beton").read_bytes(), os.sysconf("SC_PAGESIZE"), []
    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        target = disk / "out" / "out.beton"
        for spare in range(0, 200 * page, page):
            shutil.rmtree(disk / "out", ignore_errors=True)
            (disk / "filler").unlink(missing_ok=True)
            if work == "overwrite":
                convert([few / "a"], target)
            before = contents(disk / "out") if work == "overwrite" else {}
            try:
                if work == "subset":
                    (disk / "out").mkdir()
                    fill_up(disk, spare)
                    select.copy_rows(open_beton(tmp_path / "whole.beton"), np.arange(6), target)
                else:
                    convert([few], target, overwrite=True, announce=lambda estimate, spare=spare: fill_up(disk, spare))
            except OSError as error:
                after = contents(disk / "out") if (disk / "out").exists() else {}
                if after != before:
                    faults.append(f"{spare // page} pages: of {sorted(before)} it left {sorted(after)}")
                if str(target) not in str(error) or "make room" not in str(error):
                    faults.append(f"{spare // page} pages: {error}")
            else:
                break
        assert spare > 5 * page
        assert spare < 100 * page
        assert work == "subset" or target.read_bytes() == expected
        assert not list((disk / "out").glob("*.partial"))
    assert not faults, "\n".join(faults)


def test_a_disk_without_inodes_is_a_refusal_that_leaves_nothing(few, tmp_path):
    faults = []
    for inodes in range(2, 7):  # its root is one
        with mounted(tmp_path / f"disk{inodes}", "tmpfs", f"size=16m,nr_inodes={inodes}") as disk:
            try:
                convert([few], disk / "out.beton")
            except OSError as error:
                if str(disk / "out.beton") not in str(error) or "make room" not in str(error):
                    faults.append(f"{inodes} inodes: {error}")
                assert list(disk.iterdir()) == []
            else:
                assert inodes > 3
    assert not faults, "\n".join(faults)


def test_a_folder_that_cannot_be_written_is_a_refusal(few, tmp_path):
    if os.geteuid() == 0:
        with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            targets = [disk / "out.beton", disk / "new" / "out.beton"]
            done = [Conversion(few, target).finish() for target in targets]
    else:
        disk = tmp_path / "disk"
        disk.mkdir(mode=0o555)
        targets = [disk / "out.beton", disk / "new" / "out.beton"]
        done = [Conversion(few, target).finish() for target in targets]
    for one, target in zip(done, targets, strict=True):
        refused(one, disk / target.relative_to(disk).parts[0], "choose another")
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_folder_in_the_targets_place_is_refused_before_anything_is_read(few, tmp_path):
    (tmp_path / "out.beton").mkdir()
    seen = []
    with pytest.raises((ValueError, OSError), match=r"out\.beton"):
        convert([few], tmp_path / "out.beton", overwrite=True, progress=lambda *now: seen.append(now))
    assert not seen
    assert {path.name for path in tmp_path.iterdir()} == {"few", "out.beton"}


def added_image(folder: Path) -> None:
    (folder / "b" / "zz.jpg").write_bytes(jpeg(99))


def added_class(folder: Path) -> None:
    (folder / "z").mkdir()
    (folder / "z" / "0.jpg").write_bytes(jpeg(99))


def moved_to_a_new_class(folder: Path) -> None:
    (folder / "c").rename(folder / "wolf")


def removed_image(folder: Path) -> None:
    (folder / "b" / "000001.jpg").unlink()


def removed_class(folder: Path) -> None:
    shutil.rmtree(folder / "c")


def emptied_image(folder: Path) -> None:
    (folder / "b" / "000001.jpg").write_bytes(b"")


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    "change", [added_image, added_class, moved_to_a_new_class, removed_image, removed_class, emptied_image]
)
def test_images_that_come_and_go_while_they_are_converted(few, tmp_path, change, count):
    """Rows and quarantine that agree, or a ValueError that names the source."""
    target = tmp_path / "out" / "out.beton"
    try:
        done = convert([few], target, workers=count, announce=lambda estimate: change(few))
    except ValueError as error:
        assert str(few) in str(error)
        assert not target.parent.exists()
        return
    assert len(open_trusted(target)) == done.rows == len(read_columns(target)["row"])
    assert done.rows in (4, 5, 6, 7)


# Not ru_maxrss: that begins with the peak of the process that started this one.
MEASURE = """
import sys
from pathlib import Path
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encoding import Encoding
if __name__ == "__main__":
    done = convert([Path(sys.argv[1])], Path(sys.argv[2]), workers=2, encoding=Encoding(mode=sys.argv[3]))
    status = Path("/proc/self/status").read_text().splitlines()
    print(done.rows, next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


def peaks_mib(source: Path, folder: Path, *, rows: int, mode: str = "jpg") -> np.ndarray:
    """Peak memory of the process that converts and of the largest of its workers, which are not its own children."""
    (folder / "measure.py").write_text(MEASURE)
    target = folder / f"{rows}.beton"
    command = [sys.executable, str(folder / "measure.py"), str(source), str(target), mode]
    conversion = Conversion(source, target, command=command)
    largest = 0
    while conversion.process.poll() is None:
        for pid in set(conversion.alive()) - {conversion.process.pid}:
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
                largest = max(largest, int(next(line for line in status if line.startswith("VmHWM")).split()[1]))
        time.sleep(0.02)
    done = conversion.finish()
    assert done.returncode == 0, done.stderr
    count, own = map(int, done.stdout.split())
    assert count == rows
    assert largest > 0
    return np.array((own, largest)) / 1024


@pytest.mark.parametrize(
    ("few", "many", "limit"), [(500, 5_000, 10), pytest.param(1_000, 50_000, 30, marks=pytest.mark.chaos)]
)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, few, many, limit):
    small, large = (peaks_mib(fill(tmp_path / f"{count}", count), tmp_path, rows=count) for count in (few, many))
    assert (large - small).max() < limit, f"MiB, main process and worker: {small} for {few}, {large} for {many} images"


@pytest.mark.chaos
def test_pixels_of_images_that_compress_well_do_not_pile_up(tmp_path):
    """1 MB of flat PNG files hold 840 MB of pixels."""
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (2_000, 2_000), (90, 120, 30)).save(tmp_path / "flat" / "000.png")
    for i in range(1, 70):
        os.link(tmp_path / "flat" / "000.png", tmp_path / "flat" / f"{i:03d}.png")
    peaks = peaks_mib(tmp_path / "flat", tmp_path, rows=70, mode="raw")
    held = workers.HELD_BYTES >> 20
    assert peaks.max() < held + 200, f"MiB, main process and worker: {peaks}; results held: {held}"


def slow_jpeg(scans: int) -> bytes:
    """A progressive JPEG of 36 Mpx that is small and sound as far as its header tells, each of whose scans takes 25 ms."""
    stream = io.BytesIO()
    Image.new("L", (6_000, 6_000), 128).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_an_image_that_takes_for_ever_is_met_by_a_worker_and_never_by_the_conversion_itself(few, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "LIMIT_S", 1.0)
    (few / "b" / "slow.jpg").write_bytes(slow_jpeg(200))
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = convert([few], tmp_path / "out.beton", workers=1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert done.rows == 6
    assert [Path(item.path).name for item in done.first_rejected] == ["bad.jpg", "slow.jpg"]
    assert after.ru_utime - before.ru_utime < 2.0


def test_workers_of_a_killed_conversion_end_even_while_an_image_keeps_them_busy(tmp_path):
    folder = fill(tmp_path / "images", 200)
    for name in "abc":
        (folder / name / "slow.jpg").write_bytes(slow_jpeg(600))
    killed = Conversion(folder, tmp_path / "out.beton")
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "out.beton.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2)
        killed.kill()
        assert killed.survivors() == []
    finally:
        killed.sweep()


def write_large(path: Path, rows: int, *, shuffled: bool) -> None:
    """A .beton of `rows` rows that share five places: header, descriptors, rows, one page of data, table."""
    fields = np.zeros(2, FIELD)
    fields["type_id"], fields["name"] = (2, 1), (b"image", b"label")
    page = 1 << 21
    start = -(-(HEADER.itemsize + fields.nbytes + rows * ROW.itemsize) // page) * page
    row_N = np.arange(rows)
    metadata, table = np.zeros(rows, ROW), np.zeros(rows, ALLOCATION)
    image = metadata["f0"]
    image["mode"], image["width"], image["height"], image["data_ptr"] = 1, 4, 4, start + row_N % 5 * 48
    metadata["f1"] = row_N % 1_000
    table["sample_id"], table["ptr"], table["size"] = row_N, image["data_ptr"], 48
    if shuffled:
        table = table[np.random.default_rng(0).permutation(rows)]
    header = np.array((2, 2, page, rows, start + page), HEADER)
    with open(path, "wb") as file:
        file.write(header.tobytes() + fields.tobytes() + metadata.tobytes())
        file.seek(start)
        file.write(np.random.default_rng(0).bytes(5 * 48))
        file.seek(start + page)
        file.write(table.tobytes())


@pytest.mark.parametrize("shuffled", [False, True], ids=["in row order", "shuffled"])
def test_a_million_rows_are_checked_within_two_seconds(tmp_path, shuffled):
    write_large(tmp_path / "large.beton", 1_000_000, shuffled=shuffled)
    started = time.process_time()
    beton = open_beton(tmp_path / "large.beton")
    assert time.process_time() - started < 2.0
    assert len(beton) == 1_000_000
    assert np.bincount(beton.label_N).tolist() == [1_000] * 1_000
    assert len(np.unique(beton.offset_N)) == 5
    assert (beton.size_N == 48).all()


@pytest.mark.parametrize("shuffled", [False, True], ids=["in row order", "shuffled"])
def test_one_bad_entry_among_a_million_is_found(tmp_path, shuffled):
    write_large(tmp_path / "large.beton", 1_000_000, shuffled=shuffled)
    size = (tmp_path / "large.beton").stat().st_size
    with open(tmp_path / "large.beton", "r+b") as file:
        file.seek(size - 1_000_000 // 3 * ALLOCATION.itemsize + 8)
        file.write(bytes(8))
    with pytest.raises(InvalidBeton, match="is an image that its allocation table does not list"):
        open_beton(tmp_path / "large.beton")

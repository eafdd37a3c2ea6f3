"""Checkpoints under a writer that dies at any step, disks that fill at any page, limits, and users who may not write.

What takes minutes bears the mark `chaos` (`make chaos`); a smaller share of each runs always.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import fill_up, mounted

from viewmill.checkpoint import layout
from viewmill.checkpoint.layout import newest, read
from viewmill.checkpoint.writer import Writer, check_room

# Started once: answers each line of its input, a program, with how a fork of it ended. So torch is imported once.
FORKS = """
import json, os, sys, traceback
from pathlib import Path

import torch

from viewmill.checkpoint import layout as checkpoint
from viewmill.checkpoint import writer

if torch.get_num_threads() != 1:
    raise SystemExit("one thread alone survives a fork")

for line in sys.stdin:
    program, arguments, log = json.loads(line)
    pid = os.fork()
    if pid == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = 1
        try:
            exec(program, {"arguments": arguments, "checkpoint": checkpoint, "writer": writer, "torch": torch, "Path": Path})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

# What every program here begins with: a checkpoint whose tensors all say which one it is.
MAKES = """
import os

def parts(value):
    return {
        "model": {"weight": torch.full((3, 5), value), "half": torch.full((7,), value).half(), "count": torch.tensor(value)},
        "bank": {"rows": torch.full((64, 128), value)},
    }

def make(folder, step, value, **options):
    return checkpoint.write(Path(folder), step, parts(value), {"step": step, "value": value}, **options)
"""
made: dict[str, Any] = {"torch": torch, "checkpoint": layout, "Path": Path}
exec(MAKES, made)
make, parts = made["make"], made["parts"]

NOBODY = """
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


class Forks:
    """A process that has torch, and forks of it that run programs."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-c", FORKS]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run(self, program: str, *arguments: Any) -> int:
        """How a fork ended that ran `program`, with `arguments` as its list of that name."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([MAKES + program, arguments, str(self.log)]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def passes(self, program: str, *arguments: Any) -> None:
        assert self.run(program, *arguments) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def forks(tmp_path_factory) -> Iterator[Forks]:
    running = Forks(tmp_path_factory.mktemp("forks") / "log")
    yield running
    running.process.communicate()
    assert running.process.returncode == 0


@pytest.fixture
def anyones(tmp_path) -> Iterator[Path]:
    """A folder that every user reaches and may write to; pytest's own are their owner's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
    shutil.rmtree(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def value_of(path: Path) -> float:
    """Which one a checkpoint is; raises where it is not whole."""
    found = read(path)
    value = found.facts["value"]
    assert found.facts["step"] == int(path.name[-8:])
    assert found.parts.keys() == parts(value).keys()
    for part, tensors in parts(value).items():
        assert found.parts[part].keys() == tensors.keys()
        assert all(torch.equal(found.parts[part][name], tensor) for name, tensor in tensors.items())
    return value


def check_latest(folder: Path) -> None:
    """It names a checkpoint that is there, or is not there itself."""
    if (folder / "latest").exists():
        assert (folder / (folder / "latest").read_text().strip()).is_dir()


# Deaths

# Dies at the n-th call that changes a file, or before its second half where it writes. At the end it says how many there
# were, and holds its count against what the interpreter and the kernel have seen: a call in another way would be missed.
DYING = """
import collections, sys
folder, left, (step, value, options) = arguments
counted, failed, audited = collections.Counter(), collections.Counter(), collections.Counter()
real = {name: getattr(os, name) for name in dir(os)}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

def seen(name):
    global left
    counted[name] += 1
    left -= 1
    if left == 0:
        os._exit(137)

def mortal(name):
    def call(*arguments, **options):
        try:
            done = real[name](*arguments, **options)
        except FileNotFoundError:
            failed[name] += 1
            raise
        if name != "open" or arguments[1] & WRITES:
            seen(name)
        return done
    setattr(os, name, call)

def write(descriptor, data):
    view = memoryview(data)
    half = real["write"](descriptor, view[: len(view) // 2]) if len(view) > 1 else 0
    seen("write")
    done = real["write"](descriptor, view[half:])
    seen("write")
    return half + done

CALLS = ["open", "fsync", "fdatasync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "link", "symlink",
         "truncate", "ftruncate", "chmod", "fchmod", "chown", "utime", "mkfifo", "mknod", "writev", "pwrite", "pwritev",
         "sendfile", "copy_file_range", "posix_fallocate", "setxattr", "removexattr"]
for name in CALLS:
    mortal(name)
os.write = write

EVENTS = {"os.rename": "rename", "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.remove": "unlink", "os.link": "link",
          "os.symlink": "symlink", "os.truncate": "truncate", "os.chmod": "chmod", "os.chown": "chown", "os.utime": "utime"}

def audit(event, details):
    if event == "open" and isinstance(details[2], int) and details[2] & WRITES:
        audited["open"] += 1
    elif event in EVENTS:
        audited[EVENTS[event]] += 1

def writes():
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["syscw"])

sys.addaudithook(audit)
before = writes()
make(folder, step, value, **options)
after = writes()
total = sum(counted.values())
assert after - before == counted.pop("write"), (after, before)
for name, same in (("replace", "rename"), ("remove", "unlink")):
    counted[same] += counted.pop(name, 0)
counted.pop("fsync")
counted += failed
assert counted == audited, (counted, audited)
print(total)
"""


def nothing(folder: Path) -> None:
    """No checkpoint yet."""


def two(folder: Path) -> None:
    """As many as are kept."""
    for step in (1, 2):
        make(folder, step, float(step))


def same(folder: Path) -> None:
    """An only checkpoint, of the very step that is written."""
    make(folder, 3, 2.0)


def damaged(folder: Path) -> None:
    """One that is whole, and damaged ones of the step that is written and of a later one; leftovers of writers that died."""
    for step in (2, 3, 4):
        make(folder, step, float(step), keep=3)
    for step in (3, 4):
        os.truncate(folder / f"step-{step:08d}" / "bank.safetensors", 99)
    for number in (3, 7):
        shutil.copytree(folder / "step-00000002", folder / f".tmp-step-{number:08d}")
    shutil.copytree(folder / "step-00000002", folder / ".tmp-pruned-step-00000001")
    (folder / ".tmp-latest").write_text("step-00000007\n")


def interrupted(folder: Path) -> None:
    """A writer died between the two renames by which it replaces; and another while it pruned."""
    make(folder, 2, 2.0)
    shutil.move(folder / "step-00000002", folder / ".old-step-00000002")
    (folder / "latest").unlink()
    shutil.copytree(folder / ".old-step-00000002", folder / ".tmp-pruned-step-00000001")
    (folder / ".tmp-pruned-step-00000001" / "manifest.json").unlink()


def milestones(folder: Path) -> None:
    """Of three the middle one goes."""
    for step in range(3):
        make(folder, step, float(step), keep=9)


OPTIONS: dict[str, Any] = {"milestones": {"keep_every": 2}}


@pytest.mark.parametrize("before", [nothing, two, same, damaged, interrupted, milestones])
def test_a_death_after_any_change_leaves_the_former_or_the_new_checkpoint_whole(forks, tmp_path, before):
    former, options = tmp_path / "former", OPTIONS.get(before.__name__, {})
    former.mkdir()
    before(former)
    allowed = {3.0} if before is nothing else {2.0, 3.0}
    seen = []
    for count in range(1, 500):
        place = Path(shutil.copytree(former, tmp_path / str(count), symlinks=True))
        code = forks.run(DYING, str(place), count, (3, 3.0, options))
        assert code in (0, 137), forks.log.read_text()
        found = newest(place)
        if found is not None:
            seen.append(value_of(found.path))
            assert seen[-1] in allowed
        else:
            assert before is nothing
        check_latest(place)
        if code == 0:
            break
        done = make(place, 4, 4.0, **options)
        assert value_of(newest(place).path) == 4.0
        assert all(name == "latest" or name.startswith("step-") for name in names(place))
        assert all("passed over" in remark for remark in done.remarks)
        assert (place / "latest").read_text() == "step-00000004\n"
        shutil.rmtree(place)
    assert code == 0
    assert int(forks.log.read_text()) == count - 1
    assert count > 20
    assert seen == sorted(seen)  # once the new one counts, it counts
    assert set(seen) == allowed
    assert all(name == "latest" or name.startswith("step-") for name in names(place))


LOOPING = """
import signal
folder, step, seconds = arguments
signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles it: the kernel ends the process there and then
while True:
    step += 1
    make(folder, step, float(step))
"""


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.chaos)])
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint_no_older_than_before(forks, tmp_path, count):
    """At random, in the same folder over and over."""
    rng, last, folder = random.Random(0), 0, tmp_path / "checkpoints"
    make(folder, 0, 0.0)
    for _ in range(count):
        assert forks.run(LOOPING, str(folder), last, rng.uniform(0.001, 0.1)) == -signal.SIGALRM, forks.log.read_text()
        value = value_of(newest(folder).path)
        assert value >= last
        last = int(value)
        check_latest(folder)
    assert last > 1
    make(folder, last + 1, float(last + 1))
    assert [name for name in names(folder) if not name.startswith("step-")] == ["latest"]


WAITING = """
import sys, time
import torch
from pathlib import Path
from viewmill.checkpoint import layout as checkpoint
from viewmill.checkpoint import tensorfile
from viewmill.checkpoint.writer import Writer
real = os.fsync

def held(descriptor):
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    real(descriptor)

os.fsync = held
with Writer(Path(sys.argv[1])) as writer:
    writer.submit(2, parts(2.0), {"step": 2, "value": 2.0})
    try:
        print("waiting", flush=True)
        writer.wait()
    except KeyboardInterrupt:
        print("interrupted", writer.saved, checkpoint.newest(Path(sys.argv[1])).checkpoint.facts["step"], flush=True)
        raise
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_wait_that_is_interrupted_leaves_nothing_that_is_half_there(tmp_path, signals):
    """One interrupt: leaving waits and the checkpoint is complete. Two: it may be, or it does not count."""
    make(tmp_path, 1, 1.0)
    disk = tmp_path.with_name(f"{tmp_path.name}-goes-on")  # what the write waits for
    command = [sys.executable, "-c", MAKES + WAITING, str(tmp_path), str(disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "waiting\n"
            waiting.send_signal(signal.SIGINT)
            assert waiting.stdout.readline() == "interrupted None 1\n"
            if signals == 2:
                waiting.send_signal(signal.SIGINT)
        finally:
            disk.touch()
        _, said = waiting.communicate(timeout=60)
    assert waiting.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in said
    value = value_of(newest(tmp_path).path)
    assert value == 2.0 if signals == 1 else value in (1.0, 2.0)
    check_latest(tmp_path)
    make(tmp_path, 3, 3.0)
    assert [name for name in names(tmp_path) if not name.startswith("step-")] == ["latest"]


# Disks that fill


def refused(folder: Path, step: int) -> None:
    """A write that fails leaves every byte as it was, and says where; so does one beside the training."""
    before = contents(folder), names(folder)
    with pytest.raises(OSError, match=r"No space left on device") as caught:
        make(folder, step, float(step))
    assert caught.value.filename == str(folder / f"step-{step:08d}")
    assert (contents(folder), names(folder)) == before
    with Writer(folder) as writing:
        writing.submit(step, parts(float(step)), {})
        writing.wait()
        (text,) = writing.take_faults()
        assert writing.failed_step == step
    assert f"step-{step:08d}: No space left on device" in text
    assert "make room there" in text
    assert (contents(folder), names(folder)) == before


@pytest.mark.parametrize("before", [nothing, two, same, pytest.param(damaged, marks=pytest.mark.chaos)])
def test_a_disk_that_fills_at_any_page_leaves_what_was_there_and_works_again_with_room(tmp_path, before):
    page = os.sysconf("SC_PAGESIZE")
    with mounted(tmp_path / "disk", "tmpfs", "size=4m") as disk:
        for spare in range(200):
            folder = disk / "checkpoints"
            folder.mkdir()
            before(folder)
            if before is damaged:  # which are swept first, and make room
                make(folder, 2, 2.0)
            fill_up(disk, spare * page)
            try:
                make(folder, 3, 3.0)
            except OSError:
                refused(folder, 3)
                assert newest(folder) is None if before is nothing else value_of(newest(folder).path) == 2.0
                check_latest(folder)
                (disk / "filler").unlink()
                make(folder, 3, 3.0)
            else:
                break
            finally:
                (disk / "filler").unlink(missing_ok=True)
            assert value_of(newest(folder).path) == 3.0
            shutil.rmtree(folder)
        assert 10 < spare < 30  # 32 kB of rows, and a page each for five files
        assert value_of(newest(folder).path) == 3.0


def test_a_disk_without_inodes_leaves_what_was_there(tmp_path):
    codes = []
    for inodes in range(8, 20):
        with mounted(tmp_path / f"disk{inodes}", "tmpfs", f"size=4m,nr_inodes={inodes}") as disk:
            make(disk, 2, 2.0)
            before = contents(disk), names(disk)
            try:
                make(disk, 3, 3.0)
            except OSError as error:
                codes.append(error.strerror)
                assert (contents(disk), names(disk)) == before
                assert value_of(newest(disk).path) == 2.0
            else:
                assert value_of(newest(disk).path) == 3.0
                break
    assert 2 < len(codes) < 8
    assert all("No space left" in code for code in codes)


def test_a_full_disk_for_a_while_costs_the_checkpoints_of_that_while_and_no_more(tmp_path):
    with mounted(tmp_path / "disk", "tmpfs", "size=4m") as disk, Writer(disk / "checkpoints") as writing:
        for step in range(1, 10):
            if step == 4:
                fill_up(disk, 20_000)
            if step == 7:
                (disk / "filler").unlink()
            writing.submit(step, parts(float(step)), {"step": step, "value": float(step)})
            writing.wait()
            assert (writing.failed_step == step) == bool(writing.take_faults()) == (step in (4, 5, 6))
            assert writing.saved.step == (3 if step in (4, 5, 6) else step)
            assert value_of(newest(disk / "checkpoints").path) == writing.saved.step


def test_room_is_counted_on_the_disk_itself(tmp_path):
    large = {"bank": {"rows": torch.zeros(5_000_000, dtype=torch.uint8)}}  # 5 MB, and 8 to spare
    with mounted(tmp_path / "disk", "tmpfs", "size=64m") as disk:
        assert check_room(disk / "run" / "checkpoints", large) is None
        fill_up(disk, 30_000_000)
        assert "has 0.03 GB free; 3 more checkpoints" in (check_room(disk / "run" / "checkpoints", large) or "")
        (disk / "filler").unlink()
        fill_up(disk, 9_000_000)
        with pytest.raises(ValueError, match=r"has 0.01 GB free and a checkpoint takes 0.01 GB: make room there"):
            check_room(disk / "run" / "checkpoints", large)
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ValueError, match="cannot be written: make that folder writable"):
            check_room(disk / "run" / "checkpoints", large)


def test_a_read_only_disk_is_an_error_that_names_the_checkpoint(tmp_path):
    with mounted(tmp_path / "disk", "tmpfs", "size=4m") as disk:
        make(disk, 1, 1.0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            make(disk, 2, 2.0)
        assert caught.value.filename == str(disk / "step-00000002")
        assert value_of(newest(disk).path) == 1.0


# Limits and users

LIMITED = """
import errno, resource
folder, limit = arguments
before = sorted(str(path) for path in Path(folder).rglob("*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
with writer.Writer(Path(folder)) as writing:
    writing.submit(2, parts(2.0), {"step": 2, "value": 2.0})
    writing.wait()
    (text,) = writing.take_faults()
    assert writing.failed_step == 2 and writing.saved is None
    for said in ("step-00000002: File too large", "ulimit -f", "training goes on"):
        assert said in text, text
    try:
        make(folder, 2, 2.0)
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EFBIG, folder + "/step-00000002"), error
    else:
        raise AssertionError("it was written")
    assert sorted(str(path) for path in Path(folder).rglob("*")) == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writing.submit(2, parts(2.0), {"step": 2, "value": 2.0})
    writing.wait()
    assert writing.saved.step == 2 and writing.failed_step is None and not writing.take_faults()
"""


@pytest.mark.parametrize("limit", [0, 1, 100, 600, 4096, 32767, 32800])
def test_a_limit_of_the_size_of_files_leaves_what_was_there(forks, tmp_path, limit):
    make(tmp_path, 1, 1.0)
    forks.passes(LIMITED, str(tmp_path), limit)
    assert value_of(newest(tmp_path).path) == 2.0
    assert value_of(tmp_path / "step-00000001") == 1.0


ABSURD = """
import hashlib, json, resource
path, size = arguments
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
try:
    checkpoint.read(Path(path))
except checkpoint.InvalidCheckpoint as error:
    assert "bank.safetensors cannot be read: " in str(error), error
else:
    raise AssertionError("it was read")
"""


def test_a_file_larger_than_the_memory_is_an_invalid_checkpoint_and_not_a_crash(forks, tmp_path):
    path = make(tmp_path, 1, 1.0).path
    os.truncate(path / "bank.safetensors", 1 << 33)  # a hole: nothing of it is on the disk
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["bank.safetensors"]["size"] = 1 << 33
    del manifest["sha256"]
    manifest["sha256"] = layout._digest(manifest)
    (path / "manifest.json").write_bytes(layout._text(manifest))
    forks.passes(ABSURD, str(path), 1 << 33)


READ_ONLY = (
    NOBODY
    + """
folder, new = arguments
for place in (folder, new):
    before = sorted(str(path) for path in Path(folder).rglob("*"))
    try:
        make(place, 2, 2.0)
    except PermissionError as error:
        assert error.filename == place + "/step-00000002", error
    else:
        raise AssertionError("it was written")
    with writer.Writer(Path(place)) as writing:
        writing.submit(2, parts(2.0), {})
        writing.wait()
        (text,) = writing.take_faults()
        assert "Permission denied" in text and "make that folder writable" in text, text
    try:
        writer.check_room(Path(place), parts(2.0))
    except ValueError as error:
        assert "cannot be written: make that folder writable" in str(error), error
    else:
        raise AssertionError("it has room")
    assert sorted(str(path) for path in Path(folder).rglob("*")) == before
assert checkpoint.newest(Path(folder)).checkpoint.facts["step"] == 1
"""
)


def test_a_folder_that_cannot_be_written_leaves_what_was_there(forks, anyones):
    folder = anyones / "checkpoints"
    make(folder, 1, 1.0)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    folder.chmod(0o555)
    before = contents(folder)
    forks.passes(READ_ONLY, str(folder), str(folder / "new"))
    assert contents(folder) == before


UNREADABLE = (
    NOBODY
    + """
folder, = arguments
folder = Path(folder)
folder.mkdir()
for step in (1, 2):
    make(folder, step, float(step))

def told():
    try:
        found = checkpoint.newest(folder)
    except checkpoint.InvalidCheckpoint as error:
        return str(error)
    return found and found.checkpoint.facts["step"]

for mode in (0o000, 0o111, 0o444):  # not listed, or listed and not entered: never as if there were none
    folder.chmod(mode)
    assert "Permission denied" in told() and str(folder) in told(), told()
folder.chmod(0o755)
(folder / "step-00000002" / "bank.safetensors").chmod(0o000)
found = checkpoint.newest(folder)
assert found.checkpoint.facts["step"] == 1
assert "step-00000002/bank.safetensors cannot be read: PermissionError" in found.passed_over[0], found.passed_over
(folder / "step-00000001").chmod(0o000)
assert "step-00000002/bank.safetensors" in told()
"""
)


def test_checkpoints_that_cannot_be_read_are_never_taken_for_none(forks, anyones):
    forks.passes(UNREADABLE, str(anyones / "checkpoints"))


STUCK = (
    NOBODY
    + """
folder, = arguments
for step in (1, 2):
    make(folder, step, float(step))
stuck = Path(folder) / "step-00000001"
stuck.chmod(0o555)
doomed = Path(folder) / ".tmp-pruned-step-00000001"
remark = f"{doomed} cannot be removed (Permission denied at "
for step in (3, 4):
    done = make(folder, step, float(step))
    assert len(done.remarks) == 1 if step == 3 else done.remarks, done
    assert all(text.startswith(remark) for text in done.remarks), done
    assert [path.name for path in checkpoint.steps(Path(folder))] == [f"step-{n:08d}" for n in (step - 1, step)]
doomed.chmod(0o755)
assert not make(folder, 5, 5.0).remarks
assert sorted(os.listdir(folder)) == ["latest", "step-00000004", "step-00000005"]
"""
)


def test_a_checkpoint_whose_files_cannot_be_removed_is_a_remark_until_they_can(forks, anyones):
    forks.passes(STUCK, str(anyones))

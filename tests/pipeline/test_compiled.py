"""What is kept of compiled code: found again, made anew on a doubt, and never run where it is not ours."""

import errno
import os
import pickle  # noqa: TID251 (what an attacker would plant)
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from viewmill.pipeline import compiled


@pytest.fixture
def kept(tmp_path, monkeypatch, capfd):
    """A place of its own for compiled code; `kept()` -> its files, after a call of a function that is made anew."""
    caches = (compiled.place, compiled.folder, compiled._announce, compiled._say_once, compiled._tidy)

    def forget() -> None:
        if compiled.folder.cache_info().currsize and (open_folder := compiled.folder()) is not None:
            os.close(open_folder)
        for cache in caches:
            cache.cache_clear()

    saved = compiled.folder()  # of the other tests: stays open
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))

    def call(value: int = 20) -> tuple[list[Path], str]:
        forget()
        capfd.readouterr()
        assert made_anew()(np.arange(value)) == 2 * sum(range(value))
        said = capfd.readouterr().err
        return sorted(tmp_path.glob("cache/*/*/*.nbc")), said

    yield call
    forget()
    assert saved is None or os.fstat(saved)


def made_anew():
    @compiled.compiled()
    def doubled(number_N):
        total = 0
        for number in number_N:
            total += 2 * number
        return total

    return doubled


def test_what_was_compiled_is_found_again_without_a_word_and_the_first_time_is_announced(kept):
    (file,), said = kept()
    assert "10 to 20 s of one core, the first time" in said
    before = file.stat()
    assert kept() == ([file], "")
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == file.parent.parent.stat().st_mode & 0o777 == 0o700


class Planted:
    """Runs code where it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_damage_is_compiled_anew_and_a_planted_pickle_is_never_read(kept, tmp_path):
    (file,), _ = kept()
    whole, head = file.read_bytes(), len(compiled.MAGIC) + 32
    planted = pickle.dumps(Planted(tmp_path / "ran"))
    damaged = [whole[:0], whole[:5], whole[:head], whole[: len(whole) // 2], whole[:-1], whole + b"x", b"\0" * len(whole)]
    damaged += [planted, compiled.MAGIC + planted, whole[:head] + planted, compiled.MAGIC + b"\0" * 32 + planted]
    for at in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        damaged.append(bytes(flipped))
    for number, content in enumerate(damaged):
        file.write_bytes(content)
        assert compiled.read(file.name) is None
        if number < 14:  # the others differ in nothing that is looked at
            assert "compiling" in kept()[1]
            assert file.read_bytes()[:head] == whole[:head] or file.read_bytes().startswith(compiled.MAGIC)
    assert not (tmp_path / "ran").exists()


def test_a_right_file_under_another_files_name_is_not_taken(kept):
    (file,), _ = kept()
    other = file.with_name("doubled-1.0123456789abcdef01234567.nbc")
    other.write_bytes(file.read_bytes())
    assert compiled.read(file.name) is not None
    assert compiled.read(other.name) is None


def test_a_file_that_is_a_link_or_a_pipe_is_not_opened(kept, tmp_path):
    (file,), _ = kept()
    (tmp_path / "same").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "same")
    assert compiled.read(file.name) is None
    file.unlink()
    os.mkfifo(file)
    assert compiled.read(file.name) is None
    assert "compiling" in kept()[1]
    assert file.is_file()


@pytest.mark.parametrize("shared", ["others may write there", "others may write above", "a link", "a file"])
def test_a_folder_that_is_not_this_users_alone_is_said_and_neither_read_nor_written(kept, tmp_path, shared):
    (file,), _ = kept()
    if shared == "others may write there":
        file.parent.chmod(0o770)
    elif shared == "others may write above":
        (tmp_path / "cache").chmod(0o777)
    else:
        file.parent.rename(tmp_path / "moved")
        file.parent.symlink_to(tmp_path / "moved") if shared == "a link" else file.parent.write_text("")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    _, said = kept()
    assert "nothing compiled is taken from there or kept, so each start compiles anew" in said
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}


def test_a_shared_folder_with_a_sticky_bit_does(kept, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)  # as /tmp
    kept()
    assert kept()[1] == ""


def test_a_place_that_cannot_be_written_is_said_and_costs_nothing_else(kept, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert "cannot be used" in kept()[1]


def test_a_full_disk_is_said_and_leaves_nothing_half(kept, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(compiled.os, "replace", full)
        files, said = kept()
    assert not files
    assert "cannot be kept" in said
    assert "No space left on device" in said
    assert not [name for name in os.listdir(compiled.place()) if name.startswith(".")]


def test_folders_of_older_versions_are_removed_and_foreign_ones_stay(kept, tmp_path):
    (file,), _ = kept()
    above = file.parent.parent
    for number in range(compiled.VERSIONS + 3):
        (above / f"{number:016x}").mkdir()
        os.utime(above / f"{number:016x}", (number, number))
    (above / "theirs").mkdir()
    (file.parent / f".{file.name}.1").write_text("half")
    os.utime(file.parent / f".{file.name}.1", (1, 1))
    file.unlink()
    kept()
    left = {path.name for path in above.iterdir()}
    assert left == {file.parent.name, "theirs", *(f"{number:016x}" for number in range(4, compiled.VERSIONS + 3))}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_start_with_a_ruined_cache_has_the_same_numbers_and_no_trace(tmp_path):
    code = "from viewmill.pipeline.order import permutation; print(permutation(50, seed=3, epoch=1).tolist())"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def start() -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    first, said = start()
    assert "compiling" in said
    assert start() == (first, "")
    files = list(tmp_path.rglob("*.nbc"))
    for number, file in enumerate(files):
        file.write_bytes(pickle.dumps(Planted(tmp_path / "ran")) if number % 2 else file.read_bytes()[:-9])
    again, said = start()
    assert (again, "compiling" in said, "Traceback" in said) == (first, True, False)
    assert files
    assert not (tmp_path / "ran").exists()

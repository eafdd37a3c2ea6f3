"""Images that were converted before: found while unchanged, made anew whenever a byte may have changed, one version kept."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from viewmill.errors import Refused
from viewmill.pipeline.beton.manifest import read_columns
from viewmill.pipeline.conversion.cache import cached_path, open_data
from viewmill.pipeline.datasets import open_images

HELD = """
import sys
from pathlib import Path
from viewmill.pipeline.conversion.cache import open_data

beton = open_data(Path(sys.argv[1]), progress=lambda done, total: None, say=lambda text: None)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "viewmill"


@pytest.fixture
def images(tmp_path):
    """Six images of equal size in bytes and time."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(3):
            path = tmp_path / "images" / label / f"{number}.bmp"
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(path)
            os.utime(path, ns=(1, 1))
    return tmp_path / "images"


def opened(images):
    said = []
    beton = open_data(images, progress=lambda done, total: None, say=said.append)
    return beton, [text for text in said if text.startswith("converted")]


def converted(images):
    """Whether it was converted this time; the file is let go of again."""
    return bool(opened(images)[1])


def shaded(path, level):
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)


def replaced(path, other):
    """Another file of this size and time takes the place of one, as by rsync."""
    shaded(other, 200)
    os.utime(other, ns=(1, 1))
    os.replace(other, path)


def overwritten(path, other):
    """As by cp -p onto it, or touch -r after an edit."""
    shaded(path, 200)
    os.utime(path, ns=(1, 1))


def copied(path, other):
    shaded(other, 200)
    os.utime(other, ns=(1, 1))
    shutil.copy2(other, path)


@pytest.mark.parametrize("change", [replaced, overwritten, copied])
def test_other_bytes_of_equal_size_and_time_are_found(images, tmp_path, change):
    assert converted(images)
    before = (images / "cat" / "1.bmp").stat()
    change(images / "cat" / "1.bmp", tmp_path / "other.bmp")
    after = (images / "cat" / "1.bmp").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert converted(images)
    assert not converted(images)


def test_reading_and_listing_convert_nothing_again(images):
    assert converted(images)
    for path in images.rglob("*.bmp"):
        path.read_bytes()
    assert len(list(images.rglob("*"))) == 8
    assert not converted(images)


def test_of_a_source_that_changes_one_version_is_kept_and_others_are_left_alone(images, tmp_path, cache):
    shutil.copytree(images, tmp_path / "elsewhere" / "images")
    for folder in (images, tmp_path / "elsewhere" / "images"):
        assert converted(folder)
    said = []
    for number in range(3):
        shaded(images / "cat" / "1.bmp", number)
        open_data(images, progress=lambda done, total: None, say=said.append)
    assert len([text for text in said if text.startswith("removed 1 older version of")]) == 3
    kept = {path.name for path in cache.glob("*.beton*")}
    mains = [cached_path(folder) for folder in (images, tmp_path / "elsewhere" / "images")]
    assert {name for name in kept if name.endswith(".beton")} == {path.name for path in mains}
    assert all(name.startswith(tuple(path.name for path in mains)) for name in kept)
    assert not converted(tmp_path / "elsewhere" / "images")


def test_a_version_that_another_process_reads_stays_until_it_has_ended(images, cache):
    arguments = [sys.executable, "-c", HELD, str(images)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            older = cached_path(images)
            shaded(images / "cat" / "1.bmp", 7)
            assert converted(images)
            assert older.exists()
            assert len(read_columns(older)["row"]) == 6
        finally:
            process.communicate("")
    shaded(images / "cat" / "1.bmp", 8)
    assert converted(images)
    assert not older.exists()
    assert len(list(cache.glob("*.beton"))) == 1


def test_a_version_that_this_process_reads_stays_too(images, cache):
    beton, _ = opened(images)
    shaded(images / "cat" / "1.bmp", 7)
    assert converted(images)
    assert beton.path.exists()


def test_a_cache_that_cannot_be_written_is_refused_with_the_remedy(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Refused, match=r"set XDG_CACHE_HOME to a folder .* or convert them .*viewmill convert .*images"):
        open_images(images)
    with suppress(OSError):
        assert (tmp_path / "file").read_text() == ""

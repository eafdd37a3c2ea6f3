"""What is said before and while images are converted: what it will take, how far it is, and what a file is that is none."""

import math

import numpy as np
import pytest
from PIL import Image

from viewmill import console
from viewmill.console import counting
from viewmill.pipeline.beton.reader import InvalidBeton, open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encoding import Encoding
from viewmill.run import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def pictures(folder, kind, count, *, least, most):
    """Grainy images of sides from `least` to `most`, so that no two take the same room."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(least, most, 2)
        grain = rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
        Image.fromarray(grain).resize((width, height)).save(folder / f"{number:03d}.{kind}")


def estimated(folder, target, **settings):
    told = []
    done = convert([folder], target, announce=told.append, **settings)
    return told[0], done


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("jpg", Encoding()),
        ("png", Encoding()),
        ("png", Encoding(mode="raw")),
        ("bmp", Encoding(side=100)),
        ("jpg", Encoding(max_resolution=120)),
    ],
    ids=["kept", "redrawn", "pixels", "smaller", "kept and smaller"],
)
def test_the_size_is_estimated_to_fifteen_percent(folder, tmp_path, kind, settings, workers):
    pictures(folder, kind, 120, least=60, most=600)
    estimate, done = estimated(folder, tmp_path / "a.beton", encoding=settings, workers=workers)
    assert done.rows == estimate.images == 120
    assert abs(math.log(estimate.size_bytes / done.size_bytes)) < math.log(1.15)


def test_pages_that_large_images_cannot_fill_are_counted(folder, tmp_path):
    grain = np.random.default_rng(0).integers(0, 256, (800, 1000, 3), np.uint8)
    for number in range(9):
        Image.fromarray(np.roll(grain, number)).save(folder / f"{number}.png")
    estimate, done = estimated(folder, tmp_path / "a.beton", encoding=Encoding(mode="raw"))
    assert done.size_bytes > 1.5 * 9 * grain.nbytes  # 2.4 MB in pages of 4 MiB
    assert abs(math.log(estimate.size_bytes / done.size_bytes)) < math.log(1.15)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_take_seconds_and_not_hours(folder, tmp_path, count, workers):
    pictures(folder, "jpg", count, least=60, most=90)
    estimate, done = estimated(folder, tmp_path / "a.beton", workers=workers)
    assert 0 < estimate.seconds < 5
    assert estimate.size_bytes == pytest.approx(done.size_bytes, rel=0.1)


def test_an_estimate_of_what_is_no_image_is_no_fault(folder, tmp_path):
    pictures(folder, "jpg", 3, least=60, most=90)
    (folder / "bad.jpg").write_bytes(b"no image")
    estimate, done = estimated(folder, tmp_path / "a.beton")
    assert (estimate.images, done.rows, done.rejected) == (4, 3, 1)


def test_one_image_is_announced_in_words(folder, tmp_path, capsys):
    pictures(folder, "jpg", 1, least=60, most=90)
    assert main(["convert", str(folder), str(tmp_path / "a.beton"), "--workers", "0"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"1 image -> {tmp_path / 'a.beton'}: about 4.0 MiB and 0:01"


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with counting("converting") as progress:
        for done in range(20, 1001):  # ten a second; the first twenty were there before
            progress(done, 1000)
            clock[0] += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("converting: 12")
    assert lines[0].endswith("of 1,000, 10/s, 1:28 left")


def test_what_is_short_says_nothing(capsys):
    with counting("converting") as progress:
        for done in range(100):
            progress(done + 1, 100)
    assert capsys.readouterr().err == ""


def test_an_image_in_the_place_of_a_beton_is_named_with_the_command(folder, tmp_path, capsys):
    for kind, name in (("jpg", "a JPEG"), ("png", "a PNG"), ("webp", "a WebP"), ("gif", "a GIF"), ("tif", "a TIFF")):
        path = folder / f"good.{kind}"
        Image.new("RGB", (40, 30)).save(path)
        assert main(["inspect", str(path)]) == 2
        said = capsys.readouterr().err
        assert f"{path} is {name}, no .beton: viewmill convert {folder} source.beton" in said
        assert "version" not in said
    (folder / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidBeton, match=r"a\.zip is no \.beton but a zip archive"):
        open_beton(folder / "a.zip")


def test_a_file_that_is_missing_is_named_without_a_number(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "gone.beton")]) == 2
    assert capsys.readouterr().err == f"viewmill: {tmp_path / 'gone.beton'} does not exist\n"

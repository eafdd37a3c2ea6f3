"""The commands that make data sets and look at them, as a person uses them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline import factors
from viewmill.pipeline.beton.manifest import open_trusted, sidecars
from viewmill.pipeline.beton.reader import open_beton

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """64 rendered images in 8 classes, one file that is none."""
    root = factors.write_folder(tmp_path_factory.mktemp("data") / "shapes", 64, seed=0)
    (root / "disc" / "notes.jpg").write_text("no image")
    return root


@pytest.fixture
def beton(folder, tmp_path):
    done = viewmill("convert", folder, tmp_path / "a.beton", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return tmp_path / "a.beton"


def viewmill(*arguments):
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_convert_announces_what_it_will_take_and_tells_what_became_of_the_images(folder, tmp_path):
    done = viewmill("convert", folder, tmp_path / "a.beton")
    assert done.returncode == 0, done.stderr
    assert "65 images in 8 classes" in done.stderr
    assert "MiB and 0:0" in done.stderr
    assert "quarantined" in done.stdout
    assert f"quarantined {folder / 'disc' / 'notes.jpg'}: no image of a kind that Pillow knows" in done.stderr
    assert "a.beton.quarantine.jsonl" in done.stderr


@pytest.mark.parametrize(("bound", "code"), [("0", 2), ("0.01", 2), ("0.02", 0), ("1", 0)])
def test_max_bad_gives_up_above_a_number_or_a_share(folder, tmp_path, bound, code):
    done = viewmill("convert", folder, tmp_path / "a.beton", "--max-bad", bound)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "a.beton").exists() == (code == 0)
    if code:
        assert "1 of 65 files are unusable, more than --max-bad bears" in done.stderr
        assert "notes.jpg" in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_inspect_tells_what_a_file_holds_as_tables_and_as_json(beton, tmp_path):
    done = viewmill("inspect", beton, "--verify", "--deep", "--grid", tmp_path / "grid.png")
    assert done.returncode == 0, done.stderr
    for text in ("64 (64 with a label)", "64 JPEG, 0 raw", "as in the manifest", "all decode", "7 triangle", "48 px"):
        assert text in done.stdout
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (12 * 98 - 2, 5 * 98 - 2)
        assert np.asarray(grid).std() > 20
    answer = json.loads(viewmill("inspect", beton, "--json").stdout)
    assert (answer["rows"], answer["checks"]) == (64, {"structure": "sound", "sidecars": "as in the manifest"})
    assert answer["histograms"]["label"][0] == {"name": "0 crescent", "images": 8}


def test_inspect_finds_damage_that_the_structure_does_not_show(beton):
    whole = open_beton(beton)
    middle = int(whole.offset_N[5] + whole.size_N[5] // 2)
    with open(beton, "r+b") as file:
        file.seek(middle)
        file.write(bytes(int(whole.size_N[5] // 2)))
    assert viewmill("inspect", beton).returncode == 0
    done = viewmill("inspect", beton, "--verify")
    assert (done.returncode, "its sha256 is not its manifest's" in done.stderr) == (2, True)
    done = viewmill("inspect", beton, "--deep")
    assert done.returncode == 1
    assert "row 5: its JPEG is damaged" in done.stderr
    done = viewmill("train", "--data", beton, "--out", beton.parent / "run")
    assert (done.returncode, "its sha256 is not its manifest's" in done.stderr) == (2, True)
    assert not (beton.parent / "run").exists()


def test_subset_and_split_write_files_that_stand_for_themselves(beton, tmp_path):
    done = viewmill("split", beton, tmp_path / "train.beton", tmp_path / "val.beton", "--fraction", 0.75)
    assert done.returncode == 0, done.stderr
    train, val = open_trusted(tmp_path / "train.beton"), open_trusted(tmp_path / "val.beton")
    assert np.bincount(train.label_N).tolist() == [6] * 8
    assert np.bincount(val.label_N).tolist() == [2] * 8
    done = viewmill("subset", beton, tmp_path / "few.beton", "--labels", "star", "ring")
    assert done.returncode == 0, done.stderr
    assert "16 of 64 rows" in done.stderr
    assert len(np.unique(open_trusted(tmp_path / "few.beton").label_N)) == 2
    assert viewmill("subset", beton, tmp_path / "few.beton", "--fraction", 0.5).returncode == 2
    assert viewmill("subset", beton, tmp_path / "few.beton", "--fraction", 0.5, "--overwrite").returncode == 0
    assert len(open_trusted(tmp_path / "few.beton")) == 32
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("options", "size", "raw"),
    [
        (("--side", 24), 24, 0),
        (("--max-resolution", 30), 30, 0),
        (("--mode", "raw"), 48, 64),
        (("--mode", "smart"), 48, 64),
        (("--mode", "smart", "--smart-bytes", 6000), 48, 0),
        (("--side", 100), 48, 0),
    ],
)
def test_images_are_stored_at_the_size_and_in_the_way_asked_for(folder, tmp_path, options, size, raw):
    done = viewmill("convert", folder, tmp_path / "a.beton", "--workers", 0, *options)
    assert done.returncode == 0, done.stderr
    beton = open_beton(tmp_path / "a.beton")
    assert set(beton.width_N.tolist()) == set(beton.height_N.tolist()) == {size}
    assert (beton.mode_N == 1).sum() == raw
    settings = json.loads(sidecars(beton.path)["manifest"].read_text())["settings"]
    assert settings["mode"] == (options[1] if options[0] == "--mode" else "jpg")


def test_a_recipe_is_shown_as_a_picture_and_in_numbers(photo_beton, tmp_path):
    arguments = ("inspect", photo_beton.path, "--recipe", "multicrop", "--size", 64)
    done = viewmill(*arguments, "--grid", tmp_path / "a.png", "--plan", "--seed", 3)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6 * 8
    assert [line["view"] for line in lines[:8]] == list(range(8))
    assert {line["size"] for line in lines} == {64, 27}
    assert sorted(lines[0]["order"]) == ["brightness", "contrast", "hue", "saturation"]
    assert viewmill(*arguments, "--plan", "--seed", 3).stdout == done.stdout
    assert viewmill(*arguments, "--plan", "--seed", 4).stdout != done.stdout
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64 + 10 + 64 + 2 + 64 + 2 + 6 * 27 + 5 * 2, 6 * 66 - 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--recipe", "simclr"), "--recipe needs --grid"),
        (("--plan",), "add --recipe"),
        (("--recipe", "simclrr", "--plan"), "did you mean simclr"),
        (("--recipe", "nowhere.toml", "--plan"), "nowhere.toml"),
        (("--recipe", "simclr", "--plan", "--size", "0"), "must lie in 1 to 4096, got 0"),
    ],
)
def test_views_that_cannot_be_shown_are_refused(photo_beton, flags, message):
    done = viewmill("inspect", photo_beton.path, *flags)
    assert done.returncode == 2
    assert message in done.stderr

"""The engines: one plan gives the same crops from each of them, on any number of threads, and a bad row harms no other.

The ffcv engine and the torch engine decode to the same pixels, bit for bit, and cut crops at most 1 level of 255 apart.
"""

import importlib.util
import io
import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from viewmill.pipeline import factors
from viewmill.pipeline.beton.reader import JPEG, RAW, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.engines import engine, ffcv_engine, kernels, libffcv
from viewmill.pipeline.views import plan
from viewmill.pipeline.views.recipe import CentreCrop, RandomCrop, Recipe, View, simclr

BOTH = pytest.mark.parametrize("name", ["ffcv", "torch"])


def resized(pixels, box, size, flip=False):
    """`box` of `pixels` as the compiled kernel resizes it."""
    longest = max(box[2:])
    taps = 2 * -(-longest // size) + 4
    first, weight = np.empty((2, size), np.int64), np.empty((2, size, taps), np.float32)
    out, line = np.empty((size, size, 3), np.uint8), np.empty((longest + taps + 1) * 3, np.float32)
    kernels.resize_crop(pixels, np.array(box, np.int32), flip, out, line, first[0], weight[0], first[1], weight[1])
    return out


def by_pillow(pixels, box, size):
    top, left, height, width = box
    crop = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@st.composite
def cuts(draw):
    """A random picture and a box in it."""
    height, width = draw(st.integers(1, 120)), draw(st.integers(1, 120))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, (height, width, 3), np.uint8)
    extremes = draw(st.booleans())
    box = top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return (pixels // 128 * 255 if extremes else pixels), box


@settings(max_examples=300, deadline=None)
@given(cut=cuts(), size=st.integers(1, 64))
def test_a_resized_crop_is_pillows_to_one_level(cut, size):
    assert np.abs(resized(*cut, size) - by_pillow(*cut, size)).max() <= 1


@settings(max_examples=50, deadline=None)
@given(cut=cuts(), size=st.integers(1, 64))
def test_a_flipped_crop_is_the_mirrored_crop(cut, size):
    np.testing.assert_array_equal(resized(*cut, size, flip=True), resized(*cut, size)[:, ::-1])


@settings(max_examples=50, deadline=None)
@given(cut=cuts(), data=st.data())
def test_a_crop_of_the_asked_size_is_copied_exactly(cut, data):
    pixels, (top, left, height, width) = cut
    side = data.draw(st.integers(1, min(height, width)))
    copied = resized(pixels, (top, left, side, side), side)
    np.testing.assert_array_equal(copied, pixels[top : top + side, left : left + side])


def test_resized_crops_seldom_differ_from_pillows_and_lean_to_neither_side():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (375, 500, 3), np.uint8)
    difference = resized(pixels, (20, 30, 300, 400), 224) - by_pillow(pixels, (20, 30, 300, 400), 224)
    assert np.abs(difference).mean() < 0.25
    assert abs(difference.mean()) < 0.01


@pytest.fixture(scope="module", params=[(75, "4:2:0"), (75, "4:4:4"), (95, "4:2:0"), (95, "4:4:4")], ids=str)
def coded(request, tmp_path_factory):
    """A .beton of 16 pictures with a photograph's grain, of one quality and chroma subsampling."""
    quality, subsampling = request.param
    path = tmp_path_factory.mktemp("coded") / "a.beton"
    table, rng = factors.draw(16, 0), np.random.default_rng(0)

    def samples():
        for i in range(16):
            picture = factors.render(table[i], 96) + rng.normal(0, 8, (96, 96, 1))
            encoded = io.BytesIO()
            image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            image.save(encoded, "JPEG", quality=quality, subsampling=subsampling)
            yield Sample(JPEG, 96, 96, 0, encoded.getvalue())

    write_beton(path, samples(), capacity=16)
    return open_beton(path)


def test_the_engines_decode_as_libjpeg_turbo_does_with_the_accurate_dct(coded, mill, turbo):
    whole = Recipe((View(96, crop=CentreCrop(1.0), flip=0.0),))
    with open(coded.path, "rb") as file:
        streams = [coded.read(file.fileno(), row) for row in range(len(coded))]
    for name in ("ffcv", "torch"):
        (crops,) = mill(coded, whole, name=name)[1]
        np.testing.assert_array_equal(crops[0], [turbo.decode(data, 96, 96, libffcv.TJFLAG_ACCURATEDCT) for data in streams])


@pytest.mark.parametrize(
    "view",
    [View(96, crop=CentreCrop(1.0)), View(48), View(128, crop=RandomCrop((0.08, 1.0)))],
    ids=["uncropped", "smaller", "larger"],
)
def test_the_engines_agree_to_one_level_which_is_pillows_rounding_between_the_passes(coded, mill, view):
    (one,), (other,) = (mill(coded, Recipe((view, view)), name=name)[1] for name in ("ffcv", "torch"))
    difference = one.astype(int) - other
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() < 0.25


def test_the_engines_agree_on_photographs_of_all_sizes(photo_beton, mill):
    results = [mill(photo_beton, simclr(48), name=name) for name in ("ffcv", "torch")]
    assert all(valid_B.all() for valid_B, _ in results)
    assert np.abs(results[0][1][0].astype(int) - results[1][1][0]).max() <= 1


@BOTH
def test_any_number_of_threads_cuts_the_same_crops(photo_beton, mill, name):
    _, (one,) = mill(photo_beton, simclr(48), name=name, threads=1)
    for threads in (2, 5):
        _, (more,) = mill(photo_beton, simclr(48), name=name, threads=threads)
        np.testing.assert_array_equal(one, more)


def test_raw_rows_agree_to_one_level_and_stand_among_jpeg_rows(photo_beton, photos, mill, tmp_path):
    def mixed():
        for i, path in enumerate(sorted(photos.rglob("*.jpg"))):
            with Image.open(path) as image:
                data = path.read_bytes() if i % 3 == 0 else image.convert("RGB").tobytes()
                yield Sample(JPEG if i % 3 == 0 else RAW, *image.size, i, data)

    write_beton(tmp_path / "a.beton", mixed(), capacity=24)
    (one,), (other,) = (mill(open_beton(tmp_path / "a.beton"), simclr(40), name=name)[1] for name in ("ffcv", "torch"))
    raw_B = open_beton(tmp_path / "a.beton").mode_N == RAW
    assert raw_B.sum() == 16
    assert np.abs(one.astype(int) - other)[:, raw_B].max() <= 1
    for name, crops in (("ffcv", one), ("torch", other)):
        (all_jpeg,) = mill(photo_beton, simclr(40), name=name)[1]
        np.testing.assert_array_equal(crops[:, ~raw_B], all_jpeg[:, ~raw_B])


@BOTH
def test_views_of_two_sizes_stand_each_in_its_group(photo_beton, name):
    recipe = Recipe((View(48), View(20, crop=RandomCrop((0.05, 0.2))), View(48, flip=1.0), View(20)))
    row_B = np.array([3, 11, 3, 20, 7, 0, 1, 2, 23, 5])
    places = {"height_B": photo_beton.height_N[row_B], "width_B": photo_beton.width_N[row_B]}
    drawn = plan.draw(recipe, seed=1, epoch=2, row_B=row_B, **places)
    outs = np.empty((2, 10, 48, 48, 3), np.uint8), np.empty((2, 10, 20, 20, 3), np.uint8)
    with closing(engine.ENGINES[name].make(photo_beton, 2)) as running:
        assert running.crops(row_B, drawn, outs).all()
        for group, members in enumerate(recipe.groups):
            for slot, v in enumerate(members):
                alone = np.empty((1, *outs[group].shape[1:]), np.uint8)
                only = plan.ViewPlan(Recipe((recipe.views[v],)), *(column[v : v + 1] for column in drawn[1:]))
                running.crops(row_B, only, (alone,))
                np.testing.assert_array_equal(outs[group][slot], alone[0])


@BOTH
def test_a_damaged_row_is_invalid_and_black_and_leaves_the_others_alone(photo_beton, mill, tmp_path, name):
    beton = open_beton(Path(shutil.copy(photo_beton.path, tmp_path)))
    recipe = Recipe((View(48), View(20)))
    _, intact = mill(beton, recipe, name=name)
    with open(beton.path, "r+b") as file:
        file.seek(int(beton.offset_N[5]))
        file.write(b"\0\0")
    os.truncate(beton.path, int(beton.offset_N[21] + beton.size_N[21] // 2))
    valid_B, damaged = mill(beton, recipe, name=name)
    assert np.flatnonzero(~valid_B).tolist() == [5, 21, 22, 23]
    for before, after in zip(intact, damaged, strict=True):
        np.testing.assert_array_equal(before[:, valid_B], after[:, valid_B])
        assert not after[:, ~valid_B].any()


@BOTH
def test_a_row_replaced_by_an_image_of_another_size_is_invalid(photo_beton, mill, tmp_path, name):
    beton = open_beton(Path(shutil.copy(photo_beton.path, tmp_path)))
    strangers = {}
    for row, size in ((6, (30, 30)), (9, (130, 130))):
        encoded = io.BytesIO()
        Image.new("RGB", size, "red").save(encoded, "JPEG", quality=20)
        strangers[row] = encoded.getvalue()
        assert len(strangers[row]) <= beton.size_N[row]
    with open(beton.path, "r+b") as file:
        for row, data in strangers.items():
            file.seek(int(beton.offset_N[row]))
            file.write(data)
    valid_B, _ = mill(beton, simclr(32), name=name)
    assert np.flatnonzero(~valid_B).tolist() == [6, 9]


@BOTH
def test_an_engine_may_be_closed_twice(photo_beton, name):
    running = engine.ENGINES[name].make(photo_beton, 1)
    running.close()
    running.close()


def test_an_unknown_engine_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no engine is called 'dali': use auto, ffcv, torch"):
        engine.choose("dali")


def test_here_every_engine_works_and_auto_takes_the_first():
    found = {status.name: status for status in engine.survey()}
    assert list(found) == list(engine.ENGINES)
    assert [(found[name].works, found[name].reason) for name in ("ffcv", "torch")] == [(True, "")] * 2
    assert found["dali-gpu"].works or found["dali-gpu"].reason
    assert all(status.stages == engine.ENGINES[status.name].stages for status in engine.survey())
    assert [engine.choose(name) for name in ("auto", "ffcv", "torch")] == ["ffcv", "ffcv", "torch"]


@pytest.fixture
def no_ffcv(monkeypatch):
    """A machine without FFCV."""
    libffcv.library.cache_clear()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ffcv" else found(name, *rest))
    yield
    libffcv.library.cache_clear()


@pytest.mark.usefixtures("no_ffcv")
def test_without_ffcv_its_engine_names_the_command_and_auto_takes_torch(photo_beton, mill):
    with pytest.raises(libffcv.EngineUnavailable, match=r"FFCV is not installed: apt-get install .* && pip install ffcv"):
        ffcv_engine.FfcvEngine(photo_beton, 1)
    ffcv, torch = engine.survey()[:2]
    assert (ffcv.works, ffcv.reason) == (False, f"FFCV is not installed: {libffcv.INSTALL}")
    assert torch.works
    assert engine.choose("auto") == "torch"
    assert mill(photo_beton, simclr(32), name="torch")[0].all()

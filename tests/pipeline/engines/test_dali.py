"""The dali engine on the cores, against the ffcv and the torch engine and against files that rot under it.

It decodes to their pixels to the bit. Its filter repeats the outermost pixel of a crop where Pillow's and the kernels' leave
out what lies past it, so the outermost pixels of a shrunk view differ, and all others by rounding alone.
"""

import io
import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline.beton.reader import JPEG, RAW, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.engines import dali_engine, libffcv
from viewmill.pipeline.engines.dali_engine import DaliEngine
from viewmill.pipeline.engines.ffcv_engine import FfcvEngine
from viewmill.pipeline.engines.torch_engine import TorchEngine
from viewmill.pipeline.views import plan
from viewmill.pipeline.views.recipe import CentreCrop, RandomCrop, Recipe, View, multicrop, simclr

pytest.importorskip("nvidia.dali")
OTHERS = pytest.mark.parametrize("other", [FfcvEngine, TorchEngine])
SIZES = pytest.mark.parametrize("size", [32, 96])


def drawn(beton, recipe, row_B):
    return plan.draw(recipe, seed=0, epoch=0, row_B=row_B, height_B=beton.height_N[row_B], width_B=beton.width_N[row_B])


def crops(engine, beton, recipe, row_B=None, then=None):
    """valid_B and the crops of `row_B`, all rows if None, each group in buffers of 127."""
    row_B = np.arange(len(beton)) if row_B is None else np.asarray(row_B)
    shapes = [(len(group), len(row_B), *[recipe.views[group[0]].size] * 2, 3) for group in recipe.groups]
    outs = tuple(np.full(shape, 127, np.uint8) for shape in shapes)
    follow = {} if then is None else {"then": then}
    return engine.crops(row_B, drawn(beton, recipe, row_B), outs, **follow), outs


def once(kind, beton, recipe, threads=2):
    with closing(kind(beton, threads)) as engine:
        return crops(engine, beton, recipe)


def far(one, other):
    """Distances in levels of 255: all of them, and those inside the outermost pixels of each crop."""
    distance = np.abs(one.astype(int) - other)
    return distance, distance[..., 1:-1, 1:-1, :]


def jpeg(image, **options):
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **options)
    return encoded.getvalue()


@pytest.fixture(scope="module")
def mixed_beton(photos, tmp_path_factory):
    """The photographs, two of three stored raw."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.beton"

    def samples():
        for i, photo in enumerate(sorted(photos.rglob("*.jpg"))):
            with Image.open(photo) as image:
                data = photo.read_bytes() if i % 3 == 0 else image.convert("RGB").tobytes()
                yield Sample(JPEG if i % 3 == 0 else RAW, *image.size, i, data)

    write_beton(path, samples(), capacity=24)
    return open_beton(path)


@pytest.fixture
def rotten(photo_beton, tmp_path):
    """`rotten({row: bytes})` -> the photographs, with these bytes at the start of these rows."""

    def write(streams):
        beton = open_beton(Path(shutil.copy(photo_beton.path, tmp_path)))
        with open(beton.path, "r+b") as file:
            for row, data in streams.items():
                assert len(data) <= beton.size_N[row]
                file.seek(int(beton.offset_N[row]))
                file.write(data)
        return beton

    return write


def stored(beton, row):
    with open(beton.path, "rb") as file:
        return beton.read(file.fileno(), row)


def undecodable(beton, row):
    """The stream of `row` with a Huffman table of a number that there is not: its header is read, its decoding fails."""
    stream = bytearray(stored(beton, row))
    stream[stream.index(b"\xff\xc4") + 4] = 12
    return bytes(stream)


@OTHERS
def test_it_decodes_to_the_other_engines_pixels_to_the_bit(photo_beton, other):
    shorter_N = np.minimum(photo_beton.height_N, photo_beton.width_N)
    for side in np.unique(shorter_N):
        whole = Recipe((View(int(side), crop=CentreCrop(1.0), flip=0.0),))
        row_B = np.flatnonzero(shorter_N == side)
        with closing(DaliEngine(photo_beton, 1)) as ours, closing(other(photo_beton, 1)) as theirs:
            (one,), (two,) = (crops(engine, photo_beton, whole, row_B)[1] for engine in (ours, theirs))
        np.testing.assert_array_equal(one, two)


@SIZES
@OTHERS
def test_views_are_the_other_engines_but_for_the_outermost_pixels_which_dali_repeats(photo_beton, other, size):
    (valid_B, (ours,)), (_, (theirs,)) = (once(kind, photo_beton, simclr(size)) for kind in (DaliEngine, other))
    assert drawn(photo_beton, simclr(size), np.arange(24)).flip_VB.any()
    assert valid_B.all()
    everywhere, inside = far(ours, theirs)
    # Pillow rounds to 8 bits between the passes, the kernels do not, nor does DALI.
    assert inside.max() <= 1
    assert inside.mean() < (0.3 if other is TorchEngine else 0.01)
    assert everywhere.max() <= 20
    assert everywhere.mean() < (0.4 if other is TorchEngine else 0.1)


@OTHERS
def test_enlarged_views_are_the_other_engines_to_one_level_everywhere(photo_beton, other):
    (_, (ours,)), (_, (theirs,)) = (once(kind, photo_beton, simclr(128)) for kind in (DaliEngine, other))
    assert far(ours, theirs)[0].max() <= 1


def test_raw_rows_stand_among_jpeg_rows_and_come_out_as_those(photo_beton, mixed_beton):
    assert 0 < (mixed_beton.mode_N == RAW).sum() < 24
    (all_valid_B, mixed), (_, encoded) = (once(DaliEngine, beton, multicrop(56)) for beton in (mixed_beton, photo_beton))
    assert all_valid_B.all()
    for one, other in zip(mixed, encoded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_engine_takes_ragged_batches_and_alternating_recipes_and_what_follows_on_each_piece(mixed_beton):
    row_B, told = np.arange(24), []
    recipes = simclr(32), Recipe((View(48), View(20, crop=RandomCrop((0.05, 0.2))), View(48, flip=1.0)))
    expected = [once(DaliEngine, mixed_beton, recipe)[1] for recipe in recipes]
    with closing(DaliEngine(mixed_beton, 2)) as engine:
        for turn, batch_B in enumerate([row_B[:3], row_B, row_B[7:8], row_B[4:21], row_B[::-1], row_B[:0]]):
            for recipe, whole in zip(recipes, expected, strict=True):
                told.clear()
                valid_B, outs = crops(engine, mixed_beton, recipe, batch_B, lambda begin, end: told.append((begin, end)))
                assert valid_B.shape == batch_B.shape, turn
                assert valid_B.all()
                assert [b for begin, end in sorted(told) for b in range(begin, end)] == list(range(len(batch_B)))
                for out, all_rows in zip(outs, whole, strict=True):
                    np.testing.assert_array_equal(out, all_rows[:, batch_B])


def test_what_follows_sees_every_crop_of_the_batch_in_place(mixed_beton):
    row_B, recipe, (expected,) = np.arange(24), simclr(32), once(DaliEngine, mixed_beton, simclr(32))[1]
    out, seen = np.full(expected.shape, 127, np.uint8), []
    with closing(DaliEngine(mixed_beton, 2)) as engine:
        follow = lambda begin, end: seen.append(np.array_equal(out, expected))  # noqa: E731
        engine.crops(row_B, drawn(mixed_beton, recipe, row_B), (out,), follow)
    assert len(seen) > 1
    assert all(seen)


def test_any_number_of_threads_cuts_the_same_crops(mixed_beton):
    results = [once(DaliEngine, mixed_beton, multicrop(56), threads)[1] for threads in (1, 4)]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_decoded_in_several_runs_is_the_same(mixed_beton, monkeypatch):
    _, (whole,) = once(DaliEngine, mixed_beton, simclr(32))
    monkeypatch.setattr(dali_engine, "PIXELS_A_RUN", 4 * 80 * 80 * 3)
    valid_B, (pieces,) = once(DaliEngine, mixed_beton, simclr(32))
    assert valid_B.all()
    np.testing.assert_array_equal(whole, pieces)


def test_damaged_rows_are_invalid_and_black_and_leave_the_others_alone(photo_beton, rotten):
    recipe = Recipe((View(48), View(20)))
    _, intact = once(DaliEngine, photo_beton, recipe)
    stream = stored(photo_beton, 13)
    # No start; no tables; and from row 21 on the file ends.
    beton = rotten({5: b"\0\0", 6: b"\xff\xd8" + stream[stream.index(b"\xff\xc0") :][:400]})
    cut = beton.offset_N[21] + beton.size_N[21] // 2
    lost = {5, 6, *np.flatnonzero(beton.offset_N + beton.size_N > cut).tolist()}
    os.truncate(beton.path, int(cut))
    with closing(DaliEngine(beton, 2)) as engine:
        for _ in range(2):
            valid_B, damaged = crops(engine, beton, recipe)
            assert set(np.flatnonzero(~valid_B).tolist()) == lost
            for before, after in zip(intact, damaged, strict=True):
                np.testing.assert_array_equal(before[:, valid_B], after[:, valid_B])
                assert not after[:, ~valid_B].any()


def test_a_stream_that_ends_early_is_invalid(photo_beton, rotten):
    size, stream = int(photo_beton.size_N[5]), stored(photo_beton, 5)
    beton = rotten({5: stream[: size // 2] + bytes(size - size // 2)})
    assert np.flatnonzero(~once(FfcvEngine, beton, simclr(32))[0]).tolist() == [5]
    assert np.flatnonzero(~once(DaliEngine, beton, simclr(32))[0]).tolist() == [5]


def test_damage_that_dali_passes_over_is_passed_over_beside_a_row_that_fails_too(photo_beton, rotten):
    stream = bytearray(stored(photo_beton, 5))
    middle = len(stream) // 2
    stream[middle : middle + 40] = np.random.default_rng(0).integers(0, 255, 40, np.uint8).tobytes()
    size = {"height": int(photo_beton.height_N[5]), "width": int(photo_beton.width_N[5])}
    assert not libffcv.decodes(bytes(stream), **size)
    valid_B, (alone,) = once(DaliEngine, rotten({5: bytes(stream)}), simclr(32))
    assert valid_B.all()
    valid_B, (beside,) = once(DaliEngine, rotten({5: bytes(stream), 6: undecodable(photo_beton, 6)}), simclr(32))
    assert np.flatnonzero(~valid_B).tolist() == [6]
    np.testing.assert_array_equal(alone[:, valid_B], beside[:, valid_B])


def test_a_header_that_dali_cannot_read_never_reaches_it(photo_beton, rotten, monkeypatch):
    """One that did would crash the process, often in the first batch: DALI 2.4.0 throws while other threads still decode."""
    given, cut, stream = [], dali_engine._cut, stored(photo_beton, 8)
    monkeypatch.setattr(dali_engine, "_cut", lambda *all_of_it: (given.append(len(all_of_it[1])), cut(*all_of_it))[1])
    beton = rotten({5: b"\0\0", 8: stream.replace(b"\xff\xdb", b"\0\0"), 9: stream[:40] + b"\xff\xd9" + bytes(1500)})
    assert np.flatnonzero(~once(DaliEngine, beton, simclr(32))[0]).tolist() == [5, 8, 9]
    assert given == [21]


@pytest.mark.parametrize("damage", [lambda beton, row: b"\0\0", undecodable], ids=["headers", "streams"])
def test_a_batch_of_damaged_rows_alone_is_invalid(rotten, photo_beton, damage):
    beton = rotten({row: damage(photo_beton, row) for row in range(24)})
    valid_B, (out,) = once(DaliEngine, beton, simclr(32))
    assert not valid_B.any()
    assert not out.any()


def test_a_row_replaced_by_an_image_of_another_size_is_invalid(rotten):
    bomb = bytearray(jpeg(Image.new("RGB", (30, 30)), quality=20))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    strangers = {size: jpeg(Image.new("RGB", (size, size), "red"), quality=20) for size in (30, 130)}
    png = io.BytesIO()
    Image.new("RGB", (60, 60)).save(png, "PNG")
    beton = rotten({6: strangers[30], 9: strangers[130], 11: bytes(bomb), 12: png.getvalue()})
    assert np.flatnonzero(~once(DaliEngine, beton, simclr(32))[0]).tolist() == [6, 9, 11, 12]


def test_an_orientation_in_the_exif_data_turns_nothing(tmp_path):
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    data = jpeg(Image.fromarray(rng.integers(0, 256, (60, 40, 3), np.uint8)), exif=exif)
    write_beton(tmp_path / "a.beton", [Sample(JPEG, 40, 60, 0, data)], capacity=1)
    beton, whole = open_beton(tmp_path / "a.beton"), Recipe((View(40, crop=CentreCrop(1.0), flip=0.0),))
    (_, (ours,)), (_, (theirs,)) = (once(kind, beton, whole) for kind in (DaliEngine, FfcvEngine))
    np.testing.assert_array_equal(ours, theirs)


def used():
    """Resident MiB, threads and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, *(len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd"))


def test_memory_threads_and_files_stay_flat_and_closing_gives_them_back(photo_beton, mixed_beton, rotten):
    beton = rotten({4: undecodable(photo_beton, 4)})
    before = warm = used()
    with closing(DaliEngine(beton, 2)) as damaged, closing(DaliEngine(mixed_beton, 2)) as engine:
        for turn in range(120):
            row_B = np.arange(24 - turn % 3)
            crops(engine, mixed_beton, (simclr(32), multicrop(56))[turn % 2], row_B)
            if turn % 4 == 0:
                crops(damaged, beton, simclr(32), row_B)
            if turn == 19:
                warm = used()
    engine.close()  # twice is allowed
    patience = time.monotonic() + 5  # an ended thread stays in the list for a moment
    while used()[1] > before[1] and time.monotonic() < patience:
        time.sleep(0.01)
    assert used()[1] <= before[1]
    assert used()[2] == before[2]
    assert used()[0] < warm[0] + 16


def test_only_so_many_pipelines_are_kept(mixed_beton):
    with closing(DaliEngine(mixed_beton, 1)) as engine:
        sizes = range(16, 28)
        threads = []
        for size in sizes:
            crops(engine, mixed_beton, simclr(size))
            threads.append(used()[1])
    assert len(set(threads[2:])) == 1


@pytest.mark.gpu
def test_a_gpu_cuts_nearly_the_same_crops_and_finds_the_same_damage(photo_beton, mixed_beton, rotten):
    if reason := dali_engine.fault("gpu"):
        pytest.skip(reason)
    beton = rotten({4: undecodable(photo_beton, 4), 7: b"\0\0"})
    for file, lost in ((mixed_beton, []), (beton, [4, 7])):
        _, (expected,) = once(DaliEngine, file, simclr(32))
        with closing(DaliEngine(file, 2, device="gpu")) as engine:
            assert engine._device_id is not None
            valid_B, (out,) = crops(engine, file, simclr(32))
        assert np.flatnonzero(~valid_B).tolist() == lost
        assert far(out, expected)[0].mean() < 2


def test_here_it_works_on_the_cores():
    assert dali_engine.fault("cpu") == ""


@pytest.fixture
def no_dali(monkeypatch):
    """A machine without DALI."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


@pytest.mark.usefixtures("no_dali")
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_without_dali_the_engine_names_the_command(photo_beton, device):
    with pytest.raises(libffcv.EngineUnavailable, match=r"DALI is not installed: pip install 'viewmill\[dali-cuda13\]'"):
        DaliEngine(photo_beton, 1, device=device)


def test_without_a_gpu_the_engine_on_it_says_so(photo_beton, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(libffcv.EngineUnavailable, match="there is no CUDA device: mend the driver"):
        DaliEngine(photo_beton, 1, device="gpu")


def test_a_gpu_that_fails_its_trial_is_warned_of_and_the_cores_take_its_place(photo_beton, monkeypatch):
    _, (expected,) = once(DaliEngine, photo_beton, simclr(32))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 99)  # there is none of that number, whatever the machine
    with pytest.warns(UserWarning, match="DALI decodes on the cores, not on the GPU: a known picture fails: "):
        engine = DaliEngine(photo_beton, 2, device="gpu")
    with closing(engine):
        valid_B, (out,) = crops(engine, photo_beton, simclr(32))
    assert valid_B.all()
    np.testing.assert_array_equal(out, expected)


def test_an_engine_that_no_longer_works_blames_no_row(rotten, monkeypatch):
    def broken(pipeline, stored_n, box_nV4):
        raise RuntimeError("encountered:\n\nout of memory")

    beton = rotten({})
    monkeypatch.setattr(dali_engine, "_cut", broken)
    with pytest.raises(RuntimeError, match="DALI no longer works, whatever the row: a known picture fails: out of memory"):
        once(DaliEngine, beton, simclr(32))


def test_a_known_picture_of_other_colours_fails_the_trial(photo_beton, monkeypatch):
    cut = dali_engine._cut
    monkeypatch.setattr(dali_engine, "_cut", lambda *given: [view[..., ::-1] for view in cut(*given)])
    with closing(DaliEngine(photo_beton, 1)) as engine:
        assert "levels off" in engine._trial()

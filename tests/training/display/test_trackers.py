import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.views.colour_spaces import NUMBERS, to_space
from viewmill.pipeline.views.recipe import Jitter, Recipe, View, lab, simclr, ycbcr
from viewmill.training.display import accelerate_trackers, pictures, trackers

CPU = torch.device("cpu")


# ---- trackers


def test_without_trackers_nothing_is_imported():
    code = (
        "import sys\nfrom pathlib import Path\nfrom viewmill.training.display.trackers import tracked\n"
        "with tracked((), Path('nowhere'), {}, None, step=0) as tracking:\n"
        "    tracking.scalars({'loss': 1.0}, 1); tracking.pictures({}, 1)\n"
        "assert not Path('nowhere').exists()\n"
        "print(*{'torch', 'accelerate', 'tensorboard', 'wandb', 'trackio', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_with_the_remedy(monkeypatch, tmp_path):
    main = SimpleNamespace(is_main_process=True)
    with pytest.raises(ValueError, match=r"no tracker is called 'aim': use tensorboard, wandb, trackio"):
        trackers.installed(["aim"])
    # in a folder that holds a folder `trackio` Python finds an empty package of that name
    for found in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name, found=found: found)
        for process in (main, SimpleNamespace(is_main_process=False)):
            with (
                pytest.raises(ValueError, match=r'trackio is not installed: pip install "viewmill\[trackio\]"'),
                trackers.tracked(["trackio"], tmp_path, {}, process, step=0),
            ):
                raise AssertionError("nothing may start")
    assert not list(tmp_path.iterdir())


def test_other_processes_track_nothing(tmp_path):
    with trackers.tracked(["tensorboard"], tmp_path, {}, SimpleNamespace(is_main_process=False), step=0) as track:
        track.scalars({"loss": 2.5}, 1)
    assert not list(tmp_path.iterdir())


def run(code: str, *, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with OUT = folder/RUN where nothing can be reached but a port that answers nobody, and HOME is empty."""
    (folder / "home").mkdir(exist_ok=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO", "HF_"))}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere)
        fonts = {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # to look for them takes seconds
        home = {"HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
        whole = f"from pathlib import Path\nOUT = Path({str(folder / 'RUN')!r})\n{STARTED}{code}"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", whole],
            env=kept | proxies | home | fonts | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        listener.settimeout(0)
        try:
            listener.accept()[0].close()
            done.stderr += "\nsomebody asked for the network"
        except BlockingIOError:
            pass
    return done


STARTED = """
import json, sys
import numpy as np
from accelerate import Accelerator
from viewmill.training.display import accelerate_trackers as trackers
from viewmill.training.display.pictures import curves
from viewmill.training.display.trackers import tracked
accelerator, told = Accelerator(cpu=True), []
before = dict(__import__("os").environ)

def track(names, step):
    settings = {"method": "simclr", "objective": {"temperature": 0.1}}
    return tracked(names, OUT, settings, accelerator, step=step, warn=told.append)

def reading(step):
    odd = {"bound": float("nan"), "ceiling": float("inf"), "probe": None, "name": "a text", "list": [1, 2]}
    return {"loss": 10.0 - step, "negative_histogram": [0.1, 0.2, 0.3, 0.4], "odd_histogram": [float("nan"), 1.0], **odd}

PICTURE = (np.arange(8 * 16 * 3) % 251).astype(np.uint8).reshape(8, 16, 3)
"""


TRAINED = """
def train(names, first, last):
    with track(names, first) as tracking:
        for step in range(first + 1, last + 1):
            tracking.scalars(reading(step), step)
        for _ in range(2):
            tracking.pictures({"views": PICTURE, "curves": lambda: curves(OUT / "log.jsonl")}, last)
    assert before == dict(__import__("os").environ)
    print(json.dumps(told))

"""
HERE = importlib.util.find_spec("trackio") is not None  # not among what is installed for the tests: it takes no Pillow 13
WITH_TRACKIO = pytest.mark.skipif(not HERE, reason="trackio is not installed")
NAMES = ("tensorboard", "wandb", *(("trackio",) if HERE else ()))


@pytest.fixture(scope="module")
def tracked_twice(tmp_path_factory) -> Path:
    """A folder with RUN, which did steps 1 to 4, and after a crash, from the checkpoint of step 2, steps 3 to 6."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "RUN").mkdir()
    for first, last in ((0, 4), (2, 6)):
        write_log(folder / "RUN" / "log.jsonl", last)
        done = run(f"{TRAINED}train({NAMES}, {first}, {last})", folder=folder)
        # what the trackers themselves announce does not stand on standard output
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
        assert "network" not in done.stderr
    return folder


def test_trackers_leave_nothing_outside_of_the_run(tracked_twice):
    assert {path.name for path in tracked_twice.iterdir()} == {"home", "RUN"}
    assert not [path for path in (tracked_twice / "home").rglob("*") if path.is_file()]
    assert {path.name for path in (tracked_twice / "RUN").iterdir()} == {"log.jsonl", "track"}


def test_tensorboard_holds_numbers_histograms_and_pictures_and_no_step_twice_after_a_resume(tracked_twice):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked_twice / "RUN" / "track" / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(step, 10.0 - step) for step in range(1, 7)]
    assert [event.step for event in events.Histograms("negative_histogram")] == [1, 2, 3, 4, 5, 6]
    histogram = events.Histograms("negative_histogram")[0].histogram_value
    assert list(histogram.bucket_limit) == [-0.5, 0, 0.5, 1]
    assert list(histogram.bucket) == [0.1, 0.2, 0.3, 0.4]
    assert {event.step for event in events.Images("curves")} == {6}
    assert {event.step for event in events.Images("views")} == {6}
    shown = np.asarray(Image.open(io.BytesIO(events.Images("views")[0].encoded_image_string)))
    assert (shown == (np.arange(8 * 16 * 3) % 251).astype(np.uint8).reshape(8, 16, 3)).all()


def test_wandb_runs_offline_under_one_id(tracked_twice):
    track = tracked_twice / "RUN" / "track"
    identity = json.loads((track / "identity.json").read_text())["name"]
    assert identity.startswith("RUN-")
    files = list((track / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2
    for file in files:
        content = file.read_bytes()
        for part in (b"temperature", b"loss", b"negative_histogram"):
            assert part in content
        assert b"NaN" not in content
        pictures = (file.parent / "files" / "media" / "images").glob("*.png")
        assert {path.name.split("_")[0] for path in pictures} == {"curves", "views"}


READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("viewmill", sys.argv[1])))
"""


@WITH_TRACKIO
def test_trackio_holds_numbers_histograms_and_pictures_and_no_step_twice_after_a_resume(tracked_twice):
    track = tracked_twice / "RUN" / "track"
    identity = json.loads((track / "identity.json").read_text())["name"]
    environment = os.environ | {"TRACKIO_DIR": str(track / "trackio")}
    done = subprocess.run([sys.executable, "-c", READ_TRACKIO, identity], env=environment, capture_output=True, check=True)
    found = json.loads(done.stdout)
    numbers = [record for record in found if "loss" in record]
    assert [(record["step"], record["loss"]) for record in numbers] == [(step, 10.0 - step) for step in range(1, 7)]
    assert all(record["negative_histogram"]["values"] == [0.1, 0.2, 0.3, 0.4] for record in numbers)
    assert all("bound" not in record for record in numbers)
    for name in ("views", "curves"):
        assert [record["step"] for record in found if name in record] == [4, 4, 6, 6]
    assert len(list((track / "trackio" / "media").rglob("*.png"))) == 8


KEY = "0123456789" * 4


def test_wandb_of_a_user_who_is_logged_in_goes_offline_where_its_server_does_not_answer(tmp_path):
    write_log(tmp_path / "log.jsonl", 3)
    code = f"import shutil; OUT.mkdir(); shutil.copy({str(tmp_path / 'log.jsonl')!r}, OUT)\ntrackers.WANDB_START_S = 2.0\n"
    done = run(code + TRAINED + "train(['wandb'], 0, 3)", folder=tmp_path, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told.startswith("wandb does not answer (")
    assert "somebody asked for the network" in done.stderr
    assert len(list((tmp_path / "RUN" / "track" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


def test_a_key_of_wandb_is_found_where_wandb_looks_for_it(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not accelerate_trackers._logged_in("https://api.example.org")
    for content, found in ((f"machine other login user password {KEY}", False), ("machine", False)):
        (tmp_path / "netrc").write_text(content)
        assert accelerate_trackers._logged_in("https://api.example.org") == found
    for host in ("api.example.org", "api.wandb.ai"):
        (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
        assert accelerate_trackers._logged_in("https://api.example.org")
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert accelerate_trackers._logged_in("https://api.example.org")


@WITH_TRACKIO
def test_what_fails_is_told_once_and_the_rest_goes_on_and_nobody_is_asked_for_a_key(tmp_path):
    (tmp_path / "RUN" / "track").mkdir(parents=True)
    (tmp_path / "RUN" / "track" / "trackio").write_text("a file where a folder should be")
    code = f"sys.modules['matplotlib'] = None\n{TRAINED}train({NAMES[::-1]}, 0, 3)"
    done = run(code, folder=tmp_path, WANDB_MODE="online")
    assert done.returncode == 0, done.stderr
    assert "network" not in done.stderr
    file, key, curves = json.loads(done.stdout)
    assert file.startswith("trackio: ")
    assert file.endswith("the training goes on")
    assert "wandb has no key" in key
    assert curves == 'curves: no matplotlib, so no curves are drawn: pip install "viewmill[track]"; the training goes on'
    assert len(list((tmp_path / "RUN" / "track" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert len(list((tmp_path / "RUN" / "track" / "tensorboard").iterdir())) == 1


FULL = """
import os, subprocess
(OUT / "track").mkdir(parents=True)
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", OUT / "track"], capture_output=True).returncode:
    print("null")
    raise SystemExit
try:
    with track(["tensorboard"], 0) as tracking:
        for step in range(1, 200):
            tracking.scalars(reading(step), step)
            tracking.pictures({"noise": np.random.default_rng(step).integers(0, 255, (64, 64, 3), np.uint8)}, step)
    print(json.dumps([told, step]))
finally:
    os.sync()
    subprocess.run(["umount", "-l", OUT / "track"], check=True)
"""


def test_a_tracker_whose_disk_fills_up_is_told_once_and_the_training_goes_on(tmp_path):
    done = run(FULL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found is None:
        pytest.skip("a tmpfs cannot be mounted here")
    told, step = found
    assert step == 199
    assert len(told) == 1
    assert "No space left on device" in told[0]


# ---- pictures


def batch_of(beton, recipe: Recipe, rows=range(12)):
    with closing(BetonLoader(beton, recipe, batch=len(rows), seed=3, device=CPU)) as loader:
        return loader.batch_of(np.array(rows), epoch=1)


def plain(recipe: Recipe) -> Recipe:
    """The same draws in RGB, without normalisation."""
    views = [
        View(v.size, v.crop, v.flip, v.jitter, v.grey, v.blur, v.solarise, "rgb", (0, 0, 0), (1, 1, 1)) for v in recipe.views
    ]
    return Recipe(tuple(views))


def test_views_are_shown_as_they_were_before_normalisation(photo_beton):
    views = (View(24, jitter=Jitter(0.4, 0.4, 0.4, 0.1)), View(32), View(24, mean=(0.1, 0.5, 0.9), std=(0.5, 0.2, 1.0)))
    recipe = Recipe(views)  # the first and the third travel together, and are normalised differently
    columns = pictures.view_columns(batch_of(photo_beton, recipe), recipe, range(12))
    batch = batch_of(photo_beton, plain(recipe))
    pair, single = batch.views[0].unflatten(0, (2, 12)), batch.views[1]
    for column, expected in zip(columns, (pair[0], single, pair[1]), strict=True):
        assert column.dtype == np.uint8
        shown = torch.from_numpy(column).permute(0, 3, 1, 2) / 255
        assert (shown - expected).abs().max() < 0.51 / 255


@pytest.mark.parametrize("make", [lab, ycbcr])
def test_halves_of_a_colour_space_are_shown_each_for_itself(photo_beton, make):
    recipe = make(24)
    lightness, colour = pictures.view_columns(batch_of(photo_beton, recipe), recipe, range(12))
    assert lightness.shape == colour.shape == (12, 24, 24, 3)
    assert (lightness.max(axis=3).astype(int) - lightness.min(axis=3)).max() <= 1
    assert lightness.std() > 20
    assert (colour.max(axis=3).astype(int) - colour.min(axis=3)).max() > 20
    assert pictures.view_grid(batch_of(photo_beton, recipe), recipe, images=4).shape[2] == 3


@pytest.mark.parametrize("space", ["rgb", "lab", "ycbcr"])
def test_colour_spaces_are_undone(space):
    rgb = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rgb[0, :, 0] = torch.tensor([0.0, 1.0, 0.5])[:, None]
    assert (pictures.from_space(to_space(rgb, NUMBERS[space]), space) - rgb).abs().max() < 2e-4


def test_a_grid_has_a_line_for_each_image_and_a_column_for_each_view(photo_beton):
    recipe = simclr(24)
    batch = batch_of(photo_beton, recipe)
    grid = pictures.view_grid(batch, recipe, images=5)
    assert grid.dtype == np.uint8
    assert grid.shape == (5 * 48 + 4 * 2, 2 * 48 + 2, 3)  # 24 px enlarged twice, 2 px apart
    first = pictures.view_columns(batch, recipe, [0, 2])[1]
    assert (grid[:48:2, 50::2] == first[0]).all()
    assert (grid[50:98:2, 50::2] == first[1]).all()
    assert pictures.view_grid(batch_of(photo_beton, recipe, range(2)), recipe, images=8).shape[0] == 2 * 48 + 2


def test_broken_pixels_are_shown_and_break_nothing(photo_beton):
    recipe = simclr(24)
    batch = batch_of(photo_beton, recipe)
    batch.views[0][:3] = float("nan")
    batch.views[0][3:5] = float("inf")
    assert pictures.view_grid(batch, recipe).dtype == np.uint8


def test_neighbours_are_the_nearest_other_images_of_the_batch(photo_beton):
    recipe = simclr(64)
    batch = batch_of(photo_beton, recipe)
    angle = torch.arange(12) * 0.1
    feature_BF = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.arange(1, 13)[:, None]  # length says nothing
    grid = pictures.neighbour_grid(batch, recipe, feature_BF, queries=3, nearest=2)
    assert grid.shape == (3 * 64 + 2 * 2, 3 * 64 + 10 + 2, 3)
    views = pictures.view_columns(batch, recipe, range(12))[0]
    tiles = [[grid[top : top + 64, left : left + 64] for left in (0, 74, 140)] for top in (0, 66, 132)]
    found = [[next(i for i in range(12) if (tile == views[i]).all()) for tile in line] for line in tiles]
    assert found[0] == [0, 1, 2]
    assert (found[1][0], set(found[1][1:])) == (4, {3, 5})
    assert (found[2][0], set(found[2][1:])) == (8, {7, 9})


def test_neighbours_of_few_images_or_broken_features_are_shown_and_of_one_image_refused(photo_beton):
    recipe = simclr(8)
    batch = batch_of(photo_beton, recipe, range(3))
    feature_BF = torch.tensor([[1.0, 0.0], [float("nan"), float("inf")], [0.9, 0.1]])
    assert pictures.neighbour_grid(batch, recipe, feature_BF).shape == (3 * 66 - 2, 64 + 10 + 2 * 64 + 2, 3)
    with pytest.raises(ValueError, match="got 3 and 2"):
        pictures.neighbour_grid(batch, recipe, feature_BF[:2])
    with pytest.raises(ValueError, match="two images or more"):
        pictures.neighbour_grid(batch_of(photo_beton, recipe, range(1)), recipe, feature_BF[:1])


def write_log(path: Path, count: int) -> None:
    with open(path, "w") as file:
        file.write('{"event": "start", "step": 0}\n')
        for step in range(1, count + 1):
            now = {"event": "step", "step": step, "loss": None if step == 3 else 5 / step, "learning_rate": 0.1}
            now |= {"bound": 3.0, "ceiling": 5.5} if step % 2 else {}
            now |= {"probe": 0.5} if step % 5 == 0 else {}
            file.write(json.dumps(now) + "\n")
        file.write('{"event": "step", "st')


def test_curves_are_drawn_of_a_log_that_is_being_written(tmp_path):
    write_log(tmp_path / "log.jsonl", 40)
    picture = pictures.curves(tmp_path / "log.jsonl")
    assert picture.dtype == np.uint8
    assert picture.shape == (600, 1000, 3)
    for rows, columns in ((slice(0, 300), slice(0, 500)), (slice(300, 600), slice(500, 1000))):
        ink = (picture[rows, columns].max(axis=2).astype(int) - picture[rows, columns].min(axis=2)) > 60
        assert ink.sum() > 100


def test_points_of_a_long_log_are_bounded_and_reach_from_end_to_end(tmp_path):
    write_log(tmp_path / "log.jsonl", 20_000)
    points = pictures._points(tmp_path / "log.jsonl")
    assert pictures.POINTS / 2 <= len(points["loss"]) <= pictures.POINTS
    assert points["loss"][0][0] == 1
    assert points["loss"][-1][0] > 19_900
    assert len(points["probe"]) > pictures.POINTS / 2
    assert points["neighbours"] == []


def test_no_curves_are_drawn_of_nothing(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "start", "step": 0}\nnot json\n[1]\n')
    with pytest.raises(ValueError, match="no step yet"):
        pictures.curves(tmp_path / "log.jsonl")

"""The page about runs: what it says, of any folder that a training may leave, and that it changes none."""

import base64
import hashlib
import io
import json
import shlex
import shutil
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from faults import TINY, figures
from faults import run as trained
from PIL import Image

from viewmill.commands import report
from viewmill.errors import Refused, refusing
from viewmill.files.typed import check_settings
from viewmill.methods.table import METHODS
from viewmill.objectives.alarms import judged
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.views.recipe import RECIPES
from viewmill.report import axes, flat, gallery, read, seen
from viewmill.report.about import command as command_line
from viewmill.report.curve import Curve
from viewmill.report.page import page
from viewmill.report.results import results_of
from viewmill.run import parsed
from viewmill.settings.parts import flat as by_name
from viewmill.settings.report import Report
from viewmill.training.log import Log

OWN = {name: method.recipe for name, method in METHODS.items()}
NASTY = "<script>alert(1)</script> & \"ünï\" '猫'"
CONFIG = {
    "format": 1,
    "method": "simclr",
    "encoder": "resnet18",
    "width": 4,
    "size": 16,
    "batch": 16,
    "steps": 40,
    "rows": 64,
}
CONFIG |= {"objective": {"bound.temperature": 0.2}, "recipe": "", "seed": 0}
RESULT = {"task": "shapes", "protocol": "kNN k=20", "encoder": "run", "top1": 0.5, "interval": [0.45, 0.55], "step": 40}


def reading(step, **values):
    facts = {"step": step, "steps": 40, "epoch": step / 4, "loss": 4.0 / step, "bound": 1.0, "ceiling": 3.4}
    facts |= {"learning_rate": 0.1, "images_per_s": 100.0, "wait": 0.1, "masked": 0, "probe": 0.2, "memory_bytes": 10**9}
    return facts | {"negative_histogram": [1 / 40] * 40, "bound_valid": 1.0} | values


def made(folder, *, steps=range(1, 41), config=None, results=(), end=0, **values):
    """A run's folder, its log written as a training writes it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    with Log(folder / "log.jsonl", resumed_step=0) as log:
        log.started(step=0, config=CONFIG, data="/gone/photos.beton", processes=1, device="cpu")
        for step in steps:
            log.write("step", **reading(step, **values))
    if end is not None:
        (folder / "exit.json").write_text(json.dumps({"code": end, "step": 40, "steps": 40, "reason": "done"}))
    if results:
        (folder / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    return folder


def written(*folders, images=0, data=None, now=None):
    return page(read.read_runs(folders, judge=judged), images=images, data=data, recipes=OWN, now=now or time.time())


def main_of(text):
    return text.split("<main>")[1].split("</main>")[0].lower()


class Reader(HTMLParser):
    """Reads a page, and insists that every element that opens is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.words, self.targets = [], {}, [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        assert not [name for name in names if name.startswith("on")]
        self.targets += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_what_is_in_the_reader_is_checked_by_it():
    with pytest.raises(AssertionError):
        Reader("<p><b></p></b>")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A training of ten steps whose negatives lie in a ring, and its images."""
    folder = tmp_path_factory.mktemp("real")
    beton = figures(folder, 64)
    done = trained("train", "simclr-ring", "--data", beton, *TINY, "--steps", "10", out=folder / "run")
    assert done.code == 0, done.said()
    return folder / "run", beton


def state_of(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def test_a_page_about_a_real_run_has_every_section_fetches_nothing_and_leaves_the_run_as_it_was(real, tmp_path, capsys):
    run, _ = real
    before = state_of(run)
    out = tmp_path / "page.html"
    assert report.report(Report((run,), out=out)) == 0
    assert state_of(run) == before
    assert str(out) in capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    for name in (
        "summary",
        "curves",
        "negatives",
        "embeddings",
        "views",
        "neighbours",
        "map",
        "speed",
        "settings",
        "origin",
    ):
        assert f'id="{name}"' in text
    found = Reader(text)
    assert "Not shown" not in found.text
    assert found.counts["img"] > 50
    assert all(target.startswith(("data:image/", "#")) for target in found.targets)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_pictures_can_be_left_out_and_images_that_have_moved_can_be_named(real, tmp_path):
    run, beton = real
    moved = tmp_path / "moved.beton"
    for end in ("", ".json", ".columns.csv"):
        shutil.copy(f"{beton}{end}", f"{moved}{end}")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    log = (copy / "log.jsonl").read_text().replace(str(beton), "/nowhere/photos.beton")
    (copy / "log.jsonl").write_text(log)
    assert "img" not in Reader(written(copy)).counts
    gone = Reader(written(copy, images=50))
    assert "/nowhere/photos.beton cannot be read" in gone.text or "/nowhere/photos.beton does not exist" in gone.text
    assert "img" not in gone.counts
    assert Reader(written(copy, images=50, data=moved)).counts["img"] > 50
    other = figures(tmp_path / "others", 20)
    with pytest.raises(ValueError, match=r"others/factors\.beton holds other images than the run was trained on"):
        written(copy, images=50, data=other)
    with pytest.raises(ValueError, match="does not exist"):
        written(copy, images=50, data=tmp_path / "none.beton")


def test_a_run_without_a_checkpoint_shows_its_views_and_says_why_there_are_no_neighbours(real, tmp_path):
    run, _ = real
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=lambda folder, names: ["checkpoints"] if "checkpoints" in names else [])
    found = Reader(written(copy, images=50))
    assert found.counts["img"] > 20
    assert "holds no checkpoint yet" in found.text


def test_neighbours_are_marked_by_their_class_and_the_table_counts_them(real):
    run, path = real
    beton, (runs,) = open_beton(path), read.read_runs([run])
    sample = seen.sample_of(runs, beton, images=64, progress=lambda done, total: None)
    assert torch.allclose(sample.feature_NF.norm(dim=1), torch.ones(64))
    text = gallery.neighbours([gallery.Shown(runs, beton, sample)])
    cosine = sample.feature_NF @ sample.feature_NF.T - 9 * torch.eye(64)
    near = cosine.topk(6, dim=1).indices.numpy()
    share = (beton.label_N[near] == beton.label_N[:, None]).mean()
    assert f"{share:.1%} (chance" in text
    right, wrong = text.count('class="mark right"'), text.count('class="mark wrong"')
    assert right + wrong == 6 * len(gallery._queries(beton.label_N, classes=10, each=2))
    assert min(right, wrong) > 0


def test_views_are_those_that_the_loader_made(real):
    from contextlib import closing

    from viewmill.pipeline.loader import BetonLoader

    run, path = real
    beton, (known,) = open_beton(path), read.read_runs([run])
    recipe = seen.recipe_of_run(known, OWN)
    shown = seen.views_of(known, beton, recipe)
    assert shown.epochs == range(3)
    with closing(BetonLoader(beton, recipe, batch=16, seed=0, device=torch.device("cpu"))) as loader:
        views = loader.batch_of(shown.row_B, epoch=2).views[0].unflatten(0, (2, -1))
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.views[0].mean, recipe.views[0].std))
    pixels = ((views * std + mean) * 255).permute(0, 1, 3, 4, 2).numpy()
    for view in range(2):
        assert np.abs(pixels[view] - shown.views[-2 + view][1]).max() < 1


def test_a_photograph_is_a_small_jpeg_and_a_small_image_keeps_its_pixels():
    rng = np.random.default_rng(0)
    photograph = gallery.tile(rng.integers(0, 256, (300, 300, 3), np.uint8), "a")
    assert 'src="data:image/jpeg;base64,' in photograph
    assert len(photograph) < 9000  # noise is the worst case
    small = rng.integers(0, 256, (24, 24, 3), np.uint8)
    source = gallery.tile(small, "a").split("base64,")[1].split('"')[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))), small)


def test_images_without_classes_have_neighbours_and_a_map_without_marks(real, monkeypatch):
    run, path = real
    beton, (known,) = open_beton(path), read.read_runs([run])
    object.__setattr__(beton, "label_N", np.full_like(beton.label_N, -1))
    monkeypatch.setattr(gallery, "images_of", lambda run, given: beton)
    shown = [gallery.gather(known, None, images=64)]
    text = gallery.neighbours(shown) + gallery.atlas(shown)
    found = Reader(text)
    assert found.counts["img"] == 12 * 7
    assert "✓" not in text.split("</p>", 1)[1]
    assert "64 images, t-SNE" in found.text


@pytest.mark.parametrize(
    ("end", "age", "word"),
    [
        (0, 0, "done"),
        (1, 0, "failed, exit code 1"),
        (75, 0, "stopped early"),
        (None, 5, "under way; epoch 10.0; the last record is 0:05 old"),
        (None, 90_000, "still under way, or killed"),
    ],
)
def test_the_state_of_a_run_is_told(tmp_path, end, age, word):
    run = made(tmp_path / "run", end=end)
    last = read.read_runs([run])[0].told.time
    assert word in Reader(written(run, now=last + age)).text


def test_a_run_that_has_only_begun_and_one_of_a_single_step(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    assert "0 of 40" in Reader(written(bare)).text
    (empty := tmp_path / "empty").mkdir()
    (empty / "config.json").write_text("{}")
    Reader(written(empty, images=10))
    single = written(made(tmp_path / "single", steps=[1]))
    assert single.count('<path d="M218.0') > 3  # a dot in the middle
    assert "nan" not in main_of(single)


def test_torn_lines_strange_records_and_numbers_that_are_none_break_nothing(tmp_path):
    run = made(tmp_path / "run", end=None)
    lines = [b'{"event": "step", "step": 9', b"\0" * 5000, b"[]", b"7", b'{"event": 3}', b"\xff\xfe", b'{"event": "step"}']
    lines += [b'{"event": "step", "step": 1e999, "loss": NaN, "bound": Infinity, "probe": "x", "wait": true}']
    lines += [b'{"event": "step", "step": 41, "loss": 1' + b"0" * 400 + b', "negative_histogram": ["a", null]}', b"[" * 3000]
    lines += [b'{"event": "alarm", "step": 41, "kind": "dead", "text": "no gradient is left"}']
    lines += [b'{"event": "start", "command": 7, "versions": [], "hardware": "x", "data": 3}']
    (run / "exit.json").write_text("{")
    with open(run / "log.jsonl", "ab") as file:
        file.write(b"\n".join(lines) + b"\n")
    found = read.read_runs([run])[0].told
    assert (found.torn, found.step, found.counts) == (7, 41, {"alarm: dead": 1})
    text = Reader(written(run)).text
    assert "lines of log.jsonl that could not be read 7" in text
    assert "no gradient is left" in text


def test_a_loss_that_is_not_finite_breaks_the_curve_and_is_counted(tmp_path):
    run = made(tmp_path / "run", steps=range(1, 11))
    with open(run / "log.jsonl", "a") as file:
        for step in range(11, 14):
            file.write(json.dumps({"event": "step"} | reading(step, loss=None, grad_norm=None, masked=step - 10)) + "\n")
        file.write(json.dumps({"event": "step"} | reading(14, masked=3)) + "\n")
        file.write(json.dumps({"event": "masked", "step": 11, "text": "an update was left out"}) + "\n")
    text = written(run)
    assert text.count('class="broken"') == 3
    found = Reader(text).text
    assert "readings with a loss that is not finite 3" in found
    assert "updates left out, in all 3" in found
    assert "Updates left out So far" in found
    assert "nan" not in main_of(text)


def test_names_that_are_markup_stay_text(tmp_path):
    strange = {"task": NASTY, "protocol": NASTY, "classes": [NASTY, "b"], "confusion": [[3, 1], [0, 4]]}
    run = made(tmp_path / NASTY.replace("/", "_"), config={"method": NASTY, NASTY: NASTY}, results=[RESULT | strange])
    with open(run / "log.jsonl", "a") as file:
        file.write(json.dumps({"event": "step"} | reading(40) | {NASTY: 1.0}) + "\n")
        file.write(
            json.dumps({"event": "start", "step": 40, "command": [NASTY], "data": NASTY, "versions": {NASTY: NASTY}}) + "\n"
        )
        file.write(json.dumps({"event": "alarm", "step": 40, "kind": NASTY, "text": NASTY}) + "\n")
    found = Reader(written(run, run.parent, images=0)) if (run.parent / "config.json").exists() else Reader(written(run))
    assert found.counts["script"] == 1
    assert found.text.count(NASTY) > 10


def test_a_file_name_that_is_no_unicode_is_written_by_its_code(tmp_path):
    run = made(tmp_path / "photo\udce9")
    assert report.report(Report((run,), out=tmp_path / "page.html", images=0)) == 0
    assert r"photo\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_twelve_runs_stand_side_by_side(tmp_path):
    runs = [
        made(tmp_path / f"run-{place}" / "first", config={"seed": place}, results=[RESULT | {"top1": 0.3 + place / 100}])
        for place in range(12)
    ]
    text = written(*runs)
    found = Reader(text)
    assert len(text) < 3_000_000
    legend = text.split('class="legend runs"')[1].split("</div>")[0]
    assert [f"run-{place}/first" in legend for place in range(12)] == [True] * 12
    assert legend.count("again") == 4  # the palette has eight colours
    unlike = text.split('id="settings"')[1].split("<details>")[0]
    assert Reader(f"<section id='settings'{unlike}</section>").text.count(">seed") == 0
    assert "seed" in unlike
    assert "objective" not in unlike
    assert found.text.count("Top-1 of all runs side by side") == 1
    assert "<b>41.0%</b>" in text  # the best of twelve


def test_a_run_named_twice_is_shown_once_and_runs_of_one_name_by_their_folders(tmp_path):
    one, other = made(tmp_path / "a" / "run"), made(tmp_path / "b" / "run")
    assert [run.name for run in read.read_runs([one, one / ".", other])] == ["a/run", "b/run"]


def test_results_of_any_shape_are_read_and_protocols_never_share_a_table(tmp_path):
    lines = [
        RESULT,
        RESULT | {"top1": 0.6},
        RESULT | {"protocol": "linear, lr 0.1 chosen of 3", "interval": [0.7, 0.5], "top5": 0.9},
    ]
    lines += [
        {"top1": 0.2, "encoder": "raw pixels"},
        {"top1": "x"},
        {"task": "t"},
        RESULT | {"confusion": [[1, 2], [3]], "classes": 5},
    ]
    lines += [RESULT | {"task": "big", "confusion": np.eye(50).tolist(), "interval": ["a", 2], "mean_per_class": None}]
    run = made(tmp_path / "run", results=lines)
    with open(run / "evaluation.jsonl", "a") as file:
        file.write('{"task": "torn')
    (known,) = read.read_runs([run])
    assert known.torn_results == 1
    found = results_of([known])
    assert [(item.task, item.protocol, item.top1) for item in found] == [
        ("shapes", "kNN k=20", 0.5),
        ("shapes", "linear, lr 0.1 chosen of 3", 0.5),
        ("classes", "protocol not recorded", 0.2),
        ("big", "kNN k=20", 0.5),
    ]
    assert found[1].interval == (0.5, 0.7)
    text = written(run)
    assert text.count("<caption>") == 4
    assert "50 classes: the 0 pairs" in Reader(text).text


def test_only_what_was_chosen_may_differ_between_numbers_that_stand_together(tmp_path):
    probe = "linear probe, 30 epochs, lr {} wd {} chosen of 20 on 10 % of the training images"
    data = {part: {"fingerprint": part * 9} for part in ("train", "test")}
    lines = [RESULT | {"protocol": probe.format(1, 1e-4), "data": data, "top1": 0.41}]
    lines += [RESULT | {"protocol": probe.format(0.1, 0), "data": data, "encoder": "raw pixels", "top1": 0.42}]
    lines += [RESULT | {"protocol": probe.format(1, 0).replace("30", "100"), "data": data, "top1": 0.43}]
    lines += [RESULT | {"protocol": probe.format(1, 0), "data": {"train": {"fingerprint": "another"}}, "top1": 0.44}]
    lines += [RESULT | {"protocol": probe.format(2, 0), "data": data, "weights": "ema", "top1": 0.45}]
    text = written(made(tmp_path / "run", results=lines))
    tables = [part.split("</table>")[0] for part in text.split("<caption>")[1:]]
    held = [[f"4{at}.0%" for at in range(1, 6) if f"4{at}.0%" in part] for part in tables]
    assert held == [["41.0%", "42.0%", "45.0%"], ["43.0%"], ["44.0%"]]
    assert "lr ... wd ... chosen of 20 on 10 %" in tables[0]
    assert "lr 0.1 wd 0 chosen" in tables[0]
    assert "(traint, testte)" in tables[0]
    assert "step 40, moving average" in tables[0]


def test_a_confusion_matrix_is_a_table_of_shares(tmp_path):
    matrix = {"confusion": [[8, 2], [0, 10]], "classes": ["cat", "dog"]}
    text = written(made(tmp_path / "run", results=[RESULT | matrix]))
    assert 'title="cat told as dog: 2 of 10">20</td>' in text
    assert 'title="dog told as dog: 10 of 10">100</td>' in text


def test_a_curve_keeps_every_spike_in_little_memory():
    curve = Curve(64)
    for step in range(100_000):
        curve.add(step, {70_001: 50.0, 12_345: -9.0, 40_000: None}.get(step, 1.0))
    points = curve.points()
    assert len(points) <= 3 * 64
    assert (70_001, 50.0) in points
    assert (12_345, -9.0) in points
    assert any(value is None for _, value in points)
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert (curve.count, curve.first, curve.last, curve.low, curve.high) == (
        99_999,
        1.0,
        1.0,
        (12_345, -9.0),
        (70_001, 50.0),
    )


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-3, 5), (1e-9, 3e-9), (0, 0), (5, 5), (-1e308, 1e308), (1e-300, 1e300), (0, 5e-324), (99, 101)],
)
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_any_range_has_ticks_on_it(low, high, log):
    line = axes.axis([low, high], 190, 10, log=log)
    places = [line.at(value) for value in line.ticks()]
    assert all(9.9 <= place <= 190.1 for place in places), places
    assert 1 <= len(places) <= 12
    assert all(len(axes.label(value)) <= 8 for value in line.ticks())
    assert 9 <= line.at(high) <= line.at(low) <= 191


@pytest.mark.parametrize(
    "given", [("--accumulate", "2", "--clip", "1"), ("ring", "--set", "region.outer=0.2", "bound.temperature=.1")]
)
def test_the_command_makes_the_same_configuration_again(tmp_path, given):
    out = tmp_path / "run"
    words = [
        *given,
        "--data",
        "photos and more.beton",
        "--out",
        str(out),
        "--steps",
        "40",
        "--learning-rate",
        "1e-3",
        "--no-online",
    ]
    asked = parsed(["train", *words])
    asked = by_name(asked)
    own = {name: asked[name] for name in ("method", "accumulate", "clip", "epochs", "steps", "learning_rate", "online")}
    run = made(out, config=own | {"engine": "ffcv", "placement": "host"})
    with open(run / "log.jsonl", "a") as file:
        start = {"event": "start", "step": 0, "command": ["run.py", "train", *words], "data": "photos and more.beton"}
        file.write(json.dumps(start) + "\n")
    line, lacking = command_line(read.read_runs([run])[0])
    again = parsed(shlex.split(line)[1:])
    for name in (*own, "set", "data", "out"):
        assert by_name(again)[name] == asked[name], name
    assert not lacking


def test_a_command_that_cannot_be_whole_says_what_it_lacks(tmp_path):
    run = made(tmp_path / "run", config={"init": "a fingerprint", "recipe": "Recipe(...)"})
    line, lacking = command_line(read.read_runs([run])[0])
    assert "--init" not in line
    assert "--init, --recipe" in lacking


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_from_its_own_words(tmp_path, name):
    recipe = RECIPES[name](64)
    (run,) = read.read_runs([made(tmp_path / "run", config={"recipe": repr(recipe)})])
    assert seen.recipe_of_run(run, OWN) == recipe


@pytest.mark.parametrize(
    "words", ["__import__('os').getcwd()", "Recipe(", "View(size=8)", "Recipe(views=())", "open('x')", "5"]
)
def test_what_is_no_recipe_is_not_run(tmp_path, words):
    (run,) = read.read_runs([made(tmp_path / "run", config={"recipe": words})])
    with pytest.raises(seen.Gone, match="recipe"):
        seen.recipe_of_run(run, OWN)


@pytest.mark.filterwarnings("ignore::FutureWarning:sklearn")
def test_a_map_is_the_same_again_and_does_without_scikit_learn(monkeypatch):
    feature_NF = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    place_N2, how = flat.flat(feature_NF)
    assert how.startswith("t-SNE")
    assert np.array_equal(place_N2, flat.flat(feature_NF)[0])
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    place_N2, how = flat.flat(feature_NF)
    assert 'pip install "viewmill[report]"' in how
    assert place_N2.min() == 0
    assert place_N2.max() == 1
    for few in (torch.ones(2, 3), torch.ones(40, 1), torch.eye(3)):
        assert np.isfinite(flat.flat(few)[0]).all()


def made_of(config: Report) -> int:
    """What the program does with a command line."""
    check_settings(config)
    return report.report(config)


def test_what_cannot_be_read_or_written_is_refused(tmp_path):
    run = made(tmp_path / "run")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    for config, words in [
        (Report(()), "name at least one run"),
        (Report((tmp_path / "none",)), "holds no run"),
        (Report((run, tmp_path / "damaged")), "is damaged"),
        (Report((run / "log.jsonl",)), "log.jsonl"),
        (Report((run,), images=-1), "--images must"),
        (Report((run,), out=tmp_path), "is a folder"),
        (Report((run,), out=tmp_path / "no" / "page.html"), "is no folder"),
    ]:
        with pytest.raises(Refused, match=words), refusing():
            made_of(config)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    report.write(out, "old")
    assert out.stat().st_mode & 0o777 == 0o644

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write(out, "new")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_the_end_of_a_run_is_judged_whatever_its_log_has_said(tmp_path):
    """As `ring` on 2,934 photographs was logged by a version without these alarms."""
    config = {"steps": 400, "objective": {"bound.temperature": 0.07}, "embedding": 128}
    sunk = made(tmp_path / "sunk", steps=range(10, 401, 10), config=config, bound=-0.02, spread=0.14, effective_rank=4.0)
    text = written(sunk)
    assert "of the anchors, but tells nothing: information is never below 0" in text
    assert "looks wrong: near collapse, chance" in text
    assert "alarm at the end: near collapse" in text
    assert "a mean cosine of 0.980" in text
    sound = made(tmp_path / "sound", steps=range(10, 401, 10), config=config, spread=0.9, effective_rank=40.0)
    assert "looks wrong" not in written(sound)
    assert "tells nothing" not in written(sound)

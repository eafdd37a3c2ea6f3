"""`viewmill study`: plans that are refused, statistics, results that outlive any end, tables that are made anew."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from faults import figures
from PIL import Image

from viewmill.commands.study import study
from viewmill.errors import Refused
from viewmill.run import parsed
from viewmill.settings.parts import words_of
from viewmill.settings.study import Study
from viewmill.study import process, results
from viewmill.study.axes import information
from viewmill.study.matched import budgets, digest_of, other, settings_of
from viewmill.study.page import markdown
from viewmill.study.picture import draw
from viewmill.study.plan import read_plan
from viewmill.study.process import Ended, called
from viewmill.study.scatter import clouds, draw_scatters
from viewmill.study.spread import paired, quantile, spread
from viewmill.study.table import in_families, informed, panels, sentence
from viewmill.training.log import Log
from viewmill.training.options import method_of
from viewmill.training.run_folder import write_json

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "studies").glob("*.toml"))
TEXT = """
title = "A | B"
results = "results/few.jsonl"
runs = "runs"
seeds = [0, 1, 2]
[data]
train = "DATA/train.beton"
test = "$STUDY_DATA/test.beton"
[train]
width = 4
size = 16
batch = 16
epochs = 2
engine = "torch"
[evaluate]
protocols = ["knn", "ridge"]
k = [5]
[[methods]]
name = "IR"
method = "ir"
[[methods]]
name = "Ring"
method = "ring"
base = "IR"
set = ["region.outer=0.5"]
train = {learning_rate = 0.1}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", 32), ("test", 24)):
        made = figures(folder / part, count)
        for path in made.parent.glob("factors.beton*"):
            path.rename(folder / path.name.replace("factors", part))
    return folder


@pytest.fixture(autouse=True)
def variables(data, monkeypatch):
    monkeypatch.setenv("STUDY_DATA", str(data))


@pytest.fixture
def file(data, tmp_path):
    """`file(old=new, ...)` writes the study with changes to its text."""

    def write(*changes, name="few"):
        text = TEXT.replace("DATA/", f"{data}/", 1)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / f"{name}.toml").write_text(text)
        return tmp_path / f"{name}.toml"

    return write


def evaluation(method, seed, kind, floors):
    """What `evaluate --json` prints of a class task, of made-up encoders: a ring is .1 above everything."""
    top1 = {"run": 0.5 + 0.1 * (method == "ring") + 0.01 * seed + 0.002 * (method == "ring") * seed**2}
    top1 |= {"untrained encoder": 0.3 + 0.01 * seed, "raw pixels": 0.2} if floors else {}
    facts = {
        "task": "class",
        "kind": kind,
        "protocol": f"{kind}, in full",
        "interval": [0.1, 0.9],
        "classes": list("abcdefgh"),
        "confusion": [[1] * 8] * 8,
    }
    return [{**facts, "encoder": encoder, "top1": round(value, 6)} for encoder, value in top1.items()]


class Made:
    """In place of processes: writes what a training and an evaluation leave, and ends with `codes` at their calls."""

    def __init__(self, codes=()):
        self.calls, self.codes = [], dict(codes)

    @property
    def trained(self):
        return [self.of(call, "--out") for call in self.calls if call[0] == "train"]

    def of(self, words, name):
        return words[words.index(name) + 1]

    def __call__(self, words, output, asked):
        self.calls.append(list(words))
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "a") as file:
            file.write(f"it is call {len(self.calls)}\n")
        if code := self.codes.get(len(self.calls), 0):
            return Ended(code, "")
        return Ended(0, (self.train if words[0] == "train" else self.evaluate)(words))

    def train(self, words):
        out, seed = Path(self.of(words, "--out")), int(self.of(words, "--seed"))
        write_json(out / "config.json", {"method": words[1], "seed": seed, "steps": 4, "batch": 16, "engine": "torch"})
        with Log(out / "log.jsonl", resumed_step=0) as log:
            log.started(step=0, device="cpu")
            for step in range(1, 5):
                facts = {"bound": step / 10, "ceiling": float(np.log(101)), "bound_valid": 1.0, "histogram": [0.5]}
                log.write("step", step=step, steps=4, epoch=step / 2, loss=None, masked=0, wait=0.1, **facts)
        (out / "checkpoints" / "step-00000004").mkdir(parents=True)
        write_json(out / "exit.json", {"code": 0, "step": 4, "steps": 4})
        return ""

    def evaluate(self, words):
        config = json.loads((Path(words[1]) / "config.json").read_text())
        kinds = ("kNN k=5 T=0.1", "ridge")
        told = [evaluation(config["method"], config["seed"], kind, "--floors" in words) for kind in kinds]
        (Path(words[1]) / "evaluation.jsonl").write_text("")
        return "".join(json.dumps(line) + "\n" for lines in told for line in lines)


def kept(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Plans

REFUSED = [
    (("seeds =", "seds ="), "no setting 'seds': did you mean seeds?"),
    (("[0, 1, 2]", "[0, 1, 1]"), "seeds has 1 more than once"),
    (("[0, 1, 2]", "[]"), "seeds must be a list of 1 to 1000 whole numbers in 0 to 9.22337e+18, got []"),
    (("[0, 1, 2]", "[0, true]"), "seeds[1] must be a whole number in 0 to 9.22337e+18, got true"),
    (('"results/few.jsonl"', '"results/few.json"'), "a file that ends in .jsonl"),
    (("width = 4", "widhth = 4"), "[train] has no setting 'widhth': did you mean width?"),
    (("width = 4", "width = 4.5"), "[train] width must be a whole number in 1 to 4096, got 4.5"),
    (("width = 4", "width = true"), "[train] width must be a whole number in 1 to 4096, got true"),
    (("width = 4", "seed = 4"), "[train] cannot set 'seed': `seeds` does"),
    (("width = 4", "width = 0"), "[train] width must lie in 1 to 4096, got 0"),
    (("width = 4", 'optimiser = "adam"'), "optimiser must be one of sgd, lars, adamw, got 'adam': did you mean adamw?"),
    (("width = 4", 'recipe = "simclear"'), "no recipe is called 'simclear': did you mean simclr?"),
    (("width = 4", 'init = "weights.safetensors"'), "init of the method 'IR' does not exist"),
    (("width = 4", "compile = 1"), "[train] compile must be true or false, got 1"),
    (
        ('["knn", "ridge"]', '["knn", "liinear"]'),
        "protocols[1] must be one of knn, linear, ridge, low-shot, got 'liinear': did you mean linear?",
    ),
    (('["knn", "ridge"]', "[]"), "protocols is empty"),
    (('["knn", "ridge"]', '"knn"'), "protocols must be a list of"),
    (("k = [5]", "k = [0]"), "[evaluate] k[0] must be 1 or more, got 0"),
    (("k = [5]", "floors = false"), "cannot set 'floors': floors are measured once"),
    (('"ring"', '"rign"'), "no method is called 'rign': did you mean"),
    (("region.outer=0.5", "region.auter=0.5"), "no setting 'region.auter': did you mean region.outer?"),
    (("region.outer=0.5", "region.outer=5"), "a ring needs 0 <= inner < outer <= 1"),
    (('"ring"\nbase', '"ir"\nbase'), "the method 'Ring': the method has no setting 'region.outer'"),
    (('set = ["region.outer=0.5"]', "set = 0.5"), "methods[1].set must be a list of texts, got 0.5"),
    (('base = "IR"', 'base = "Ring"'), "'Ring' is its own base"),
    (('base = "IR"', 'base = "IRR"'), "has the base 'IRR', which is no method here: did you mean IR?"),
    (('name = "Ring"', 'name = "IR"'), "two methods are called 'IR' and 'IR'"),
    (('name = "Ring"', 'name = "ir "'), "two methods are called 'ir ' and 'IR'"),
    (('name = "Ring"', "nme = 1"), "methods[1] has no setting 'nme': did you mean name?"),
    (("learning_rate = 0.1", "learning_rat = 0.1"), "did you mean learning_rate?"),
    (
        ("learning_rate = 0.1", "learning_rate = -0.1"),
        "train of the method 'Ring' learning_rate must lie in 0 to 1000, got -0.1",
    ),
    (("test = ", "rest = "), "data has no setting 'rest': did you mean test?"),
    (("[train]", "factors = {train = 64, test = 32}\n[train]"), "[data] has factors and files"),
    (("[[methods]]", "[methods"), "is no TOML"),
    (("[train]", "others = 4\n[train]"), "data.others must be a list of tables, got 4"),
    (("[train]", '[[data.others]]\ntrain = "a"\n[train]'), "data.others[0].test is missing: it must be a text"),
    (("[train]", '[[data.others]]\ntrian = "a"\n[train]'), "data.others[0] has no setting 'trian': did you mean train?"),
    (("[[methods]]", "[scatter]\n[[methods]]"), "scatter must be a list of tables, got {}"),
    (("[[methods]]", "[[scatter]]\n[[methods]]"), "scatter[0].x is missing"),
    (("[[methods]]", "[[scatter]]\nx = {tob1 = 1}\n[[methods]]"), "scatter[0].x has no setting 'tob1': did you mean top1?"),
    (
        ("[[methods]]", '[[scatter]]\nx = {bits = "hue"}\n[[methods]]'),
        "scatter[0].x.bits must be a list of 1 or more texts, got 'hue'",
    ),
    (
        ("[[methods]]", "[[scatter]]\nx = {top1 = 'a', scalar = 'b'}\ny = {top1 = 'a'}\n[[methods]]"),
        "[[scatter]] x must be one of top1, bits, scalar, setting",
    ),
    (("learning_rate = 0.1", "learning_rate = nan"), "methods[1].train.learning_rate must be a finite number, got nan"),
    (("learning_rate = 0.1", "weight_decay = inf"), "methods[1].train.weight_decay must be a finite number, got inf"),
    (("k = [5]", "temperature = [0.0]"), "[evaluate] temperature[0] must lie in 1e-06 to 1000, got 0.0"),
    (("[train]", "[[train]]"), "train must be a table, got [{"),
    (("[[methods]]", "[[scatter]]\ntitle = 1\n[[methods]]"), "scatter[0].title must be a text, got 1"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_wrong_is_named_before_anything_is_trained(file, change, words):
    made = Made()
    with pytest.raises(Refused) as refused:
        study(Study(file(change)), call=made)
    assert words in str(refused.value)
    assert "few.toml" in str(refused.value)
    assert not made.calls


FACTORS = [
    ("{train = 8, test = 32}", "data.factors.train must be 16 or more, got 8"),
    ("{traain = 64}", "did you mean train?"),
    ("4", "a table"),
]


@pytest.mark.parametrize(("given", "words"), FACTORS)
def test_rendered_images_that_cannot_be_are_refused(file, given, words):
    path = file()
    text = path.read_text().splitlines()
    text = [f"factors = {given}" if line.startswith("train =") and "beton" in line else line for line in text]
    path.write_text("\n".join(line for line in text if not line.startswith("test =")))
    with pytest.raises(ValueError, match=words):
        read_plan(path)


def test_images_are_checked_too(file, monkeypatch):
    for change, named in (
        (("batch = 16", "batch = 64"), "the batch of 64 is larger than the data set of 32 images"),
        (("train.beton", "missing.beton"), "[data] train does not exist"),
        (("k = [5]", 'columns = ["hew"]'), "has no column 'hew': did you mean hue?"),
    ):
        with pytest.raises(Refused) as refused:
            study(Study(file(change)), call=Made())
        assert named in str(refused.value)
    monkeypatch.delenv("STUDY_DATA")
    with pytest.raises(Refused, match="needs the variable \\$STUDY_DATA, which is not set"):
        study(Study(file()), call=Made())


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(file, text):
    with pytest.raises(Refused, match="--part must be a number and how many parts"):
        study(Study(file(), part=text), call=Made())


def test_a_study_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(Refused, match="does not exist"):
        study(Study(tmp_path / "none.toml"))


def test_a_home_and_paths_relative_to_the_file_are_found(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    plan = read_plan(file(("$STUDY_DATA", "~"), ("runs = ", 'runs = "../there"\n#')))
    assert plan.data.test == Path("/home/someone/test.beton")
    assert plan.runs == plan.file.parent.parent / "there"


def test_budgets_that_differ_are_named_and_not_refused(file):
    plan = read_plan(file(("learning_rate = 0.1", "epochs = 3, width = 8"), ('"ir"', '"simclr"')))
    notes = budgets(plan.contenders)
    assert [note.split(":")[0] for note in notes] == ["epochs", "width", "recipe", "temperature", "negatives"]
    assert "epochs: 2 (IR); 3 (Ring)" in notes
    assert "the batch's 30" in notes[-1]
    assert "up to 4,095 of a bank" in notes[-1]
    assert not [note for note in budgets(read_plan(file()).contenders) if not note.startswith("negatives")]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_words_of_a_committed_study_are_the_command_lines_it_means(path):
    plan = read_plan(path)
    for job in plan.jobs():
        train = job.contender.train
        given = words_of({"data": "a", "out": "b", "seed": job.seed, **job.contender.given, "set": train.set})
        meant = parsed(["train", train.method, *given])
        assert method_of(meant) == method_of(train)
        assert meant.seed == job.seed
        assert meant.optimisation == train.optimisation
    told = parsed(["evaluate", "run", "--train", "a", "--test", "b", *words_of(plan.evaluate)])
    assert {name: getattr(told, name) for name in plan.evaluate} == dict(plan.evaluate)


def test_words_know_switches_and_lists():
    assert words_of({"compile": True, "online": False, "set": ("a=1", "b=2"), "track": ()}) == [
        "--compile",
        "--no-online",
        "--set",
        "a=1",
        "b=2",
    ]


# Statistics


@pytest.mark.parametrize("freedom", [*range(1, 12), 29, 30, 200])
def test_quantiles_of_students_t_are_scipys(freedom):
    for share in (0.5, 0.75, 0.95, 0.975, 0.995):
        assert quantile(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_intervals_of_paired_differences_are_scipys(n):
    rng = np.random.default_rng(n)
    ours, base = rng.normal(0.6, 0.05, n), rng.normal(0.5, 0.05, n)
    found = paired(dict(enumerate(ours)), dict(enumerate(base)))
    interval = scipy.stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(ours - base), interval.low, interval.high))
    told = spread(list(ours))
    assert (told.mean, told.deviation, told.n) == pytest.approx((np.mean(ours), np.std(ours, ddof=1), n))


def test_pairs_are_those_seeds_that_both_have():
    found = paired({0: 0.5, 1: 0.7, 4: 0.9}, {1: 0.6, 4: 0.7, 5: 0.1})
    assert (found.mean, found.n) == (pytest.approx(0.15), 2)
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_one_seed_has_no_deviation_and_no_interval():
    assert spread([0.5]).deviation is None
    found = paired({0: 0.9}, {0: 0.1})
    assert (found.low, found.high, found.verdict) == (None, None, "not told apart")


@pytest.mark.parametrize(("freedom", "share"), [(0, 0.9), (1, 1.0), (3, 0.2)])
def test_quantiles_that_are_none_are_refused(freedom, share):
    with pytest.raises(ValueError, match="a quantile needs"):
        quantile(share, freedom)


# Results


def test_a_study_leaves_lines_a_table_and_a_picture(file, tmp_path, capsys):
    made = Made()
    assert study(Study(file()), call=made) == 0
    lines = kept(tmp_path / "results" / "few.jsonl")
    assert [(line["name"], line["seed"]) for line in lines] == [(n, s) for s in range(3) for n in ("IR", "Ring")]
    line = lines[1]
    assert (line["base"], line["method"], line["set"], line["steps"]) == ("IR", "ring", ["region.outer=0.5"], 4)
    assert line["settings"]["train.learning_rate"] == 0.1
    assert line["settings"]["objective.region.outer"] == 0.5
    assert line["last_epoch"]["bound"] == pytest.approx(0.35)
    assert line["last_epoch"]["masked"] == 0
    assert not set(line["last_epoch"]) & {"histogram", "wait", "step", "loss"}
    assert line["images"] == {"train": 32, "test": 24}
    assert line["versions"]["torch"]
    assert line["hardware"]["cores"] >= 1
    assert len(json.dumps(line)) < 5000
    assert not [score for score in line["evaluations"] if "confusion" in score]
    floors = [(line["name"], line["seed"]) for line in lines if len(line["evaluations"]) == 6]
    assert floors == [("IR", 0), ("IR", 1), ("IR", 2)]
    assert all(call.count("--floors") + call.count("--no-floors") == 1 for call in made.calls if call[0] == "evaluate")

    page = (tmp_path / "results" / "few.md").read_text()
    assert "# A | B" in page
    assert "## class, kNN k=5 T=0.1" in page
    row = next(row for row in page.splitlines() if row.startswith("| Ring | 61.33%"))
    differences = np.array([10.0, 10.2, 10.8])
    reach = scipy.stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    assert f"| IR | +10.33 | +{10.33333 - reach:.2f} to +{10.33333 + reach:.2f} |" in row
    assert "Ring is above IR (+10.33 points" in page
    assert "| untrained encoder | 31.00% | 1.00 | 3 |" in page
    assert "| raw pixels | 20.00% |  | 1 |" in page
    assert "| Ring | " in page.split("## The last epoch")[1]
    assert "| 100 | 100.0% | - | 0 |" in page
    assert "Of the 2 intervals 0.1 would leave out 0 by chance alone." in page
    said = "".join(capsys.readouterr())
    assert "Ring is above IR" in said
    assert "not matched: negatives" in said
    with Image.open(tmp_path / "results" / "few.png") as picture:
        assert picture.width == 1800


def test_of_an_evaluated_run_only_what_is_small_stays_unless_checkpoints_are_kept(file, tmp_path):
    plain = file()
    assert study(Study(plain), call=Made()) == 0
    for run in (path for path in (tmp_path / "runs").iterdir() if path.is_dir()):
        assert {path.name for path in run.iterdir()} == {"config.json", "log.jsonl", "evaluation.jsonl"}
    shutil.rmtree(tmp_path / "runs")
    elsewhere = tmp_path / "again.jsonl"
    assert study(Study(plain, results=elsewhere, keep_checkpoints=True), call=Made()) == 0
    runs = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len(runs) == 6
    assert all((run / "checkpoints").is_dir() for run in runs)
    assert len(kept(elsewhere)) == 6
    assert study(Study(plain, results=elsewhere), call=Made()) == 0
    assert not [run for run in runs if (run / "checkpoints").exists()]


def test_a_second_start_makes_nothing_again_and_the_same_table(file, tmp_path):
    path, again = file(), Made()
    assert study(Study(path), call=Made()) == 0
    page = (tmp_path / "results" / "few.md").read_bytes()
    assert study(Study(path), call=again) == 0
    assert not again.calls
    (tmp_path / "results" / "few.md").unlink()
    shutil.rmtree(tmp_path / "runs")
    assert study(Study(path, table=True), call=again) == 0
    assert (tmp_path / "results" / "few.md").read_bytes() == page
    assert not again.calls


def test_the_table_needs_neither_images_nor_variables(file, tmp_path, monkeypatch):
    path = file()
    assert study(Study(path), call=Made()) == 0
    monkeypatch.delenv("STUDY_DATA")
    path.write_text(path.read_text().replace("train.beton", "gone.beton"))
    assert study(Study(path, table=True)) == 0


@pytest.mark.parametrize(("code", "at"), [(75, 3), (130, 3), (75, 4), (130, 8)])
def test_a_stopped_study_ends_with_its_code_and_goes_on(file, tmp_path, code, at):
    path, whole = file(), tmp_path / "whole"
    assert study(Study(path), call=Made({at: code})) == code
    done = len(kept(tmp_path / "results" / "few.jsonl"))
    assert done == (at - 1) // 2
    assert not (tmp_path / "results" / "few.md").exists()
    rest = Made()
    assert study(Study(path), call=rest) == 0
    # one whose training was through is not trained again
    assert len(rest.trained) == 6 - done - (at % 2 == 0)
    page = (tmp_path / "results" / "few.md").read_text()
    shutil.rmtree(tmp_path / "results")
    shutil.rmtree(tmp_path / "runs")
    assert not whole.exists()
    assert study(Study(path), call=Made()) == 0
    assert without_times((tmp_path / "results" / "few.md").read_text()) == without_times(page)


def without_times(page):
    """A page without what differs from one training to the next: speeds, and times that are rounded to seconds."""
    head, tail = page.split("## The last epoch")
    return [line for line in head.splitlines() if "with evaluation" not in line and "0:0" not in line], len(
        tail.splitlines()
    )


def test_a_signal_ends_the_study_after_what_is_under_way_has_been_kept(file, tmp_path):
    class Signalled(Made):
        def evaluate(self, words):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().evaluate(words)

    path, before = file(), signal.getsignal(signal.SIGTERM)
    assert study(Study(path), call=Signalled()) == 75
    assert len(kept(tmp_path / "results" / "few.jsonl")) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    rest = Made()
    assert study(Study(path), call=rest) == 0
    assert len(rest.trained) == 5


def test_a_failure_is_told_the_others_go_on_and_the_next_start_tries_it_again(file, tmp_path, capsys):
    path = file()
    assert study(Study(path), call=Made({3: 1})) == 1
    said = capsys.readouterr().err
    assert "Ring, seed 0: `train` failed with code 1: it is call 3; see " in said
    assert "1 of 6 failed (Ring, seed 0)" in said
    assert len(kept(tmp_path / "results" / "few.jsonl")) == 5
    assert "5 of 6" in (tmp_path / "results" / "few.md").read_text()
    rest = Made()
    assert study(Study(path), call=rest) == 0
    assert len(rest.trained) == 1
    assert "6 of 6" in (tmp_path / "results" / "few.md").read_text()


def test_where_everything_fails_there_is_no_table_and_code_1(file, tmp_path):
    assert study(Study(file()), call=Made(dict.fromkeys(range(1, 20), 2))) == 1
    assert not (tmp_path / "results").exists()
    with pytest.raises(Refused, match="holds no result"):
        study(Study(file(), table=True))


def test_an_answer_that_is_no_result_is_a_failure(file, tmp_path, capsys):
    class Silent(Made):
        def evaluate(self, words):
            return "not JSON" if self.of(words, "--train") else ""

    assert study(Study(file()), call=Silent()) == 1
    assert "has no result (Misfit: evaluate is no JSON" in capsys.readouterr().err


def test_results_of_other_settings_are_refused_with_the_difference(file, tmp_path):
    assert study(Study(file()), call=Made()) == 0
    for change, named in (
        (("epochs = 2", "epochs = 3"), "IR, seed 0 with train.epochs = 2, this one has 3"),
        (("region.outer=0.5", "region.outer=0.6"), "Ring, seed 0 with set = ['region.outer=0.5'], this one has"),
        (("k = [5]", "k = [6]"), "evaluate.k = [5], this one has [6]"),
        (("learning_rate = 0.1", "learning_rate = 0.2"), "train.learning_rate = 0.1, this one has 0.2"),
        (("$STUDY_DATA/test.beton", "$STUDY_DATA/train.beton"), "data.test = "),
    ):
        made = Made()
        with pytest.raises(Refused) as refused:
            study(Study(file(change)), call=made)
        assert named in str(refused.value)
        assert not made.calls
    with pytest.raises(Refused, match=r"train\.epochs = 2"):
        study(Study(file(("epochs = 2", "epochs = 3")), table=True))
    # speed is no setting
    assert study(Study(file(('engine = "torch"', 'engine = "torch"\nthreads = 1\nlog_every = 3'))), call=made) == 0
    assert not made.calls


def test_flags_that_came_later_change_no_result_until_they_are_set(file):
    plan = read_plan(file())
    now = settings_of(plan.jobs()[0], plan, {"train": "a", "test": "b"})
    earlier = {key: value for key, value in now.items() if key not in ("train.ema", "evaluate.draws", "objective.head")}
    earlier["train.gone"] = 1
    assert not other(now, earlier)
    assert other({**now, "train.ema": 0.9}, earlier) == "train.ema = 0.0, this one has 0.9"
    assert not other({key: value for key, value in now.items() if not key.startswith("data.")}, now)
    assert digest_of(now) != digest_of({**now, "train.ema": 0.9})


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_parts_cover_every_training_once_and_become_one_file(file, tmp_path, count, capsys):
    path, runs = file(), []
    for number in range(count, 0, -1):
        made = Made()
        assert study(Study(path, part=f"{number}/{count}"), call=made) == 0
        runs += made.trained
        there = list((tmp_path / "results").glob("*.part-*")) if (tmp_path / "results").exists() else []
        assert len(there) == (len({name for name in range(number, count + 1) if name <= 6}) if number > 1 else 0)
    assert len(runs) == len(set(runs)) == 6
    lines = kept(tmp_path / "results" / "few.jsonl")
    assert [(line["name"], line["seed"]) for line in lines] == [(n, s) for s in range(3) for n in ("IR", "Ring")]
    assert (tmp_path / "results" / "few.md").exists()
    assert ("the rest is for the other parts" in capsys.readouterr().err) == (count > 1)


def test_a_table_before_all_parts_have_ended_leaves_their_files(file, tmp_path):
    path = file()
    assert study(Study(path, part="2/2"), call=Made()) == 0
    assert study(Study(path, table=True)) == 0
    assert (tmp_path / "results" / "few.part-2-of-2.jsonl").exists()
    rest = Made()
    assert study(Study(path), call=rest) == 0
    assert len(rest.trained) == 3
    assert len(kept(tmp_path / "results" / "few.jsonl")) == 6
    assert not (tmp_path / "results" / "few.part-2-of-2.jsonl").exists()


def test_a_torn_last_line_is_named_and_mended(file, tmp_path, capsys):
    path, lines = file(), tmp_path / "results" / "few.jsonl"
    assert study(Study(path), call=Made()) == 0
    whole = lines.read_bytes()
    lines.write_bytes(whole[:-700])
    rest = Made()
    assert study(Study(path), call=rest) == 0
    assert "line 6 was cut off and is passed over" in capsys.readouterr().err
    assert len(rest.trained) == 1
    assert len(kept(lines)) == 6
    # the line is whole, and only its end is missing
    lines.write_bytes(b"\n".join(lines.read_bytes().split(b"\n")[:5]))
    assert study(Study(path), call=rest) == 0
    assert len(rest.trained) == 2
    assert len(kept(lines)) == 6


def test_a_line_that_is_no_result_is_named(file, tmp_path):
    path, lines = file(), tmp_path / "results" / "few.jsonl"
    assert study(Study(path), call=Made()) == 0
    lines.write_text('{"name": 1}\n' + lines.read_text())
    with pytest.raises(Refused, match=r"few\.jsonl: line 1 is no result of a study"):
        study(Study(path), call=Made())


def test_a_repeated_result_counts_once_and_a_stranger_not_at_all(file, tmp_path, capsys):
    path, lines = file(), tmp_path / "results" / "few.jsonl"
    assert study(Study(path), call=Made()) == 0
    page = (tmp_path / "results" / "few.md").read_bytes()
    stranger = {**kept(lines)[0], "name": "Other"}
    lines.write_text(lines.read_text() + lines.read_text() + json.dumps(stranger) + "\n")
    assert study(Study(path, table=True)) == 0
    assert (tmp_path / "results" / "few.md").read_bytes() == page
    assert "the study does not ask for them: Other, seed 0" in capsys.readouterr().err


def test_training_time_is_that_of_all_starts_and_not_of_the_nights_between():
    records = [{"event": event, "time": at} for event, at in (("start", 0), ("step", 5), ("start", 100), ("end", 102.5))]
    assert results._seconds(records) == 7.5


def test_results_are_appended_by_one_write_that_fails_as_a_whole(tmp_path, monkeypatch):
    path, line = tmp_path / "a.jsonl", {"name": "a", "seed": 0, "settings": {}, "evaluations": [], "training_s": 1.0}
    results.append(path, line)
    monkeypatch.setattr(os, "write", lambda descriptor, data: 5)
    with pytest.raises(OSError, match="only a part"):
        results.append(path, line)
    monkeypatch.undo()
    assert results.read(path) == [line]


# Tables and pictures


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_table_is_what_its_results_make(path):
    plan = read_plan(path)
    if not plan.results.exists():
        assert not plan.results.with_suffix(".md").exists()
        return
    there = results.of_plan(plan, results.read(plan.results), {})
    assert plan.results.with_suffix(".md").read_text() == markdown(plan, there)
    assert plan.results.with_suffix(".png").exists()


def lines_of(plan, worth):
    """Results with these accuracies: name -> one a seed; floors with the first."""
    found = {}
    for job in plan.jobs():
        if job.seed < len(worth[job.contender.name]):
            top1 = worth[job.contender.name][job.seed]
            told = [{"task": "class", "encoder": "run", "kind": "ridge", "protocol": "ridge", "top1": top1}]
            facts = {"training_s": 61.0, "evaluation_s": 5.0, "images_per_s": 100.0, "last_epoch": {}, "settings": {}}
            facts |= {"images": {"train": 1, "test": 1}, "hardware": {}, "versions": {}}
            found[job.key] = {"evaluations": told, **facts}
    return found


@pytest.mark.parametrize(
    ("ring", "words"),
    [
        ((0.6, 0.61, 0.62), "Ring is above IR (+10.00 points"),
        ((0.4, 0.41, 0.421), "Ring is below IR (\N{MINUS SIGN}9.97 points"),
        ((0.6, 0.41, 0.52), "Ring and IR: not told apart at this n (0.00 points"),
        ((0.6, 0.61), "Ring and IR: not told apart at this n (+10.00 points"),
        ((0.6,), "Ring and IR: not told apart at this n: +10.00 points at one seed."),
        ((), ""),
    ],
)
def test_a_difference_is_said_in_words(file, ring, words):
    plan = read_plan(file())
    there = lines_of(plan, {"IR": (0.5, 0.51, 0.52), "Ring": ring})
    (panel,) = panels(plan, there)
    said = [sentence(row) for row in panel.rows]
    assert said[0] == ""
    assert "".join(said[1:]).startswith(words)
    assert bool(words) == ("Ring" in [row.name for row in panel.rows])
    assert words in markdown(plan, there)


def test_bases_stand_before_what_is_compared_to_them_also_where_they_go_round(file):
    more = '[[methods]]\nname = "LA"\nmethod = "la"\nbase = "Ring"\n[[methods]]\nname = "SimCLR"\nmethod = "simclr"\n'
    more += '[[methods]]\nname = "Ball"\nmethod = "ball"\nbase = "IR"\n'
    path = file()
    path.write_text(path.read_text() + more)
    assert [name for name, _ in in_families(read_plan(path))] == ["IR", "Ring", "LA", "Ball", "SimCLR"]
    path.write_text(path.read_text().replace('method = "ir"', 'method = "ir"\nbase = "LA"'))
    assert sorted(name for name, _ in in_families(read_plan(path))) == ["Ball", "IR", "LA", "Ring", "SimCLR"]


def test_another_encoder_has_floors_of_its_own(file):
    more = '[[methods]]\nname = "CMC"\nmethod = "cmc"\n[[methods]]\nname = "Wide"\nmethod = "ir"\ntrain = {width = 8}\n'
    path = file()
    path.write_text(path.read_text() + more)
    plan = read_plan(path)
    assert {job.contender.name for job in plan.jobs() if job.floors} == {"IR", "CMC", "Wide"}
    there = lines_of(plan, dict.fromkeys(("IR", "Ring", "CMC", "Wide"), (0.5, 0.6, 0.7)))
    for (name, seed), line in there.items():
        floor = {"IR": 0.1, "CMC": 0.2, "Wide": 0.2}.get(name)
        if floor:
            common = {"task": "class", "kind": "ridge", "protocol": "ridge"}
            line["evaluations"].append({**common, "encoder": "untrained encoder", "top1": floor + seed / 100})
            line["evaluations"].append({**common, "encoder": "raw pixels", "top1": 0.3})
    (panel,) = panels(plan, there)
    floors = [(row.name, row.spread.n) for row in panel.rows if row.floor]
    assert floors == [("untrained encoder", 3), ("raw pixels", 1), ("untrained encoder (as CMC)", 3)]


def test_many_panels_are_drawn_whole_or_not_at_all(file, tmp_path):
    plan = read_plan(file())
    (panel,) = panels(plan, lines_of(plan, {"IR": (0.5, 0.51), "Ring": (0.6, 0.6, 0.7)}))
    many = [panel._replace(task=task, kind=kind) for task in "ab" for kind in ("knn", "ridge", "x", "y")]
    draw(many, "Many", tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width == 1800
        colours = {tuple(colour) for _, colour in picture.convert("RGB").getcolors(1 << 22)}
    assert (0x00, 0x72, 0xB2) in colours
    assert [path.name for path in tmp_path.glob("many*")] == ["many.png"]


def test_what_an_accuracy_proves_is_the_information_of_a_symmetric_channel():
    # Fano's inequality holds with equality where each wrong answer is as likely as any other
    for classes, top1 in ((2, 0.9), (4, 0.5), (8, 0.3), (10, 1.0)):
        channel = np.full((classes, classes), (1 - top1) / (classes - 1))
        np.fill_diagonal(channel, top1)
        joint = channel / classes
        shares = joint[joint > 0] * np.log2(channel[joint > 0] * classes)
        assert information(top1, classes) == pytest.approx(shares.sum(), abs=1e-12)
    assert information(0.125, 8) == information(0.05, 8) == 0
    assert information(0.119, 10) == pytest.approx(0.003, abs=5e-4)
    for top1, classes in ((1.1, 4), (0.5, 1)):
        with pytest.raises(ValueError, match="an accuracy is a share of 1 among 2 or more classes"):
            information(top1, classes)


AXES = """
[[scatter]]
title = "Against each other"
x = {setting = "region.outer"}
y = {top1 = "class"}
[[scatter]]
x = {bits = ["class", "hue"]}
y = {scalar = "bound_valid"}
protocol = "ridge"
"""


def test_numbers_of_trainings_are_drawn_against_one_another(file, tmp_path):
    path = file()
    path.write_text(path.read_text() + AXES)
    plan = read_plan(path)
    there = lines_of(plan, {"IR": (0.5, 0.51), "Ring": (0.6, 0.6, 0.7)})
    for (name, seed), line in there.items():
        line["last_epoch"] = {"bound_valid": 0.5 + seed / 10}
        line["settings"] = {"objective.region.outer": 0.5} if name == "Ring" else {}
        (score,) = line["evaluations"]
        score["classes"] = 4
        others = [score | {"task": "hue", "top1": 0.4}, score | {"task": "hue", "kind": "knn", "top1": 0.9}]
        floor = [score | {"encoder": "raw pixels", "top1": 0.3}, others[0] | {"encoder": "raw pixels"}]
        line["evaluations"] += [*others, *(floor if name == "IR" else [])]
    first, second = (clouds(plan, there, panel) for panel in plan.scatters)
    assert [(cloud.name, cloud.points) for cloud in first] == [("Ring", [(0.5, 60.0), (0.5, 60.0), (0.5, 70.0)])]
    known = information(0.5, 4) + information(0.4, 4)
    assert [cloud.name for cloud in second] == ["IR", "Ring"]  # pixels have no bound
    assert second[0].points[0] == (pytest.approx(known), 0.5)

    head, *rows = informed(plan, there)
    assert head == ("method", "class", "hue", "class + hue")
    assert [row[0] for row in rows] == ["IR", "Ring", "raw pixels"]
    assert rows[2][1:] == (f"{information(0.3, 4):.2f} ± 0.00", f"{information(0.4, 4):.2f} ± 0.00", "0.09 ± 0.00")
    draw_scatters(plan, there, tmp_path / "few-scatter.png")
    with Image.open(tmp_path / "few-scatter.png") as picture:
        assert picture.width == 1800
        colours = {tuple(colour) for _, colour in picture.convert("RGB").getcolors(1 << 22)}
    assert (0x00, 0x72, 0xB2) in colours
    page = markdown(plan, there)
    assert "![A | B](few-scatter.png)" in page
    known = [information(top1, 4) for top1 in (0.6, 0.6, 0.7)]
    assert (
        f"| Ring | {np.mean(known):.2f} ± {np.std(known, ddof=1):.2f} | " in page.split("## Information that is proven")[1]
    )


def test_a_result_of_another_study_with_the_same_settings_is_taken_over(file, tmp_path, capsys):
    assert study(Study(file()), call=Made()) == 0
    made = Made()
    other = file(('name = "Ring"', 'name = "Wide ring"'), ('"results/few', '"results/more'), name="more")
    other.write_text(other.read_text() + '[[methods]]\nname = "Ball"\nmethod = "ball"\n')
    assert study(Study(other), call=made) == 0
    assert [call[1] for call in made.calls if call[0] == "train"] == ["ball"] * 3
    assert "Wide ring, seed 1: as in few.jsonl" in "".join(capsys.readouterr())
    lines = {(line["name"], line["seed"]): line for line in kept(tmp_path / "results" / "more.jsonl")}
    assert len(lines) == 9
    taken, source = lines["Wide ring", 2], kept(tmp_path / "results" / "few.jsonl")[5]
    assert taken == source | {"name": "Wide ring", "study": "more"}
    again = Made()
    assert study(Study(other, results=tmp_path / "results" / "again.jsonl"), call=again) == 0
    assert len(again.calls) == 18


def test_floors_that_are_asked_for_are_not_taken_from_where_there_are_none(file, tmp_path):
    assert study(Study(file()), call=Made()) == 0
    path = file(('"results/few', '"results/more'), name="more")
    text = path.read_text()
    path.write_text(
        text[: text.index("[[methods]]")] + text[text.index('[[methods]]\nname = "Ring"') :].replace('"IR"', '""')
    )
    made = Made()
    assert study(Study(path), call=made) == 0
    assert [call[0] for call in made.calls] == ["train", "evaluate"] * 3  # Ring is the first here, and has the floors
    assert all(len(line["evaluations"]) == 6 for line in kept(tmp_path / "results" / "more.jsonl"))


def test_a_kept_training_is_evaluated_on_other_images_without_being_made_again(file, data, tmp_path):
    assert study(Study(file(), keep_checkpoints=True), call=Made()) == 0
    pair = f'[[data.others]]\ntrain = "{data}/train.beton"\ntest = "{data}/test.beton"\n[train]'
    made = Made()
    path = file(("[train]", pair), ('"results/few', '"results/more'), ("k = [5]", "k = [7]"), name="more")
    assert study(Study(path), call=made) == 0
    assert [call[0] for call in made.calls] == ["evaluate"] * 6
    place = made.calls[0].index("--train")
    train, test = (str(data / f"{part}.beton") for part in ("train", "test"))
    assert made.calls[0][place : place + 6] == ["--train", train, train, "--test", test, test]
    line = kept(tmp_path / "results" / "more.jsonl")[0]
    assert set(line["images"]) == {"train", "test", "1.train", "1.test"}
    assert {name for name in line["settings"] if name.startswith("data.")} == {f"data.{part}" for part in line["images"]}


# Processes


def test_a_command_is_run_and_what_it_says_is_kept(tmp_path):
    output = tmp_path / "output"
    code, said = called(["methods", "ring"], output, lambda: 0)
    assert code == 0
    assert "region.outer" in said
    code, said = called(["methods", "rign"], output, lambda: 0)
    assert (code, said) == (2, "")
    assert "$ viewmill methods rign" in output.read_text()
    assert "did you mean" in output.read_text()


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A program that writes its process id, and then waits for a signal, which it notes."""
    script = tmp_path / "waiting.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "def heed(number, frame):\n"
        "    open(sys.argv[1] + '.heard', 'w').write(str(number))\n"
        "    sys.exit({2: 130, 15: 75}[number])\n"
        "signal.signal(signal.SIGINT, heed), signal.signal(signal.SIGTERM, heed)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
        "print('nothing came')\n"
    )
    monkeypatch.setattr(process, "PROGRAM", script)
    return tmp_path / "started"


def await_(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "number"), [(75, signal.SIGTERM), (130, signal.SIGINT)])
def test_a_signal_is_passed_on_to_the_command(waiting, code, number):
    ended = called([str(waiting)], waiting.with_suffix(".output"), lambda: code if waiting.exists() else 0)
    assert ended == (code, "")
    assert waiting.with_suffix(".heard").read_text() == str(int(number))


def test_a_command_ends_with_a_study_that_is_killed(waiting, tmp_path):
    code = (
        "from pathlib import Path\nfrom viewmill.study import process\n"
        f"process.PROGRAM = Path({str(process.PROGRAM)!r})\n"
        f"process.called([{str(waiting)!r}], Path({str(tmp_path / 'output')!r}), lambda: 0)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        await_(lambda: waiting.exists() and waiting.read_text())
    finally:
        parent.kill()
        parent.wait()
    heard = waiting.with_suffix(".heard")
    await_(lambda: heard.exists() and heard.read_text())
    assert heard.read_text() == str(int(signal.SIGTERM))


def test_a_real_study_of_rendered_figures_trains_evaluates_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.toml").write_text(
        'results = "tiny.jsonl"\nruns = "runs"\nseeds = [3]\n[data]\nfactors = {train = 64, test = 32, size = 16}\n'
        "[train]\nwidth = 4\nhidden = 16\nembedding = 8\nsize = 16\nbatch = 16\nepochs = 1\nlog_every = 1\nthreads = 1\n"
        '[evaluate]\nprotocols = ["knn"]\nk = [5]\ncolumns = ["shape", "hue"]\n'
        '[[methods]]\nmethod = "ring"\nset = ["region.outer=0.5", "region.inner=0.05"]\n'
    )
    assert study(Study(tmp_path / "tiny.toml")) == 0
    (line,) = kept(tmp_path / "tiny.jsonl")
    assert (line["name"], line["seed"], line["steps"], line["engine"]) == ("ring", 3, 4, line["engine"])
    assert line["training_s"] > 0
    assert {"loss", "bound", "ceiling", "bound_valid", "false_negatives"} <= set(line["last_epoch"])
    told = {(score["task"], score["encoder"]) for score in line["evaluations"]}
    assert told == {(task, who) for task in ("shape", "hue") for who in ("run", "untrained encoder", "raw pixels")}
    (run,) = [path for path in (tmp_path / "runs").glob("ring-3-*") if path.is_dir()]
    assert {path.name for path in run.iterdir()} == {"config.json", "log.jsonl", "evaluation.jsonl"}
    assert "$ viewmill evaluate" in run.with_name(f"{run.name}.output").read_text()
    assert study(Study(tmp_path / "tiny.toml"), call=Made({1: 1})) == 0
    assert not list((tmp_path / "runs" / "data").glob(".rendering-*"))


def test_what_is_no_page_of_a_study_is_not_replaced(file):
    (page := read_plan(path := file()).results.with_suffix(".md")).parent.mkdir(parents=True, exist_ok=True)
    page.write_text("my notes\n")
    with pytest.raises(Refused, match="is not of a study and would be replaced"):
        study(Study(path), call=(made := Made()))
    assert page.read_text() == "my notes\n"
    assert not made.calls

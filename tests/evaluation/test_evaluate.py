"""`viewmill evaluate` as a person uses it: what it prints, what it keeps, and what it leaves alone."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from faults import TINY, figures, run
from sklearn.neighbors import KNeighborsClassifier

from viewmill.evaluation import protocols
from viewmill.evaluation.classes import class_task
from viewmill.evaluation.features import Features, Pair, Shown, extract
from viewmill.evaluation.protocols import Options, measure
from viewmill.evaluation.tasks import Task
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.views.recipe import weak
from viewmill.run import main
from viewmill.training.resume import load_encoders

EVERY = ("knn", "linear", "ridge", "low-shot")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {name: figures(tmp_path_factory.mktemp(name), count) for name, count in (("known", 240), ("asked", 80))}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    done = run("train", "simclr", "--data", data["known"], *TINY, "--steps", 20, out=out)
    assert done.code == 0, done.said()
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "cache" / "viewmill" / "features"


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_protocol_has_its_floors_beside_it_and_all_are_kept(trained, data, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("evaluation.jsonl"))
    before = digests(out)
    both = ("--train", data["known"], "--test", data["asked"])
    assert evaluate(out, *both, "--protocols", *EVERY, "--probe-epochs", 5, "--shots", 1, 4, "--draws", 2) == 0
    said = "".join(capsys.readouterr())
    for words in ("kNN k=200 T=0.1", "linear probe", "ridge", "low-shot, 1 % of each class", "low-shot, 4 of each class"):
        assert words in said
    assert "untrained encoder" in said
    assert "raw pixels" in said
    assert "8 classes, 240 training and 80 test images" in said
    kept = lines(out / "evaluation.jsonl")
    assert {line["encoder"] for line in kept} == {"run", "untrained encoder", "raw pixels"}
    assert len(kept) == 3 * (3 + 2 + 2)
    for line in kept:
        assert line["interval"][0] <= line["top1"] <= line["interval"][1]
        assert line["top1"] <= line["top5"] <= 1
        assert (line["step"], line["weights"], line["size"], len(line["classes"])) == (20, "model", 16, 8)
        draws = 2 if line["kind"].startswith("low-shot") else 1
        assert sum(map(sum, line["confusion"])) == 80 * draws
        assert sum(line["confusion"][i][i] for i in range(8)) == pytest.approx(line["top1"] * 80 * draws)
        assert line["data"]["test"]["rows"] == 80
    assert {path: digest for path, digest in digests(out).items() if path.name != "evaluation.jsonl"} == before


def test_the_accuracy_is_scikit_learns_on_the_same_features(trained, data, capsys):
    both = ("--train", data["known"], "--test", data["asked"])
    assert evaluate(trained, *both, "--protocols", "knn", "--k", 5, "--no-floors", "--json", "--no-cache") == 0
    answer = json.loads(capsys.readouterr().out)
    encoders = load_encoders(trained)
    which = Shown(encoders.trained, weak(16, encoders.colours))
    known, asked = (extract(which, open_beton(data[name]), device=torch.device("cpu")) for name in ("known", "asked"))
    judge = KNeighborsClassifier(5, weights=lambda distance: np.exp((1 - distance) / 0.1), metric="cosine")
    judge.fit(known.feature_NF, known.label_N)
    assert answer["top1"] == pytest.approx(judge.score(asked.feature_NF, asked.label_N))


def test_the_second_time_features_and_scores_come_from_the_cache_and_the_numbers_are_the_same(trained, data, cache, capsys):
    both = ("--train", data["known"], "--test", data["asked"], "--protocols", "knn", "ridge", "--json")
    assert evaluate(trained, *both) == 0
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(list(cache.iterdir())) == 4  # two encoders, two files; raw pixels are not worth their place
    assert len(list((cache.parent / "scores").iterdir())) == 6  # two protocols of three encoders
    assert evaluate(trained, *both) == 0
    second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line | {"time": 0} for line in first] == [line | {"time": 0} for line in second]


def test_several_data_sets_make_a_transfer_table(trained, data, capsys):
    sets = ("--train", data["known"], data["asked"], "--test", data["asked"], data["known"])
    assert evaluate(trained, *sets, "--protocols", "ridge", "--no-floors") == 0
    said = capsys.readouterr().out
    assert "transfer, top-1" in said
    assert "mean" in said


def test_columns_are_tasks_of_their_own(trained, data, capsys):
    both = ("--train", data["known"], "--test", data["asked"], "--protocols", "knn", "--no-floors", "--json")
    assert evaluate(trained, *both, "--columns", "texture", "hue") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["task"] for answer in answers] == ["factors: texture", "factors: hue"]
    assert [len(answer["classes"]) for answer in answers] == [4, 4]


def test_augmented_copies_are_another_protocol(trained, data, capsys):
    both = ("--train", data["known"], "--test", data["asked"], "--protocols", "linear", "--no-floors", "--json")
    assert evaluate(trained, *both, "--augment", 2, "--probe-epochs", 3) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "linear probe, augmented"
    assert "another augmented copy each epoch" in answer["protocol"]


def test_a_sweep_names_what_was_chosen(trained, data, capsys):
    both = ("--train", data["known"], "--test", data["asked"], "--protocols", "knn", "--no-floors", "--json")
    assert evaluate(trained, *both, "--k", 1, 10, 50, "--temperature", 0.05, 0.5) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "kNN, swept"
    assert "chosen of 6 on 10 % of the training images" in answer["protocol"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--protocols",), "needs one at least"),
        (("--k", 0), "--k must be 1 or more"),
        (("--temperature", 0), "--temperature must lie in 1e-06 to 1000"),
        (("--probe-epochs", 0), "--probe-epochs must be 1 or more"),
        (("--shots", 0), "--shots must be 1 or more"),
        (("--augment", -1), "--augment must be 0 or more"),
        (("--columns", "weight"), "has no column 'weight'"),
        (("--ema",), "keeps no moving average"),
    ],
)
def test_what_cannot_be_measured_is_refused(trained, data, more, words, capsys):
    before = digests(trained)
    assert evaluate(trained, "--train", data["known"], "--test", data["asked"], *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert digests(trained) == before


def test_every_train_needs_its_test(trained, data, capsys):
    assert evaluate(trained, "--train", data["known"], data["asked"], "--test", data["asked"]) == 2
    assert "each --train needs its --test: got 2 and 1" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_that_does_not_verify_is_no_encoder(trained, data, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("evaluation.jsonl"))
    for path in (out / "checkpoints").glob("step-*/model.safetensors"):
        harmed = bytearray(path.read_bytes())
        harmed[-1] ^= 1
        path.write_bytes(harmed)
    assert evaluate(out, "--train", data["known"], "--test", data["asked"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "model.safetensors" in said
    assert "Traceback" not in said
    assert not (out / "evaluation.jsonl").exists()


@pytest.mark.parametrize("command", ["evaluate", "export", "embed"])
def test_a_fine_tuning_is_no_encoder(command, data, tmp_path, capsys):
    out = tmp_path / "tuned"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"command": "finetune"}))
    both = ("--train", data["known"], "--test", data["asked"])
    more = {"evaluate": both, "export": (tmp_path / "out",), "embed": (data["asked"], tmp_path / "out.parquet")}[command]
    assert main([command, str(out), *map(str, more)]) == 2
    assert "is a run of finetune, not a training of an encoder" in " ".join(capsys.readouterr().err.split())


def test_where_the_results_cannot_be_kept_they_are_printed_all_the_same(trained, data, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("evaluation.jsonl"))
    (out / "evaluation.jsonl").mkdir()
    both = ("--train", data["known"], "--test", data["asked"], "--protocols", "knn", "--no-floors")
    assert evaluate(out, *both) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "kNN k=200" in said
    assert "the results are not in" in said


def made_up(*, test_labels=None):
    """Separable features of three classes, 20 training images and 10 test images each."""
    generator = torch.Generator().manual_seed(0)
    sides = []
    for count in (60, 30):
        label_N = torch.arange(count) % 3
        feature_NF = torch.eye(8)[label_N] * 2 + torch.randn(count, 8, generator=generator)
        sides.append(Features(feature_NF, label_N, torch.arange(count)))
    known, asked = sides
    truth = asked.label_N if test_labels is None else test_labels
    return Pair(known, asked), Task("made up", known.label_N, truth, ("a", "b", "c"))


def test_nothing_is_chosen_by_the_test_images():
    options = Options(EVERY, k=(1, 5, 20), temperature=(0.05, 0.5), epochs=5, shots=(1, 5), draws=2)
    pair, task = made_up()
    _, other = made_up(test_labels=torch.randint(3, (30,), generator=torch.Generator().manual_seed(1)))
    one, two = measure(pair, task, options), measure(pair, other, options)
    assert [told.score.protocol for told in one] == [told.score.protocol for told in two]
    columns = [told.score.confusion_CC.sum(dim=0).tolist() for told in one]  # how often each class was told
    assert columns == [told.score.confusion_CC.sum(dim=0).tolist() for told in two]
    assert all(told.score.top1.value > 0.6 for told in one if not told.name.startswith("low-shot"))


def test_low_shot_leaves_out_more_images_a_class_than_there_are():
    pair, task = made_up()
    told = measure(pair, task, Options(("low-shot",), shots=(5, 21), draws=3))
    assert [each.name for each in told] == [
        "low-shot, 1 % of each class",
        "low-shot, 10 % of each class",
        "low-shot, 5 of each class",
    ]
    assert all(each.score.top1.low <= each.score.top1.value <= each.score.top1.high for each in told)
    assert "mean and range of 3 draws" in told[0].score.protocol


def test_rows_that_could_not_be_decoded_are_left_out_of_both_sides():
    pair, task = made_up()
    known, asked = (Features(*(tensor[1:] for tensor in side)) for side in pair)
    told = measure(Pair(known, asked), task, Options(("knn",), k=(1,)))
    assert told[0].score.images == 29


def test_the_table_of_protocols_is_that_of_the_command():
    from typing import get_args

    from viewmill.settings.evaluation import Protocol

    assert set(protocols.PROTOCOLS) == set(get_args(Protocol))


def test_the_files_own_classes_are_the_task(data):
    assert class_task(open_beton(data["known"]), open_beton(data["asked"])).classes[0] == "crescent"

"""`viewmill finetune`: encoder and classifier learn together, from a run, from a file and from nothing."""

import json
import shutil

import pytest
import torch
from faults import TINY, figures, records, run

from viewmill.checkpoint import layout
from viewmill.run import main
from viewmill.transfer.classification import Classifier

SMALL = ("--epochs", 3, "--batch", 32, "--precision", "no", "--log-every", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {name: figures(tmp_path_factory.mktemp(name), count) for name, count in (("known", 240), ("asked", 80))}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    done = run("train", "simclr", "--data", data["known"], *TINY, "--steps", 5, out=out)
    assert done.code == 0, done.said()
    return out


def finetune(source, data, out, *more):
    both = ("--train", data["known"], "--test", data["asked"], "--out", out)
    return main(["finetune", *map(str, (source, *both, *SMALL, *more))])


def model(out):
    return layout.newest(out / "checkpoints").checkpoint.parts["model"]


@pytest.fixture(scope="module")
def tuned(trained, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "out"
    assert finetune(trained, data, out) == 0
    return out


def test_it_learns_and_says_how_it_was_measured(tuned, trained):
    told = json.loads((tuned / "results.json").read_text())
    assert told["init"]["words"] == f"the encoder of run {trained}"
    assert "full fine-tuning, sgd rate 0.0125 cosine, 3 epochs of 240 images in batches of 32" in told["protocol"]
    assert told["interval"][0] <= told["top1"] <= told["interval"][1]
    assert sum(map(sum, told["confusion"])) == told["images"] == 80
    steps = records(tuned)
    assert [record["step"] for record in steps] == list(range(1, 3 * 7 + 1))
    assert steps[0]["loss"] == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-4)  # weights of 0: all classes alike
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert json.loads((tuned / "exit.json").read_text())["code"] == 0


def test_the_encoder_has_learnt_too(tuned, trained):
    before = layout.newest(trained / "checkpoints").checkpoint.parts["model"]
    assert not torch.equal(model(tuned)["encoder.conv1.weight"], before["encoder.conv1.weight"])


def test_it_is_the_same_again_and_a_finished_one_only_shows_its_results(tuned, trained, data, tmp_path, capsys):
    assert finetune(trained, data, tmp_path / "again") == 0
    assert all(torch.equal(tensor, model(tmp_path / "again")[name]) for name, tensor in model(tuned).items())
    told = (tuned / "results.json").read_bytes()
    capsys.readouterr()
    assert finetune(trained, data, tuned) == 0
    assert (tuned / "results.json").read_bytes() == told
    assert "fine-tuned classifier" in capsys.readouterr().out
    assert len(records(tuned)) == 21


def test_the_precision_that_is_chosen_is_what_the_run_has(trained, data, tmp_path):
    """Not the word "auto": fp16 needs its loss scale, and a second start what the first one took."""
    out = tmp_path / "out"
    for _ in range(2):
        assert finetune(trained, data, out, "--precision", "auto", "--epochs", "1", "--batch", "240") == 0
    config = json.loads((out / "config.json").read_text())
    assert config["precision"] in ("no", "bf16")
    assert "auto" not in json.loads((out / "results.json").read_text())["protocol"]


def test_a_stop_in_the_middle_changes_no_bit(tuned, trained, data, tmp_path, monkeypatch):
    from viewmill.transfer import tuning

    usual, out = tuning.take_step, tmp_path / "out"

    def breaking(run, batch, *, step, asked):
        if step == 10:
            raise KeyboardInterrupt
        return usual(run, batch, step=step, asked=asked)

    monkeypatch.setattr(tuning, "take_step", breaking)
    assert finetune(trained, data, out, "--checkpoint-every", 4) == 130
    monkeypatch.setattr(tuning, "take_step", usual)
    assert layout.newest(out / "checkpoints").checkpoint.facts["step"] == 8
    assert finetune(trained, data, out, "--checkpoint-every", 4) == 0
    assert all(torch.equal(tensor, model(out)[name]) for name, tensor in model(tuned).items())


def test_it_begins_at_random_too(data, tmp_path):
    small = ("--width", 4, "--size", 16, "--epochs", 1)
    assert finetune("random", data, tmp_path / "out", *small) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["init"]["words"] == "random weights"


def test_two_processes_see_the_same_batches_as_one(trained, data, tmp_path):
    both = ("--train", data["known"], "--test", data["asked"])
    done = run("finetune", trained, *both, *SMALL, out=tmp_path / "out", world=2)
    assert done.code == 0, done.said()
    assert len(records(tmp_path / "out")) == 21
    assert json.loads((tmp_path / "out" / "results.json").read_text())["images"] == 80


def test_the_classifier_begins_without_an_opinion():
    classifier = Classifier(torch.nn.Flatten(), 12, 5)
    assert not classifier(torch.rand(3, 3, 2, 2)).any()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--epochs", 0), "--epochs must be 1 or more"),
        (("--batch", 1000), "1000"),
        (("--learning-rate", 0), "--learning-rate must be above 0"),
        (("--smoothing", 1), "--smoothing must lie in 0 to 1"),
        (("--keep", 1), "--keep must be 2 or more"),
        (("--ema",), "keeps no moving average"),
    ],
)
def test_what_cannot_be_trained_is_refused(trained, data, tmp_path, more, words, capsys):
    assert finetune(trained, data, tmp_path / "out", *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "config.json").exists()


def test_another_fine_tuning_is_refused_in_the_same_folder(tuned, trained, data, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(tuned, out)
    assert finetune(trained, data, out, "--seed", 1) == 2
    assert "choose another --out" in " ".join(capsys.readouterr().err.split())


def test_no_source_is_refused_by_name(data, tmp_path, capsys):
    assert finetune(tmp_path / "nothing", data, tmp_path / "out") == 2
    assert "does not exist: name a run, a .safetensors file, or random" in " ".join(capsys.readouterr().err.split())

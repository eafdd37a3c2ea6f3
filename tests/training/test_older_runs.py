"""A run that an older version began is continued by this one: to the same bits, and without its file being touched.

run-0.1.0.tar.xz was made by version 0.1.0 (commit a8032c1) with the flags below: a run of 12 steps that has come to step 7,
and what 0.1.0 itself came to at step 12, as sha256. Bits depend on the processor, so the archive also has the sha256 of some
steps that no code of ours has a part in: where they come out alike here, the run must end with the very bytes of 0.1.0.
Everywhere it must end with those of its twin, whose configuration and checkpoint are written as this version writes them.
"""

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from viewmill.checkpoint import layout
from viewmill.errors import Refused
from viewmill.files.typed import Misfit
from viewmill.pipeline.conversion.convert import convert
from viewmill.run import main
from viewmill.training.resume import load_encoders
from viewmill.training.run_config import FORMAT, as_now, settle_config, unlike
from viewmill.training.run_folder import write_json

ARCHIVE = Path(__file__).with_name("run-0.1.0.tar.xz")
FLAGS = "--set memory.size=32 region.inner=0.1 region.outer=0.5 --width 1 --hidden 4 --embedding 4 --size 24 --batch 8"
FLAGS += " --accumulate 3 --ema 0.9 --steps 12 --checkpoint-every 6 --keep 4 --log-every 1 --threads 1 --engine torch"
FLAGS += " --precision no"


def reference() -> str:
    """The sha256 of some steps that no code of ours has a part in: it tells whether this machine rounds as that one did."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(5):
        unit_BD = torch.nn.functional.normalize(model(torch.rand(16, 3, 24, 24)))
        loss = torch.nn.functional.cross_entropy(unit_BD @ unit_BD.T / 0.2, torch.arange(16))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    convert([tmp_path / "images"], tmp_path / "images.beton", workers=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def goes_on(run: Path, *more: str) -> tuple[int, str]:
    said = io.StringIO()
    common = ["train", "moco-v2-ring", "--data", "images.beton", "--recipe", "recipe.toml", "--out", str(run)]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main([*common, *FLAGS.split(), *more])
    return code, " ".join(said.getvalue().split())


def sums(run: Path) -> dict[str, str]:
    files = (run / "checkpoints" / "step-00000012").glob("*.safetensors")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def twin_of(run: Path) -> Path:
    """The same run as if this version had written its configuration and its checkpoint."""
    twin = run.with_name("twin")
    shutil.copytree(run, twin)
    path = twin / "checkpoints" / "step-00000007" / "manifest.json"
    manifest = json.loads(path.read_text())
    now = as_now(manifest["facts"]["config"], where="x").config
    assert now["format"] == FORMAT
    assert now["recipe"]["views"][0]["crop"] == {"scale": [0.3, 1.0], "ratio": [0.75, 4 / 3]}
    write_json(twin / "config.json", now)
    manifest["facts"]["config"] = now
    manifest["sha256"] = layout._digest({name: value for name, value in manifest.items() if name != "sha256"})
    path.write_bytes(layout._text(manifest))
    return twin


def test_a_run_of_0_1_0_goes_on_to_the_same_bits(old, one_thread):
    before = (old / "config.json").read_bytes()
    code, said = goes_on(old)
    assert code == 0, said
    assert "continuing" in said
    assert "at step 7 of 12" in said
    assert (old / "config.json").read_bytes() == before
    expected = json.loads(Path("expected.json").read_text())
    if reference() == expected["reference"]:
        assert sums(old).items() >= expected["sha256"].items()
    steps = [json.loads(line) for line in (old / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["event"] == "step"] == list(range(1, 13))


def test_what_an_older_run_is_read_as_is_what_this_version_would_have_written(old, one_thread):
    twin = twin_of(old)
    for run in (old, twin):
        code, said = goes_on(run)
        assert code == 0, said
    assert sums(old) == sums(twin)


def test_an_older_run_can_be_evaluated_and_exported(old):
    encoders = load_encoders(old, ema=True)
    assert encoders.step == 7
    assert main(["export", str(old), str(old.with_name("encoder.safetensors"))]) == 0


def test_another_recipe_is_refused_by_the_place_where_it_differs(old):
    text = Path("recipe.toml").read_text()
    Path("recipe.toml").write_text(text.replace("grey = 0.2", "grey = 0.3"))
    code, said = goes_on(old)
    assert code == 2
    assert "recipe.views[0].grey = 0.2, this one has 0.3" in said


@pytest.fixture
def config(tmp_path) -> dict:
    with tarfile.open(ARCHIVE) as archive:
        content = archive.extractfile("run/config.json")
        assert content is not None
        return json.loads(content.read())


def test_what_is_missing_is_its_default_and_what_is_not_known_a_remark(config, tmp_path, capsys):
    now = as_now(config, where="config.json").config
    older = json.loads(json.dumps(config))
    for name in ("online", "clip", "batch_norm", "init", "colours"):
        del older[name]
    for name in ("region.relative", "bound.positive_in_denominator", "target.rising"):
        del older["objective"][name]
    del older["architecture"]["predictor"]
    older |= {"forgotten": 1}
    older["objective"]["region.shape"] = "oval"
    older["architecture"]["depth"] = 3
    write_json(tmp_path / "config.json", older)
    assert settle_config(tmp_path, now)
    said = " ".join(capsys.readouterr().err.split())
    assert "has forgotten, architecture.depth, objective.region.shape, which this version does not know" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("ema"), "ema = 0.0, this one has 0.9"),
        (lambda c: c["architecture"].update(seed=5), "architecture.seed = 5, this one has 0"),
        (lambda c: c["architecture"].update(width=2), "architecture.width = 2, this one has 1"),
        (lambda c: c["objective"].pop("region.outer"), "objective.region.outer ="),
        (lambda c: c.update(command="finetune"), "ema must be true or false, got 0.9"),
    ],
)
def test_what_was_edited_is_not_hidden_by_another_key_of_the_same_name(config, tmp_path, change, told):
    now = as_now(config, where="config.json").config
    change(config)
    write_json(tmp_path / "config.json", config)
    with pytest.raises(Refused) as refused:
        settle_config(tmp_path, now)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": FORMAT + 1}, "take a newer viewmill"),
        ({"format": "1"}, "format must be a whole number"),
        ({"batch": "8"}, "batch must be a whole number of 2 or more, got '8'"),
        ({"learning_rate": 1e38}, "learning_rate must lie in 0 to 1000, got 1e+38"),
        ({"architecture": []}, "architecture must be a table, got []"),
        ({"architecture": {}}, "architecture.encoder is missing"),
        ({"colours": {"mean": [0.5, 0.5]}}, "colours.mean must be a list of 3 numbers"),
        ({"objective": {"x": [1]}}, "objective.x must be"),
        ({"command": ["train"]}, "command must be one of train, finetune, transfer"),
        ({"recipe": "__import__('os').getcwd()"}, "recipe must be a table with views"),
        ({"recipe": "View(size=8)"}, "recipe must be a table with views"),
        ({"recipe": "Recipe(views=())"}, "recipe: views must be a list of 1 to 64 tables"),
        ({"recipe": "Recipe(views=(View(size=24, flip=5),))"}, "views[0].flip must lie in 0 to 1, got 5"),
        ({"recipe": "(" * 5000}, "recipe must be a table with views"),
        ({"rows": 0}, "rows must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_with_file_key_and_range(config, change, told):
    with pytest.raises(Misfit) as refused:
        as_now(config | change, where="r/config.json")
    assert told in str(refused.value)
    assert "r/config.json" in str(refused.value)


def test_what_this_version_has_is_left_as_it_is(config):
    now = as_now(config, where="x").config
    again = as_now(json.loads(json.dumps(now)), where="x")
    assert again.config == now
    assert not again.unknown
    assert not unlike(now, again.config)

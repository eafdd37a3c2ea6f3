"""Settings that stand in a file: what begins a command, and what its own flags change."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewmill.commands.from_file import with_file
from viewmill.commands.line import by_name
from viewmill.errors import Refused
from viewmill.methods.method import bounded
from viewmill.methods.overrides import assignments_of, changed, values
from viewmill.methods.table import METHODS
from viewmill.run import main, parsed
from viewmill.settings import COMMANDS, Train
from viewmill.settings.parts import flags_of, flat, made, replaced

NAMES = by_name(COMMANDS)
TINY = ["--width", "4", "--hidden", "16", "--embedding", "8", "--size", "24", "--batch", "16", "--threads", "1"]
TINY += ["--precision", "no", "--engine", "torch"]


@pytest.fixture
def toml(tmp_path):
    def make(text, name="mine.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


def train(*words):
    return parsed(["train", *words, "--data", "a", "--out", "b"])


# parts


def test_a_setting_is_known_by_its_name_whichever_part_it_stands_in():
    config = made(Train, data=Path("a"), out=Path("b"), width=3, set=("x=1",))
    assert (config.network.width, flat(config)["width"], replaced(config, width=5).network.width) == (3, 3, 5)
    assert replaced(config, width=5).set == ("x=1",)
    assert list(flat(config)) == list(flags_of(Train))
    with pytest.raises(TypeError, match="no setting 'wide'"):
        made(Train, data=Path("a"), out=Path("b"), wide=3)


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_of_a_command_has_a_name_of_its_own(name):
    flags_of(NAMES[name])  # raises AssertionError for two of one name


# a file of one's own


def test_a_file_begins_and_flags_go_before_it(toml):
    text = 'method = "ring"\nsize = 32\nonline = false\nset = ["region.outer=0.2"]\n'
    path = toml(f"{text}\n[optimisation]\nbatch = 64\nwarmup = 0.1\n")
    config = train("--config", path, "--batch", "128", "--online")
    assert (config.method, config.views.size, config.set) == ("ring", 32, ("region.outer=0.2",))
    assert (config.optimisation.batch, config.optimisation.warmup, config.logging.online) == (128, 0.1, True)
    assert train("simclr", f"--config={path}").method == "simclr"
    assert train(f"--config={path}").optimisation.batch == 64


@pytest.mark.parametrize("words", [["--set", "region.outer=0.3"], ["--set=region.outer=0.3"]])
def test_assignments_of_both_hold_and_the_last_of_a_name_counts(toml, words):
    path = toml('set = ["region.outer=0.2", "region.inner=0.1"]')
    assert train("ring", "--config", path, *words).set == ("region.outer=0.2", "region.inner=0.1", "region.outer=0.3")


def test_lists_paths_and_dashes_are_taken(toml):
    config = train("--config", toml('track = ["tensorboard"]\ninit = "w.safetensors"\nlog-every = 3\nlearning_rate = 1\n'))
    assert (config.logging.track, config.network.init, config.logging.log_every) == (
        ("tensorboard",),
        Path("w.safetensors"),
        3,
    )
    assert config.optimisation.learning_rate == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bach = 3", "did you mean batch"),
        ("batch = 1", "batch must be 2 or more, got 1"),
        ('size = "large"', "size must be a whole number"),
        ("[network]\nwidth = 4.5", "width must be a whole number"),
        ("width = 4\n[network]\nwidth = 5", "width is there twice"),
        ("[netwrk]\nwidth = 5", "no group of settings is called 'netwrk': did you mean network"),
        ('config = "other.toml"', "a further file"),
        ("batch = nan", "batch must be"),
        ("batch = ", "is no TOML"),
        ('optimiser = "sgdd"', "did you mean sgd"),
        ("learning_rate = inf", "learning_rate must"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file_and_the_key(toml, text, said):
    path = toml(text)
    with pytest.raises(Refused, match=said) as refused:
        train("--config", path)
    assert path in str(refused.value)


@pytest.mark.parametrize("named", ["missing.toml", "missing", "missing.json", "photo.jpg"])
def test_a_file_that_cannot_be_one_is_refused(named, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(Refused, match=named):
        train("--config", str(tmp_path / named))


def test_two_files_are_one_too_many(toml):
    with pytest.raises(Refused, match="given 2 times"):
        train("--config", toml("batch = 4"), "--config", toml("batch = 5"))


def test_words_without_a_file_stay_as_they_are():
    for words in ([], ["--help"], ["train", "--help", "--config", "x"], ["inspect", "--config", "x"], ["train", "--config"]):
        assert with_file(words, NAMES) == words


# a run's


@pytest.fixture(scope="module")
def begun(tmp_path_factory, request):
    beton = request.getfixturevalue("photo_beton").path
    out = tmp_path_factory.mktemp("runs") / "first"
    more = ["--set", "region=nearest", "region.count=7", "bound.temperature=0.3", "--weight-decay", "1e-5", "--no-online"]
    assert main(["train", "ring", "--data", str(beton), "--out", str(out), *TINY, "--steps", "3", *more]) == 0
    return beton, out


def test_a_run_begins_another_one_like_it(begun, tmp_path):
    beton, out = begun
    again = tmp_path / "again"
    for named in (out, out / "config.json"):
        words = ["train", "--config", str(named), "--data", str(beton), "--out", str(again), "--engine", "torch"]
        assert (
            parsed(words).optimisation
            == parsed(["train", *words[3:], *TINY, "--steps", "3", "--weight-decay", "1e-5"]).optimisation
        )
        assert main(words) == 0  # the second time it is complete already
    assert json.loads((again / "config.json").read_text()) == json.loads((out / "config.json").read_text())
    weights = [(run / "checkpoints/step-00000003/model.safetensors").read_bytes() for run in (out, again)]
    assert weights[0] == weights[1]


def test_flags_change_what_a_run_had(begun, tmp_path):
    _, out = begun
    config = train("--config", str(out), "--set", "region.count=9", "--width", "6", "--epochs", "2", "--steps", "0")
    assert (config.network.width, config.optimisation.epochs, config.optimisation.steps) == (6, 2, 0)
    assert config.set[-1] == "region.count=9"
    assert changed(METHODS["ring"], config.set).region.count == 9
    assert (config.data, config.out, config.views.engine) == (Path("a"), Path("b"), "auto")  # another run has its own


def test_a_run_of_another_command_is_refused(begun):
    _, out = begun
    with pytest.raises(Refused, match="is of `viewmill train`, and this is `viewmill finetune`"):
        parsed(["finetune", "random", "--config", str(out), "--train", "a", "--test", "b", "--out", "c"])


ASSIGNED = ("region=ring", "region=nearest", "region=everything", "bound=decoupled", "positives=neighbours", "head=fixed")
ASSIGNED += ("head=none", "region.inner=0.1", "region.outer=0.3", "region.anneal.first=1.0", "bound.temperature=0.3")
ASSIGNED += ("target.value=0.5", "memory.size=77", "terms.0.weight=2.0", "warm_start=1.5")
OTHERS = st.lists(st.sampled_from(ASSIGNED), max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(METHODS)), OTHERS, OTHERS, st.sampled_from([10, 10**6]))
def test_recorded_settings_lead_back_to_the_method_that_had_them(name, one, other, rows):
    row = METHODS[name]
    try:
        method = bounded(changed(row, [*one, *other]), rows=rows)
    except ValueError:
        return
    recorded = json.loads(json.dumps(dict(values(method))))
    back = bounded(changed(row, assignments_of(bounded(row, rows=rows), recorded)), rows=rows)
    assert json.loads(json.dumps(dict(values(back)))) == recorded


def test_settings_that_no_flag_makes_are_refused():
    recorded = dict(values(METHODS["ring"]))
    with pytest.raises(ValueError, match=r"of that row|no setting"):
        assignments_of(METHODS["simclr"], recorded)

"""Bounds beside information that is known: the closed form against enumeration, resuming, and the page from its lines."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from viewmill.benchmarks import known_information as known
from viewmill.benchmarks import known_page
from viewmill.methods.outputs import Outputs
from viewmill.methods.parts import Everything, InfoNCE, Ring
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.objectives.objective import Images, loss
from viewmill.study.process import Ended
from viewmill.training.run_folder import write_json

RESULTS = Path(__file__).resolve().parents[2] / "studies" / "results" / "known-information.jsonl"
NOTHING = torch.empty(0, dtype=torch.int64)
REGIONS = {"all": Everything(), "ball": Ring(0.0, 0.5), "ring": Ring(0.25, 0.75), "ring to the farthest": Ring(0.25, 1.0)}


def logged(region, figure_B):
    """The bound that the objective logs for a batch whose embeddings are one axis a figure, at a temperature near 0."""
    embedding_VBD = torch.eye(8, dtype=torch.float64)[list(figure_B)].expand(2, -1, -1)
    row_B, valid_B = torch.arange(len(figure_B)), torch.ones(len(figure_B), dtype=torch.bool)
    outputs = Outputs(embedding_VBD=embedding_VBD, projected_VBD=embedding_VBD, mean_VBF=embedding_VBD)
    method = replace(METHODS["simclr"], region=region, bound=InfoNCE(1e-3))
    now = Moment(step=0, steps=2, steps_per_epoch=1)
    return loss(method, outputs, {}, Images(row_B, valid_B, NOTHING), now)[1]["bound"].item()


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(("rows", "figures", "batch"), [(6, 3, 4), (8, 2, 4), (6, 6, 3), (9, 3, 3), (4, 1, 4)])
def test_a_sharp_critic_is_worth_what_all_batches_are_on_the_mean(region, rows, figures, batch):
    figure_N = [row % figures for row in range(rows)]
    found = [logged(REGIONS[region], rest) for rest in itertools.combinations(figure_N, batch)]
    value = known.sharp(REGIONS[region], rows=rows, figures=figures, batch=batch)
    assert value == pytest.approx(np.mean(found), abs=1e-12)


@pytest.mark.parametrize("batch", [2, 64])
def test_one_figure_tells_nothing_and_no_copies_leave_log_k(batch):
    assert known.sharp(Everything(), rows=2048, figures=1, batch=batch) == pytest.approx(0, abs=1e-12)
    value = known.sharp(Everything(), rows=2048, figures=2048, batch=batch)
    assert value == pytest.approx(math.log(2 * batch - 1), abs=1e-12)


def all_views(critic_SS, figures, copies, batch):
    """The mean InfoNCE of one anchor view over all batches and all views, each of two equally likely states a figure.

    critic_SS: values for pairs of 2 * figures states, that of figure f and state s at 2f + s.
    """
    row_N, total = [figure for figure in range(figures) for _ in range(copies)], []
    for anchor, others in ((row_N[0], rest) for rest in itertools.combinations(row_N[1:], batch - 1)):
        shown = [anchor, anchor, *(figure for figure in others for _ in range(2))]
        for state in itertools.product((0, 1), repeat=len(shown)):
            u, *v_K = (2 * figure + s for figure, s in zip(shown, state, strict=True))
            values = critic_SS[u, v_K]
            total.append(math.log(len(v_K)) + values[0] - np.logaddexp.reduce(values))
    return np.mean(total)


def test_no_critic_makes_more_of_everything():
    shape = {"rows": 6, "figures": 2, "batch": 3}
    best = known.sharp(Everything(), **shape)
    random = np.random.default_rng(0)
    sharp_SS = 50.0 * (np.arange(4)[:, None] // 2 == np.arange(4) // 2)
    # by symmetry figure 0's value is the mean over anchors only where the critic treats figures alike, so both are taken
    for noise_SS in [np.zeros((4, 4)), *(scale * random.normal(size=(4, 4)) for scale in (0.1, 1.0, 5.0))]:
        critic_SS = sharp_SS + noise_SS
        turned_SS = np.roll(critic_SS, (2, 2), axis=(0, 1))
        value = np.mean([all_views(each, figures=2, copies=3, batch=3) for each in (critic_SS, turned_SS)])
        assert value == pytest.approx(best, abs=1e-9) if not noise_SS.any() else value < best - 1e-5


def test_pairs_of_views_lie_above_the_information_and_single_ones_do_not():
    """What the page says of the best critic: exactly enumerated, so no matter of chance."""
    rows, figures, batch = 2048, 16, 64
    pairs = known.sharp(Everything(), rows=rows, figures=figures, batch=batch)
    assert pairs - math.log(figures) == pytest.approx(0.0061, abs=1e-4)
    copies = rows // figures - 1
    for views in (64, 127):  # as many images, or as many terms
        ways = [math.comb(copies, h) * math.comb(rows - 1 - copies, views - 1 - h) for h in range(views)]
        shares = [way / math.comb(rows - 1, views - 1) for way in ways]
        single = math.fsum(share * math.log(views / (1 + h)) for h, share in enumerate(shares))
        assert math.log(figures) - 0.15 < single < math.log(figures)


SMALL = {"figures": (2, 8), "methods": ("simclr", "simclr-ball"), "seeds": (0, 1), "rows": 16, "batch": 8, "epochs": 2}
STEPS = [{"bound": 1.0, "epoch": 0.5}, {"bound": 2.0, "epoch": 1.5}, {"bound": 2.5, "epoch": 2.0}]
SCALARS = {name: 0.5 for name in (*known.TOLD, "false_negatives")} | {"ceiling": math.log(15)}


@pytest.fixture
def trainer():
    """A `call` that writes what a training would, or fails at its third; its list is of the commands."""
    commands = []

    def call(words, output, asked):
        commands.append(words)
        if len(commands) == 3:
            output.write_text("no room")
            return Ended(1, "")
        run = Path(words[words.index("--out") + 1])
        run.mkdir()
        write_json(run / "config.json", {"steps": 4, "engine": "torch"})
        machine = {"versions": {"viewmill": "0", "torch": "1"}, "hardware": {"cpu": "some", "cores": 2}}
        records = [{"event": "start", "time": 0.0, **machine}]
        records += [{"event": "step", "time": 1.0, **SCALARS, **step} for step in STEPS]
        (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return Ended(0, "")

    call.commands = commands
    return call


def test_a_start_makes_what_is_missing_and_a_torn_line_again(tmp_path, trainer):
    settings, said = known.Settings(tmp_path / "few.jsonl", **SMALL), []
    assert known.make(settings, trainer, said.append) == 1
    assert said[-1] == "no room"
    assert len(known.read(settings.results, settings)) == 2
    held = settings.results.read_bytes()
    settings.results.write_bytes(held[:-9])
    assert len(known.read(settings.results, settings)) == 1
    assert known.make(settings, trainer, said.append) == 0
    lines = known.read(settings.results, settings)
    assert sorted(lines) == sorted(itertools.product((2, 8), SMALL["methods"], (0, 1)))
    assert len(trainer.commands) == 10
    assert all(line["bound"] == 2.25 and line["terms"] == 15 and line["told_apart"] == 1 for line in lines.values())
    before = settings.results.read_bytes()
    assert before.startswith(held[: held.index(b"\n") + 1])
    assert known.make(settings, trainer, said.append) == 0
    assert settings.results.read_bytes() == before


def test_lines_of_other_settings_are_refused(tmp_path, trainer):
    settings = known.Settings(tmp_path / "few.jsonl", **SMALL | {"figures": (2,), "methods": ("simclr",)})
    known.make(settings, trainer, print)
    with pytest.raises(ValueError, match="line 1 was made with other settings: name another file"):
        known.read(settings.results, replace(settings, epochs=3))
    with pytest.raises(ValueError, match="16 rows are no whole number of copies of 3 figures"):
        replace(settings, figures=(3,))


def test_a_training_logs_what_a_line_takes(tmp_path):
    """The one training here that is real: its flags are known to `train`, and its log has every scalar."""
    one = {"figures": (2,), "methods": ("simclr-ring",), "seeds": (0,), "rows": 64, "batch": 32, "epochs": 1}
    settings = known.Settings(tmp_path / "one.jsonl", **one)
    assert known.main(settings) == 0
    line = json.loads(settings.results.read_text())
    assert line["terms"] == 1 + 32 - 3
    assert line["steps"] == 2
    assert line["told_apart"] == 1
    assert line["bound"] <= line["ceiling"]
    assert 0 < line["copies"] < 1
    assert "nowhere above log n" in settings.results.with_suffix(".md").read_text()


def test_all_figures_are_told_apart_by_their_views(tmp_path):
    recipe = tmp_path / "views.toml"
    recipe.write_text(known.RECIPE)
    assert known.told_apart(known.made(tmp_path, 512, 512), recipe, batch=64) == 1


def line_of(n, method, seed, bound, valid):
    best, terms = math.log(n) + 0.001, 127 if method == "simclr" else 59
    value = best if method == "simclr" else best + 1
    facts = {
        "best": best,
        "sharp": value,
        "sharp_here": value + seed / 1e3,
        "bound": bound,
        "bound_valid": valid,
        "copies": 1 / n,
        "terms": terms,
    }
    return {"method": method, "seed": seed, "figures": n, "known": math.log(n), **facts}


def test_the_page_says_what_its_lines_say():
    lines = [line_of(n, "simclr", seed, math.log(n) - 0.01 - seed / 1e3, 1.0) for n in (4, 16) for seed in range(3)]
    lines += [line_of(4, "simclr-ring", seed, 1.0 + seed / 1e3, 0.9) for seed in range(3)]
    lines += [line_of(16, "simclr-ring", seed, 3.0 + seed / 1e3, 0.1) for seed in range(3)]
    everything, ring, loose = known_page.sentences(known_page.groups(lines))
    assert "\N{MINUS SIGN}0.0110 at n = 4, \N{MINUS SIGN}0.0110 at n = 16." in everything
    assert "no training exceeds that" in everything
    assert "by 0.0130 at n = 4, 0.0130 at n = 16;" in everything
    assert "At no n is it over" in everything
    assert "above log n at n = 16 (by 0.228)" in ring
    assert "above simclr at n = 16" in ring
    assert ring.endswith("under 50% at n = 16: wherever the value exceeds log n, and there alone.")
    assert "at n = 4, 16, by up to 0.0010 nats" in loose
    turned = [line | {"bound_valid": 1.1 - line["bound_valid"]} for line in lines if line["method"] == "simclr-ring"]
    assert "not wherever the value exceeds" in next(known_page.sentences(known_page.groups(turned)))


def test_the_committed_page_is_what_its_lines_make():
    lines = list(known.read(RESULTS, known.Settings(RESULTS)).values())
    asked = itertools.product((4, 16, 32, 64, 256, 2048), ("simclr", "simclr-ball", "simclr-ring"), range(3))
    assert sorted((line["figures"], line["method"], line["seed"]) for line in lines) == sorted(asked)
    assert known_page.markdown(lines, RESULTS.name).encode() == RESULTS.with_suffix(".md").read_bytes()


def test_the_committed_values_are_of_the_closed_form_as_it_is():
    for line in known.read(RESULTS, known.Settings(RESULTS)).values():
        shape = {name: line[name] for name in ("rows", "figures", "batch")}
        assert line["sharp"] == pytest.approx(known.sharp(METHODS[line["method"]].region, **shape), abs=1e-12)
        here = {**shape, "seed": line["seed"], "epoch": 3}
        assert line["sharp_here"] == pytest.approx(known.sharp_here(METHODS[line["method"]].region, **here), abs=1e-12)
        assert line["told_apart"] == 1


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [line_of(n, m, seed, math.log(n), 0.2) for n in (4, 16) for m in ("simclr", "simclr-ring") for seed in (0, 1)]
    known_page.picture(known_page.groups(lines), tmp_path / "drawn.png", lambda method, n: math.log(n))
    assert (tmp_path / "drawn.png").stat().st_size > 10_000

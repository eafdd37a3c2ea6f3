"""Presets for runs of few epochs: what is chosen, what keeps it from being chosen, that a run keeps what it began with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from faults import TINY, records, run, state

from viewmill.methods.overrides import changed, values
from viewmill.methods.parts import Bank, Queue
from viewmill.methods.table import METHODS
from viewmill.pipeline import factors
from viewmill.pipeline.conversion.convert import convert
from viewmill.settings import Train
from viewmill.training.options import LONG, RATE_OF, SHORT, for_run
from viewmill.training.recorded_settings import of_run
from viewmill.training.run_config import config_of

REGIONS = [f"{base}{kind}" for base in ("", "cmc-") for kind in ("ball", "ring", "simplified-la", "cave", "la")]
REGIONS += [f"moco-{version}-{kind}" for version in ("v1", "v2") for kind in ("ball", "ring")]


def chosen(name, *assigned, epochs=10.0, rows=5000, earlier=None):
    method = changed(METHODS[name], assigned)
    return for_run(method, assigned=assigned, rows=rows, epochs=epochs, earlier=earlier)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_long_run_has_the_presets_of_the_table(name):
    row = METHODS[name]
    assert chosen(name, epochs=LONG, rows=10**6) == row
    if not isinstance(row.memory, Bank | Queue):
        assert chosen(name, epochs=1) is row


@pytest.mark.parametrize("name", REGIONS)
def test_in_a_short_run_a_region_waits_for_its_ranking(name):
    method = chosen(name)
    assert (method.warm_start, method.ranked_share, method.latest) == (1.0, 0.5, 0.75)
    by_clock = chosen(name, "warm_start=2")
    assert (by_clock.warm_start, by_clock.ranked_share) == (2.0, 0.0)
    if "la" not in name.split("-"):
        assert chosen(name, "region.anneal.over=5").ranked_share == 0


def test_the_warm_start_of_local_aggregation_fits_into_a_run():
    assert [chosen("la", epochs=epochs).warm_start for epochs in (2, 10, 50, 99, 100)] == [1, 1, 5, 9.9, 10]


@pytest.mark.parametrize("name", [name for name in METHODS if isinstance(METHODS[name].memory, Bank)])
def test_in_a_short_run_a_bank_is_filled_before_it_is_learnt_from_at_a_lower_rate(name):
    method, row = chosen(name), METHODS[name]
    assert method.memory == replace(row.memory, unvisited="own")
    assert method.learning_rate == pytest.approx(row.learning_rate * 10 / RATE_OF)
    assert chosen(name, epochs=RATE_OF).learning_rate == row.learning_rate
    as_published = chosen(name, "memory.unvisited=random")
    assert (as_published.memory, as_published.learning_rate) == (row.memory, row.learning_rate)


@pytest.mark.parametrize("name", ["ring", "moco-v2-ring", "cmc-la", "ir"])
def test_a_run_that_goes_on_has_the_presets_that_it_began_with(name):
    old = {"objective": json.loads(json.dumps(dict(values(METHODS[name]))))}
    assert chosen(name, earlier=old, rows=10**6) == METHODS[name]
    begun = chosen(name)
    assert chosen(name, earlier={"objective": dict(values(begun))}) == begun
    assert chosen(name, epochs=300, earlier={"objective": dict(values(begun))}).ranked_share == begun.ranked_share


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    factors.write_folder(folder / "images", 64, seed=0)
    convert([folder / "images"], folder / "factors.beton")
    return folder / "factors.beton"


SETTINGS = ("--set", "region.inner=0.05", "region.outer=0.5", "--steps", "60", "--checkpoint-every", "15", "--keep", "9")


def test_a_run_stopped_while_its_region_waits_goes_on_to_the_same_bits(beton, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run("train", "ring", "--data", beton, *TINY, *SETTINGS, out=whole)
    assert done.code == 0, done.said()
    told = " ".join(done.said().split())
    assert "15 epochs renew a bank so often: the bank is filled before it is learnt from, at 0.015" in told
    assert "once 50% of the anchors have their own row among the nearest 0.5 of all, at 75% of the run" in told
    read = [record for record in records(whole) if record["event"] == "step"]
    assert {record["in_force"] for record in read} == {0, 1}
    assert all(0 <= record["ranked"] <= 1 for record in read)
    for step in (15, 30):
        shutil.copytree(whole, parts)
        for path in (parts / "checkpoints").glob("step-*"):
            if int(path.name.split("-")[1]) > step:
                shutil.rmtree(path)
        assert run("train", "ring", "--data", beton, *TINY, *SETTINGS, out=parts).code == 0
        assert state(parts, 60) == state(whole, 60)
        shutil.rmtree(parts)


def test_another_run_by_its_configuration_is_the_same_run(beton, tmp_path):
    for name, assigned in (("chosen", ()), ("published", ("--set", "memory.unvisited=random", "warm_start=0"))):
        out = tmp_path / name
        begun = ("train", "moco-v2-ring" if name == "chosen" else "cmc-ring", "--data", beton, *TINY, "--steps", "2")
        fits = ("region.inner=0.05", "region.outer=0.5")
        assert run(*begun, *(assigned or ("--set",)), *fits, out=out).code == 0
        config = config_of(out)
        again = of_run(config, out / "config.json", Train)
        method = for_run(
            changed(METHODS[config["method"]], again["set"]), assigned=again["set"], rows=config["rows"], epochs=0.5
        )
        assert json.loads(json.dumps(dict(values(method)))) == config["objective"]
        assert config["objective"]["ranked_share"] == (0.5 if name == "chosen" else 0)
        assert set(SHORT) & set(config["objective"])

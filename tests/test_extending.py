"""The worked examples of docs/extending.md, each run as its reader would: one file, and one line in one table."""

import importlib.util
import re
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from faults import TINY, run

from viewmill.commands.export import export
from viewmill.evaluation import protocols
from viewmill.evaluation.features import Features, Pair
from viewmill.evaluation.protocols import Options, measure
from viewmill.evaluation.tasks import Task
from viewmill.export import formats
from viewmill.pipeline import factors
from viewmill.pipeline.beton.manifest import classes_of
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.engines import engine
from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.sources import opened
from viewmill.pipeline.views.recipe import simclr
from viewmill.settings import Export, Train
from viewmill.settings.evaluation import Protocol
from viewmill.settings.parts import flags_of
from viewmill.training.display import accelerate_trackers, trackers

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("an_engine", "a_source", "a_protocol", "a_tracker", "a_format")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """`example(name)` is the page's file of that name, imported; the tables are what they were when the test ends."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.S)
    assert len(blocks) == len(NAMES)
    tables = (engine.ENGINES, protocols.PROTOCOLS, formats.TARGETS, accelerate_trackers.OPENING)
    kept, kinds = [dict(table) for table in tables], list(opened.KINDS)

    def imported(name):
        path = tmp_path / f"{name}.py"
        path.write_text(blocks[NAMES.index(name)])
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    yield imported
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    opened.KINDS[:] = kinds


def test_flags_offer_what_the_tables_have():
    train = {flag.name: flag.hint for flag in flags_of(Train).values()}
    assert set(get_args(train["engine"])) == {"auto", *engine.ENGINES}
    assert set(get_args(get_args(train["track"])[0])) == set(accelerate_trackers.OPENING)
    assert set(get_args(get_type_hints(Export)["format"])) == set(formats.TARGETS)
    assert set(get_args(Protocol)) == set(protocols.PROTOCOLS)


def test_an_engine_cuts_what_the_reference_cuts_and_masks_what_it_cannot_read(example, photo_beton):
    example("an_engine")

    def views(name):
        options = {"batch": 8, "seed": 3, "device": torch.device("cpu"), "engine_name": name}
        with closing(BetonLoader(photo_beton, simclr(32), **options)) as loader:
            return next(iter(loader.epoch(0)))

    ours, reference = views("torchvision"), views("torch")
    assert ours.valid_B.all()
    assert (ours.views[0] - reference.views[0]).abs().max() < 0.1  # of a normalised value; a level of 255 is .017
    assert "torchvision" in [status.name for status in engine.survey() if status.works]
    assert len((ROOT / "docs" / "extending.md").read_text().split("```python")[1].split("```")[0].splitlines()) < 150


def test_a_source_is_converted_with_its_classes(example, tmp_path):
    factors.write_folder(tmp_path / "images", 24, seed=0)
    paths = sorted((tmp_path / "images").rglob("*.png")) + sorted((tmp_path / "images").rglob("*.jpg"))
    with zipfile.ZipFile(tmp_path / "figures.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.relative_to(tmp_path / "images"))
        archive.writestr("broken/no.jpg", b"no image")
    assert not opened.is_source(tmp_path / "figures.zip")
    example("a_source")
    assert opened.is_source(tmp_path / "figures.zip")
    assert "a .zip of images" in opened.known()
    done = convert([tmp_path / "figures.zip"], tmp_path / "figures.beton", workers=0)
    assert (done.rows, done.rejected) == (len(paths), 1)
    assert set(classes_of(open_beton(tmp_path / "figures.beton"))) >= {path.parent.name for path in paths}


def test_a_protocol_tells_classes_apart(example):
    example("a_protocol")
    label_N = torch.arange(40) % 4
    feature_NF = torch.eye(4)[label_N] + 0.1 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    features = Features(feature_NF, label_N, torch.arange(40))
    task = Task("figures", label_N, label_N, ("a", "b", "c", "d"))
    (told,) = measure(Pair(features, features), task, Options(("nearest-mean",)))
    assert told.score.top1.value == 1
    assert told.score.protocol == "nearest class mean, cosine"


def test_a_tracker_hears_of_steps(example, tmp_path):
    example("a_tracker")

    class Process:
        is_main_process = True

    with trackers.tracked(["csv"], tmp_path / "run", {"method": "simclr"}, Process(), step=0) as track:
        track.scalars({"loss": 2.5}, 1)
    assert "1,loss,2.5" in (tmp_path / "run" / "track" / "numbers.csv").read_text()


def test_a_format_is_loaded_and_compared_before_it_is_said_to_be_written(example, tmp_path):
    factors.write_folder(tmp_path / "images", 64, seed=0)
    convert([tmp_path / "images"], tmp_path / "figures.beton")
    done = run("train", "simclr", "--data", tmp_path / "figures.beton", *TINY, "--steps", "2", out=tmp_path / "run")
    assert done.code == 0, done.said()
    example("a_format")
    assert export(Export(tmp_path / "run", tmp_path / "encoder.npz", format="npz")) == 0
    with np.load(tmp_path / "encoder.npz") as held:
        assert "conv1.weight" in held
    assert 'library_name: "numpy"' in (tmp_path / "encoder.md").read_text()

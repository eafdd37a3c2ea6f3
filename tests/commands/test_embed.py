"""Features as a Parquet file: whose they are, and that nothing half written stays."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from disks import mounted
from faults import TINY, figures, run

from viewmill.evaluation.features import Shown, extract
from viewmill.pipeline.beton.manifest import read_columns
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.views.recipe import weak
from viewmill.run import main
from viewmill.training.resume import load_encoders

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("figures"), 300)


@pytest.fixture(scope="module")
def trained(beton, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    done = run("train", "simclr", "--data", beton, *TINY, "--steps", 3, "--ema", "0.9", out=out)
    assert done.code == 0, done.said()
    return out


def features(trained, beton, **options):
    encoders = load_encoders(trained, **options)
    which = Shown(encoders.trained, weak(16, encoders.colours))
    return extract(which, open_beton(beton), device=torch.device("cpu"))


def test_it_holds_the_features_of_every_image_with_its_path_class_and_table(trained, beton, tmp_path):
    assert main(["embed", str(trained), str(beton), str(tmp_path / "out.parquet")]) == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names[:4] == ["row", "label", "class", "feature"]
    feature_NF = np.stack(table["feature"].to_numpy())
    assert feature_NF.dtype == np.float32
    assert np.array_equal(feature_NF, features(trained, beton).feature_NF.numpy())
    assert table["row"].to_pylist() == list(range(300))
    columns = read_columns(beton)
    assert table["file_name"].to_pylist() == columns["file_name"]
    assert table["hue"].to_pylist() == columns["hue"]
    assert [f"{name}/" for name in table["class"].to_pylist()] == [
        name[: name.index("/") + 1] for name in columns["file_name"]
    ]
    facts = json.loads(table.schema.metadata[b"viewmill"])
    assert (facts["step"], facts["method"], facts["weights"], facts["size"]) == (3, "simclr", "model", 16)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".partial"]


def test_half_precision_and_the_average_are_other_numbers(trained, beton, tmp_path):
    arguments = ["embed", str(trained), str(beton), str(tmp_path / "out.parquet"), "--half", "--ema"]
    assert main(arguments) == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    feature_NF = np.stack(table["feature"].to_numpy())
    assert feature_NF.dtype == np.float16
    assert np.array_equal(feature_NF, features(trained, beton, ema=True).feature_NF.half().numpy())
    assert not np.array_equal(feature_NF, features(trained, beton).feature_NF.half().numpy())


def test_images_that_cannot_be_decoded_are_left_out_and_told(trained, beton, tmp_path, capsys):
    for path in beton.parent.glob("factors.beton*"):
        shutil.copy(path, tmp_path / path.name)
    copy = tmp_path / beton.name
    whole = open_beton(copy)
    (tmp_path / "factors.beton.json").unlink()  # it would tell that the file is damaged
    with open(copy, "r+b") as file:
        file.seek(int(whole.offset_N[7]))
        file.write(bytes(int(whole.size_N[7])))
    assert main(["embed", str(trained), str(copy), str(tmp_path / "out.parquet")]) == 0
    assert parquet.read_table(tmp_path / "out.parquet")["row"].to_pylist() == [row for row in range(300) if row != 7]
    assert "1 images could not be decoded" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("case", ["other suffix", "exists", "no folder", "no run", "no source"])
def test_wrong_input_is_refused_and_writes_nothing(case, trained, beton, tmp_path, capsys):
    target = tmp_path / "out.parquet"
    arguments = {
        "other suffix": [trained, beton, tmp_path / "out.csv"],
        "exists": [trained, beton, target],
        "no folder": [trained, beton, tmp_path / "missing" / "out.parquet"],
        "no run": [tmp_path, beton, tmp_path / "new.parquet"],
        "no source": [trained, tmp_path / "missing", tmp_path / "new.parquet"],
    }[case]
    target.write_bytes(b"mine")
    assert main(["embed", *map(str, arguments)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    wanted = {
        "other suffix": "must end in .parquet",
        "exists": "add --overwrite",
        "no folder": "is no folder: make it first",
        "no run": "holds no run",
        "no source": "does not exist",
    }
    assert wanted[case] in said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet"}
    assert target.read_bytes() == b"mine"


def test_overwriting_replaces_it_whole(trained, beton, tmp_path):
    target = tmp_path / "out.parquet"
    target.write_bytes(b"old")
    previous = os.umask(0o027)
    try:
        assert main(["embed", str(trained), str(beton), str(target), "--overwrite"]) == 0
    finally:
        os.umask(previous)
    assert parquet.read_table(target).num_rows == 300
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_what_stood_there(trained, beton, tmp_path, capsys):
    with mounted(tmp_path / "disk", "tmpfs", "size=16k") as disk:
        target = disk / "out.parquet"
        target.write_bytes(b"old")
        assert main(["embed", str(trained), str(beton), str(target), "--overwrite"]) == 2
        assert target.read_bytes() == b"old"
        assert [path.name for path in disk.iterdir()] == ["out.parquet"]
    assert "No space left" in capsys.readouterr().err

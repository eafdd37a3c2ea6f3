import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewmill.benchmarks import objective
from viewmill.errors import Refused
from viewmill.settings import Bench

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cifars_binary_files_become_a_folder_of_the_first_images_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    tint = np.arange(10, dtype=np.uint8) * 20
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 3))
        pixels = np.repeat(tint[labels][:, None], 3 * 32 * 32, axis=1)
        np.concatenate((labels[:, None], pixels), axis=1).tofile(tmp_path / name)
    done = script("cifar10_folder.py", tmp_path, tmp_path / "out", "--train", 7, "--test", 2)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "train").glob("*/*.jpg"))) == 70
    assert len(list((tmp_path / "out" / "test").glob("*/*.jpg"))) == 20
    with Image.open(tmp_path / "out" / "train" / "truck" / "0006.jpg") as image:
        assert abs(np.asarray(image).astype(int) - 180).max() <= 2


def test_a_cut_binary_file_is_refused(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073 + 5))
    done = script("cifar10_folder.py", tmp_path, tmp_path / "out")
    assert done.returncode != 0
    assert "3078 bytes" in done.stderr


def test_bench_pipeline_prints_a_json_line_a_contender_tables_and_a_picture(photo_beton, tmp_path):
    arguments = ["bench", "pipeline", photo_beton.path, "--size", 32, "--batch", 8, "--repeats", 2, "--no-peers"]
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments), "--picture", str(tmp_path / "speed.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {line["contender"]: line for line in lines}
    assert {"viewmill", "viewmill, on the device", "viewmill, 1,000,000 rows", "2 crops, uint8", "decode"} <= set(found)
    assert all(line["lowest"] <= line["images_per_s"] <= line["highest"] for line in lines)
    assert all(line["n"] == 2 and line["hardware"]["cores"] for line in lines)
    assert found["decode"]["of_decode"] == [1, 1, 1]
    assert found["viewmill"]["viewmill_over_it"] == [1, 1, 1]
    assert set(summary["us_per_image_and_core"]) == {"plan", "decode", "crop and resize", "photometrics"}
    assert summary["limit"] in summary["us_per_image_and_core"]
    assert "viewmill over it" in done.stdout
    with Image.open(tmp_path / "speed.png") as picture:
        assert picture.width > 800


def test_bench_refuses_raw_pixels_by_name(tmp_path, photos):
    from viewmill.pipeline.conversion.convert import convert
    from viewmill.pipeline.conversion.encoding import Encoding

    convert([photos], tmp_path / "raw.beton", encoding=Encoding(mode="raw"), workers=0)
    command = [sys.executable, str(ROOT / "run.py"), "bench", "pipeline", str(tmp_path / "raw.beton")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "holds raw pixels" in done.stderr


def test_bench_objective_prints_a_json_line_a_contender_and_the_ratios_that_are_asked(monkeypatch, capsys):
    sizes = {
        "SMALL": 4_000,
        "LARGE": 9_000,
        "ANCHORS": 16,
        "TERMS": 64,
        "CANDIDATES": 700,
        "SORTED_ANCHORS": 4,
        "CLUSTERS": 20,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(objective, name, size)
    assert objective.bench(Bench("objective", repeats=2)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    names = [line["contender"] for line in lines if "contender" in line]
    assert "sampled ring, 1,281,167 rows" in names
    assert all(line["lowest"] <= line["ms"] <= line["highest"] for line in lines if "contender" in line)
    shown = dict((name, value) for name, value, _ in lines[-1]["ratios"])
    assert set(lines[-1]["extra_mb"]) == set(objective.EXACT)
    assert float(shown["KS distance of sampled to exact ranks"]) < 0.2


def test_bench_objective_takes_no_file(tmp_path):
    with pytest.raises(Refused, match="made-up embeddings"):
        objective.bench(Bench("objective", data=tmp_path / "x.beton"))

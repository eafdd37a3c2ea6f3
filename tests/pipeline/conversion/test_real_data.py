"""Real photographs by the ten thousand: they convert, every one decodes, and stock FFCV loads the same pixels."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from viewmill.pipeline.beton import examine
from viewmill.pipeline.beton.manifest import open_trusted
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.engines.ffcv_engine import FfcvEngine
from viewmill.pipeline.views.plan import draw
from viewmill.pipeline.views.recipe import CentreCrop, Recipe, View

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SETS = {  # archive, folder inside it, images
    "CIFAR-10": ("cifar10_jpg.tar.xz", ".", 60_000),
    "Imagenette": ("imagenette224_500_150.tar", "imagenette", 6_500),
    "ImageNet and phone photos": ("decode_imagenet110_big4.tar", ".", 114),
    "COCO128": ("coco128.tar", "coco128/images", 256),
}
# `import ffcv` sets torch's threads and warns: a process of its own. One image in ten, by FFCV's own crop of its middle.
STOCK = """
import sys, json, numpy as np
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader, OrderOption
path, out, size, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
count = int(sys.argv[5])
pipelines = {"image": [CenterCropRGBImageDecoder((size, size), 1.0)], "label": [IntDecoder()]}
loader = Loader(path, batch_size=min(64, count), num_workers=2, order=OrderOption.SEQUENTIAL, drop_last=False,
                pipelines=pipelines, indices=np.arange(0, count, step))
found = [(images.copy(), labels.copy()) for images, labels in loader]
np.savez(out, images=np.concatenate([f[0] for f in found]), labels=np.concatenate([f[1] for f in found]).ravel())
"""


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SETS)
def test_a_real_set_converts_verifies_deeply_and_loads_in_stock_ffcv(name, tmp_path, monkeypatch):
    archive, inside, count = SETS[name]
    if not (DATA / archive).exists():
        pytest.skip(f"needs {archive} beside the checkout, in ../shared/data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tarfile.open(DATA / archive) as file:
        file.extractall(tmp_path / "source", filter="data")
    target = tmp_path / "a.beton"
    done = convert([tmp_path / "source" / inside], target, workers=2)
    beton = open_trusted(target)
    assert (done.rows, done.rejected, len(beton)) == (count, 0, count)
    assert list(examine.undecodable(beton, threads=2)) == []

    step, size = max(1, count // 6_000), 32
    arguments = [str(target), str(tmp_path / "found.npz"), str(size), str(step), str(count)]
    run = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    with np.load(tmp_path / "found.npz") as found:
        images, labels = found["images"], found["labels"]
    row_B = np.arange(0, count, step)
    np.testing.assert_array_equal(labels, beton.label_N[row_B])
    whole = Recipe((View(size=size, crop=CentreCrop(1.0), flip=0.0),))
    plan = draw(whole, seed=0, epoch=0, row_B=row_B, height_B=beton.height_N[row_B], width_B=beton.width_N[row_B])
    ours = np.empty((1, len(row_B), size, size, 3), np.uint8)
    engine = FfcvEngine(beton, 2)
    assert engine.crops(row_B, plan, (ours,)).all()
    engine.close()
    # FFCV averages areas where we weigh by a triangle: the pictures are the same, the pixels nearly
    difference = np.abs(images.astype(int) - ours[0]).mean(axis=(1, 2, 3))
    assert np.median(difference) < 8
    assert difference.max() < 30
    correlation = np.corrcoef(
        images[:, ::4, ::4].reshape(len(images), -1)[:200], ours[0][:, ::4, ::4].reshape(len(images), -1)[:200]
    )
    assert (np.diag(correlation[:200, 200:]) > 0.9).all() or count < 200
    assert json.loads((tmp_path / "a.beton.json").read_text())["rows"] == count

"""What several test files share: a folder of photographs, its .beton, and an engine run over a whole file."""

import ctypes
import os
import signal
import sys
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from viewmill.pipeline import factors
from viewmill.pipeline.beton.manifest import cache_folder
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.engines import engine, libffcv
from viewmill.pipeline.views import plan

# Tests that set XDG_CACHE_HOME would compile everything again in every process.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "compiled"))

# A shell has its background jobs ignore SIGINT, nohup SIGHUP, and so would every process that a test starts.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture(autouse=True)
def no_accelerator():
    """accelerate keeps one precision for a process; a command has a process of its own, a test that calls it has not."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """24 JPEG files in 3 classes, all sizes differ: coarse and fine, both samplings, some grey, some progressive, grainy."""
    folder, table, rng = tmp_path_factory.mktemp("photos"), factors.draw(24, 0), np.random.default_rng(0)
    for i in range(24):
        height, width = 60 + 7 * (i % 5), 60 + 9 * (i % 7)
        picture = factors.render(table[i], 120)[:height, :width] + rng.normal(0, 8, (height, width, 1))
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("L" if i % 8 == 5 else "RGB")
        path = folder / ("cat", "dog", "owl")[i % 3] / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.save(path, quality=(75, 95)[i % 2], subsampling=(2, 0)[i // 2 % 2], progressive=i % 4 == 3)
    return folder


@pytest.fixture(scope="session")
def photo_beton(photos, tmp_path_factory):
    """The folder `photos`, converted and opened."""
    target = tmp_path_factory.mktemp("converted") / "photos.beton"
    convert([photos], target, workers=0)
    return open_beton(target)


@pytest.fixture(scope="session")
def mill():
    """`mill(beton, recipe)` -> valid_B and, for each group of the recipe, the uint8 crops of every row."""

    def run(beton, recipe, *, name="ffcv", threads=2):
        row_B = np.arange(len(beton))
        drawn = plan.draw(recipe, seed=0, epoch=0, row_B=row_B, height_B=beton.height_N, width_B=beton.width_N)
        sizes = [(len(group), recipe.views[group[0]].size) for group in recipe.groups]
        outs = tuple(np.full((views, len(beton), size, size, 3), 127, np.uint8) for views, size in sizes)
        with closing(engine.ENGINES[name].make(beton, threads)) as running:
            return running.crops(row_B, drawn, outs), outs

    return run


class Turbo:
    """libjpeg-turbo itself, the very copy that FFCV's library is linked to."""

    def __init__(self):
        self.library = libffcv.library()
        self.library.tjInitDecompress.restype = ctypes.c_void_p
        arguments = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5]
        self.library.tjDecompress2.argtypes = arguments
        self.handle = self.library.tjInitDecompress()

    def decode(self, data, height, width, flag):
        pixels = np.empty((height, width, 3), np.uint8)
        assert self.library.tjDecompress2(self.handle, data, len(data), pixels.ctypes.data, width, 0, height, 0, flag) == 0
        return pixels


@pytest.fixture(scope="session")
def turbo():
    """libjpeg-turbo."""
    return Turbo()

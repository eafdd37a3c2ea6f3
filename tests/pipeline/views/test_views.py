"""Whole views: what torchvision's are, the same from whatever makes them, at no more memory than they must take."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.views.recipe import RECIPES, Recipe, simclr

CPU = torch.device("cpu")
DIGEST = """
import sys
sys.path.insert(0, sys.argv[2])
from test_views import digest
print(digest(sys.argv[1], threads=int(sys.argv[3])))
"""


def digest(path, **options) -> str:
    """sha256 of all views of two epochs, in which everything that can happen to a view happens."""
    recipe = Recipe(RECIPES["asymmetric"](96).views + RECIPES["multicrop"](64).views + RECIPES["lab"](32).views)
    found = hashlib.sha256()
    with closing(BetonLoader(open_beton(path), recipe, batch=8, seed=5, device=CPU, **options)) as loader:
        for epoch in range(2):
            for batch in loader.epoch(epoch):
                for views in batch.views:
                    found.update(views.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    return found.hexdigest()


def test_views_are_the_same_in_another_process_at_another_time_with_another_number_of_threads(photo_beton):
    here = digest(photo_beton.path, threads=2)
    for threads in (1, 8):
        arguments = [str(photo_beton.path), os.path.dirname(__file__), str(threads)]
        done = subprocess.run([sys.executable, "-c", DIGEST, *arguments], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == here, done.stderr[-2000:]


def test_two_loaders_at_once_do_not_disturb_each_other(photo_beton):
    alone, found = digest(photo_beton.path), list[str]()
    threads = [threading.Thread(target=lambda: found.append(digest(photo_beton.path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


def _answer(path, pipe) -> None:
    pipe.send(digest(path))


def test_a_forked_child_mills_the_same_views(photo_beton):
    """As those do who put a loader into a process of their own after they have used one; ours start no process."""
    here, fork = digest(photo_beton.path), multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=_answer, args=(photo_beton.path, theirs))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == here
    child.join()


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize(("engine_name", "placement"), [("ffcv", "host"), ("ffcv", "device"), ("torch", "host")])
def test_fifty_epochs_take_no_more_memory_and_no_more_threads_than_ten(photo_beton, engine_name, placement):
    options = {"batch": 8, "seed": 0, "device": CPU, "engine_name": engine_name, "placement": placement}
    with closing(BetonLoader(photo_beton, simclr(32), **options)) as loader:
        for epoch in range(50):
            for _ in loader.epoch(epoch):
                pass
            if epoch == 9:
                before, threads = resident_mib(), threading.active_count()
        assert threading.active_count() == threads
        assert resident_mib() - before < 24


PEAK = """
import resource, sys
from pathlib import Path
import torch
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.views.recipe import simclr
loader = BetonLoader(open_beton(Path(sys.argv[1])), simclr(64), batch=32, seed=0, device=torch.device("cpu"), threads=2)
assert next(loader.epoch(0)).valid_B.all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_one_huge_image_costs_its_pixels_once_a_thread_not_once_an_image_of_the_batch(tmp_path):
    peaks = []
    for name, side in (("small", 64), ("huge", 6000)):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(32):
            shape = (side, side) if i == 7 else (64, 64)
            Image.new("RGB", shape, (i, 2 * i, 3 * i)).save(folder / f"{i:02d}.jpg")
        convert([folder], tmp_path / f"{name}.beton", workers=0)
        arguments = [sys.executable, "-c", PEAK, str(tmp_path / f"{name}.beton")]
        peaks.append(int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout))
    pixels = 6000 * 6000 * 3 / 2**20
    assert peaks[1] - peaks[0] < 2 * pixels + 60


def features(view_N3SS: torch.Tensor) -> dict[str, np.ndarray]:
    """What an eye would notice of a view (0..1): its colours, how strong they are, and how sharp it is."""
    grey = view_N3SS.mean(dim=1)
    saturation = (view_N3SS.amax(dim=1) - view_N3SS.amin(dim=1)).mean(dim=(1, 2))
    sharpness = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean(dim=(1, 2))
    red, green, blue = view_N3SS.mean(dim=(2, 3)).unbind(1)
    found = {"red": red, "green": green, "blue": blue, "saturation": saturation, "sharpness": sharpness}
    # rounded, since what is exactly grey here is grey to the last bit there
    return {name: value.numpy().round(4) for name, value in found.items()}


def torchvisions(size: int, scale: float, jitter: tuple[float, ...], chance: float, blur: float, solarise: float):
    """The transforms that the reference code of SimCLR, MoCo and BYOL in torch compose."""
    reach = max(1, round(0.1 * size) // 2)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(scale, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(*jitter)], p=chance),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([transforms.GaussianBlur(2 * reach + 1, (0.1, 2.0))], p=blur),
            transforms.RandomApply([transforms.RandomSolarize(128, p=1.0)], p=solarise),
            transforms.ToTensor(),
        ]
    )


STRONG = (0.4, 0.4, 0.4, 0.1)
THEIRS = {
    ("simclr", 0): torchvisions(96, 0.2, STRONG, 0.8, 0.5, 0.0),
    ("moco-v1", 1): torchvisions(96, 0.2, (0.4, 0.4, 0.4, 0.4), 1.0, 0.0, 0.0),
    ("asymmetric", 0): torchvisions(96, 0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 1.0, 0.0),
    ("asymmetric", 1): torchvisions(96, 0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.1, 0.2),
}
DRAWS = 20  # of each of 24 photographs


@pytest.mark.parametrize(("name", "slot"), THEIRS, ids=str)
def test_whole_recipes_do_to_pictures_what_torchvisions_do(photo_beton, photos, name, slot):
    """The Kolmogorov-Smirnov distance of two samples of 480 views from one distribution exceeds .126 once in a thousand."""
    view = RECIPES[name](96).views[slot]
    own = []
    with closing(BetonLoader(photo_beton, RECIPES[name](96), batch=24, seed=11, device=CPU)) as loader:
        for epoch in range(DRAWS):
            views = next(loader.epoch(epoch)).views[0].unflatten(0, (2, -1))[slot]
            own.append(views * torch.tensor(view.std)[:, None, None] + torch.tensor(view.mean)[:, None, None])
    torch.manual_seed(0)
    images = [Image.open(path).convert("RGB") for path in sorted(photos.rglob("*.jpg"))]
    their = torch.stack([THEIRS[name, slot](image) for _ in range(DRAWS) for image in images])
    for feature, ours in features(torch.cat(own)).items():
        theirs = features(their)[feature]
        edges = np.sort(np.concatenate((ours, theirs)))
        shares = [np.searchsorted(np.sort(x), edges, side="right") / len(x) for x in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 0.126, feature

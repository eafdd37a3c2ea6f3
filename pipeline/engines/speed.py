"""Which engine is the fastest here for these images and this recipe: measured, since cores, GPU and photographs differ."""

import time
from contextlib import closing

import torch

from ..beton.reader import Beton
from ..loader import BetonLoader
from ..views.recipe import Recipe
from .engine import survey

IMAGES = 64  # of a batch: enough to occupy the cores


def engine_speeds(
    beton: Beton, recipe: Recipe, *, device: torch.device, threads: int = 0, placement: str = "auto", seconds: float = 0.5
) -> dict[str, float]:
    """Images/s of every engine that works here, the fastest first: of at least one batch after one that warms up."""
    batch, speeds = min(IMAGES, len(beton)), dict[str, float]()
    for name in (status.name for status in survey() if status.works):
        options = {"engine_name": name, "threads": threads, "placement": placement}
        with closing(BetonLoader(beton, recipe, batch=batch, seed=0, device=device, **options)) as loader:
            next(loader.epoch(0))
            done, started = 0, time.perf_counter()
            while done == 0 or time.perf_counter() - started < seconds:
                for views in loader.epoch(1):
                    done += len(views.row_B)
                    if time.perf_counter() - started >= seconds:
                        break
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            speeds[name] = done / (time.perf_counter() - started)
    return dict(sorted(speeds.items(), key=lambda item: -item[1]))

"""What feature extraction costs beside the encoder's own forward pass.

    python benchmarks/extraction.py photos.beton --size 224 --width 64 --repeats 5

Both sides take turns: the first images of the file through `evaluation.features.batches`, as `viewmill evaluate` does it,
and the same encoder on batches of them that lie in memory. Prints one JSON line.
"""

import dataclasses
import json
import time
from itertools import islice
from pathlib import Path

import torch
import tyro

from viewmill.benchmarks.measured import Measured
from viewmill.console import answer
from viewmill.evaluation.features import BATCH, Shown, batches
from viewmill.models.encoders import build
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.engines.engine import choose
from viewmill.pipeline.loader import every_row
from viewmill.pipeline.views.recipe import weak
from viewmill.training.log import hardware, versions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which images, and which encoder."""

    file: tyro.conf.Positional[Path]
    """A .beton."""
    encoder: str = "resnet18"
    """A residual network or timm:NAME."""
    width: int = 64
    """Channels of its first stage."""
    size: int = 224
    """Side of the images in pixels."""
    blocks: int = 2
    """Batches of 256 images a turn."""
    repeats: int = 5
    """Turns of each side."""


@torch.no_grad()
def main(settings: Settings) -> None:
    """Measure and print."""
    beton, device, engine = open_beton(settings.file), torch.device("cpu"), choose("auto")
    model = build(settings.encoder, width=settings.width, image_size=settings.size).eval()
    recipe = weak(settings.size)
    loaded = every_row(beton, recipe, batch=BATCH, device=device, engine_name=engine)
    kept = [batch.views[0].clone() for batch in islice(loaded, settings.blocks)]

    def through_the_pipeline() -> int:
        source = batches(Shown(model, recipe), beton, device=device, engine_name=engine)
        return sum(len(part.row_N) for part in islice(source, settings.blocks))

    def in_memory() -> int:
        return sum(len(model(views)) for views in kept)

    found = []
    for turn in range(settings.repeats + 1):
        rates = {}
        for side in (through_the_pipeline, in_memory) if turn % 2 else (in_memory, through_the_pipeline):
            started = time.perf_counter()
            rates[side] = side() / (time.perf_counter() - started)
        found.append(rates[through_the_pipeline] / rates[in_memory])
    note = f"{settings.encoder} of width {settings.width}, {settings.size} px, {engine} engine, {len(kept) * BATCH} images"
    measured = Measured("feature extraction over the encoder's forward pass", "times", found[1:], least=0.95, note=note)
    answer(json.dumps(measured.line() | {"hardware": hardware(), "versions": versions()}))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

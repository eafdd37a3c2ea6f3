"""What milling costs a training: steps fed by the loader against the same steps on batches that lie in memory already.

    python benchmarks/training_throughput.py --data cifar10_train.beton

Blocks of both kinds take turns, so that a machine whose speed drifts slows both; the answer is the median of the ratios of
neighbouring blocks. Prints one JSON line: hardware, images/s of both (median), ratio (median, lowest, highest), n.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import tyro
from accelerate import Accelerator

from viewmill.commands import Train
from viewmill.journal.log import hardware, versions
from viewmill.learner import build
from viewmill.limits import method_of
from viewmill.models.optimise import set_learning_rate_
from viewmill.objectives.schedules import Moment
from viewmill.pipeline.beton import open_beton
from viewmill.pipeline.loader import ViewBatch
from viewmill.run import batches, describe, take_step
from viewmill.views import open_loader


@dataclasses.dataclass(frozen=True)
class Settings:
    """The training of the README's walk-through, by default."""

    data: Path
    width: int = 16
    size: int = 32
    batch: int = 256
    block: int = 5
    """Steps of a block."""
    blocks: int = 12
    """Blocks of each kind."""


def main() -> None:
    """Measure and print."""
    settings = tyro.cli(Settings, description=__doc__)
    out = Path(tempfile.mkdtemp())
    config = Train(
        data=settings.data, out=out, width=settings.width, size=settings.size, batch=settings.batch, engine="ffcv"
    )
    method, accelerator, beton = method_of(config), Accelerator(mixed_precision=config.precision), open_beton(config.data)
    loader = open_loader(config, method, beton, accelerator)
    described = describe(config, method, beton, loader)
    learner = build(described, method, accelerator)
    moment = Moment(0, described["steps"], len(loader))
    set_learning_rate_(learner.optimiser, 0.01)
    learner.model.train()

    def seconds(source: Iterable[ViewBatch]) -> float:
        started = time.perf_counter()
        for batch in islice(source, settings.block):
            scalars = take_step(learner, method, batch, moment, accelerator, observe=False)
        scalars["loss"].item()  # wait for the device
        return time.perf_counter() - started

    with closing(loader), closing(batches(loader, start=0, stop=10**9)) as milled:
        kept = list(islice(milled, settings.block))
        seconds(kept)
        pairs = [(seconds(milled), seconds(kept)) for _ in range(settings.blocks)]
    images = settings.block * config.batch
    ratios = [in_memory / fed for fed, in_memory in pairs]
    answer = {
        "hardware": hardware() | {"device": accelerator.device.type},
        "versions": versions(),
        "engine": loader.engine_name,
        "images_per_s": round(images / statistics.median(fed for fed, _ in pairs), 1),
        "images_per_s_in_memory": round(images / statistics.median(kept for _, kept in pairs), 1),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_lowest": round(min(ratios), 4),
        "ratio_highest": round(max(ratios), 4),
        "n": len(pairs),
        "steps_per_block": settings.block,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""How fast conversion is, beside the speed of strictly decoding the same files, and beside FFCV's own writer.

    python benchmarks/conversion.py IMAGES --times 4 --repeats 5

IMAGES is a folder of JPEG files with one subfolder per class. It is repeated by hard links `times` times, so that the start
of the processes does not weigh. Every round runs each contender once, each in processes of its own, imports not counted:

    decode    every file read and decoded strictly by libjpeg-turbo, as training decodes, in `workers` processes, no more
    pillow    the same by Pillow
    convert   viewmill's conversion, bytes kept
    ffcv      ffcv.writer.DatasetWriter over a torchvision ImageFolder, at JPEG quality 95, which encodes anew

Prints one JSON line: hardware, images/s of each (median over the rounds), ratios of neighbours (median, lowest, highest), n.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tyro
from PIL import Image

from viewmill.console import answer
from viewmill.files.opening import LARGE, open_to_read, read_bytes
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.engines import libffcv
from viewmill.training.log import hardware, versions

SPAWN = multiprocessing.get_context("spawn")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is converted, and how often."""

    images: tyro.conf.Positional[Path]
    times: int = 4
    """How often the folder is repeated."""
    repeats: int = 5
    """Rounds."""
    workers: int = 2
    ffcv: bool = True
    """Run FFCV's writer too."""


def decode(path: str) -> None:
    """Read and decode one file as training would."""
    data = read_bytes(path, limit=LARGE)
    frame = libffcv.jpeg_frame(data)
    assert frame is not None
    assert libffcv.decodes(data, height=frame.height, width=frame.width)


def pillow(path: str) -> None:
    """Read and decode one file by Pillow."""
    with open_to_read(path) as file, Image.open(file) as image:
        image.load()


def _decode_all(work: Callable[[str], None], paths: list[str], start, done) -> None:
    libffcv.library()
    start.wait()
    for path in paths:
        work(path)
    done.wait()


def decoding(work: Callable[[str], None], folder: Path, workers: int) -> float:
    """Seconds to run `work` over every file, from when all processes are up."""
    paths = [str(path) for path in sorted(folder.rglob("*.*")) if path.is_file()]
    start, done = SPAWN.Barrier(workers + 1), SPAWN.Barrier(workers + 1)
    # interleaved shares, so that large files fall on all
    for part in range(workers):
        SPAWN.Process(target=_decode_all, args=(work, paths[part::workers], start, done)).start()
    start.wait()
    started = time.perf_counter()
    done.wait()
    return time.perf_counter() - started


def converting(folder: Path, workers: int) -> float:
    """Seconds of a conversion, its processes' start included."""
    target = folder.parent / "out.beton"
    started = time.perf_counter()
    convert([folder], target, overwrite=True, workers=workers)
    return time.perf_counter() - started


def _write_with_ffcv(folder: str, target: str, workers: int, answer) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    images = ImageFolder(folder)
    started = time.perf_counter()
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
    DatasetWriter(target, fields, num_workers=workers).from_indexed_dataset(images)
    answer.send(time.perf_counter() - started)


def writing_with_ffcv(folder: Path, workers: int) -> float:
    """Seconds of FFCV's writer, its imports and the listing not included."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_write_with_ffcv, args=(str(folder), str(folder.parent / "ffcv.beton"), workers, theirs))
    process.start()
    seconds = ours.recv()
    process.join()
    return seconds


def repeated(source: Path, target: Path, times: int) -> int:
    """Hard-link the files of `source`, `times` times, class by class; returns their number."""
    count = 0
    for path in sorted(source.rglob("*.*")):
        if not path.is_file():
            continue
        for turn in range(times):
            place = target / path.parent.name / f"{turn}_{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                shutil.copy(path, place)
            count += 1
    return count


def main() -> None:
    """Measure and print."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory(dir=settings.images.parent) as name:
        folder = Path(name, "images")
        count = repeated(settings.images, folder, settings.times)
        contenders: dict[str, Callable[[], float]] = {
            "decode": lambda: decoding(decode, folder, settings.workers),
            "pillow": lambda: decoding(pillow, folder, settings.workers),
            "convert": lambda: converting(folder, settings.workers),
        }
        if settings.ffcv:
            contenders["ffcv"] = lambda: writing_with_ffcv(folder, settings.workers)
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(settings.repeats)]
        size = sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file())

    def ratio(other: str) -> list[float]:
        found = [seconds[other] / seconds["convert"] for seconds in rounds]
        return [round(value, 3) for value in (statistics.median(found), min(found), max(found))]

    facts = {
        "hardware": hardware(),
        "versions": versions(),
        "images": count,
        "bytes": size,
        "workers": settings.workers,
        "images_per_s": {name: round(count / statistics.median(r[name] for r in rounds)) for name in contenders},
        "convert_over": {name: ratio(name) for name in contenders if name != "convert"},
        "n": len(rounds),
    }
    answer(json.dumps(facts))


if __name__ == "__main__":
    main()

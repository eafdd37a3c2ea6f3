"""CIFAR-10's public binary files -> a folder of JPEG files, one subfolder per class.

    python benchmarks/cifar10_folder.py cifar-10-batches-bin cifar10 --train 2000 --test 200

takes the first 2,000 training and the first 200 test images of each class, in the order of the files, as JPEG at quality 75
with 4:2:0 chroma (what the numbers in the README were measured on). The binary version is `cifar-10-binary.tar.gz` of
https://www.cs.toronto.edu/~kriz/cifar.html: records of one label byte and 3,072 bytes of planar RGB.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from viewmill.console import answer
from viewmill.files.opening import read_bytes

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
RECORD = 1 + 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where from, where to, and how many images of each class."""

    source: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]
    train: int = 5000
    test: int = 1000


def write_split(source: Path, target: Path, names: list[str], limit: int) -> int:
    """Write the first `limit` images of each class in the files `names`; returns how many were written."""
    written: Counter[int] = Counter()
    for name in names:
        data = np.frombuffer(read_bytes(source / name), np.uint8)
        if not len(data) or len(data) % RECORD:
            raise ValueError(f"{source / name}: {len(data)} bytes are no whole number of {RECORD}-byte records")
        for record in data.reshape(-1, RECORD):
            label = int(record[0])
            if written[label] == limit:
                continue
            folder = target / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            picture.save(folder / f"{written[label]:04d}.jpg", quality=75, subsampling="4:2:0")
            written[label] += 1
    return written.total()


def main() -> None:
    """Write both splits."""
    settings = tyro.cli(Settings, description=__doc__)
    for split, limit in (("train", settings.train), ("test", settings.test)):
        count = write_split(settings.source, settings.target / split, SPLITS[split], limit)
        answer(f"{settings.target / split}: {count} images")


if __name__ == "__main__":
    main()

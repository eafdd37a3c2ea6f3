"""Which images a study asks for: files, or rendered ones; and files of other images that its encoders are tried on."""

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from ..settings.ranges import Seed, Size

PARTS = ("train", "test")
Text = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True)
class Figures:
    """Rendered images with known factors (pipeline.factors): how many of each part, their side in pixels, their seed."""

    train: Annotated[int, Meta(ge=16)]
    test: Annotated[int, Meta(ge=8)]
    size: Size = 48
    seed: Seed = 0


class Named(Struct, forbid_unknown_fields=True, frozen=True):
    """Files of other images, as a study names them."""

    train: Text
    test: Text


class Given(Struct, forbid_unknown_fields=True, frozen=True):
    """The table [data] of a study."""

    train: Text | None = None
    test: Text | None = None
    factors: Figures | None = None
    others: list[Named] = []


class Files(NamedTuple):
    """Images to learn from, and images to be told."""

    train: Path
    test: Path


@dataclass(frozen=True)
class Data:
    """The images of a study: what is trained on is what is learned from."""

    train: Path
    test: Path
    figures: Figures | None
    """What is rendered where files are not there yet; None for files of the user's."""
    others: tuple[Files, ...] = ()
    """What the same encoders are evaluated on as well."""

    def parts(self) -> Iterator[tuple[str, Path]]:
        """Every file with its name: "train", "test", and of others "1.train", "1.test", "2.train" ..."""
        yield from zip(PARTS, (self.train, self.test), strict=True)
        for number, files in enumerate(self.others, 1):
            yield from ((f"{number}.{part}", path) for part, path in zip(PARTS, files, strict=True))


def located(path: Path, text: str) -> Path:
    """A path of the file `path`, without "..", relative to the current folder where the study's is."""
    return Path(os.path.normpath(path.parent / os.path.expanduser(os.path.expandvars(text))))


def expanded(path: Path) -> Path:
    """`path`; raises ValueError where a variable in it is not set."""
    if missing := re.search(r"\$\w+|\$\{\w+\}", str(path)):
        raise ValueError(f"{path} needs the variable {missing[0]}, which is not set: export it first")
    return path


def data_of(path: Path, given: Given, runs: Path) -> Data:
    """The images of the study in the file `path`; raises ValueError for what they cannot be."""
    pairs = tuple(Files(located(path, other.train), located(path, other.test)) for other in given.others)
    if given.factors is not None:
        if given.train or given.test:
            raise ValueError("[data] has factors and files: images are either rendered or yours")
        folder = runs / "data" / "-".join(map(str, ("figures", *dataclasses.astuple(given.factors))))
        return Data(folder / "train.beton", folder / "test.beton", given.factors, pairs)
    if given.train is None or given.test is None:
        raise ValueError("[data] needs train and test, or factors = {train = 4000, test = 1000}")
    return Data(located(path, given.train), located(path, given.test), None, pairs)

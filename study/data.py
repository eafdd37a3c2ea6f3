"""Which images a study asks for: files, or rendered ones; and files of other images that its encoders are tried on."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .flags import known

FACTORS = {"train": None, "test": None, "size": 48, "seed": 0}
PARTS = ("train", "test")


@dataclass(frozen=True)
class Figures:
    """Rendered images with known factors (pipeline.factors): how many of each part, their side in pixels, their seed."""

    train: int
    test: int
    size: int
    seed: int


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


def data_of(path: Path, given: Any, runs: Path) -> Data:
    """The table [data] of the study in the file `path`; raises ValueError for what it cannot be."""
    if not isinstance(given, dict):
        raise ValueError("[data] is missing: give train and test, or factors = {train = 4000, test = 1000}")
    known(given, (*PARTS, "factors", "others"), "[data]")
    others = given.get("others", [])
    if not isinstance(others, list):
        raise ValueError(f"[data] others must be tables [[data.others]] with train and test, got {others!r}")
    pairs = tuple(_files(path, entry, "[[data.others]]") for entry in others)
    if "factors" not in given:
        return Data(*_files(path, {part: given.get(part) for part in PARTS}, "[data]"), None, pairs)
    if set(given) & set(PARTS):
        raise ValueError("[data] has factors and files: images are either rendered or yours")
    figures = _figures(given["factors"])
    folder = runs / "data" / "-".join(map(str, ("figures", *dataclasses.astuple(figures))))
    return Data(folder / "train.beton", folder / "test.beton", figures, pairs)


def _files(path: Path, given: Any, where: str) -> Files:
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a table with train and test, got {given!r}")
    known(given, PARTS, where)
    if strange := [part for part in PARTS if not isinstance(given.get(part), str)]:
        raise ValueError(f"{where} {strange[0]} must be a path, got {given.get(strange[0])!r}")
    return Files(located(path, given["train"]), located(path, given["test"]))


def _figures(given: Any) -> Figures:
    if not isinstance(given, Mapping):
        raise ValueError(f"[data] factors must be a table, as {{train = 4000, test = 1000}}, got {given!r}")
    known(given, FACTORS, "[data] factors")
    found = FACTORS | dict(given)
    for name, lowest in {"train": 16, "test": 8, "size": 8, "seed": 0}.items():
        if isinstance(found[name], bool) or not isinstance(found[name], int) or found[name] < lowest:
            raise ValueError(f"[data] factors: {name} must be a whole number from {lowest} on, got {found[name]!r}")
    return Figures(**found)

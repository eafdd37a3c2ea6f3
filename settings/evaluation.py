"""The commands that ask what an encoder is worth."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from .ranges import (
    FromOne,
    FromZero,
    Norm,
    Seed,
    Temperature,
)

Protocol = Literal["knn", "linear", "ridge", "low-shot"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Classification by a run's frozen features, beside raw pixels and the untrained encoder, on one or several data sets.

    The encoder stays as it is; `viewmill finetune` trains it too.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a training."""
    train: tuple[Path, ...]
    """Labelled images that the protocols learn from: a .beton or a folder; several for several data sets."""
    test: tuple[Path, ...]
    """Labelled images to be told, one for each --train."""
    protocols: tuple[Protocol, ...] = ("knn", "linear")
    """knn: weighted neighbours. linear: a linear probe by SGD. ridge: a linear probe in closed form. low-shot: ridge on 1 %,
    10 % and a few images a class."""
    columns: tuple[str, ...] = ()
    """Columns of the files' tables to be told instead of the classes; numbers by quarter."""
    k: tuple[FromOne, ...] = (200,)
    """Neighbours that vote; of several the best is chosen on held-out training images."""
    temperature: tuple[Temperature, ...] = (0.1,)
    """Temperature of their votes; of several the best is chosen in the same way."""
    probe_epochs: FromOne = 100
    """Passes of the linear probe over the training images."""
    augment: FromZero = 0
    """Random crops and flips of each training image that the linear probe sees in turn; 0 for the image as it is."""
    shots: tuple[FromOne, ...] = (1, 5, 20)
    """Training images of each class, for low-shot."""
    draws: FromOne = 5
    """How often the few images are drawn, for low-shot."""
    floors: bool = True
    """Measure raw pixels and the untrained encoder too."""
    floor_seconds: Norm = 120.0
    """About how many seconds of one core a protocol may take on raw pixels: where it would take more, images are pooled to
    fewer pixels, which the protocol says; 0 for no limit."""
    classes_by: Literal["name", "number"] = "name"
    """How the classes of both files are matched. number: where one file has lost its names and the numbers mean the same."""
    labelled_only: bool = False
    """Leave out images without a label, which are otherwise refused."""
    cache: bool = True
    """Keep extracted features and scores in the user's cache, and use those that are there."""
    ema: bool = False
    """The moving average of the weights, instead of the weights themselves."""
    seed: Seed = 0
    """Seed of held-out images, draws and intervals."""
    json: bool = False
    """Print one JSON object a result instead of the tables."""


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write the features that a run's encoder has of images to a Parquet file, with their paths, classes and tables."""

    run: tyro.conf.Positional[Path]
    """Folder of a training."""
    source: tyro.conf.Positional[Path]
    """A .beton, or images as `convert` takes them."""
    target: tyro.conf.Positional[Path]
    """The .parquet to write."""
    ema: bool = False
    """The moving average of the weights, instead of the weights themselves."""
    half: bool = False
    """Write float16 instead of float32."""
    overwrite: bool = False
    """Replace a target that exists."""

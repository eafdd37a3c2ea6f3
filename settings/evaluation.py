"""The commands that ask what an encoder is worth."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from .ranges import (
    Decay,
    FromOne,
    FromTwo,
    FromZero,
    Norm,
    PositiveRate,
    Proper,
    Seed,
    Size,
    Temperature,
    Threads,
    Timeout,
    Width,
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


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Train encoder and classifier together on labelled images, and measure them; the same command again continues.

    For 1 % or 10 % of the labels make a part first: viewmill subset TRAIN.beton PART.beton --fraction 0.01
    """

    source: tyro.conf.Positional[str]
    """What to begin with: a run, a .safetensors file of an encoder (torchvision, timm, MoCo), or random."""
    train: Path
    """Labelled images to learn from: a .beton or a folder."""
    test: Path
    """Labelled images to be told: a .beton or a folder."""
    out: Path
    """Folder for checkpoints, log and results.json."""
    classes_by: Literal["name", "number"] = "name"
    """How the classes of both files are matched. number: where one file has lost its names and the numbers mean the same."""
    labelled_only: bool = False
    """Leave out images without a label, which are otherwise refused."""
    encoder: str = "resnet18"
    """Of a file or at random: resnet18, resnet34 or resnet50. A run knows its own."""
    width: Width = 64
    """Of a file or at random: channels of the first stage."""
    size: Size = 224
    """Of a file or at random: side of the images in pixels. A run knows its own."""
    ema: bool = False
    """The moving average of a run's weights, instead of the weights themselves."""
    epochs: FromOne = 30
    """Passes over the training images."""
    batch: FromOne = 256
    """Images of a batch, over all processes."""
    learning_rate: PositiveRate | None = None
    """Peak of a cosine; by default .1 batch / 256 with SGD and .001 with AdamW."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """What turns gradients into updates."""
    warmup: Proper = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: Decay = 1e-4
    """Weight decay, of matrices and filters only."""
    smoothing: Proper = 0.0
    """Label smoothing."""
    clip: Norm = 0.0
    """Largest norm of an update's gradients; 0 for no limit."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; "no" is float32, and "auto" what a training here would take."""
    threads: Threads = 0
    """Threads of the engine; 0 for every usable core."""
    seed: Seed = 0
    """Seed of classifier, order and views."""
    checkpoint_every: FromOne = 1000
    """Steps between checkpoints."""
    keep: FromTwo = 2
    """How many of the newest checkpoints stay."""
    log_every: FromOne = 20
    """Steps between records of the log."""
    max_masked: FromOne = 20
    """How many updates in a row may be left out because something was not finite, before the run stops."""
    timeout: Timeout = 600
    """Seconds that processes wait for one another, before the run stops."""

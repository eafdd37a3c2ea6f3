"""The commands and their settings: one frozen dataclass each. No torch here, so that `--help` is instant."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .objectives.methods import METHODS, Bank, Method, Ring


@dataclasses.dataclass(frozen=True)
class Demo:
    """Render images with known factors, convert them, train on them, evaluate and draw: about two minutes on two cores."""

    out: Path = Path("runs/demo")
    """Folder for the images, the run and the pictures."""
    seed: int = 0
    """Seed of the images and of the training."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert images to one .beton file: folders, lists (.csv, .tsv, .parquet), WebDataset .tar shards, .parquet and .arrow
    files with images, CIFAR and STL .bin files; several become one."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE... OUT.beton")]
    """What to convert, and the .beton to write; its manifest, table and quarantine list stand beside it."""
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    """How images are stored: jpg keeps JPEG files as they are; raw stores pixels; smart stores small images as pixels."""
    quality: int = 95
    """JPEG quality of images that have to be encoded anew."""
    side: int = 0
    """Resize larger images to this shorter side, in pixels; 0 to leave them."""
    max_resolution: int = 0
    """Resize larger images to this longer side, in pixels; 0 to leave them."""
    smart_bytes: int = 16_384
    """With --mode smart, images whose pixels take at most so many bytes are stored as pixels."""
    max_bad: float | None = None
    """Give up when more images are unusable: a share below 1, a number from 1 on, 0 for none; by default never."""
    path_column: str = ""
    """Column of a list that holds the paths; by default path, file_name, image or the like."""
    image_column: str = ""
    """Column of a .parquet or .arrow file that holds the images; by default it is found."""
    label_column: str = ""
    """Column that holds the labels; by default label, class, target or the like."""
    root: Path | None = None
    """Folder below which a list's paths lie; by default the list's own."""
    workers: int | None = None
    """Processes that decode; by default one a core, 0 for none beside this one. The file is the same with any number."""
    overwrite: bool = False
    """Replace a target that exists."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Say what a .beton holds, and whether it is sound. Exit code 2 where it is not a sound .beton, 1 for damaged images."""

    file: tyro.conf.Positional[Path]
    """The .beton."""
    verify: bool = False
    """Compare its sha256 with the manifest's."""
    deep: bool = False
    """Decode every image."""
    grid: Path | None = None
    """Draw a sample of its images to this .png."""
    json: bool = False
    """Print one JSON object instead of the tables."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """Write some rows of a .beton to another: chosen by one of --fraction, --labels and --rows."""

    source: tyro.conf.Positional[Path]
    """The .beton to take from."""
    target: tyro.conf.Positional[Path]
    """The .beton to write."""
    fraction: float | None = None
    """Share of the rows of every class, drawn at random."""
    labels: tuple[str, ...] = ()
    """Classes, by name or by number."""
    rows: Path | None = None
    """Text file of row numbers or file names, one a line; the target keeps its order."""
    seed: int = 0
    """Seed of the draw."""
    overwrite: bool = False
    """Replace a target that exists."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Write the chosen rows of a .beton to one file and all others to a second."""

    source: tyro.conf.Positional[Path]
    """The .beton to split."""
    target: tyro.conf.Positional[Path]
    """The .beton for the chosen rows."""
    rest: tyro.conf.Positional[Path]
    """The .beton for all others."""
    fraction: float | None = None
    """Share of the rows of every class, drawn at random."""
    labels: tuple[str, ...] = ()
    """Classes, by name or by number."""
    rows: Path | None = None
    """Text file of row numbers or file names, one a line."""
    seed: int = 0
    """Seed of the draw."""
    overwrite: bool = False
    """Replace targets that exist."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Pretrain an encoder without labels; the same command again continues where the run stopped."""

    data: Path
    """A .beton, or images as `convert` takes them (a folder, say), which are converted once and cached."""
    out: Path
    """Folder of the run."""
    method: tyro.conf.Positional[Literal["simclr", "ir", "ring"]] = "simclr"
    """Row of the table of methods."""
    encoder: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Residual network of torchvision; up to 64 px with the small stem."""
    width: int = 64
    """Channels of the encoder's first stage; 64 is torchvision's."""
    hidden: int = 512
    """Width of the projector's hidden layer."""
    embedding: int = 128
    """Dimension of the embedding that the loss sees."""
    size: int = 224
    """Side of a view in pixels."""
    batch: int = 256
    """Images of a global batch, over all processes."""
    epochs: int = 100
    """Passes over the data."""
    steps: int = 0
    """Steps in all, instead of epochs; 0 to go by epochs."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """What turns gradients into steps."""
    learning_rate: float | None = None
    """Peak of the cosine schedule, at this batch size; by default the method's own for SGD, .002 for AdamW."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    momentum: float = 0.9
    """Momentum of SGD, first beta of AdamW."""
    weight_decay: float = 5e-4
    """Weight decay, of matrices and filters only."""
    temperature: float | None = None
    """Temperature of the bound; by default the method's own."""
    inner: float | None = None
    """Inner edge of the ring, as a share of the bank (ring only; by default .01)."""
    outer: float | None = None
    """Outer edge of the ring, as a share of the bank (ring only; by default .1)."""
    bank_momentum: float | None = None
    """Share of a bank row kept at each visit (ir and ring only; by default .5)."""
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Mixed precision; "no" is float32, fp16 needs a GPU."""
    engine: Literal["auto", "ffcv", "torch"] = "auto"
    """What decodes and crops; auto takes the first that works here."""
    threads: int = 0
    """Threads of the engine; 0 for every usable core."""
    seed: int = 0
    """Seed of weights, order, views and negatives."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 for every epoch, at most 1,000."""
    log_every: int = 10
    """Steps between records of the log."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Weighted kNN of a run's frozen features, beside raw pixels and the untrained encoder."""

    run: tyro.conf.Positional[Path]
    """Folder of a training."""
    train: Path
    """Labelled images whose neighbours vote: a .beton or a folder."""
    test: Path
    """Labelled images to be told: a .beton or a folder."""
    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.1
    """Temperature of their votes."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say which engines work here, why the others do not, and which command mends it."""


Command = Demo | Convert | Inspect | Subset | Split | Train | Evaluate | Doctor
# What may change between two starts of one run without making it another run. The data is checked by its fingerprint, the
# engine by its resolved name.
FREE = ("data", "out", "threads", "checkpoint_every", "log_every", "engine")

INFINITY = float("inf")
LIMITS = {
    "width": (1, 4096),
    "hidden": (1, 65536),
    "embedding": (2, 65536),
    "size": (8, 4096),
    "batch": (2, INFINITY),
    "epochs": (0, 2**32 - 1),
    "steps": (0, INFINITY),
    "warmup": (0, 1),
    "momentum": (0, 1),
    "weight_decay": (0, INFINITY),
    "threads": (0, 1024),
    "seed": (0, 2**63 - 1),
    "checkpoint_every": (0, INFINITY),
    "log_every": (1, INFINITY),
}


def method_of(config: Train) -> Method:
    """The named row of the table with this configuration's settings in it; raises ValueError where one does not apply."""
    for name, (low, high) in LIMITS.items():
        if not low <= getattr(config, name) <= high:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must lie in {low:g} to {high:g}, got {getattr(config, name)}")
    if config.learning_rate is not None and config.learning_rate < 0:
        raise ValueError(f"--learning-rate must be 0 or more, got {config.learning_rate}")
    if config.epochs < 1 and not config.steps:
        raise ValueError("--epochs must be at least 1, or --steps be given")
    method = METHODS[config.method]
    edges = {name: value for name in ("inner", "outer") if (value := getattr(config, name)) is not None}
    if edges and not isinstance(method.region, Ring):
        raise ValueError(f"--{next(iter(edges))} sets a ring; {config.method} has none")
    if edges:
        method = dataclasses.replace(method, region=dataclasses.replace(method.region, **edges))
    if config.bank_momentum is not None:
        if not isinstance(method.memory, Bank):
            raise ValueError(f"--bank-momentum sets a bank; {config.method} has none")
        method = dataclasses.replace(method, memory=dataclasses.replace(method.memory, momentum=config.bank_momentum))
    if config.temperature is not None:
        method = dataclasses.replace(method, bound=dataclasses.replace(method.bound, temperature=config.temperature))
    return method


def peak_rate(config: Train, method: Method) -> float:
    """The peak of the learning rate: what was asked for, or what suits the optimiser and the method."""
    if config.learning_rate is not None:
        return config.learning_rate
    return method.learning_rate if config.optimiser == "sgd" else 0.002

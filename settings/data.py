"""The commands that make data sets and look at them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .ranges import Bad, Fraction, FromZero, Pixels, PixelsInAll, Quality, Seed, Side, Threads


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert images to one .beton file: folders, lists (.csv, .tsv, .parquet), WebDataset .tar shards, .parquet and .arrow
    files with images, CIFAR and STL .bin files; several become one."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE... OUT.beton")]
    """What to convert, and the .beton to write; its manifest, table and quarantine list stand beside it."""
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    """How images are stored: jpg keeps JPEG files as they are; raw stores pixels; smart stores small images as pixels."""
    quality: Quality = 95
    """JPEG quality of images that have to be encoded anew."""
    side: Pixels = 0
    """Resize larger images to this shorter side, in pixels; 0 to leave them."""
    max_resolution: Pixels = 0
    """Resize larger images to this longer side, in pixels; 0 to leave them."""
    smart_bytes: FromZero = 16_384
    """With --mode smart, images whose pixels take at most so many bytes are stored as pixels."""
    max_pixels: PixelsInAll = 100_000_000
    """Images of more pixels are quarantined; a JPEG that is to become smaller may have four times as many, and is decoded at
    a half or less."""
    grey_range: tuple[float, float] | None = None
    """Greys of more than 8 bits: the numbers that become black and white, 0 4095 for 12 bits; by default what their kind of
    number can hold (65,535 of 16 bits, 1 of floats), or what a TIFF says of itself."""
    colours: Literal["stored", "srgb"] = "stored"
    """Colours with a profile (ICC): stored leaves them as they lie in the file; srgb converts them, which encodes anew."""
    max_bad: Bad | None = None
    """Give up when more images are unusable: a share below 1, a number from 1 on, 0 for none; by default never."""
    only: Literal["any", "images", "shards", "tables"] = "any"
    """Of a folder that holds several, take its image files, its .tar shards, or its .parquet and .arrow tables."""
    split: str = ""
    """Of a source with train, validation and test parts, take this one; all: every one of them, as one."""
    classes: Literal["auto", "folder", "shard", "none"] = "auto"
    """Classes: each source's own convention, the first folder on the way, a shard's name, or none."""
    case: Literal["ask", "keep", "fold"] = "ask"
    """Classes that differ only in capitals (Cat, cat) are refused: keep them as two, or fold them into one."""
    path_column: str = ""
    """Column of a list that holds the paths; by default path, file_name, image or the like."""
    image_column: str = ""
    """Column of a .parquet or .arrow file that holds the images; by default it is found."""
    label_column: str = ""
    """Column that holds the labels; by default label, class, target or the like. Also of metadata.csv and .json."""
    root: Path | None = None
    """Folder below which a list's paths lie; by default the list's own."""
    encoding: str = ""
    """Characters of a list: cp1252, say; by default UTF-8, or UTF-16 where the file says so."""
    image_key: str = ""
    """Which file of a shard's key is the image: jpg, input.jpg, ...; by default the only one."""
    key_dot: Literal["first", "last"] = "first"
    """Where a shard's keys end: at the first dot of a name, as WebDataset has it, or at the last (frame.0001.jpg)."""
    follow_links: bool = False
    """Follow links that lead out of a folder, as in a cache of the Hugging Face hub."""
    workers: Threads | None = None
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
    """Draw a sample of its images to this .png; with --recipe the views that it makes of some."""
    recipe: str = ""
    """A recipe's name (simclr, multicrop, ...) or a .toml file."""
    size: Side = 224
    """Side of the recipe's views in pixels."""
    seed: Seed = 0
    """Seed of the views."""
    plan: bool = False
    """Print what the recipe draws for those images, one JSON object a view."""
    json: bool = False
    """Print one JSON object instead of the tables."""
    overwrite: bool = False
    """Replace a picture that exists."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """Write some rows of a .beton to another: chosen by one of --fraction, --labels and --rows."""

    source: tyro.conf.Positional[Path]
    """The .beton to take from."""
    target: tyro.conf.Positional[Path]
    """The .beton to write."""
    fraction: Fraction | None = None
    """Share of the rows of every class, drawn at random."""
    labels: tuple[str, ...] = ()
    """Classes, by name or by number."""
    rows: Path | None = None
    """Text file of row numbers or file names, one a line; the target keeps its order."""
    seed: Seed = 0
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
    fraction: Fraction | None = None
    """Share of the rows of every class, drawn at random."""
    labels: tuple[str, ...] = ()
    """Classes, by name or by number."""
    rows: Path | None = None
    """Text file of row numbers or file names, one a line."""
    seed: Seed = 0
    """Seed of the draw."""
    overwrite: bool = False
    """Replace targets that exist."""

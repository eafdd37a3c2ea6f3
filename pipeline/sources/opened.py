"""Which kind of source a path is, and several sources as one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .arrow import SUFFIXES, ArrowImages, image_column_of
from .binaries import Binary
from .candidate import Candidate, Item, Source
from .folder import Folder
from .listed import DELIMITERS, Listed
from .shards import Shard

KINDS = (
    "a folder of images, a .csv, .tsv or .parquet list, .tar shards, .parquet or .arrow files with images, CIFAR or STL .bin"
)


class Reading(NamedTuple):
    """How sources are read where their own layout leaves it open."""

    path_column: str = ""
    """Column of paths of a list; "" for the usual names."""
    image_column: str = ""
    """Column of image bytes; "" to find it."""
    label_column: str = ""
    """Column of labels; "" for the usual names, and none where there is none."""
    root: Path | None = None
    """Folder below which a list's paths lie; None for the list's own."""


def is_source(path: Path) -> bool:
    """Whether `path` is something to convert, by its kind and name; anything else is taken for a .beton."""
    return (
        path.is_dir() or path.suffix in (*DELIMITERS, *SUFFIXES, ".tar", ".bin") or path.name.endswith((".tar.gz", ".tgz"))
    )


def open_sources(paths: Sequence[Path], reading: Reading = Reading()) -> list[Source]:  # noqa: B008 (frozen)
    """Open `paths` in their order; a folder of shards or of tables is taken as those. Raises ValueError, naming the path."""
    return [_open(path, reading) for given in paths for path in _expand(given)]


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    parts = sorted(part for part in path.iterdir() if part.suffix in (".tar", *SUFFIXES) and part.is_file())
    return parts or [path]


def _open(path: Path, reading: Reading) -> Source:
    if not path.exists():
        raise ValueError(f"{path} does not exist: name {KINDS}")
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder: name {KINDS}")
    if path.suffix in DELIMITERS or (path.suffix in SUFFIXES and not (reading.image_column or image_column_of(path))):
        return Listed(path, path_column=reading.path_column, label_column=reading.label_column, root=reading.root)
    if path.suffix in SUFFIXES:
        return ArrowImages(path, image_column=reading.image_column, label_column=reading.label_column)
    if path.suffix == ".tar" or path.name.endswith((".tar.gz", ".tgz")):
        return Shard(path)
    if path.suffix == ".bin":
        return Binary(path)
    raise ValueError(f"{path} is a file of no known kind: name {KINDS}")


def columns_of(sources: Sequence[Source]) -> list[str]:
    """The columns of all sources, each once, in the order in which they come."""
    return list(dict.fromkeys(name for source in sources for name in source.columns))


def items_of(sources: Sequence[Source]) -> Iterator[Item]:
    """The items of all sources, one source after another; with several, names begin with the source's path."""
    columns = columns_of(sources)
    for source in sources:
        place_of = {name: index for index, name in enumerate(source.columns)}
        order = [place_of.get(name) for name in columns]
        as_it_is = order == list(range(len(columns)))
        for item in source.items():
            if not isinstance(item, Candidate):
                yield item
                continue
            if len(sources) > 1:
                item = item._replace(name=item.path)
            if not as_it_is:
                item = item._replace(facts=tuple("" if at is None else item.facts[at] for at in order))
            yield item

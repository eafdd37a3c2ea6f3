"""Which kind of source a path is, and several sources as one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .arrow import SUFFIXES, ArrowImages, image_column_of
from .binaries import Binary
from .candidate import Candidate, Item, Source
from .expand import Aside, expand
from .folder import Folder
from .listed import DELIMITERS, Listed
from .readings import Ambiguous, Reading, flag
from .shards import Shard

__all__ = ["Ambiguous", "Reading", "columns_of", "is_source", "items_of", "open_sources"]

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _table(path: Path, reading: Reading) -> Source:
    """A list of paths, or, where a column holds images, those."""
    return ArrowImages(path, reading) if reading.image_column or image_column_of(path) else Listed(path, reading)


class Kind(NamedTuple):
    """One kind of source, told by a path's name."""

    words: str
    named: Callable[[Path], bool]
    make: Callable[[Path, Reading], Source]


KINDS = [
    Kind("a folder of images", lambda path: path.is_dir(), Folder),
    Kind("a .csv or .tsv list", lambda path: _suffix(path) in DELIMITERS, Listed),
    Kind("a .parquet or .arrow table of paths or of images", lambda path: _suffix(path) in SUFFIXES, _table),
    Kind(".tar shards", lambda path: path.name.lower().endswith((".tar", *PACKED)), Shard),
    Kind("CIFAR or STL .bin", lambda path: _suffix(path) == ".bin", Binary),
]


def known() -> str:
    """What can be converted, in words."""
    return ", ".join(kind.words for kind in KINDS)


def is_source(path: Path) -> bool:
    """Whether `path` is something to convert, by its kind and name; anything else is taken for a .beton."""
    return any(kind.named(path) for kind in KINDS)


def open_sources(paths: Sequence[Path], reading: Reading = Reading()) -> list[Source]:  # noqa: B008 (frozen)
    """Open `paths` in their order; a folder of shards or of tables is taken as those.

    Raises ValueError, naming the path; Ambiguous where it can be read in several ways and `reading` does not say in which.
    """
    sources = list[Source]()
    heeded = set[str]()
    for given in paths:
        expanded = expand(given, reading)
        heeded |= expanded.heeds
        for path in expanded.paths:
            source = _open(path, reading)
            heeded |= source.heeds
            sources.append(source)
        if expanded.aside:
            sources.append(Aside(given, expanded.aside))
    _refuse_without_effect(sources, heeded, reading)
    _refuse_twice(sources)
    return sources


def _refuse_twice(sources: Sequence[Source]) -> None:
    """Raise ValueError where a class's tar stands beside one in which it is too: its images would be there twice."""
    named: dict[str, Path] = {}
    for source in sources:
        for name in sorted(source.named_classes if isinstance(source, Shard) else ()):
            if (first := named.setdefault(name, source.path)).name != source.path.name:
                told = f"class {name!r} comes from two tars, {first} and {source.path}"
                raise ValueError(f"{told}, probably the same images twice: name the one that is meant")


def _refuse_without_effect(sources: Sequence[Source], heeded: set[str], reading: Reading) -> None:
    for field, usual in Reading._field_defaults.items():
        value = getattr(reading, field)
        if value != usual and field not in heeded and field != "case":
            where = ", ".join(str(source.path) for source in sources[:2]) + (", ..." if len(sources) > 2 else "")
            raise ValueError(f"{flag(field)} {value} has no effect on {where}: leave it out, or name another source")


def _open(path: Path, reading: Reading) -> Source:
    if not path.exists():
        raise ValueError(f"{path} does not exist: name {known()}")
    if not (path.is_dir() or path.is_file()):
        raise ValueError(f"{path} is neither a file nor a folder: name {known()}")
    kind = next((kind for kind in KINDS if kind.named(path)), None)
    if kind is None:
        raise ValueError(f"{path} is a file of no known kind: name {known()}")
    return kind.make(path, reading)


def columns_of(sources: Sequence[Source]) -> list[str]:
    """The columns of all sources, each once, in the order in which they come."""
    return list(dict.fromkeys(name for source in sources for name in source.columns))


def items_of(sources: Sequence[Source]) -> Iterator[Item]:
    """The items of all sources, one source after another; with several, names begin with the source's path."""
    columns = columns_of(sources)
    several = sum(not isinstance(source, Aside) for source in sources) > 1
    for source in sources:
        place_of = {name: index for index, name in enumerate(source.columns)}
        order = [place_of.get(name) for name in columns]
        as_it_is = order == list(range(len(columns)))
        if as_it_is and not several:
            yield from source.items()
            continue
        for item in source.items():
            if not isinstance(item, Candidate):
                yield item
                continue
            if several:
                item = item._replace(name=item.path)
            if not as_it_is:
                item = item._replace(facts=tuple("" if at is None else item.facts[at] for at in order))
            yield item

"""What a given path stands for: itself, the shards or tables in a folder, or the parts of a data set in it."""

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from .archives import NOT_USED, WITHOUT, Holds, holds
from .candidate import Item, Remark
from .kinds import ARCHIVES, begins_like_image, ending, is_image_name, told
from .readings import Reading, ambiguous, chosen_splits, some, split_in, split_of
from .walking import walk

NAMES_OF_NO_IMAGES = "txt json jsonl csv tsv md xml yaml yml py html pdf log lock gz zip tgz toml rst sh ini mat npy npz"
NO_IMAGES = frozenset(NAMES_OF_NO_IMAGES.split())


class Aside:
    """What of a folder is not used: a source of remarks and nothing else."""

    columns: Sequence[str] = ()
    classes: Sequence[str] | None = None
    heeds: Set[str] = frozenset()

    def __init__(self, path: Path, remarks: list[Remark]) -> None:
        self.path, self._remarks = path, remarks

    def items(self) -> Iterator[Item]:
        """See Source."""
        yield from self._remarks


class Expanded(NamedTuple):
    """What to open, and what is left aside."""

    paths: list[Path]
    aside: list[Remark]
    heeds: frozenset[str] = frozenset()
    """What of the reading has decided it."""


class _Contents(NamedTuple):
    archives: list[Path]
    others: list[str]
    has_image: bool


def expand(path: Path, reading: Reading) -> Expanded:
    """A file is itself; a folder is itself where it holds images, else the archives in it.

    Raises ValueError, and Ambiguous where it may be either.
    """
    if not path.is_dir():
        return Expanded([path], [])
    _refuse_hub(path)
    contents = _contents(path, images=reading.only in ("any", "images"), follow_links=reading.follow_links)
    if reading.only == "images" or contents.has_image or not contents.archives:
        if reading.only in ("shards", "tables"):
            raise ValueError(f"{path} holds no archive (--only {reading.only})")
        return _split_folders(path, reading)
    return _archives(path, contents, reading)


def _refuse_hub(path: Path) -> None:
    if not ((path / "blobs").is_dir() and (path / "snapshots").is_dir()):
        return
    snapshots = sorted(str(entry) for entry in (path / "snapshots").iterdir() if entry.is_dir())
    raise ValueError(
        f"{path} is a cache of the Hugging Face hub, whose files in blobs have no names: give a snapshot of it instead"
        f" ({some(snapshots) or 'there is none'}), with --follow-links, since that is made of links"
    )


def _contents(path: Path, *, images: bool, follow_links: bool) -> _Contents:
    """The archives of a folder, its folders' too; with `images`, looked for only until the first image is met."""
    archives, others = list[Path](), list[str]()
    for visited in walk(str(path), follow_links=follow_links):
        for entry in visited.files:
            kind = ending(entry.name)
            if kind in ARCHIVES:
                archives.append(Path(entry.path))
                continue
            if images and (is_image_name(entry.name) or (kind not in NO_IMAGES and begins_like_image(entry.path))):
                return _Contents(archives, others, has_image=True)
            others.append(entry.path)
    return _Contents(archives, others, has_image=False)


def _archives(path: Path, contents: _Contents, reading: Reading) -> Expanded:
    held: dict[Path, Holds] = {part: _held(part, reading) for part in contents.archives}
    kinds = {kind for kind in held.values() if kind}
    if len(kinds) > 1 and reading.only == "any":
        tars, tables = ([part.relative_to(path) for part, kind in held.items() if kind == k] for k in ("shards", "tables"))
        raise ambiguous(
            f"{path} holds tars with images ({some(map(str, tars))}) and tables with images ({some(map(str, tables))})",
            "the tars are meant: add --only shards",
            "the tables are meant: add --only tables",
        )
    wanted = next(iter(kinds), "") if reading.only == "any" else reading.only
    parts = sorted(part for part, kind in held.items() if kind == wanted or (not wanted and kind == ""))
    if not parts:
        raise ValueError(
            f"{path} holds no {wanted.rstrip('s')} with images (--only {wanted}); it has {some(p.name for p in held)}"
        )
    aside = [Remark(str(part), NOT_USED.get(kind, WITHOUT)) for part, kind in held.items() if part not in parts]
    aside += [Remark(other, told(other)) for other in contents.others]
    chosen = _split_files(path, parts, reading)
    aside += [Remark(str(part), "of another split, passed over") for part in parts if part not in chosen]
    split = {"split"} if any(split_in(part.relative_to(path)) for part in parts) else set()
    return Expanded(chosen, aside, frozenset({"only", *split}))


def _held(part: Path, reading: Reading) -> Holds:
    try:
        return holds(part, reading)
    except ValueError:  # damaged: it is opened, which says how
        return "shards" if ending(part.name) == "tar" else "tables"


def _split_files(root: Path, parts: list[Path], reading: Reading) -> list[Path]:
    splits = {part: split_in(part.relative_to(root)) for part in parts}
    found = list(dict.fromkeys(splits.values()))
    named = [split for split in found if split]
    if reading.split and named:
        wanted = chosen_splits(reading.split, found, root)
        return [part for part in parts if splits[part] in wanted]
    if len(named) > 1:
        held = ", ".join(f"{split or 'others'} ({list(splits.values()).count(split)} of them)" for split in found)
        raise ambiguous(
            f"{root} holds {len(parts)} files of several parts of a data set: {held}",
            f"one part is meant: add --split {'train' if 'train' in named else named[0]}, say",
            "all are meant, as one: add --split all",
        )
    return parts


def _split_folders(path: Path, reading: Reading) -> Expanded:
    """The folders that --split chooses, each a source of its own as if it had been named."""
    if not reading.split:
        return Expanded([path], [])
    parent = path
    while True:
        below = sorted(Path(entry.path) for entry in os.scandir(parent) if entry.name[0] != "." and entry.is_dir())
        splits = {folder: split_of(folder.name) for folder in below}
        if any(splits.values()) or len(below) != 1:
            break
        parent = below[0]
    chosen = [folder for folder in below if folder.name == reading.split]  # train2014 beside train2017
    if not chosen:
        wanted = chosen_splits(reading.split, [split for split in splits.values() if split], path)
        chosen = [folder for folder in below if splits[folder] in wanted]
    aside = [
        Remark(str(folder), "of another split, passed over", _count(folder)) for folder in below if folder not in chosen
    ]
    return Expanded(chosen, aside, frozenset({"split"}))


def _count(folder: Path) -> str:
    images = sum(is_image_name(entry.name) for visited in walk(str(folder)) for entry in visited.files)
    return f"{images} image{'' if images == 1 else 's'}"

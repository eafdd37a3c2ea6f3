"""What can be converted: today a folder of images, flat or with one subfolder per class."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .still import Rejected

TABLE = "metadata.csv"  # the name and the `file_name` column are Hugging Face's imagefolder convention


class Listing(NamedTuple):
    """A source, listed: `files[i]` has class `labels[i]` (-1: none); `columns` hold further facts on each file."""

    root: Path
    files: list[Path]
    labels: list[int]
    classes: list[str]
    rejected: list[Rejected]
    columns: dict[str, dict[str, str]]
    """`columns[file_name][column]`, from metadata.csv; empty where there is none."""


def list_folder(root: Path) -> Listing:
    """List `root` in sorted order: a file's class is the first subfolder on its way; files at the top have none.

    Hidden files are passed over; links that lead out of the folder are rejected. Raises ValueError where nothing is left.
    """
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{root} {kind}: name a folder of images, flat or with one subfolder per class")
    inside = os.path.realpath(root)
    files, rejected = [], []
    for path in _walk(root):
        if not Path(os.path.realpath(path)).is_relative_to(inside):  # Path.resolve raises on a loop of links
            rejected.append(Rejected(str(path), "a link that leads out of the folder"))
        elif not path.is_file():
            rejected.append(Rejected(str(path), "no regular file"))
        else:
            files.append(path)
    if not files:
        raise ValueError(f"{root} holds no file: name a folder of images, flat or with one subfolder per class")
    parts = [path.relative_to(root).parts for path in files]
    classes = sorted({part[0] for part in parts if len(part) > 1})
    number = {name: index for index, name in enumerate(classes)}
    labels = [number[part[0]] if len(part) > 1 else -1 for part in parts]
    return Listing(root, files, labels, classes, rejected, _read_table(root / TABLE))


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        names += [name for name in subfolders if Path(folder, name).is_symlink()]  # os.walk does not enter them
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (Path(folder), name) != (root, TABLE):
                yield Path(folder, name)


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or ["none"])
        if "file_name" not in names:
            raise ValueError(f"{path} has no column 'file_name'; it has {', '.join(names)}")
        if "row" in names:
            raise ValueError(f"{path} has a column 'row', which is the name of the .beton's own: call it something else")
        table = {}
        for row in reader:
            if None in row:
                raise ValueError(f"{path}: line {reader.line_num} has more cells than the {len(names)} columns")
            table[row.pop("file_name")] = row
        return table

"""A folder of images, flat or with one subfolder per class."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...files.opening import open_text
from .candidate import Candidate, Rejected, Span, outside, unprintable
from .columns import refuse_twice

TABLE = "metadata.csv"  # the name and the `file_name` column are Hugging Face's imagefolder convention
OURS = re.compile(
    r"\.beton(\.json|\.columns\.csv|\.quarantine\.jsonl)?(\.partial)?$"
)  # manifest.sidecars, and a writing in work
HINT = "name a folder of images, flat or with one subfolder per class"


class Folder:
    """Sorted, folder by folder: a file's class is the first subfolder on its way; files at the top have none.

    Hidden files are passed over, and .beton files with what stands beside them, since people write into the folder that they
    convert; what leads out of the folder, is no regular file or has an undecodable name is rejected.
    """

    classes: Sequence[str] | None = None

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} {'is a file' if root.exists() else 'does not exist'}: {HINT}")
        self.path = root
        self.columns: Sequence[str]
        self.columns, self._table = _read_table(root / TABLE)

    def items(self) -> Iterator[Candidate | Rejected]:
        """See Source."""
        nothing = ("",) * len(self.columns)
        inside = os.path.realpath(self.path)
        for entry, parts in _walk(str(self.path), ()):
            name = "/".join(parts)
            if unprintable(name):
                yield Rejected(entry.path, "its name is no UTF-8, or holds control characters: rename it")
            elif entry.is_symlink() and outside(entry.path, inside):
                yield Rejected(entry.path, "a link that leads out of the folder")
            elif not _is_file(entry):
                yield Rejected(entry.path, "no regular file")
            else:
                label, size = parts[0] if len(parts) > 1 else None, entry.stat().st_size
                yield Candidate(entry.path, name, Span(entry.path), label, size, self._table.get(name, nothing))


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[os.DirEntry[str], tuple[str, ...]]]:
    """Every entry that is no folder, with its name's parts; links to folders are not entered."""
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name)
    below = [entry for entry in shown if entry.is_dir(follow_symlinks=False)]
    for entry in shown:
        if not entry.is_dir(follow_symlinks=False) and (above or entry.name != TABLE):
            yield entry, (*above, entry.name)
    for entry in below:
        yield from _walk(entry.path, (*above, entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (".beton" in name and OURS.search(name) is not None)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


def _read_table(path: Path) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The columns of metadata.csv beside `file_name`, and each file's values."""
    if path.is_dir() or not path.exists():
        return [], {}
    try:
        return _parsed_table(path)
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _parsed_table(path: Path) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    with open_text(path, errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restval="")
        names = list(reader.fieldnames or ["none"])
        if "file_name" not in names:
            raise ValueError(f"{path} has no column 'file_name'; it has {', '.join(names)}")
        refuse_twice(names, path)
        if "row" in names:
            raise ValueError(f"{path} has a column 'row', which is the name of the .beton's own: call it something else")
        table = {}
        for row in reader:
            if None in row:
                raise ValueError(f"{path}: line {reader.line_num} has more cells than the {len(names)} columns")
            name = row.pop("file_name")
            table[name] = tuple(row.values())
        return [name for name in names if name != "file_name"], table

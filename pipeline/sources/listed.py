"""A list of paths with optional labels: CSV, TSV or Parquet, one line an image."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...files.opening import open_text
from .arrow import cells, schema_names
from .candidate import Candidate, Label, Rejected, Span, as_label, outside, unprintable
from .columns import LABEL_COLUMNS, PATH_COLUMNS, pick, refuse_twice

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Listed:
    """Paths are read from the list's own folder, or from `root`, and may not lead out of it.

    Labels that are whole numbers throughout stay those numbers; others are class names. All other columns are kept.
    """

    classes: Sequence[str] | None = None

    def __init__(self, path: Path, *, path_column: str = "", label_column: str = "", root: Path | None = None) -> None:
        self.path, self._root = path, root or path.parent
        names = _names(path)
        refuse_twice(names, path)
        self._path_column = pick(names, path_column, PATH_COLUMNS, f"{path}", "paths", "--path-column")
        self._label_column = pick(names, label_column, LABEL_COLUMNS, f"{path}", "labels", "--label-column", needed=False)
        self.columns: Sequence[str] = [
            name for name in names if name not in (self._path_column, self._label_column, "row", "file_name")
        ]
        self._numbers = bool(self._label_column) and all(
            isinstance(as_label(cell), int) for (cell,) in _rows(path, [self._label_column]) if cell
        )

    def items(self) -> Iterator[Candidate | Rejected]:
        """See Source."""
        inside = os.path.realpath(self._root)
        wanted = [self._path_column, *([self._label_column] if self._label_column else []), *self.columns]
        for name, *rest in _rows(self.path, wanted):
            label, facts = (rest[0], rest[1:]) if self._label_column else ("", rest)
            path = os.path.join(self._root, name)
            if not name or unprintable(name):
                yield Rejected(f"{self.path}: {name!r}", "no path")
            elif outside(path, inside):
                yield Rejected(path, f"leads out of {self._root}: name the folder that holds the images with --root")
            elif not os.path.isfile(path):
                yield Rejected(path, "no regular file" if os.path.lexists(path) else "does not exist")
            else:
                yield Candidate(path, name, Span(path), self._label(label), os.stat(path).st_size, tuple(facts))

    def _label(self, cell: str) -> Label:
        return as_label(cell) if self._numbers else cell or None


def _names(path: Path) -> list[str]:
    if path.suffix not in DELIMITERS:
        return schema_names(path)
    try:
        with open_text(path, newline="") as file:
            names = next(csv.reader(file, delimiter=DELIMITERS[path.suffix]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}") from None
    if not names:
        raise ValueError(f"{path} is empty: its first line must name the columns")
    return names


def _rows(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The cells of `columns`, line by line, as text."""
    if path.suffix not in DELIMITERS:
        yield from cells(path, columns)
        return
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix], restval="")
        try:
            for row in reader:
                if None in row:
                    raise ValueError(f"{path}: line {reader.line_num} has more cells than the first line names columns")
                yield [row[name] for name in columns]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: line {reader.line_num + 1} cannot be read: {error}") from None

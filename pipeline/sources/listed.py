"""A list of paths with optional labels: CSV, TSV or Parquet, one line an image."""

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache
from pathlib import Path

from .arrow_files import cells, refuse_several, schema_names, schema_of
from .candidate import Candidate, Item, Rejected, Remark, Span, outside, unprintable
from .columns import LABEL_COLUMNS, PATH_COLUMNS, pick, refuse_twice
from .kinds import ENDINGS, ending, is_image_name
from .labels import are_numbers, label_of
from .readings import Ambiguous, Reading
from .texts import DELIMITERS, TextTable, open_table

AS_IT_STANDS = ""


class Listed:
    """Paths are read from the list's own folder, or from `root`, and may not lead out of it.

    Labels that are whole numbers throughout stay those numbers; others are class names. All other columns are kept.
    """

    classes: Sequence[str] | None = None

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        self.path, self._root, self._follow = path, reading.root or path.parent, reading.follow_links
        self._text: TextTable | None = None
        if path.suffix.lower() in DELIMITERS:
            self._text = open_table(path, encoding=reading.encoding)
        names = self._text.names if self._text else schema_names(path)
        refuse_twice(names, path)
        self._stems = lru_cache(maxsize=16)(_stems)
        try:
            self._path_column = pick(names, reading.path_column, PATH_COLUMNS, f"{path}", "paths", "--path-column")
        except Ambiguous:
            raise
        except ValueError as error:
            raise ValueError(f"{error}{self._hint(names)}") from None
        self._label_column = ""
        if reading.classes != "none":
            self._label_column = pick(
                names, reading.label_column, LABEL_COLUMNS, f"{path}", "labels", "--label-column", needed=False
            )
        if self._label_column and self._text is None:
            refuse_several(path, schema_of(path), self._label_column)
        used = (self._path_column, self._label_column)
        self.columns: Sequence[str] = [name for name in names if name not in (*used, "row", "file_name")]
        self._lost = [name for name in names if name in ("row", "file_name") and name not in used]
        self._unlabelled = reading.classes == "auto" and not self._label_column and bool(self.columns)
        where = f"{path}: column {self._label_column!r}"
        self._numbers = bool(self._label_column) and are_numbers(
            (cell for (cell,) in self._rows([self._label_column])), where
        )
        text = ("encoding",) if self._text else ()
        self.heeds: Set[str] = {"path_column", "label_column", "root", "classes", "follow_links", *text}

    def items(self) -> Iterator[Item]:
        """See Source."""
        wanted = [self._path_column, *([self._label_column] if self._label_column else []), *self.columns]
        inside, named = os.path.realpath(self._root), _Named()
        for name, *rest in self._rows(wanted):
            label, facts = (rest[0], rest[1:]) if self._label_column else ("", rest)
            if not name or unprintable(name):
                yield Rejected(f"{self.path}: {name!r}", "no path")
                continue
            path, how = self._found(name, self._root)
            if self._leads_out(path, inside):
                yield Rejected(path, f"leads out of {self._root}: name the folder that holds the images with --root")
            elif how is None:
                yield Rejected(path, "no regular file" if os.path.lexists(path) else "does not exist")
            else:
                if how:
                    yield Remark(path, how)
                named.note(path)
                labelled = label_of(label, numbers=self._numbers)
                yield Candidate(path, name, Span(path), labelled, os.stat(path).st_size, tuple(facts))
        yield from named.others(self.path)
        if self._unlabelled:
            told = "a list without a column of labels: --label-column makes one of its others that"
            yield Remark(str(self.path), told, ", ".join(self.columns))
        if self._lost:
            yield Remark(
                str(self.path), "columns that are not kept, since the .beton's own have their names", ", ".join(self._lost)
            )

    def _found(self, name: str, root: Path) -> tuple[str, str | None]:
        """Where an image lies, and how its path was read; None where nothing lies there."""
        path = os.path.join(root, name)
        if os.path.isfile(path):
            return path, AS_IT_STANDS
        slashed = name.strip().replace("\\", "/")
        tried = os.path.join(root, slashed)
        if slashed != name and os.path.isfile(tried):
            told = "backslashes in its path are read as slashes" if "\\" in name else "spaces around its path are left out"
            return tried, told
        for form in ("NFC", "NFD"):
            if not slashed.isascii() and os.path.isfile(spelled := os.path.join(root, unicodedata.normalize(form, slashed))):
                return spelled, "letters with marks in its path are composed otherwise on the disk"
        folder, stem = os.path.split(tried)
        if len(whole := self._stems(folder).get(stem, [])) == 1:
            return os.path.join(folder, whole[0]), "its path is completed by the ending of the one image of that name"
        return path, None

    def _hint(self, names: Sequence[str]) -> str:
        """Which column's first cell names an image here or in a folder beside the list, as a flag."""
        first = next(self._rows(names), None)
        folders = [self._root, *sorted(entry for entry in self._root.iterdir() if entry.is_dir())]
        for root in folders[:32] if first else []:
            for name, cell in zip(names, first or [], strict=True):
                if cell.strip() and not unprintable(cell) and self._found(cell, root)[1] is not None:
                    where = "" if root == self.path.parent else f" --root {root}"
                    return f", and {name!r} seems to be it: --path-column {name}{where}"
        return ""

    def _leads_out(self, path: str, inside: str) -> bool:
        if self._follow:  # the way that is written must stay inside; where links on it lead does not matter
            return not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(self._root))
        return outside(path, inside)

    def _rows(self, columns: Sequence[str]) -> Iterator[list[str]]:
        """The cells of `columns`, line by line, as text."""
        return self._text.rows(columns) if self._text else cells(self.path, columns)


class _Named:
    """Which images a list names, by 8 bytes each: a list may have millions."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._folders: dict[str, None] = {}

    def note(self, path: str) -> None:
        """One more."""
        self._hashes.append(hash(path))
        self._folders[os.path.dirname(path)] = None

    def others(self, listed: Path) -> Iterator[Remark]:
        """The images in the same folders that are not named, and how often one is named again."""
        hashes = set(self._hashes)
        if again := len(self._hashes) - len(hashes):
            yield Remark(str(listed), "a list that names images again; each line is a row", f"{again} lines")
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    left = sorted(
                        entry.path
                        for entry in entries
                        if is_image_name(entry.name) and entry.name[0] != "." and hash(entry.path) not in hashes
                    )
            except OSError:
                continue
            for path in left:
                yield Remark(path, f"an image that {listed.name} does not name")


def _stems(folder: str) -> dict[str, list[str]]:
    """The images of a folder by their names without endings."""
    stems: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if ending(entry.name) in ENDINGS:
                    stems.setdefault(os.path.splitext(entry.name)[0], []).append(entry.name)
    except OSError:
        pass
    return stems

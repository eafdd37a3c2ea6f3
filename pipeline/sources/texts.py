"""Tables that are text: which characters, which delimiter; both are taken from the file itself where it leaves no doubt."""

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from ...files.opening import open_text, open_to_read
from .columns import refuse_twice

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHERS = ";\t|,"  # what spreadsheets write in some countries under the name .csv
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TextTable(NamedTuple):
    """An opened table: its columns by name, and how its lines are read."""

    path: Path
    names: list[str]
    delimiter: str
    encoding: str
    errors: str
    spaced: bool
    """Whether a space follows each delimiter, as in "path, label"."""

    def rows(self, columns: Sequence[str]) -> Iterator[list[str]]:
        """The cells of `columns`, line by line; raises ValueError for a line that has more cells or cannot be read."""
        places = [self.names.index(name) for name in columns]
        with _text(self.path, self.encoding, self.errors) as file:
            reader = csv.reader(file, delimiter=self.delimiter, skipinitialspace=self.spaced)
            try:
                next(reader, None)
                for cells in reader:
                    if not cells:
                        continue
                    if len(cells) > len(self.names):
                        told = f"has more cells than the first line names columns ({len(self.names)})"
                        raise ValueError(f"{self.path}: line {reader.line_num} {told}")
                    yield [cells[place] if place < len(cells) else "" for place in places]
            except (UnicodeDecodeError, csv.Error) as error:
                where = f"{self.path}: line {reader.line_num + 1} cannot be read"
                raise ValueError(f"{where}: {_told(error)}") from None


def open_table(path: Path, *, encoding: str = "", errors: str = "strict") -> TextTable:
    """Read the first line. Raises ValueError, naming the file, where it names no columns or is no text."""
    encoding = encoding or _encoding(path)
    try:
        "".encode(encoding)  # is there such a one?
        with _text(path, encoding, errors) as file:
            line = file.readline(1 << 20)
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as {_name(encoding)} text: {_told(error)}") from None
    delimiter = _delimiter(line, DELIMITERS.get(path.suffix.lower(), ","))
    with _text(path, encoding, errors) as file:
        try:
            raw = next(csv.reader(file, delimiter=delimiter), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read as {_name(encoding)} text: {_told(error)}") from None
    if not raw:
        raise ValueError(f"{path} is empty: its first line must name the columns")
    names = [name.strip() for name in raw]
    refuse_twice(names, path)
    spaced = len(raw) > 1 and all(name.startswith(" ") for name in raw[1:])
    return TextTable(path, names, delimiter, encoding, errors, spaced)


def _delimiter(line: str, usual: str) -> str:
    """The usual one, unless the first line has none of it and others."""
    counts = {mark: line.count(mark) for mark in OTHERS}
    return (
        usual if counts.get(usual) else max((mark for mark in counts if counts[mark]), key=counts.__getitem__, default=usual)
    )


def _encoding(path: Path) -> str:
    with open_to_read(path) as file:
        head = file.read(4)
    return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8-sig")


def _name(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8-sig" else encoding


def _told(error: Exception) -> str:
    told = " ".join(str(error).split())
    if isinstance(error, UnicodeDecodeError):
        return f"{told}; save it as UTF-8, or name what it is: --encoding cp1252, say"
    return told


def _text(path: Path, encoding: str, errors: str) -> TextIO:
    return open_text(path, encoding=encoding, errors=errors, newline="")

"""The table beside a folder's images: metadata.csv or metadata.jsonl, Hugging Face's imagefolder convention."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...files.opening import open_to_read
from .candidate import Label, Remark
from .columns import LABEL_COLUMNS, refuse_twice
from .labels import are_numbers, label_of
from .texts import open_table

TABLE = "metadata.csv"
TABLES = (TABLE, "metadata.jsonl")
NAME = "file_name"


class Beside(NamedTuple):
    """What the table tells of each image, by the image's name in one spelling."""

    path: Path | None
    columns: list[str]
    values: dict[str, tuple[str, ...]]
    labels: dict[str, Label] | None
    """Labels of its label column, where one was asked for."""
    usual_labels: list[str]
    """Columns with a name that is usual for labels."""
    repeated: list[str]
    """Images that several rows name; the last row counts."""


def one_spelling(name: str) -> str:
    """A name as it is compared: slashes, no ./ before it, and letters composed alike."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_beside(folder: Path, *, label_column: str = "", encoding: str = "") -> Beside:
    """The table in `folder`, empty where there is none; raises ValueError, naming it, where it cannot be read."""
    found = [folder / name for name in TABLES if (folder / name).exists() and not (folder / name).is_dir()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {TABLES[0]} and {TABLES[1]}, which both tell of its images: take one away")
    if not found:
        return Beside(None, [], {}, None, [], [])
    path = found[0]
    names, rows = _lines(path) if path.suffix == ".jsonl" else _cells(path, encoding)
    if NAME not in names:
        raise ValueError(f"{path} has no column {NAME!r}; it has {', '.join(names) or 'none'}")
    if "row" in names:
        raise ValueError(f"{path} has a column 'row', which is the name of the .beton's own: call it something else")
    if label_column and label_column not in names:
        raise ValueError(f"{path} has no column {label_column!r}; it has {', '.join(names)}")
    columns = [name for name in names if name not in (NAME, label_column)]
    values, texts, repeated = {}, {}, []
    for row in rows:
        name = one_spelling(row[NAME])
        if name in values:
            repeated.append(row[NAME])
        values[name] = tuple(row[column] for column in columns)
        if label_column:
            texts[name] = row[label_column]
    labels = None
    if label_column:
        numbers = are_numbers(texts.values(), f"{path}: column {label_column!r}")
        labels = {name: label_of(text, numbers=numbers) for name, text in texts.items()}
    return Beside(path, columns, values, labels, [name for name in LABEL_COLUMNS if name in columns], repeated)


def remarks_of(beside: Beside, unmet: set[str], named: int) -> Iterator[Remark]:
    """What of the table was of no use; raises ValueError where all of it was not. `named` images had a row."""
    if beside.path is None:
        return
    if beside.values and not named:
        shown = ", ".join(repr(name) for name in sorted(unmet)[:2])
        why = f"none of its {len(beside.values)} rows names an image in this folder: the first are {shown}"
        raise ValueError(f"{beside.path}: {why}; mend its column {NAME!r}, or take the table away")
    for name in sorted(unmet):
        yield Remark(f"{beside.path}: {name}", f"a row of {beside.path.name} that names no image here")
    for name in beside.repeated:
        yield Remark(f"{beside.path}: {name}", f"a row of {beside.path.name} that a later one of the same name replaces")


def _cells(path: Path, encoding: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    # what is no UTF-8 in a cell is shown by its code, as file names are
    if path.stat().st_size == 0:
        return [], iter(())
    table = open_table(path, encoding=encoding, errors="surrogateescape")
    return table.names, (dict(zip(table.names, row, strict=True)) for row in table.rows(table.names))


def _lines(path: Path) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The objects of a .jsonl; columns are the plain values that any of them has, in the order in which they come."""
    read: list[dict[str, str]] = []
    names: dict[str, None] = {}
    with open_to_read(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _object(line, path, number)
            names |= dict.fromkeys(row)
            read.append(row)
    return list(names), ({name: row.get(name, "") for name in names} for row in read)


def _object(line: bytes, path: Path, number: int) -> dict[str, str]:
    where = f"{path}: line {number}"
    pairs: list[tuple[str, Any]] = []

    def note(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = found  # the outermost object comes last
        return dict(found)

    try:
        content = json.loads(line.decode("utf-8-sig"), object_pairs_hook=note)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {' '.join(str(error).split()) or 'nested too deeply'}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no JSON object with a {NAME!r}")
    refuse_twice([name for name, _ in pairs], path)
    if not isinstance(content.get(NAME), str):
        raise ValueError(f"{where} has no text under {NAME!r}")
    return {name: _text(value) for name, value in content.items()}


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

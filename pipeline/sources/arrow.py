"""Parquet and Arrow files with the images' bytes in a column: the layout of Hugging Face datasets, read from local files."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .candidate import MAX_BYTES, Candidate, Fetched, Label, Rejected, unprintable
from .columns import LABEL_COLUMNS, pick

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes", "bytes")
SUFFIXES = (".parquet", ".arrow")
BATCH = 1024  # rows whose labels and columns are read at a time


def pyarrow() -> Any:
    """The library; raises ValueError naming the line that installs it."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet and Arrow files need pyarrow: pip install 'viewmill[parquet]'") from None
    return pyarrow


class Cell(NamedTuple):
    """One cell of an image column: row `place` of row group (Parquet) or record batch (Arrow) `group`."""

    path: str
    column: str
    group: int
    place: int

    def fetch(self) -> Fetched:
        """See Place. The whole group is read and kept until another is asked for: neighbours come next."""
        value = _column(self.path, self.column, self.group)[self.place].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise ValueError("the cell holds no bytes")
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes; an image may take {MAX_BYTES}")
        return Fetched(data)


class ArrowImages:
    """One file of image bytes. Class names come from the datasets library's own description of the label column."""

    def __init__(self, path: Path, *, image_column: str = "", label_column: str = "") -> None:
        self.path = path
        schema = _schema(path)
        self._image = image_column or image_column_of(path)
        if self._image not in schema.names:
            raise ValueError(f"{path} has no column {self._image!r}; it has {', '.join(schema.names)}")
        self._label = pick(schema.names, label_column, LABEL_COLUMNS, f"{path}", "labels", "--label-column", needed=False)
        types = pyarrow().types
        plain = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
        self.columns: Sequence[str] = [name for name in plain if name not in (self._image, self._label, "row", "file_name")]
        self.classes: Sequence[str] | None = _class_names(schema, self._label)

    def items(self) -> Iterator[Candidate | Rejected]:
        """See Source."""
        nested = pyarrow().types.is_struct(_schema(self.path).field(self._image).type)
        wanted = [*([self._label] if self._label else []), *self.columns]
        share = self.path.stat().st_size // max(1, _row_count(self.path))
        listing = _listing(self.path, wanted, self._image if nested else "")
        for row, (group, index, facts, name) in enumerate(listing):
            label, values = (facts[0], facts[1:]) if self._label else (None, facts)
            name = name if name and not unprintable(name) else f"{row:08d}"
            place = Cell(str(self.path), self._image, group, index)
            texts = tuple("" if value is None else str(value) for value in values)
            yield Candidate(f"{self.path}/{row:08d}", name, place, self._label_of(label), share, texts)

    def _label_of(self, value: Any) -> Label:
        if value is None or value == -1 or value == "":
            return None
        if isinstance(value, int) and self.classes is not None:
            return self.classes[value] if 0 <= value < len(self.classes) else None
        return value if isinstance(value, int) else str(value)


def image_column_of(path: Path) -> str:
    """The column of image bytes: a struct with `bytes`, or binary under a usual name; "" where there is none."""
    schema, types = _schema(path), pyarrow().types
    for field in schema:
        if types.is_struct(field.type) and any(part.name == "bytes" for part in field.type):
            return field.name
    binary = [field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)]
    return next((name for name in IMAGE_COLUMNS if name in binary), binary[0] if len(binary) == 1 else "")


def schema_names(path: Path) -> list[str]:
    """The names of a file's columns."""
    return list(_schema(path).names)


def cells(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The cells of `columns`, row by row, as text."""
    for _, _, values, _ in _listing(path, columns, ""):
        yield ["" if value is None else str(value) for value in values]


def _class_names(schema: Any, label: str) -> list[str] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _opened(path: str) -> Any:
    """A ParquetFile, or an Arrow file or stream as a list of record batches, mapped, not read."""
    library = pyarrow()
    try:
        if path.endswith(".parquet"):
            return library.parquet.ParquetFile(path, memory_map=True)
        source = library.memory_map(path)
        try:
            reader = library.ipc.open_file(source)
            return [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except library.ArrowInvalid:
            source.seek(0)
            return list(library.ipc.open_stream(source))
    except (library.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


@lru_cache(maxsize=1)
def _kept_open(path: str) -> Any:
    return _opened(path)


@lru_cache(maxsize=1)
def _column(path: str, column: str, group: int) -> Any:
    file = _kept_open(path)
    if isinstance(file, list):
        return file[group].column(column)
    return file.read_row_group(group, columns=[column]).column(column)


def _schema(path: Path) -> Any:
    file = _opened(str(path))
    if not isinstance(file, list):
        return file.schema_arrow
    if not file:
        raise ValueError(f"{path} holds no row")
    return file[0].schema


def _row_count(path: Path) -> int:
    file = _opened(str(path))
    return sum(batch.num_rows for batch in file) if isinstance(file, list) else file.metadata.num_rows


def _listing(path: Path, columns: Sequence[str], image: str) -> Iterator[tuple[int, int, list[Any], str]]:
    """Group, index, values of `columns`, and the path that struct column `image` names; the bytes are not read."""
    file = _opened(str(path))
    groups = len(file) if isinstance(file, list) else file.num_row_groups
    for group in range(groups):
        if isinstance(file, list):
            batches = [file[group]]
        else:
            named = f"{image}.path"
            has_path = image and any(file.schema.column(i).path == named for i in range(len(file.schema)))
            wanted = [*columns, *([named] if has_path else [])]
            rows = file.metadata.row_group(group).num_rows
            batches = file.iter_batches(BATCH, row_groups=[group], columns=wanted) if wanted else [rows]
        index = 0
        for batch in batches:
            count = batch if isinstance(batch, int) else batch.num_rows
            values = [[None] * 0 if isinstance(batch, int) else batch.column(name).to_pylist() for name in columns]
            names = _names_of(batch, image, count)
            for at in range(count):
                yield group, index, [column[at] for column in values], names[at]
                index += 1


def _names_of(batch: Any, image: str, count: int) -> list[str]:
    if isinstance(batch, int) or not image or image not in batch.schema.names:
        return [""] * count
    column = batch.column(image)
    if not any(part.name == "path" for part in column.type):
        return [""] * count
    return [str(name or "") for name in column.field("path").to_pylist()]

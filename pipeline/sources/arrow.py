"""Parquet and Arrow files with the images' bytes in a column: the layout of Hugging Face datasets, read from local files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...files.opening import regular
from .candidate import MAX_BYTES, Candidate, Fetched, Label, Rejected, Stamp, stamp_of, unprintable
from .columns import LABEL_COLUMNS, pick, refuse_twice

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
    stamp: Stamp
    column: str
    group: int
    place: int

    def fetch(self) -> Fetched:
        """See Place. The whole group is read and kept until another is asked for: neighbours come next."""
        value = _column(self.path, self.stamp, self.column, self.group)[self.place].as_py()
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
        with _reading(path):
            schema = _schema(path)
            refuse_twice(schema.names, path)
            self._image = image_column or image_column_of(path)
            if self._image not in schema.names:
                raise ValueError(f"{path} has no column {self._image!r}; it has {', '.join(schema.names)}")
            self._label = pick(
                schema.names, label_column, LABEL_COLUMNS, f"{path}", "labels", "--label-column", needed=False
            )
            types = pyarrow().types
            plain = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
            self.columns: Sequence[str] = [
                name for name in plain if name not in (self._image, self._label, "row", "file_name")
            ]
            self.classes: Sequence[str] | None = _class_names(schema, self._label)

    def items(self) -> Iterator[Candidate | Rejected]:
        """See Source."""
        with _reading(self.path):
            nested = pyarrow().types.is_struct(_schema(self.path).field(self._image).type)
            wanted = [*([self._label] if self._label else []), *self.columns]
            status = self.path.stat()
            share, stamp = status.st_size // max(1, _row_count(self.path)), stamp_of(status)
            listing = _listing(self.path, wanted, self._image if nested else "")
            for row, (group, index, facts, name) in enumerate(listing):
                label, values = (facts[0], facts[1:]) if self._label else (None, facts)
                name = name if name and not unprintable(name) else f"{row:08d}"
                place = Cell(str(self.path), stamp, self._image, group, index)
                texts = tuple("" if value is None else str(value) for value in values)
                yield Candidate(f"{self.path}/{row:08d}", name, place, self._label_of(label), share, texts)

    def _label_of(self, value: Any) -> Label:
        if value is None or value == "" or (isinstance(value, int) and value < 0):
            return None
        if isinstance(value, int) and self.classes is not None:
            return self.classes[value] if 0 <= value < len(self.classes) else None
        return value if isinstance(value, int) and value < 2**63 else str(value)


def image_column_of(path: Path) -> str:
    """The column of image bytes: a struct with `bytes`, or binary under a usual name; "" where there is none."""
    with _reading(path):
        schema, types = _schema(path), pyarrow().types
        for field in schema:
            if types.is_struct(field.type) and any(part.name == "bytes" for part in field.type):
                return field.name
        binary = [field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)]
        return next((name for name in IMAGE_COLUMNS if name in binary), binary[0] if len(binary) == 1 else "")


def schema_names(path: Path) -> list[str]:
    """The names of a file's columns."""
    with _reading(path):
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
    with _reading(path):
        if path.endswith(".parquet"):
            return library.parquet.ParquetFile(regular(path), memory_map=True)
        source = library.memory_map(regular(path))
        try:
            reader = library.ipc.open_file(source)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except library.ArrowInvalid:
            source.seek(0)
            batches = list(library.ipc.open_stream(source))
        for batch in batches:
            batch.validate(full=True)  # offsets of a stranger's file are followed without a look
        return batches


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """What pyarrow raises for a damaged file comes out as a ValueError that names it."""
    try:
        yield
    except (pyarrow().ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=1)
def _kept_open(path: str, stamp: Stamp) -> Any:
    del stamp  # a file of the same name that is another file
    return _opened(path)


@lru_cache(maxsize=1)
def _column(path: str, stamp: Stamp, column: str, group: int) -> Any:
    file = _kept_open(path, stamp)
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
    with _reading(path):
        for group in range(len(file) if isinstance(file, list) else file.num_row_groups):
            index = 0
            for batch in [file[group]] if isinstance(file, list) else _batches(file, group, columns, image):
                count = batch if isinstance(batch, int) else batch.num_rows
                values = [] if isinstance(batch, int) else [batch.column(name).to_pylist() for name in columns]
                names = _names_of(batch, image, count)
                for at in range(count):
                    yield group, index, [column[at] for column in values], names[at]
                    index += 1


def _batches(file: Any, group: int, columns: Sequence[str], image: str) -> Iterable[Any]:
    """A row group's columns in batches; where none is wanted, just the number of its rows."""
    named = f"{image}.path"
    has_path = image and any(file.schema.column(i).path == named for i in range(len(file.schema)))
    wanted = [*columns, *([named] if has_path else [])]
    if not wanted:
        return [file.metadata.row_group(group).num_rows]
    return file.iter_batches(BATCH, row_groups=[group], columns=wanted)


def _names_of(batch: Any, image: str, count: int) -> list[str]:
    if isinstance(batch, int) or not image or image not in batch.schema.names:
        return [""] * count
    column = batch.column(image)
    if not any(part.name == "path" for part in column.type):
        return [""] * count
    return [str(name or "") for name in column.field("path").to_pylist()]

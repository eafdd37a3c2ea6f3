"""Parquet and Arrow files: opened, their rows listed without the images' bytes, and one cell of them fetched."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...files.opening import regular
from .candidate import MAX_BYTES, Fetched, Stamp

SUFFIXES = (".parquet", ".arrow")
BATCH = 1024  # rows whose labels and columns are read at a time
WHOLE_BYTES = 1 << 26  # a row group's column that takes no more is read at once: any row of it is at hand then
PART_BYTES = 1 << 25  # of a larger one so much is read at a time, or one row


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
        """See Place. What is read for it is kept until another group is asked for: neighbours come next."""
        with reading(self.path):
            value = _column(self.path, self.stamp, self.column, self.group).value(self.place)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise ValueError("the cell holds no bytes")
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes; an image may take {MAX_BYTES}")
        return Fetched(data)


class _Whole:
    """A column of a group, all of it in memory or mapped."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def value(self, place: int) -> Any:
        """What a row holds."""
        return self._column[place].as_py()


class _Parts:
    """A column of a row group that is too large to be held: read part by part, onwards; back means from the beginning."""

    def __init__(self, file: Any, group: int, column: str, rows: int) -> None:
        self._file, self._group, self._name, self._rows = file, group, column, rows
        self._begin()

    def _begin(self) -> None:
        self._parts = self._file.iter_batches(self._rows, row_groups=[self._group], columns=[self._name], use_threads=False)
        self._first, self._part = 0, None

    def value(self, place: int) -> Any:
        """What a row holds."""
        if place < self._first:
            self._begin()
        while self._part is None or place >= self._first + self._part.num_rows:
            self._first += self._part.num_rows if self._part is not None else 0
            self._part = None  # not two at a time
            self._part = next(self._parts)
        return self._part.column(0)[place - self._first].as_py()


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What pyarrow raises for a damaged file comes out as a ValueError that names it."""
    try:
        yield
    except (pyarrow().ArrowException, OSError, OverflowError, UnicodeDecodeError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split()) or 'it ends too early'}") from None


def opened(path: str) -> Any:
    """A ParquetFile, or an Arrow file or stream as a list of record batches, mapped, not read."""
    library = pyarrow()
    with reading(path):
        if path.lower().endswith(".parquet"):
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


def schema_of(path: Path) -> Any:
    """The schema; raises ValueError for an Arrow file without a row."""
    file = opened(str(path))
    if not isinstance(file, list):
        return file.schema_arrow
    if not file:
        raise ValueError(f"{path} holds no row")
    return file[0].schema


def schema_names(path: Path) -> list[str]:
    """The names of a file's columns."""
    with reading(path):
        return list(schema_of(path).names)


def refuse_several(path: Path, schema: Any, label: str) -> None:
    """Raise ValueError where a column of labels holds lists or structures."""
    if not pyarrow().types.is_nested(schema.field(label).type):
        return
    others = ", ".join(name for name in schema.names if name != label)
    raise ValueError(
        f"{path}: column {label!r} holds lists or structures, several labels an image, and a .beton keeps one: name another"
        f" with --label-column (there are {others}), or have no classes with --classes none"
    )


def row_count(path: Path) -> int:
    """How many rows a file has."""
    file = opened(str(path))
    return sum(batch.num_rows for batch in file) if isinstance(file, list) else file.metadata.num_rows


def cells(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The cells of `columns`, row by row, as text."""
    for _, _, values, _ in listing(path, columns, ""):
        yield ["" if value is None else str(value) for value in values]


def listing(path: Path, columns: Sequence[str], image: str) -> Iterator[tuple[int, int, list[Any], str]]:
    """Group, index, values of `columns`, and the path that struct column `image` names; the bytes are not read."""
    file = opened(str(path))
    with reading(path):
        for group in range(len(file) if isinstance(file, list) else file.num_row_groups):
            index = 0
            for batch in [file[group]] if isinstance(file, list) else _batches(file, group, columns, image):
                count = batch if isinstance(batch, int) else batch.num_rows
                values = [] if isinstance(batch, int) else [batch.column(name).to_pylist() for name in columns]
                names = _names_of(batch, image, count)
                for at in range(count):
                    yield group, index, [column[at] for column in values], names[at]
                    index += 1


def first_bytes(path: Path, column: str) -> bytes:
    """The first bytes that a column of images holds, of a row among the first; b"" where it holds none there."""
    file = opened(str(path))
    with reading(path):
        if isinstance(file, list):
            values = (value.as_py() for batch in file for value in batch.column(column)[:BATCH])
        else:
            batches = file.iter_batches(1, columns=[column], use_threads=False)
            values = (value.as_py() for batch, _ in zip(batches, range(16), strict=False) for value in batch.column(0))
        for value in values:
            if data := value.get("bytes") if isinstance(value, dict) else value:
                return bytes(data[:64])
    return b""


def holds_no_bytes(path: Path, column: str) -> bool:
    """Whether a struct column of images holds paths alone, so that the images lie in files of their own."""
    file = opened(str(path))
    with reading(path):
        if isinstance(file, list):
            return all(batch.column(column).field("bytes").null_count == batch.num_rows for batch in file)
        for group in range(file.num_row_groups):
            described = file.metadata.row_group(group)
            chunks = [described.column(index) for index in range(described.num_columns)]
            chunk = next((chunk for chunk in chunks if chunk.path_in_schema == f"{column}.bytes"), None)
            if chunk is None or chunk.statistics is None or chunk.statistics.null_count != described.num_rows:
                return False
        return file.metadata.num_rows > 0


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


@lru_cache(maxsize=1)
def _kept_open(path: str, stamp: Stamp) -> Any:
    del stamp  # a file of the same name that is another file
    return opened(path)


@lru_cache(maxsize=1)
def _column(path: str, stamp: Stamp, column: str, group: int) -> _Whole | _Parts:
    file = _kept_open(path, stamp)
    if isinstance(file, list):
        return _Whole(file[group].column(column))
    described = file.metadata.row_group(group)
    chunks = [described.column(index) for index in range(described.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column)
    if size <= WHOLE_BYTES:
        return _Whole(file.read_row_group(group, columns=[column]).column(column))
    rows = max(1, PART_BYTES * described.num_rows // size)
    return _Parts(file, group, column, rows)

"""The public binary files of CIFAR-10, CIFAR-100 and STL-10: fixed-size records of planar RGB.

https://www.cs.toronto.edu/~kriz/cifar.html, https://cs.stanford.edu/~acoates/stl10/
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...files.opening import read_text, regular
from .candidate import Candidate, Fetched, Item, Label, Rejected, Span
from .readings import Reading


class Layout(NamedTuple):
    """How a file's records are laid out."""

    side: int
    head: int
    """Bytes before the pixels; the label is the last of them."""
    names: str
    """The file beside it that names the classes, one a line."""
    by_column: bool = False
    """Pixels run down the columns, as in STL-10."""

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return self.head + 3 * self.side**2


CIFAR10 = Layout(32, 1, "batches.meta.txt")
CIFAR100 = Layout(32, 2, "fine_label_names.txt")  # coarse label, fine label
STL10 = Layout(96, 0, "class_names.txt", by_column=True)  # labels stand in a file of their own, counted from 1


class Planes(NamedTuple):
    """The pixels of one record."""

    span: Span
    side: int
    by_column: bool

    def fetch(self) -> Fetched:
        """See Place."""
        data = self.span.fetch().content
        planes = np.frombuffer(data, np.uint8).reshape(3, self.side, self.side)
        return Fetched(np.ascontiguousarray(planes.transpose((2, 1, 0) if self.by_column else (1, 2, 0))))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


class Binary:
    """One such file; which of the three its name and its size say."""

    columns: Sequence[str] = ()
    heeds: Set[str] = frozenset(("classes",))

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        self.path = path
        size = path.stat().st_size
        known = [STL10] if path.stem.endswith("_X") else [CIFAR10, CIFAR100]
        fitting = [layout for layout in known if size and size % layout.record == 0]
        named = [layout for layout in fitting if (path.parent / layout.names).is_file()]
        if not fitting:
            records = " or ".join(str(layout.record) for layout in known)
            raise ValueError(f"{path} is no file of CIFAR-10, CIFAR-100 or STL-10: {size} bytes, no multiple of {records}")
        self._layout = (named or fitting)[0]
        names = path.parent / self._layout.names
        self.classes: Sequence[str] | None = _lines(names) if names.is_file() else None
        self._labels = self._read_labels(size // self._layout.record)
        if reading.classes == "none":
            self._labels[:] = -1

    def _read_labels(self, count: int) -> np.ndarray:
        layout = self._layout
        if layout.head:
            file = np.memmap(regular(self.path), np.uint8, mode="r").reshape(count, layout.record)
            return np.array(file[:, layout.head - 1]).astype(np.int64)
        path = self.path.with_name(self.path.name.replace("_X", "_y"))
        if not path.is_file():  # unlabeled_X.bin has none
            return np.full(count, -1)
        labels = np.fromfile(regular(path), np.uint8).astype(np.int64) - 1
        if len(labels) != count:
            raise ValueError(f"{path} holds {len(labels)} labels for {count} images: fetch both files again")
        return labels

    def items(self) -> Iterator[Item]:
        """See Source."""
        record, head, side = self._layout.record, self._layout.head, self._layout.side
        for row, label in enumerate(self._labels.tolist()):
            place = Planes(Span(str(self.path), row * record + head, record - head), side, self._layout.by_column)
            name = f"{row:06d}"
            if self.classes is not None and label >= len(self.classes):
                yield Rejected(
                    f"{self.path}/{name}", f"label {label}; {self._layout.names} names {len(self.classes)} classes"
                )
                continue
            yield Candidate(f"{self.path}/{name}", name, place, self._label(label), record)

    def _label(self, number: int) -> Label:
        if number < 0:
            return None
        return self.classes[number] if self.classes is not None else number

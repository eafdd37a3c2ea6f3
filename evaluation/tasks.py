"""What is to be told from features: the classes of the files, or a column of their tables.

Shape suffix: N = rows of a file.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..pipeline.beton.manifest import read_columns
from ..pipeline.beton.reader import Beton
from .columns import NOBODY as NOBODY
from .columns import labels_of


class Task(NamedTuple):
    """One label (int64, 0 to C - 1; NOBODY for a row that is left out) per row of each file, and the C classes by name."""

    name: str
    train_label_N: Tensor
    test_label_N: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a person should know of it, a line each."""


def column_task(column: str, train: Beton, test: Beton) -> Task:
    """A column of the files' tables; numbers are cut into quarters at the training quantiles.

    Raises ValueError where a file has no such column, and where there is nothing to tell in it.
    """
    texts = []
    for beton in (train, test):
        columns = read_columns(beton)
        if column not in columns:
            there = ", ".join(sorted(columns)) or "none"
            raise ValueError(f"{beton.path} has no column {column!r}: its table has {there}")
        texts.append(columns[column])
    return task_of(column, *texts)


def task_of(name: str, train: Sequence[str], test: Sequence[str]) -> Task:
    """The task of telling one text per row; see column_task. Raises ValueError where there is nothing to tell."""
    return Task(name, *labels_of(name, train, test))

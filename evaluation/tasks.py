"""What is to be told from features: the classes of the files, or a column of their tables.

Shape suffix: N = rows of a file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.opening import open_to_read
from ..pipeline.beton import Beton
from ..pipeline.manifest import read_columns, read_manifest
from .columns import NOBODY as NOBODY
from .columns import labels_of

NAMED = 5  # classes that an error names


class Task(NamedTuple):
    """One label (int64, 0 to C - 1; NOBODY for a row that is left out) per row of each file, and the C classes by name."""

    name: str
    train_label_N: Tensor
    test_label_N: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a person should know of it, a line each."""


def class_task(train: Beton, test: Beton, *, name: str = "class") -> Task:
    """The classes of the files themselves, matched by name where both files name them.

    Raises ValueError where a row has no label, where there are fewer than two classes, and where the test images have a
    class that the training images do not have.
    """
    for beton in (train, test):
        if not len(beton) or beton.label_N.min() < 0:
            raise ValueError(f"{beton.path} holds images without a label: convert a folder with one subfolder per class")
    known, asked = _named(train), _named(test)
    label_N = torch.from_numpy(test.label_N).long()
    if known and asked and known != asked:
        strange = [asked[label] for label in label_N.unique().tolist() if asked[label] not in known]
        if strange:
            raise ValueError(
                f"{test.path} has {len(strange)} classes that {train.path} lacks ({', '.join(strange[:NAMED])}): "
                "give two parts of one data set"
            )
        label_N = torch.tensor([known.index(asked) if asked in known else -1 for asked in asked])[label_N]
    train_label_N = torch.from_numpy(train.label_N).long()
    count = len(known) or int(max(train_label_N.max(), label_N.max())) + 1
    if len(train_label_N.unique()) < 2:
        raise ValueError(f"{train.path} has one class alone: there is nothing to tell apart")
    if int(label_N.max()) >= count or not set(label_N.unique().tolist()) <= set(train_label_N.unique().tolist()):
        lacking = sorted(set(label_N.unique().tolist()) - set(train_label_N.unique().tolist()))
        named = ", ".join(known[label] if label < len(known) else str(label) for label in lacking[:NAMED])
        raise ValueError(f"{train.path} has no image of {len(lacking)} classes of {test.path} ({named})")
    return Task(name, train_label_N, label_N, known or tuple(map(str, range(count))))


def _named(beton: Beton) -> tuple[str, ...]:
    """The names of the classes, empty where the manifest has none."""
    return tuple((read_manifest(beton.path) or {}).get("classes") or ())


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


def same_images(train: Beton, test: Beton) -> tuple[str, ...]:
    """A warning where both files hold the same images: allowed, to see whether a set can be learnt at all, but no result."""
    if train.fingerprint != test.fingerprint:
        return ()
    rows = {0, len(train) // 2, len(train) - 1}  # a fingerprint knows sizes and labels, which raw images have alike
    with open_to_read(train.path) as one, open_to_read(test.path) as other:
        if any(train.read(one.fileno(), row) != test.read(other.fileno(), row) for row in rows):
            return ()
    return (f"{train.path} and {test.path} hold the same images: what is told was learnt from them, and is no result",)

"""A column of a table as something to be told: its words, or its numbers by quarter; what a row does not say is left out.

Shape suffix: N = rows of a file.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

BANDS = 4
"""Numbers are told apart by the quarter of the training images that they fall in."""
NAMED = 5  # values that a message names
MISSING = ("", "nan")  # what tables have where they have nothing, whatever else the column holds
NO_NUMBER = (*MISSING, "na", "n/a", "<na>", "nat", "null", "none")  # the same among numbers: else these may be words
NOBODY = -1


class Labels(NamedTuple):
    """int64 labels of both files, NOBODY where a row does not say; the classes by name; what a person should know."""

    train_label_N: Tensor
    test_label_N: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def labels_of(name: str, train: Sequence[str], test: Sequence[str]) -> Labels:
    """The classes of a column, one text a row.

    Raises ValueError where training rows have one value alone, or no value of a test row is among theirs.
    """
    columns = [[text.strip() for text in column] for column in (train, test)]
    numbers = [[_number(text) for text in column] for column in columns]
    words = sum(number is None for column in numbers for number in column)
    counted = sum(number is not None and math.isfinite(number) for column in numbers for number in column)
    notes = []
    if counted and not words:
        (train_N, test_N), classes = _of_numbers(name, *numbers)
    else:
        if counted and 2 * counted >= words:
            odd = Counter(text for part in zip(columns, numbers, strict=True) for text in _words(*part))
            notes.append(
                f"column {name!r} has {words:,} words among {counted:,} numbers ({_named(odd)}), so each value is a class: "
                "for quarters of the numbers correct these"
            )
        (train_N, test_N), classes = _of_words(columns)
    for part, label_N in (("training", train_N), ("test", test_N)):
        if absent := int((label_N == NOBODY).sum()):
            notes.append(
                f"column {name!r} says nothing for {absent:,} of {len(label_N):,} {part} images: these are left out"
            )
    _check(name, train_N, test_N, classes)
    known = set(train_N.unique().tolist())
    strange = Counter(classes[label] for label in test_N.tolist() if label != NOBODY and label not in known)
    if strange:
        notes.append(
            f"column {name!r}: {sum(strange.values()):,} of {len(test):,} test images have values that no training image "
            f"has ({_named(strange)}) and count as told wrong"
        )
    return Labels(train_N, test_N, classes, tuple(notes))


def _check(name: str, train_label_N: Tensor, test_label_N: Tensor, classes: tuple[str, ...]) -> None:
    """Raise ValueError where there is nothing to tell, or nothing to tell it of."""
    known = set(train_label_N.unique().tolist()) - {NOBODY}
    if len(known) < 2:
        which = f"the value {classes[known.pop()]!r} alone" if known else "no value at all"
        raise ValueError(f"column {name!r} has {which} on the training images: there is nothing to tell apart")
    asked = set(test_label_N.unique().tolist()) - {NOBODY}
    if not asked:
        raise ValueError(f"column {name!r} has no value on any test image: there is nothing to tell")
    if not asked & known:
        has, lacks = (", ".join([classes[label] for label in sorted(some)[:NAMED]]) for some in (asked, known))
        raise ValueError(
            f"column {name!r} has {len(asked)} values on the test images ({has}) and none of them on a training image, "
            f"which have {lacks}: give two parts of one data set"
        )


def _number(text: str) -> float | None:
    """A number as a cell says it, NaN where it says nothing, None for a word."""
    if text.lower() in NO_NUMBER:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def _words(column: Sequence[str], numbers: Sequence[float | None]) -> list[str]:
    return [text for text, number in zip(column, numbers, strict=True) if number is None]


def _of_words(columns: Sequence[Sequence[str]]) -> tuple[list[Tensor], tuple[str, ...]]:
    words = sorted({text for column in columns for text in column if text.lower() not in MISSING})
    places = {word: place for place, word in enumerate(words)}
    return [torch.tensor([places.get(text, NOBODY) for text in column]) for column in columns], tuple(words)


def _of_numbers(
    name: str, train: Sequence[float | None], test: Sequence[float | None]
) -> tuple[list[Tensor], tuple[str, ...]]:
    """By quarter of the training rows; by value where these have no more values than there are quarters."""
    numbers = [torch.tensor(column, dtype=torch.float64) for column in (train, test)]
    finite = [number.isfinite() for number in numbers]
    values = numbers[0][finite[0]].unique()
    if len(values) <= BANDS:
        every = torch.cat([number[there] for number, there in zip(numbers, finite, strict=True)]).unique()
        labels, classes = (
            [torch.searchsorted(every, number) for number in numbers],
            tuple(f"{x:.6g}" for x in every.tolist()),
        )
    else:
        # in single precision, as features and everything beside them; of equal quarters one remains
        numbers = [number.float() for number in numbers]
        edges = torch.quantile(numbers[0][finite[0]], torch.arange(1, BANDS) / BANDS).unique()
        labels = [torch.bucketize(number, edges) for number in numbers]
        if (labels[0][finite[0]] == 0).all():
            raise ValueError(
                f"column {name!r}: over three quarters of the training images have one number, {edges[0]:.6g}, the largest: "
                "there are no quarters to tell apart"
            )
        cuts = [f"{edge:.3g}" for edge in edges.tolist()]
        between = [f"{low} to {high}" for low, high in pairwise(cuts)]
        classes = (f"to {cuts[0]}", *between, f"from {cuts[-1]}")
    return [label.masked_fill(~there, NOBODY) for label, there in zip(labels, finite, strict=True)], classes


def _named(counts: Counter[str]) -> str:
    shown = [f"{value} {count:,} times" if count > 1 else value for value, count in counts.most_common(NAMED)]
    return ", ".join(shown) + (", ..." if len(counts) > NAMED else "")

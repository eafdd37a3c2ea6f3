"""What a cell says of an image's class: a number, a name or none.

-1, an empty cell and NaN mean that there is no label, whatever the others are; they rename nothing. A column whose other
cells are whole numbers from 0 on (as 3 or as 3.0) holds classes by number; any other holds names.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from .candidate import Label

WHOLE = re.compile(r"([0-9]{1,9})(\.0*)?")
BELOW = re.compile(r"-[0-9]{1,9}(\.0*)?")
FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
NONE = ("", "-1", "-1.0", "nan")
NONE_AMONG_NUMBERS = ("none", "null", "na", "n/a", "<na>")


def is_none(text: str, *, numbers: bool = False) -> bool:
    """Whether a cell says that there is no label."""
    low = text.strip().lower() if len(text) < 40 else text
    return low in NONE or (numbers and (low in NONE_AMONG_NUMBERS or BELOW.fullmatch(low) is not None))


def are_numbers(cells: Iterable[str], where: str) -> bool:
    """Whether the cells of a column are classes by number; raises ValueError for numbers that are no whole ones."""
    names = whole = 0
    fraction = ""
    for cell in cells:
        text = cell.strip()
        if is_none(text, numbers=True):
            continue
        if WHOLE.fullmatch(text):
            whole += 1
        elif FRACTION.fullmatch(text):
            fraction = fraction or text
        else:
            names += 1
    if fraction and not names:
        raise ValueError(no_classes(where, fraction))
    return not names and not fraction


def no_classes(where: str, value: object) -> str:
    """The refusal of numbers that are measured, not counted."""
    remedy = "name another column with --label-column, or have no classes with --classes none"
    return f"{where} holds {value}: numbers that are no whole ones are no classes; {remedy}"


def label_of(text: str, *, numbers: bool) -> Label:
    """The label that a cell of a column gives."""
    text = text.strip()
    if is_none(text, numbers=numbers):
        return None
    if numbers and (found := WHOLE.fullmatch(text)):
        return int(found[1])
    return text


def as_label(text: str) -> Label:
    """The label of a text that stands alone: a class by number where it is a whole number, else by name."""
    text = text.strip()
    numbers = bool(WHOLE.fullmatch(text) or BELOW.fullmatch(text))
    return label_of(text, numbers=numbers)


def label_of_value(value: Any, where: str, *, numbers: bool) -> Label:
    """The same of a value that has a type of its own; raises ValueError for a number that is no whole one."""
    if value is None:
        return None
    if isinstance(value, int):
        return None if value < 0 else int(value) if value < 2**63 else str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if not value.is_integer() or value >= 2**53:
            raise ValueError(no_classes(where, value))
        return int(value) if value >= 0 else None
    return label_of(str(value), numbers=numbers)

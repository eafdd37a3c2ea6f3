"""Labels as they are computed with: the classes that occur, numbered from 0 without gaps, in the order of their numbers.

A label of a file is any number up to 2^63: an article's, a species' in somebody's register. What a probe, a vote or a table
takes is counted by the classes that there are, never by the largest label.

Shape suffixes: N = images, C = classes that occur.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NOBODY = -1


class Dense(NamedTuple):
    """int64 labels of 0 to C - 1, NOBODY where a file's is below 0; and the number in the file of each class, ascending."""

    label_N: Tensor
    number_C: Tensor


def dense(label_N: Tensor) -> Dense:
    """The labels of the classes that occur. Where they have no gaps they are the file's own."""
    label_N = label_N.long()
    number_C = label_N[label_N >= 0].unique()
    return Dense(placed(label_N, number_C), number_C)


def placed(label_N: Tensor, number_C: Tensor) -> Tensor:
    """int64 [N]: the place of each label among `number_C`, which ascend; NOBODY where it is not among them."""
    if not len(number_C):
        return torch.full_like(label_N, NOBODY)
    place_N = torch.searchsorted(number_C, label_N).clamp(max=len(number_C) - 1)
    return torch.where(number_C[place_N] == label_N, place_N, NOBODY)

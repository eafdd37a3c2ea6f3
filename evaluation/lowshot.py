"""Few labels: subsets of the training images with n of each class, or with a share of each.

Draws are nested: with the same seed the images of draw d are among those of draw d of a larger subset, by number or by
share. Shape suffixes: N = training images, I = those of a subset, C = classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .selection import counted, places

NAMED = 5  # classes at fault that an error names
STRIDE = 1_000_003  # between the streams of neighbouring seeds: more draws than anyone takes


class Subset(NamedTuple):
    """int64 rows of the training images, ascending, and what they are, in the words of a protocol."""

    row_I: Tensor
    words: str


def per_class(label_N: Tensor, count: int, *, draws: int = 1, seed: int = 0) -> list[Subset]:
    """`draws` random subsets of `count` images of each class there is; raises ValueError where a class has fewer."""
    if count < 1:
        raise ValueError(f"a subset needs at least 1 image of each class, got {count}")
    held_C = counted(label_N)
    few = [(c, n) for c, n in enumerate(held_C.tolist()) if 0 < n < count]
    if few:
        named = ", ".join(f"class {c} has {n}" for c, n in few[:NAMED]) + (", ..." if len(few) > NAMED else "")
        raise ValueError(
            f"{count} images of each class are asked for, and {named}: ask for {min(n for _, n in few)} at most"
        )
    return _drawn(label_N, torch.full_like(held_C, count), f"{count} of each class", draws=draws, seed=seed)


def of_share(label_N: Tensor, share: float, *, draws: int = 1, seed: int = 0) -> list[Subset]:
    """`draws` random subsets of a share (0 to 1) of each class, to the nearest image, and of one image at least."""
    if not 0 < share <= 1:
        raise ValueError(f"the share of training images must be above 0 and at most 1, got {share}")
    quota_C = (counted(label_N).double() * share + 0.5).long().clamp(min=1)
    return _drawn(label_N, quota_C, f"{100 * share:g} % of each class", draws=draws, seed=seed)


def _drawn(label_N: Tensor, quota_C: Tensor, words: str, *, draws: int, seed: int) -> list[Subset]:
    if draws < 1:
        raise ValueError(f"at least 1 draw is needed, got {draws}")
    quota_N = quota_C[label_N.cpu()]
    subsets = []
    for draw in range(draws):
        row_I = (places(label_N, seed=STRIDE * (seed + 1) + draw) < quota_N).nonzero().flatten()
        subsets.append(Subset(row_I, f"{words}, {len(row_I)} images, draw {draw + 1} of {draws}, seed {seed}"))
    return subsets

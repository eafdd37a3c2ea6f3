"""What the objectives ask of a batch.

Shape suffixes: B = images of this rank, N = rows of the data set, M or BK = candidate rows.
"""

from typing import NamedTuple

from torch import Tensor


class Images(NamedTuple):
    """Which images the embeddings show, and what they are contrasted with."""

    row_B: Tensor
    valid_B: Tensor
    candidate_M: Tensor
    """Bank rows for all, or [B, K] for each image, as `candidates.draw` has them; empty where all rows are on offer."""
    label_N: Tensor | None = None
    """Class of every row of the data set; only what is logged asks for it."""
    views: tuple[Tensor, ...] = ()
    """The pixels, for terms with a decoder."""

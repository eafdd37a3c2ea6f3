"""What the objectives ask of a network and of a batch.

Shape suffixes: V = views, B = images of this rank, F = features, D = embedding, S = pixels, M or BK = candidate rows.
"""

from typing import NamedTuple, Protocol

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


class Outputs(Protocol):
    """What a forward pass yields. Embeddings are unit vectors; what a method has not asked for is None."""

    @property
    def embedding_VBD(self) -> Tensor:
        """Unit embeddings; with a random direction behind the projector its mean direction."""
        ...

    @property
    def sample_VBD(self) -> Tensor | None:
        """A direction drawn around `embedding_VBD`."""
        ...

    @property
    def projected_VBD(self) -> Tensor:
        """The projector's output as it is, before it is normalised."""
        ...

    @property
    def mean_VBF(self) -> Tensor:
        """Features: the mean of their distribution where they have one."""
        ...

    @property
    def scale_VBF(self) -> Tensor | None:
        """Standard deviations of Gaussian features."""
        ...

    @property
    def target_VBD(self) -> Tensor | None:
        """Unit embeddings by the momentum encoder, without gradient."""
        ...

    @property
    def prediction_VBD(self) -> Tensor | None:
        """The predictor's output."""
        ...

    @property
    def other_VBCSS(self) -> Tensor | None:
        """At v, the other view as it is predicted from view v."""
        ...

    @property
    def own_VBCSS(self) -> Tensor | None:
        """At v, view v as it is reconstructed from itself."""
        ...

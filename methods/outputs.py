"""What a method may ask of a network, and a network yields. No torch here but for whom checks types.

Shape suffixes: V = views, B = images, F = features, D = embedding, S = pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Outputs(NamedTuple):
    """What a forward pass yields for the loss; what a method has not asked for is None. Vectors are float32."""

    embedding_VBD: Tensor
    """Unit embeddings; with a random direction behind the projector its mean direction."""
    projected_VBD: Tensor
    """The projector's output before it is normalised."""
    mean_VBF: Tensor
    """Features: the mean of their distribution where they have one."""
    scale_VBF: Tensor | None = None
    """Standard deviations of Gaussian features."""
    sample_VBD: Tensor | None = None
    """A direction drawn around `embedding_VBD`."""
    prediction_VBD: Tensor | None = None
    """The predictor's output."""
    other_VBCSS: Tensor | None = None
    """At v, the other view as it is predicted from view v."""
    own_VBCSS: Tensor | None = None
    """At v, view v as it is reconstructed from itself."""
    target_VBD: Tensor | None = None
    """Unit embeddings by the momentum encoder, without gradient."""

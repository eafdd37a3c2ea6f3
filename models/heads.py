"""Heads: what stands between the encoder's features and the embedding that a loss sees.

Shape suffixes: V = views, B = images, F = features, D = embedding, S = pixels.
"""

from typing import NamedTuple

from torch import Tensor, nn


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


def projector(features: int, *, hidden: int, out: int) -> nn.Module:
    """SimCLR's non-linear head (arXiv 2002.05709, section 2.1), batch norm behind its hidden layer; linear at `hidden` 0.

    The predictor of BYOL is of the same kind (arXiv 2006.07733, section 3.2).
    """
    if hidden == 0:
        return nn.Linear(features, out)
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )

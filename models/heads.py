"""Heads: what stands between the encoder's features and the embedding that a loss sees."""

from torch import nn


def projector(features: int, *, hidden: int, out: int) -> nn.Module:
    """SimCLR's non-linear head (arXiv 2002.05709, section 2.1), batch norm behind its hidden layer; linear at `hidden` 0.

    The predictor of BYOL is of the same kind (arXiv 2006.07733, section 3.2).
    """
    if hidden == 0:
        return nn.Linear(features, out)
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )

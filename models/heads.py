"""Heads: what stands between the encoder's features and the embedding that a loss sees."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .encoders import ResNet


class Outputs(NamedTuple):
    """What a forward pass yields for the loss."""

    embedding_ND: Tensor
    """Unit vectors in float32, view-major: N = views x images."""


def projector(features: int, *, hidden: int, out: int) -> nn.Sequential:
    """SimCLR's non-linear head (arXiv 2002.05709, section 2.1), with batch norm after the hidden layer."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


class Contrastive(nn.Module):
    """Encoder and projector: images -> unit embeddings."""

    def __init__(self, encoder: ResNet, *, hidden: int, out: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector(encoder.features, hidden=hidden, out=out)

    def forward(self, image_N3SS: Tensor) -> Outputs:
        """Embeddings of a group of views. Normalised in float32 also under autocast: bf16 would change ring ranks."""
        embedding = self.projector(self.encoder(image_N3SS)).float()
        return Outputs(F.normalize(embedding, dim=1, eps=1e-6))  # eps 1e-12 gives a zero vector a gradient of 1e12

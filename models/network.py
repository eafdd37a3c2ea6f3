"""The network of a method: encoder, projector, and what else its loss asks for.

Shape suffixes: V = views, B = images, C = channels, F = features, D = embedding, S = pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..methods.architecture import Architecture
from ..methods.outputs import Outputs
from .decoder import Decoder
from .encoders import ResNet, build, count_once_
from .heads import projector
from .stochastic import sampler
from .timm_encoders import Foreign, synchronised_

PATCHES = 9  # of PIRL's jigsaw


class Batch(NamedTuple):
    """What a forward pass takes: views and the images they show; for noise the step, and which views they are."""

    views: Sequence[Tensor]
    """[V*B, C, S, S] of each size; of a colour network the parts of one view, of a jigsaw image and patches."""
    row_B: Tensor
    step: int
    numbers: Sequence[int] = (0, 1)
    """Which views of the recipe they are, in the order in which they stand in the tensors."""


class Colour(nn.Module):
    """CMC's encoders (arXiv 1906.05849): one for the first channel of a view, and one for the other two or one for each."""

    def __init__(self, *parts: ResNet | Foreign) -> None:
        super().__init__()
        self.halves = nn.ModuleList(parts)
        self.features = sum(part.features for part in parts)

    def forward(self, image_B3SS: Tensor) -> Tensor:
        """[B, PF]: the features of all P parts, as they are evaluated."""
        channels = channels_of(len(self.halves))
        parts = zip(self.halves, image_B3SS.split(channels, dim=1), strict=True)
        return torch.cat([half(part) for half, part in parts], dim=1)


def channels_of(parts: int) -> tuple[int, ...]:
    """How many channels each of two or three colour parts has."""
    return (1, 2) if parts == 2 else (1, 1, 1)


class Network(nn.Module):
    """Views -> Outputs. `encoder` is what a run is worth: [B, 3, S, S] -> features, without any head.

    `features` is the length of one view's in the outputs. Raises ValueError for what encoders.build refuses, and for
    synchronised batch norm without any.
    """

    def __init__(self, made_of: Architecture) -> None:
        super().__init__()
        self.made_of = made_of
        options = {"width": made_of.width, "image_size": made_of.size, "recompute": made_of.recompute}
        if made_of.views == "colour":
            halves = [build(made_of.encoder, channels=channels, **options) for channels in channels_of(made_of.parts)]
            self.encoder: ResNet | Foreign | Colour = Colour(*halves)
            features = halves[0].features
        else:
            self.encoder = build(made_of.encoder, **options)
            features = self.encoder.features
        self.features = features
        hidden, out = made_of.hidden, made_of.out
        heads = made_of.parts if made_of.views == "colour" else 1
        self.projector = nn.ModuleList(projector(features, hidden=hidden, out=out) for _ in range(heads))
        if made_of.views == "jigsaw":
            self.patch = nn.Linear(features, out)
            self.jigsaw = nn.Linear(PATCHES * out, out)
        self.head = made_of.head and sampler(made_of.head, out if made_of.on_embedding else features)
        self.predictor = projector(out, hidden=hidden or out, out=out) if made_of.predictor else None
        self.other = Decoder(features, made_of.size) if made_of.decode_other else None
        self.own = Decoder(features, made_of.size) if made_of.decode_own else None
        if made_of.batch_norm == "synchronised":
            self._synchronise_()

    def _synchronise_(self) -> None:
        if not any(isinstance(module, _BatchNorm) for module in self.modules()):
            raise ValueError(
                f"synchronised batch norm changes nothing in {self.made_of.encoder} with a linear projector: use local"
            )
        if any(isinstance(module, Foreign) for module in self.modules()):
            synchronised_(self)
        else:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        if self.made_of.recompute:
            count_once_(self.encoder)

    def forward(self, batch: Batch) -> Outputs:
        """The outputs for a batch. Normalised in float32 also under autocast: bf16 would change ring ranks."""
        if self.made_of.views == "jigsaw":
            return self._jigsaw(batch)
        feature_VBF = self._features(batch)
        mean_VBF, scale_VBF, taken_VBF = feature_VBF, None, feature_VBF
        if self.head is not None and not self.made_of.on_embedding:
            taken_VBF, mean_VBF, scale_VBF = self._draw(feature_VBF, batch)
        projected_VBD = self._project(taken_VBF)
        embedding_VBD, sample_VBD = unit(projected_VBD), None
        if self.head is not None and self.made_of.on_embedding:
            sample_VBD, embedding_VBD, _ = self._draw(embedding_VBD, batch)
        return Outputs(
            embedding_VBD,
            projected_VBD.float(),
            mean_VBF.float(),
            scale_VBF,
            sample_VBD,
            None if self.predictor is None else _each(self.predictor, projected_VBD).float(),
            None if self.other is None else _each(self.other, taken_VBF),
            None if self.own is None else _each(self.own, taken_VBF),
        )

    def _features(self, batch: Batch) -> Tensor:
        if isinstance(self.encoder, Colour):
            return torch.stack([half(part) for half, part in zip(self.encoder.halves, batch.views, strict=True)])
        images = len(batch.row_B)
        if len(batch.views) == 1:
            return self.encoder(batch.views[0]).unflatten(0, (-1, images))
        feature_VBF = torch.cat([self.encoder(views).unflatten(0, (-1, images)) for views in batch.views])
        order = sorted(range(len(batch.numbers)), key=batch.numbers.__getitem__)
        if order == list(range(len(order))):
            return feature_VBF
        return torch.stack([feature_VBF[place] for place in order])  # a list of indices would come from the host

    def _project(self, feature_VBF: Tensor) -> Tensor:
        if len(self.projector) == 1:
            return _each(self.projector[0], feature_VBF)
        return torch.stack([project(feature) for project, feature in zip(self.projector, feature_VBF, strict=True)])

    def _draw(self, x_VBF: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sample, mean and scale, independent noise for each view."""
        assert self.head is not None
        options = {"seed": self.made_of.seed, "step": batch.step}
        numbered = zip(sorted(batch.numbers), x_VBF, strict=False)
        drawn = [self.head(x_BF, batch.row_B, stream=number, **options) for number, x_BF in numbered]
        scale = None if drawn[0].scale_BF is None else torch.stack([part.scale_BF for part in drawn])
        return torch.stack([part.sample_BF for part in drawn]), torch.stack([part.mean_BF for part in drawn]), scale

    def _jigsaw(self, batch: Batch) -> Outputs:
        """View 0 is the image, view 1 its patches: nine embeddings in a row, linear to one (arXiv 1912.01991, section
        3.2).
        """
        image_BCSS, patch_NCSS = batch.views
        feature_BF = self.encoder(image_BCSS)
        patch_PBD = self.patch(self.encoder(patch_NCSS)).unflatten(0, (PATCHES, -1))
        puzzle_BD = self.jigsaw(patch_PBD.movedim(0, 1).flatten(1))
        projected_VBD = torch.stack((self.projector[0](feature_BF), puzzle_BD))
        return Outputs(unit(projected_VBD), projected_VBD.float(), feature_BF[None].float())


def compiled_(network: Network, device: torch.device | None = None) -> None:
    """Compile the encoder (for colour both) in place, at its first call; keys of the state dict stay as they are.

    Neither step nor rows reach what is compiled, so it is compiled once for each shape of the views. Copies are not
    compiled: call it for a momentum encoder too. Raises ValueError where nothing can be compiled for `device`, by default
    the network's own.
    """
    device = device or next(network.parameters()).device
    try:
        torch.compile(torch.neg, fullgraph=True)(torch.zeros(4, device=device))
    except Exception as error:  # whatever is missing: a compiler, its headers, Triton
        reason = str(error).strip().split("\n")[0]
        remedy = "leave --compile out, or install g++ and python3-dev (and triton for a GPU)"
        raise ValueError(f"nothing can be compiled for {device.type} here ({reason}): {remedy}") from error
    halves = network.encoder.halves if isinstance(network.encoder, Colour) else (network.encoder,)
    for encoder in halves:
        encoder.compile()


def unit(projected_VBD: Tensor) -> Tensor:
    """Unit vectors in float32; eps 1e-12 would give a zero vector a gradient of 1e12."""
    return F.normalize(projected_VBD.float(), dim=-1, eps=1e-6)


def _each(module: nn.Module, x_VBF: Tensor) -> Tensor:
    """A module over the views as one batch: batch norm sees all of them."""
    return module(x_VBF.flatten(0, 1)).unflatten(0, x_VBF.shape[:2])

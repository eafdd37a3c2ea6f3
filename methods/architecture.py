"""What a network is made of: as its method asks, in the sizes of a configuration, as config.json has it. No torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from .method import Method, Views
from .terms import HEADS, Head

BatchNorm = Literal["local", "synchronised", "shuffled"]


@dataclass(frozen=True)
class Architecture:
    """What a network is made of.

    Args:
        views: "shared" is one encoder for all views; "colour" one for each of `parts` of a view's channels; "jigsaw" one
            for the image and, through a second head, for nine patches of it.
        hidden: of projector and predictor; 0 for a linear projector.
        head: distribution of the features, or of the embedding where `on_embedding`; None for none.
        predictor, decode_other, decode_own: whether these parts stand.
        batch_norm: whose images it averages over: each process's, or with "synchronised" those of all; with "shuffled" the
            network is that of "local", and who calls the momentum encoder exchanges its images (arXiv 1911.05722).
        recompute: whether the encoder computes activations again in the backward pass, for less memory.
    """

    encoder: str
    width: int
    size: int
    hidden: int
    out: int
    views: Views = "shared"
    head: Head | None = None
    on_embedding: bool = False
    predictor: bool = False
    decode_other: bool = False
    decode_own: bool = False
    seed: int = 0
    batch_norm: BatchNorm = "local"
    recompute: bool = False
    parts: int = 2

    @classmethod
    def of_record(cls, record: Mapping[str, Any], *, recompute: bool = False) -> Self:
        """What `record` has written; raises KeyError for a head that no version knew."""
        made: dict[str, Any] = dict(record)
        if record["head"] is not None:
            name, numbers = record["head"]
            made["head"] = HEADS[name](*numbers)
        return cls(**made, recompute=recompute)

    def record(self) -> dict[str, Any]:
        """As it stands in config.json, where a head is its name and its numbers; `recompute` is each start's own."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "recompute"}
        names = {kind: name for name, kind in HEADS.items()}
        head = None if self.head is None else [names[type(self.head)], list(dataclasses.astuple(self.head))]
        return told | {"head": head}


def architecture(settings: Mapping[str, Any], method: Method) -> Architecture:
    """The network that a method asks for, in the sizes of a configuration."""
    return Architecture(
        encoder=settings["encoder"],
        width=settings["width"],
        size=settings["size"],
        hidden=settings["hidden"],
        out=settings["embedding"],
        views=method.network,
        head=method.head,
        on_embedding=method.samples_embedding,
        predictor=method.predicts,
        decode_other=method.decodes_other,
        decode_own=method.decodes_own,
        seed=settings["seed"],
        batch_norm=settings["batch_norm"],
        parts=method.views if method.network == "colour" else 2,
    )

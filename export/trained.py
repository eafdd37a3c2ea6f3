"""The encoder that is exported: read from a run's newest checkpoint, without whatever it was trained in."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoint import layout
from ..models.encoders import DESIGNS, build
from ..models.network import Colour, channels_of
from ..models.timm_encoders import PREFIX
from ..pipeline.views.recipe import View, weak
from ..training.resume import differs, read_training

Half = Literal["both", "first", "second"]
CHANNELS = {"both": slice(0, 3), "first": slice(0, 1), "second": slice(1, 3)}  # as pipeline.recipe.View splits them for CMC


class Trained(NamedTuple):
    """An encoder on the CPU, in evaluation mode, and where it comes from."""

    encoder: nn.Module
    settings: dict[str, Any]
    """The run's config.json."""
    step: int
    versions: dict[str, str]
    """What it was trained with."""
    ema: bool
    half: Half
    colours: View
    """Size, colour space and normalisation of what it has seen."""
    run: Path
    passed_over: list[str]
    """Newer checkpoints that do not verify, and why."""

    @property
    def name(self) -> str:
        """resnet18, timm:NAME, ..."""
        return self.settings["architecture"]["encoder"]

    @property
    def size(self) -> int:
        """Side in pixels of the images that it was built for."""
        return self.settings["architecture"]["size"]

    @property
    def channels(self) -> int:
        """Of an image that it takes."""
        seen = CHANNELS[self.half]
        return seen.stop - seen.start

    @property
    def share(self) -> float:
        """Of an image's shorter side, what the evaluation view shows."""
        return weak(self.size).views[0].crop.share  # pyright: ignore[reportAttributeAccessIssue]


class Residual(NamedTuple):
    """What a residual network is made of: its design's name, channels of the first stage and of the image, and its stem."""

    design: str
    width: int
    channels: int
    small_stem: bool

    @property
    def basic(self) -> bool:
        """Two 3x3 convolutions a block; otherwise a bottleneck of three."""
        return DESIGNS[self.design].block.expansion == 1

    @property
    def depths(self) -> list[int]:
        """Blocks of each stage."""
        return list(DESIGNS[self.design].depths)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage, before a bottleneck widens them by 4."""
        return [self.width << stage for stage in range(4)]


def load(run: Path, *, ema: bool = False, half: Half = "both") -> Trained:
    """The encoder of the newest checkpoint of `run` that verifies.

    Raises ValueError where there is none, where it has no moving average (`ema`) or no halves (`half`), and for weights that
    are not finite.
    """
    settings, found = read_training(run), layout.newest(run / "checkpoints")
    if found is None:
        raise ValueError(f"{run} holds no checkpoint yet: train it first")
    parts, facts = found.checkpoint
    if other := differs(settings, facts, found.path):
        raise ValueError(f"{found.path} is of another run than {run / 'config.json'} says: {other}")
    if ema and "ema" not in parts:
        raise ValueError(f"{run} keeps no moving average of its weights: train with --ema .99, or export without --ema")
    made = settings["architecture"]
    state = {name.removeprefix("encoder."): tensor for name, tensor in parts["ema" if ema else "model"].items()}
    encoder = _encoder(made, state)
    if half != "both":
        if not isinstance(encoder, Colour):
            raise ValueError(f"--half {half} means nothing to {settings['method']}: it trains one encoder; leave it out")
        if len(encoder.halves) != 2:
            raise ValueError(
                f"--half {half} is of two halves, and {settings['method']} has {len(encoder.halves)} parts: leave it out"
            )
        encoder = encoder.halves[half == "second"]
    colours = settings["colours"]
    shown = View(size=settings["size"], space=colours["space"], mean=tuple(colours["mean"]), std=tuple(colours["std"]))
    encoder = encoder.eval().requires_grad_(False)
    return Trained(encoder, settings, facts["step"], facts["versions"], ema, half, shown, run, found.passed_over)


def _encoder(made: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """The encoder alone: no synchronised batch norm, no recomputation."""
    options = {"width": made["width"], "image_size": made["size"]}
    if made["views"] == "colour":
        encoder: nn.Module = Colour(
            *(build(made["encoder"], channels=channels, **options) for channels in channels_of(made.get("parts", 2)))
        )
    else:
        encoder = build(made["encoder"], **options)
    held = {name: state[name] for name in encoder.state_dict()}
    for name, tensor in held.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the encoder is not finite in {name}: export an earlier checkpoint, or train again")
    encoder.load_state_dict(held)
    return encoder


def residual(trained: Trained) -> Residual | None:
    """What the encoder is made of where it is one residual network, ours or timm's of the same name."""
    design = trained.name.removeprefix(PREFIX)
    if design not in DESIGNS or isinstance(trained.encoder, Colour):
        return None
    width, channels, side, _ = trained.encoder.state_dict()["conv1.weight"].shape
    return Residual(design, width, channels, small_stem=side == 3)


def the_residual(trained: Trained, library: str) -> Residual:
    """The same; raises ValueError for any other encoder, in words that an advice on formats completes."""
    found = residual(trained)
    if found is not None:
        return found
    if isinstance(trained.encoder, Colour):
        raise ValueError(f"{library} holds one encoder, {trained.settings['method']} trains two: add --half first or second")
    raise ValueError(f"{trained.name} is none of the residual networks that {library} has ({', '.join(DESIGNS)})")

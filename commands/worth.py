"""The commands that ask what an encoder is worth."""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Weighted kNN of a run's frozen features, beside raw pixels and the untrained encoder."""

    run: tyro.conf.Positional[Path]
    """Folder of a training."""
    train: Path
    """Labelled images whose neighbours vote: a .beton or a folder."""
    test: Path
    """Labelled images to be told: a .beton or a folder."""
    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.1
    """Temperature of their votes."""
    ema: bool = False
    """The moving average of the weights, instead of the weights themselves."""
    json: bool = False
    """Print one JSON object instead of the table."""

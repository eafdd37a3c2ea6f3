"""A run shown in TensorBoard, Weights & Biases or Trackio, by Accelerate's trackers; everything lands under RUN/track.

    tensorboard --logdir RUN/track/tensorboard
    wandb sync RUN/track/wandb/offline-run-*
    TRACKIO_DIR=RUN/track/trackio trackio show

A tracker is a convenience: where one fails it is said once, and the training goes on. `log.jsonl` remains the truth.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from ...console import say
from ...files.typed import read_json
from ..run_folder import write_json
from .accelerate_trackers import OPENING

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from .accelerate_trackers import Histograms, Opened, Scalars

    Picture = np.ndarray | Callable[[], np.ndarray]

LAST = "_histogram"  # ends the names of histograms: shares of the bins that cut [-1, 1] into equal parts

Spared = Callable[[str], contextlib.AbstractContextManager[None]]


class Tracking(NamedTuple):
    """What a training tells its trackers. Nothing here raises, and on other processes than the main one nothing happens."""

    scalars: Callable[[Mapping[str, Any], int], None]
    """Values of a step: numbers that are finite, and histograms; anything else is left out."""
    pictures: Callable[[Mapping[str, Picture], int], None]
    """Pictures of a step, uint8 [height, width, 3], or functions that draw them: what cannot be drawn is said once."""


def installed(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is not known or not installed; imports none."""
    for name in names:
        if name not in OPENING:
            raise ValueError(f"no tracker is called {name!r}: use {', '.join(OPENING)}")
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name in the working directory is no package
            extra = "trackio" if name == "trackio" else "track"
            raise ValueError(f'{name} is not installed: pip install "viewmill[{extra}]", or pip install {name}')


@contextlib.contextmanager
def tracked(
    names: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    accelerator: Accelerator,
    *,
    step: int,
    warn: Callable[[str], None] = say,
) -> Iterator[Tracking]:
    """Yields the trackers `names` of the run in `out`, which has done `step` steps; with no names nothing is imported.

    Weights & Biases runs offline unless the user is logged in or WANDB_MODE says otherwise, and offline too where its server
    does not answer. A run that continues keeps its identity there, and its steps are shown once.

    Raises:
        ValueError: for a tracker that is not known or not installed, on every process.
    """
    installed(names)
    if not names or not accelerator.is_main_process:
        yield Tracking(lambda values, step: None, lambda pictures, step: None)
        return
    spared, running = _sparing(warn), {}
    from .accelerate_trackers import Run

    try:
        for name in names:
            with spared(name):
                run = Run(out.resolve() / "track", settings, _identity(out), step, warn)
                running[name] = OPENING[name](run)
        yield _telling(running, spared)
    finally:
        for name, tracker in running.items():
            with spared(name), contextlib.redirect_stdout(io.StringIO()):
                tracker.finish()


def _sparing(warn: Callable[[str], None]) -> Spared:
    """A context in which what fails is said, once for each name."""
    told = set[str]()

    @contextlib.contextmanager
    def spared(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker raises: it is no reason to end a training
            if name not in told:
                told.add(name)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warn(f"{name}: {reason}; the training goes on")

    return spared


def _telling(running: dict[str, Opened], spared: Spared) -> Tracking:
    def scalars(values: Mapping[str, Any], step: int) -> None:
        numbers, histograms = _numbers(values), _histograms(values)
        for name, tracker in running.items():
            with spared(name):
                tracker.log(numbers, histograms, step)

    def pictures(shown: Mapping[str, Picture], step: int) -> None:
        if not running:
            return
        import numpy as np

        drawn: dict[str, np.ndarray] = {}
        for name, picture in shown.items():
            with spared(name):
                drawn[name] = picture if isinstance(picture, np.ndarray) else picture()
        for name, tracker in running.items():
            with spared(name):
                tracker.show(drawn, step)

    return Tracking(scalars, pictures)


class Identity(Struct, frozen=True):
    """What is kept under RUN/track/identity.json."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]


def _identity(out: Path) -> str:
    """The run's name with the trackers: as its folder was called, and eight digits, kept under RUN/track."""
    path = out / "track" / "identity.json"
    with contextlib.suppress(OSError, ValueError):
        return read_json(path, Identity).name
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in out.resolve().name
    )
    name = f"{plain[:40]}-{secrets.token_hex(4)}"
    write_json(path, {"name": name})
    return name


def _numbers(values: Mapping[str, Any]) -> Scalars:
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def _histograms(values: Mapping[str, Any]) -> Histograms:
    import numpy as np

    found: Histograms = {}
    for name, value in values.items():
        if name.endswith(LAST) and isinstance(value, list) and value and all(map(math.isfinite, value)):
            found[name] = np.array(value), np.linspace(-1, 1, len(value) + 1)
    return found

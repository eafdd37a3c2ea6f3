"""What an engine is: rows + plan -> uint8 crops, and how one is chosen by name."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from .beton import Beton
from .plan import ViewPlan

Then = Callable[[int, int], None]
"""What follows on the images `begin` to `end` of a batch once they are cut, on the thread that cut them."""


def nothing(begin: int, end: int) -> None:
    """The Then of crops that nothing follows on."""


class Engine(Protocol):
    """Decodes rows and cuts their views, on the host. Not safe for two callers at a time; close it when done."""

    def crops(self, row_B: np.ndarray, plan: ViewPlan, outs: tuple[np.ndarray, ...], then: Then = nothing) -> np.ndarray:
        """Fill `outs` (one uint8 [views, B, S, S, 3] per group of the recipe); returns valid_B, False where unreadable."""
        ...

    def close(self) -> None:
        """Let go of threads and files."""
        ...


class Status(NamedTuple):
    """Whether an engine works here, where its stages run, and if it does not, why and which command mends it."""

    name: str
    works: bool
    stages: str
    reason: str


def _ffcv(beton: Beton, threads: int) -> Engine:
    from .decode_ffcv import FfcvEngine

    return FfcvEngine(beton, threads)


def _torch(beton: Beton, threads: int) -> Engine:
    from .decode_torch import TorchEngine

    return TorchEngine(beton, threads)


# A constructor imports its engine's libraries only when that engine is asked for.
ENGINES: dict[str, Callable[[Beton, int], Engine]] = {"ffcv": _ffcv, "torch": _torch}
STAGES = {
    "ffcv": "decode: cores (libjpeg-turbo); crops: cores; colour: device",
    "torch": "decode: cores (Pillow); crops: cores; colour: device",
}


def choose(name: str) -> str:
    """The engine that `name` stands for: itself, or for "auto" the first of ENGINES that works here."""
    if name in ENGINES:
        return name
    if name != "auto":
        raise ValueError(f"no engine is called {name!r}: use auto, {', '.join(ENGINES)}")
    return next(status.name for status in survey() if status.works)


def survey() -> list[Status]:
    """Every engine and whether it works here."""
    from . import native

    try:
        native.library()
        fault = ""
    except native.EngineUnavailable as error:
        fault = str(error)
    return [Status("ffcv", not fault, STAGES["ffcv"], fault), Status("torch", True, STAGES["torch"], "")]

"""What an engine is: rows + plan -> uint8 crops, and how one is chosen by name."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..beton.reader import Beton
from ..views.plan import ViewPlan

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


class Kind(NamedTuple):
    """An engine before it is loaded: its libraries are imported only when it is asked for."""

    stages: str
    """Where they run, in words."""
    module: str
    """In this folder, with the engine's class and, where it can be missing, a function `fault`."""
    name: str
    """Of the class, whose constructor takes a Beton, a number of threads and `options`."""
    options: Mapping[str, Any] = {}

    def make(self, beton: Beton, threads: int) -> Engine:
        """The engine over a data set."""
        return getattr(self._module(), self.name)(beton, threads, **self.options)

    def fault(self) -> str:
        """Why it does not work here and what mends it; "" where it does."""
        return getattr(self._module(), "fault", lambda **options: "")(**self.options)

    def _module(self) -> Any:
        return import_module(self.module, __package__)


ENGINES: dict[str, Kind] = {
    "ffcv": Kind("decode: cores (libjpeg-turbo); crops: cores", ".ffcv_engine", "FfcvEngine"),
    "torch": Kind("decode: cores (Pillow); crops: cores", ".torch_engine", "TorchEngine"),
    "dali-cpu": Kind("decode: cores (DALI); crops: cores", ".dali_engine", "DaliEngine", {"device": "cpu"}),
    "dali-gpu": Kind("decode: GPU (nvJPEG); crops: GPU", ".dali_engine", "DaliEngine", {"device": "gpu"}),
}


def choose(name: str) -> str:
    """The engine that `name` stands for: itself, or for "auto" ffcv where it works, else torch, which always does.

    Training's "auto" is measure.engine_speeds.
    """
    if name in ENGINES:
        return name
    if name != "auto":
        raise ValueError(f"no engine is called {name!r}: use auto, {', '.join(ENGINES)}")
    return "torch" if ENGINES["ffcv"].fault() else "ffcv"


def survey() -> list[Status]:
    """Every engine and whether it works here. Loads DALI, which takes 2 s."""
    faults = {name: kind.fault() for name, kind in ENGINES.items()}
    return [Status(name, not fault, ENGINES[name].stages, fault) for name, fault in faults.items()]

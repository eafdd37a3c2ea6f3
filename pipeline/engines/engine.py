"""What an engine is: rows + plan -> uint8 crops, and how one is chosen by name."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

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


def _ffcv(beton: Beton, threads: int) -> Engine:
    from .ffcv_engine import FfcvEngine

    return FfcvEngine(beton, threads)


def _torch(beton: Beton, threads: int) -> Engine:
    from .torch_engine import TorchEngine

    return TorchEngine(beton, threads)


def _dali_cpu(beton: Beton, threads: int) -> Engine:
    from .dali_engine import DaliEngine

    return DaliEngine(beton, threads, device="cpu")


def _dali_gpu(beton: Beton, threads: int) -> Engine:
    from .dali_engine import DaliEngine

    return DaliEngine(beton, threads, device="gpu")


# A constructor imports its engine's libraries only when that engine is asked for.
ENGINES: dict[str, Callable[[Beton, int], Engine]] = {
    "ffcv": _ffcv,
    "torch": _torch,
    "dali-cpu": _dali_cpu,
    "dali-gpu": _dali_gpu,
}
STAGES = {
    "ffcv": "decode: cores (libjpeg-turbo); crops: cores",
    "torch": "decode: cores (Pillow); crops: cores",
    "dali-cpu": "decode: cores (DALI); crops: cores",
    "dali-gpu": "decode: GPU (nvJPEG); crops: GPU",
}


def choose(name: str) -> str:
    """The engine that `name` stands for: itself, or for "auto" ffcv where it works, else torch, which always does.

    Training's "auto" is measure.engine_speeds.
    """
    if name in ENGINES:
        return name
    if name != "auto":
        raise ValueError(f"no engine is called {name!r}: use auto, {', '.join(ENGINES)}")
    return "torch" if _ffcv_fault() else "ffcv"


def survey() -> list[Status]:
    """Every engine and whether it works here. Loads DALI, which takes 2 s."""
    faults = {"ffcv": _ffcv_fault(), "torch": "", "dali-cpu": _dali_fault("cpu"), "dali-gpu": _dali_fault("gpu")}
    return [Status(name, not fault, STAGES[name], fault) for name, fault in faults.items()]


def _ffcv_fault() -> str:
    from . import libffcv

    try:
        libffcv.library()
    except libffcv.EngineUnavailable as error:
        return str(error)
    return ""


def _dali_fault(device: str) -> str:
    from .dali_engine import fault

    return fault(device)

"""The commands and their settings: one frozen dataclass each. No torch here, so that `--help` is instant."""

from .data import Convert, Inspect, Split, Subset
from .training import Bench, Demo, Doctor, Methods, Train
from .worth import Evaluate

Command = Demo | Convert | Inspect | Subset | Split | Methods | Train | Evaluate | Bench | Doctor

__all__ = [
    "Bench",
    "Command",
    "Convert",
    "Demo",
    "Doctor",
    "Evaluate",
    "Inspect",
    "Methods",
    "Split",
    "Subset",
    "Train",
]

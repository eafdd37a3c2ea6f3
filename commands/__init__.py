"""The commands and their settings: one frozen dataclass each. No torch here, so that `--help` is instant."""

from .data import Convert, Inspect, Split, Subset
from .export import Export
from .report import Report
from .study import Study
from .training import Bench, Demo, Doctor, Methods, Train
from .transfer import Transfer
from .worth import Embed, Evaluate, Finetune

Command = (
    Demo
    | Convert
    | Inspect
    | Subset
    | Split
    | Methods
    | Train
    | Evaluate
    | Finetune
    | Transfer
    | Embed
    | Export
    | Report
    | Study
    | Bench
    | Doctor
)

__all__ = [
    "Bench",
    "Command",
    "Convert",
    "Demo",
    "Doctor",
    "Embed",
    "Evaluate",
    "Export",
    "Finetune",
    "Inspect",
    "Methods",
    "Report",
    "Split",
    "Study",
    "Subset",
    "Train",
    "Transfer",
]

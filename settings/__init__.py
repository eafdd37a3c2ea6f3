"""The settings of each command, as one frozen dataclass; commands/ has what is done with them.

No torch here, so that `--help` is instant.
"""

from typing import get_args

from .data import Convert, Inspect, Split, Subset
from .evaluation import Embed, Evaluate
from .export import Export
from .report import Report
from .study import Study
from .training import Bench, Demo, Doctor, Methods, Train
from .transfer import Finetune, Transfer

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

COMMANDS: tuple[type, ...] = get_args(Command)
NOTED = (Train, Finetune, Transfer)
"""Their settings are checked once their folder is known, where a refusal is noted in exit.json."""

__all__ = [
    "COMMANDS",
    "NOTED",
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

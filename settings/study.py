"""The command that compares methods over seeds."""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Study:
    """Train methods x seeds as a TOML file says, evaluate each, and compare them; the same command again continues.

    Results are JSON lines, from which a table (Markdown, with paired differences to base methods) and a picture are made.
    """

    file: tyro.conf.Positional[Path]
    """The study: a .toml, as those of studies/."""
    part: str = ""
    """Which share of the trainings this start makes, for jobs of an array: 2/8 is every eighth from the second on."""
    table: bool = False
    """Make the table and the picture anew from the results that are there, and train nothing."""
    results: Path | None = None
    """A .jsonl for results, table and picture instead of the study's own, to make everything a second time."""
    keep_checkpoints: bool = False
    """Keep checkpoints of runs that have been evaluated; without, their configuration, log and results stay alone."""

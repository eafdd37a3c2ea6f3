"""The command that makes a page about runs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from .ranges import FromZero


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one HTML page about one or several runs: curves, results, views, neighbours, a map; all it needs is a browser.

    The runs' folders are only read; a run that is still under way can be looked at too.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trainings; several are shown side by side."""
    out: Path = Path("report.html")
    """The page to write. A page that this command made is made anew; anything else there needs --overwrite."""
    overwrite: bool = False
    """Replace a file that is no such page."""
    data: Path | None = None
    """Where the images that were trained on lie now, if not where they were: a .beton or a folder."""
    images: FromZero = 2000
    """Images that are taken for neighbours and map, at most; 0 leaves out all that needs the images and the encoder."""

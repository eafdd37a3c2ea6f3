"""`viewmill split`: the rows of a .beton as two files."""

import os

import numpy as np

from ..console import counting, say
from ..errors import refusing
from ..pipeline.beton import select
from ..pipeline.beton.manifest import open_trusted
from ..settings import Split
from .subset import chosen_rows


def split(config: Split) -> int:
    """Write the chosen rows, and all others."""
    with refusing(), counting("splitting") as progress:
        if os.path.abspath(config.target) == os.path.abspath(config.rest):
            raise ValueError(f"both parts would be written to {config.target}: name two files")
        beton = open_trusted(config.source)
        rows = chosen_rows(beton, config)
        rest = np.setdiff1d(np.arange(len(beton)), rows)
        for chosen, target in ((rows, config.target), (rest, config.rest)):
            select.check_part(beton, chosen, target, overwrite=config.overwrite)
        for chosen, target in ((rows, config.target), (rest, config.rest)):
            select.copy_rows(beton, chosen, target, overwrite=config.overwrite, progress=progress)
    say(f"{config.target}: {len(rows):,} rows; {config.rest}: {len(rest):,} rows")
    return 0

"""`viewmill subset`: some rows of a .beton as a file of their own."""

import numpy as np

from ..console import counting, say
from ..errors import refusing
from ..pipeline.beton import select
from ..pipeline.beton.manifest import classes_of, open_trusted
from ..pipeline.beton.reader import Beton
from ..settings import Split, Subset


def subset(config: Subset) -> int:
    """Write the chosen rows."""
    with refusing(), counting(f"writing {config.target}") as progress:
        beton = open_trusted(config.source)
        rows = chosen_rows(beton, config)
        select.copy_rows(beton, rows, config.target, overwrite=config.overwrite, progress=progress)
    say(f"{config.target}: {len(rows):,} of {len(beton):,} rows")
    return 0


def chosen_rows(beton: Beton, config: Subset | Split) -> np.ndarray:
    """[M] rows that the flags choose; raises ValueError unless they do so in exactly one way."""
    asked = [config.fraction is not None, bool(config.labels), config.rows is not None]
    if sum(asked) != 1:
        raise ValueError("choose rows by exactly one of --fraction, --labels and --rows")
    if config.fraction is not None:
        return select.by_fraction(beton, config.fraction, seed=config.seed)
    if config.rows is not None:
        return select.by_list(beton, config.rows)
    return select.by_label(beton, config.labels, classes_of(beton))

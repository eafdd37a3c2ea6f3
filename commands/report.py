"""`viewmill report`: one page about one or several runs, that needs nothing but a browser."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import say
from ..errors import refusing
from ..files.opening import check_output, open_to_read, replacing
from ..methods.table import METHODS
from ..report.markup import MARK, size
from ..settings.report import Report

if TYPE_CHECKING:
    pass


def report(config: Report) -> int:
    """Write the page to `config.out`, whole or not at all; the folders of the runs are only read."""
    with refusing():
        if config.out.is_dir():
            raise ValueError(f"{config.out} is a folder: name the file to write, as --out {config.out / 'report.html'}")
        check_output(config.out, overwrite=config.overwrite or _own(config.out))
        from ..objectives.alarms import judged
        from ..report.page import page
        from ..report.read import read_runs

        runs = read_runs(config.runs, judge=judged)
        recipes = {name: method.recipe for name, method in METHODS.items()}  # which recipe is a method's own
        text = page(runs, images=config.images, data=config.data, recipes=recipes, now=time.time())
        write(config.out, text)
    of = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    say(f"a page about {of}: {config.out.absolute()} ({size(config.out.stat().st_size)})")
    return 0


def _own(path: Path) -> bool:
    """Whether a page of this command stands there: it holds nothing that the runs do not, and is made anew unasked."""
    try:
        with open_to_read(path) as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


def write(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; what is no character (of a file name) becomes "?"."""
    with replacing(path.absolute()) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))

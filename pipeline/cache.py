"""Images that are no .beton as a data set: converted once, kept in the user's cache, found again while unchanged."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .beton import Beton
from .convert import convert, remarks_on
from .manifest import cache_folder, lacking, open_trusted, sidecars
from .sources.beside import TABLES
from .sources.candidate import Candidate, Span
from .sources.opened import is_source, items_of, open_sources
from .threads import usable_cores


def cached_path(source: Path) -> Path:
    """Where the .beton of `source` stands or would stand: named by the place, size and time of every file in it."""
    digest = hashlib.sha256(os.fsencode(source.resolve()))
    sources = open_sources([source])

    def note(path: str | Path) -> None:
        status = os.stat(path)
        digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())

    for path in [*(part.path for part in sources), *(source / name for name in TABLES)]:
        if path.is_file():
            note(path)
    for item in items_of(sources):
        if isinstance(item, Candidate) and isinstance(item.place, Span):
            note(item.place.path)
    return cache_folder() / f"{source.resolve().name}-{digest.hexdigest()[:16]}.beton"


def open_data(path: Path, *, progress: Callable[[int, int], None], say: Callable[[str], None]) -> Beton:
    """The .beton at `path`, or that of the images at `path`, converted now if they were not before."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a .beton file or images")
    if not is_source(path):
        beton = open_trusted(path, progress=progress)
        if said := lacking(beton):
            say(said)
        return beton
    target = cached_path(path)
    if not (target.exists() and sidecars(target)["manifest"].exists()):
        done = convert([path], target, overwrite=True, workers=usable_cores(), progress=progress)
        say(f"converted {path} once: {done.rows} images, {done.rejected} quarantined, in {target}")
        for line in remarks_on(done):
            say(line)
    return open_trusted(target, progress=progress)

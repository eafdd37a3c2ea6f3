"""Images that are no .beton as a data set: converted once, kept in the user's cache, found again while unchanged."""

import glob
import hashlib
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...files.locking import is_unused, mark_used
from ..beton.manifest import cache_folder, lacking, open_trusted, sidecars
from ..beton.reader import Beton
from ..sources.beside import TABLES
from ..sources.candidate import Candidate, Span
from ..sources.opened import is_source, items_of, open_sources
from ..threads import usable_cores
from .convert import convert, remarks_on


def cached_path(source: Path) -> Path:
    """Where the .beton of `source` stands or would stand: named by its place, and by size and times of every file in it.

    A file that is given other bytes can be given its size and time of modification too (cp -p, rsync -t, touch -r, git), but
    not the time at which that was done (ctime), which no one sets back. Numbers of inodes do not count: some network file
    systems give others at each mount. To read a file changes none of these; to link or move it costs a conversion.
    """
    digest = hashlib.sha256()
    sources = open_sources([source])

    def note(path: str | Path) -> None:
        status = os.stat(path)
        times = f"{status.st_mtime_ns}\0{status.st_ctime_ns}"
        digest.update(os.fsencode(path) + f"\0{status.st_size}\0{times}\0".encode())

    for path in [*(part.path for part in sources), *(source / name for name in TABLES)]:
        if path.is_file():
            note(path)
    for item in items_of(sources):
        if isinstance(item, Candidate) and isinstance(item.place, Span):
            note(item.place.path)
    return cache_folder() / f"{_stem(source)}-{digest.hexdigest()[:16]}.beton"


def _stem(source: Path) -> str:
    """What all versions of one source are called: the last part of its name, and a digest of the whole."""
    whole = source.resolve()
    return f"{whole.name[:100]}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]}"


def open_data(path: Path, *, progress: Callable[[int, int], None], say: Callable[[str], None]) -> Beton:
    """The .beton at `path`, or that of the images at `path`, converted now if they were not before.

    Of images that have changed the older version is removed, once the new one stands and where nobody reads the old.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a .beton file or images")
    if not is_source(path):
        beton = open_trusted(path, progress=progress)
        if said := lacking(beton):
            say(said)
        return beton
    target = cached_path(path)
    if not (target.exists() and sidecars(target)["manifest"].exists()):
        try:
            done = convert([path], target, overwrite=True, workers=usable_cores(), progress=progress)
        except OSError as error:
            own = f"viewmill convert {path} {path.resolve().name}.beton"
            raise OSError(
                f"{error}; images are converted into the user's cache: set XDG_CACHE_HOME to a folder with room that can be "
                f"written, or convert them to a place of your own ({own}) and name that file"
            ) from error
        say(f"converted {path} once: {done.rows} images, {done.rejected} quarantined, in {target}")
        for line in remarks_on(done):
            say(line)
        if removed := _remove_older(path, target):
            say(f"removed {removed} older version{'s' if removed > 1 else ''} of {path} from {target.parent}")
    beton = open_trusted(target, progress=progress)
    if (descriptor := mark_used(target)) is not None:
        weakref.finalize(beton, os.close, descriptor)
    return beton


def _remove_older(source: Path, target: Path) -> int:
    """Remove other versions of the same source from the cache, but for those that are read; returns how many."""
    count = 0
    for older in target.parent.glob(f"{glob.escape(_stem(source))}-*.beton"):
        if older == target or not is_unused(older):
            continue
        with suppress(OSError):
            for path in (*sidecars(older).values(), older):  # the manifest first: without it nothing counts as whole
                path.unlink(missing_ok=True)
            count += 1
    return count

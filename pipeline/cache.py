"""A folder as a data set: converted once, kept in the user's cache, found again while the folder stays as it was."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .beton import Beton, open_beton
from .convert import convert, sidecars
from .sources import TABLE, list_folder


def cached_path(folder: Path) -> Path:
    """Where the .beton of `folder` stands or would stand: named by the place, size and time of every file in it."""
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    table = [folder / TABLE] if (folder / TABLE).is_file() else []
    for path in list_folder(folder).files + table:
        status = path.stat()
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root, "viewmill", f"{folder.resolve().name}-{digest.hexdigest()[:16]}.beton")


def open_data(path: Path, *, progress: Callable[[int, int], None], say: Callable[[str], None]) -> Beton:
    """The .beton at `path`, or that of the folder at `path`, converted now if it was not before."""
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: name a .beton file or a folder of images")
        return open_beton(path)
    target = cached_path(path)
    if not (target.exists() and sidecars(target)["manifest"].exists()):
        done = convert(path, target, overwrite=True, progress=progress)
        say(f"converted {path} once: {done.rows} images, {len(done.rejected)} quarantined, in {target}")
    return open_beton(target)

"""How a command opens images: a .beton that is found sound, or other images, converted once; and what tells them apart."""

from pathlib import Path
from typing import Any

from ..console import counting, say
from ..errors import refusing
from .beton.manifest import read_manifest
from .beton.reader import Beton
from .sources.opened import Ambiguous, is_source


def open_images(path: Path) -> Beton:
    """A .beton that was found sound, or other images, converted once and cached."""
    from .conversion.cache import open_data

    doing = "converting" if is_source(path) else "verifying"
    with refusing(), counting(f"{doing} {path}") as progress:
        try:
            return open_data(path, progress=progress, say=say)
        except Ambiguous as error:
            raise ValueError(
                f"{error}. The flags are those of viewmill convert: convert it first, and name the .beton"
            ) from error


def told_apart(beton: Beton) -> dict[str, Any]:
    """What tells a data set from every other: rows and layout, stored bytes, and the manifest's hash where there is one."""
    known = {name: value for name, value in (read_manifest(beton.path) or {}).items() if name == "sha256"}
    return {"data_fingerprint": beton.fingerprint, "rows": len(beton), "stored_bytes": beton.sampled(), **known}


def size_of(count: int) -> str:
    """Bytes, to be read."""
    return f"{count / 2**20:,.1f} MiB"

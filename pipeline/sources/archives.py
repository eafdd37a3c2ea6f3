"""Tars and tables in a folder: which of them hold images, and which stand there for something else."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from .arrow_files import schema_names
from .candidate import Remark
from .columns import PATH_COLUMNS
from .kinds import HEAD, ending, is_image_name, looks_like_image
from .layout import Layout
from .readings import Ambiguous, Reading, ambiguous, some
from .tars import members_of, read

Holds = Literal["", "shards", "tables"]
NOT_USED = {"shards": "a shard of images, passed over", "tables": "a table of images, passed over"}
WITHOUT = "an archive without images, passed over"


def holds(path: Path, reading: Reading) -> Holds:
    """What an archive would be read as: "shards", "tables", or "" where it holds no image."""
    from .arrow import image_column_of

    if ending(path.name) == "tar":
        for member in members_of(path):
            if not member.fault and (is_image_name(member.name) or looks_like_image(read(member.place, HEAD))):
                return "shards"
        return ""
    try:
        if reading.image_column or reading.path_column or image_column_of(path):
            return "tables"
        return "tables" if set(schema_names(path)) & set(PATH_COLUMNS) else ""
    except Ambiguous:
        return "tables"


def beside_images(root: Path, layout: Layout, reading: Reading) -> Iterator[Remark]:
    """What to say of archives that lie beside a folder's images; raises Ambiguous where they may be what is meant."""
    held = {path: _held(path, reading) for path in layout.archives}
    found = [path for path, kind in held.items() if kind]
    if found and layout.images and reading.only == "any":
        images = f"{layout.images} image{'s' if layout.images > 1 else ''}"
        raise ambiguous(
            f"{root} holds {images} and, beside them, {some(os.path.relpath(path, root) for path in found)} with images in"
            f" {'them' if len(found) > 1 else 'it'}",
            "the images are meant: add --only images",
            *(
                f"{'the tar' if kind == 'shards' else 'the table'} is meant: add --only {kind}"
                for kind in dict.fromkeys(filter(None, held.values()))
            ),
        )
    for path, kind in held.items():
        yield Remark(path, NOT_USED.get(kind, WITHOUT))


def _held(path: str, reading: Reading) -> Holds:
    try:
        return holds(Path(path), reading)
    except ValueError:  # damaged, or compressed
        return ""

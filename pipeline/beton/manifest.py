"""The files beside a .beton: what it holds, where that came from, and whether it is still what was written.

OUT.beton.json               the manifest: counts, classes, settings, sha256; its presence says that a conversion is complete
OUT.beton.columns.csv        one line a row: row, file_name, and what the source told of each image
OUT.beton.quarantine.jsonl   what could not become a row: path and reason
OUT.beton.remarks.jsonl      what a person should know of rows, and of files that were passed over: path, kind, detail

The manifest holds the sha256 and the number of lines of the others: a table that was cut, sorted anew or left over from
another conversion is found as it is read. Manifests of format 2 know nothing of them: of their tables the rows are counted.
"""

import csv
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ...files.opening import make_text, open_text, open_to_read, partial, settle_name
from ...files.typed import Misfit, fitted, read_json
from .digests import cache_folder as cache_folder
from .digests import file_sha256, in_turn, seal_of
from .reader import Beton, InvalidBeton, open_beton

SETTLED_S = 2.0
FORMAT = 3
BOUND = 3  # the format from which on a manifest tells of the files beside it
BESIDE = ("columns", "quarantine", "remarks")
LOOKED_AT = 100  # manifests in a folder, for one that has lost its file


class Bound(Struct, frozen=True):
    """What a manifest says of a file beside it."""

    sha256: str
    rows: Annotated[int, Meta(ge=0)]


class Manifest(Struct, frozen=True):
    """What is read of a manifest."""

    format: Annotated[int, Meta(ge=1)] = 1
    rows: Annotated[int, Meta(ge=0)] = 0
    size_bytes: Annotated[int, Meta(ge=0)] = 0
    sha256: str = ""
    fingerprint: str = ""
    sources: list[str] = []
    classes: list[str] = []
    columns: list[str] = []
    settings: dict[str, Any] = {}
    sidecars: dict[str, Bound | None] = {}


def sidecars(target: Path) -> dict[str, Path]:
    """The files that stand beside a .beton."""
    return {
        "manifest": target.with_name(target.name + ".json"),
        "quarantine": target.with_name(target.name + ".quarantine.jsonl"),
        "columns": target.with_name(target.name + ".columns.csv"),
        "remarks": target.with_name(target.name + ".remarks.jsonl"),
    }


def write_manifest(target: Path, facts: dict[str, Any], *, beton: Path) -> None:
    """Write the manifest of what stands in `beton` and will be `target`, under its partial name.

    The other sidecars must stand under theirs: it is bound to them.
    """
    opened = open_beton(beton)
    own = {"rows": len(opened), "size_bytes": beton.stat().st_size, "sha256": file_sha256(beton, keep_cached=False)}
    beside = {name: _described(partial(path)) for name, path in sidecars(target).items() if name in BESIDE}
    content = {"format": FORMAT, **own, "fingerprint": opened.fingerprint, **facts, "sidecars": beside}
    with make_text(partial(sidecars(target)["manifest"])) as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def commit(written: Path, target: Path) -> None:
    """Give `written` and its sidecars their names, the manifest, which says that all is there, the last.

    Whatever stood beside an older target goes first: until the new sidecars stand, none is better.
    """
    with _undisturbed():
        for path in sidecars(target).values():
            path.unlink(missing_ok=True)
        os.replace(written, target)
        for name in ("columns", "quarantine", "remarks", "manifest"):
            path = sidecars(target)[name]
            if partial(path).exists():
                os.replace(partial(path), path)
        settle_name(target)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM have to wait for the milliseconds that this takes."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def read_manifest(target: Path) -> dict[str, Any] | None:
    """The manifest of `target`, None where there is none; raises InvalidBeton for one that cannot be read."""
    path = sidecars(target)["manifest"]
    try:
        content = read_json(path, dict[str, Any])
        version = fitted(content, Manifest, where=str(path)).format
    except FileNotFoundError:
        return None
    except Misfit as error:
        why = str(error).removeprefix(str(path)).lstrip(": ")
        raise InvalidBeton(f"{path} is damaged ({why}): convert the source of {target} again") from None
    if version > FORMAT:
        raise InvalidBeton(f"{path} has format {version}, and this version reads up to {FORMAT}: take a newer viewmill")
    return content


def manifest_of(beton: Beton) -> dict[str, Any] | None:
    """The same of a file that is open; raises InvalidBeton too where it is the manifest of another."""
    manifest = read_manifest(beton.path)
    if manifest is not None and manifest.get("fingerprint") != beton.fingerprint:
        raise InvalidBeton(
            f"{beton.path} is not what its manifest describes (rows, labels or sizes differ): convert its source again"
        )
    return manifest


def classes_of(beton: Beton) -> tuple[str, ...]:
    """The names of a file's classes, label 0 first; empty where its manifest has none, or where it has no manifest."""
    return tuple((manifest_of(beton) or {}).get("classes") or ())


def lacking(beton: Beton) -> str:
    """In words, what a file without a manifest is used without, and which one beside it is its own; "" where it has one."""
    path = sidecars(beton.path)["manifest"]
    if path.exists():
        return ""
    said = f"{beton.path} has no manifest ({path.name}): its classes have numbers alone, and its bytes are not checked"
    for other in islice(sorted(beton.path.absolute().parent.glob("*.beton.json")), LOOKED_AT):
        with suppress(OSError, ValueError):
            if (read_manifest(other.with_suffix("")) or {}).get("fingerprint") == beton.fingerprint:
                return f"{said}; {other.name} is that of the same images: copy or rename it, and what else is beside it, too"
    return f"{said}; if it was copied or renamed, do the same with the files beside it"


def read_columns(source: Path | Beton) -> dict[str, list[str]]:
    """The sidecar table of a .beton: column name -> one text per row; empty where there is none. Raises as `read_table`."""
    head, lines = read_table(source if isinstance(source, Beton) else open_beton(source))
    return {name: [line[place] for line in lines] for place, name in enumerate(head)} if lines else {}


def read_table(beton: Beton) -> tuple[list[str], list[list[str]]]:
    """The names of the table's columns, and its cells, one line a row; both empty where there is none.

    Raises InvalidBeton where it is not the table that the manifest was written with, or not one line for each row in order.
    """
    path = check_sidecar(beton, "columns")
    if path is None:
        return [], []
    remedy = "put back the one that it was written with, or convert its source again"
    with open_text(path, errors="surrogateescape", newline="") as file:
        try:
            head, *lines = list(islice(csv.reader(file), len(beton) + 2)) or [[]]  # one more than fits is enough to tell
        except csv.Error as error:
            raise InvalidBeton(f"{path} is no table of {beton.path} ({error}): {remedy}") from None
    if head[:1] != ["row"]:
        raise InvalidBeton(f"{path} is no table of {beton.path}, its first column is not called row: {remedy}")
    if len(lines) != len(beton):
        count = "more" if len(lines) > len(beton) else f"{len(lines):,}"
        raise InvalidBeton(f"{path} has {count} lines, {beton.path} has {len(beton):,} rows: {remedy}")
    for row, line in enumerate(lines):
        if len(line) != len(head) or line[0] != str(row):
            said = f"row {line[0][:20]!r}" if line and line[0] != str(row) else f"{len(line)} cells in place of {len(head)}"
            raise InvalidBeton(f"{path} does not list the rows of {beton.path} in order, row {row} has {said}: {remedy}")
    return head, lines


def check_sidecar(beton: Beton, name: str) -> Path | None:
    """Where the sidecar `name` (one of BESIDE) of a file stands, None where it has none.

    Raises InvalidBeton where it is not the one that the manifest was written with, which manifests of format 2 do not say.
    """
    path, manifest = sidecars(beton.path)[name], manifest_of(beton)
    there = path.is_file()
    if manifest is None or manifest.get("format", 0) < BOUND:
        return path if there else None
    bound = (manifest.get("sidecars") or {}).get(name)
    if bound is None and not there:
        return None
    if bound is None:
        raise InvalidBeton(f"{path} does not belong to {beton.path}, which was written without one: remove it")
    if not there:
        raise InvalidBeton(
            f"{path} is missing, and {beton.path} was written with one: copy it too, or convert its source again"
        )
    if file_sha256(path) != bound.get("sha256"):
        lines = f"of {bound.get('rows', 0):,} lines"
        raise InvalidBeton(
            f"{path} is not the file {lines} that {beton.path} was written with (its sha256 differs): "
            "put back that one, or convert its source again"
        )
    return path


def _described(path: Path) -> dict[str, Any] | None:
    """What binds a manifest to the file beside it: its sha256, and how many lines it has besides its head."""
    if not path.exists():
        return None
    with open_to_read(path) as file:
        if path.name.endswith(".csv.partial"):
            text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")  # closed with the file
            lines = sum(1 for _ in csv.reader(text)) - 1
        else:
            lines = sum(1 for _ in file)
    return {"sha256": file_sha256(path), "rows": lines}


def open_trusted(path: Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Beton:
    """Open `path` after its manifest, where it has one, has been found true: structure each time, sha256 once.

    The sha256 takes a second for 1.5 GB; that it held is remembered in the user's cache for this very file (inode, size,
    time). Raises InvalidBeton where anything differs.
    """
    beton = open_beton(path)
    manifest = manifest_of(beton)
    if manifest is None:
        return beton
    status = path.stat()
    seal = seal_of(status, str(manifest.get("sha256")))
    # A file that has just been written may change again under the same time: clocks of file systems tick by 4 ms to 2 s.
    settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    with in_turn(seal.with_suffix(".lock")):
        if not seal.exists():
            verify_sha256(path, manifest, progress=progress)
            with suppress(OSError):  # a read-only home: the next start reads the file again
                if settled:
                    seal.touch()
    return beton


def verify_sha256(
    path: Path, manifest: dict[str, Any], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Raise InvalidBeton where the bytes of `path` are not those that `manifest` was written for."""
    if file_sha256(path, progress=progress) != manifest.get("sha256"):
        raise InvalidBeton(f"{path} is damaged: its sha256 is not its manifest's; convert its source again")

"""The files beside a .beton: what it holds, where that came from, and whether it is still what was written.

OUT.beton.json               the manifest: counts, classes, settings, sha256; its presence says that a conversion is complete
OUT.beton.columns.csv        one line a row: row, file_name, and what the source told of each image
OUT.beton.quarantine.jsonl   what could not become a row: path and reason
OUT.beton.remarks.jsonl      what a person should know of rows, and of files that were passed over: path, kind, detail
"""

import csv
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..files.locking import hold
from ..files.opening import descriptor_to_change, descriptor_to_read, make_text, open_text, partial, settle_name
from .beton import Beton, InvalidBeton, open_beton

READ_SIZE = 1 << 22
SETTLED_S = 2.0
FORMAT = 2


def sidecars(target: Path) -> dict[str, Path]:
    """The files that stand beside a .beton."""
    return {
        "manifest": target.with_name(target.name + ".json"),
        "quarantine": target.with_name(target.name + ".quarantine.jsonl"),
        "columns": target.with_name(target.name + ".columns.csv"),
        "remarks": target.with_name(target.name + ".remarks.jsonl"),
    }


def file_sha256(
    path: Path, *, keep_cached: bool = True, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """The sha256 of a file; `progress(done, total)` counts MiB. Without `keep_cached` its pages are let go of again."""
    digest = sha256()
    with os.fdopen(descriptor_to_read(path), "rb", buffering=0) as file:
        total, done = os.fstat(file.fileno()).st_size, 0
        buffer = bytearray(READ_SIZE)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            if not keep_cached:
                os.posix_fadvise(file.fileno(), done, count, os.POSIX_FADV_DONTNEED)
            done += count
            progress(done >> 20, total >> 20)
    return digest.hexdigest()


def write_manifest(target: Path, facts: dict[str, Any], *, beton: Path) -> None:
    """Write the manifest of what stands in `beton` and will be `target`, under its partial name."""
    opened = open_beton(beton)
    own = {"rows": len(opened), "size_bytes": beton.stat().st_size, "sha256": file_sha256(beton, keep_cached=False)}
    content = {"format": FORMAT, **own, "fingerprint": opened.fingerprint, **facts}
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InvalidBeton(f"{path} is damaged ({error}): convert the source of {target} again") from None
    if not isinstance(content, dict):
        raise InvalidBeton(f"{path} is damaged (no object): convert the source of {target} again")
    return content


def read_columns(target: Path) -> dict[str, list[str]]:
    """The sidecar table of a .beton: column name -> one text per row; empty where there is none."""
    path = sidecars(target)["columns"]
    if not path.is_file():
        return {}
    with open_text(path, errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def open_trusted(path: Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Beton:
    """Open `path` after its manifest, where it has one, has been found true: structure each time, sha256 once.

    The sha256 takes a second for 1.5 GB; that it held is remembered in the user's cache for this very file (inode, size,
    time). Raises InvalidBeton where anything differs.
    """
    beton, manifest = open_beton(path), read_manifest(path)
    if manifest is None:
        return beton
    if manifest.get("fingerprint") != beton.fingerprint:
        raise InvalidBeton(
            f"{path} is not what its manifest describes (rows, labels or sizes differ): convert its source again"
        )
    status = path.stat()
    seal = _seal(status, str(manifest.get("sha256")))
    # A file that has just been written may change again under the same time: clocks of file systems tick by 4 ms to 2 s.
    settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    with _turn(seal.with_suffix(".lock")):
        if not seal.exists():
            verify_sha256(path, manifest, progress=progress)
            with suppress(OSError):  # a read-only home: the next start reads the file again
                if settled:
                    seal.touch()
    return beton


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """One process at a time: of the ranks of a node the first reads the file, the others find it known."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = descriptor_to_change(lock, os.O_WRONLY)
            stack.callback(os.close, descriptor)
            hold(descriptor, lock, wait=True, unheld="each process reads the file for itself")
        yield


def verify_sha256(
    path: Path, manifest: dict[str, Any], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Raise InvalidBeton where the bytes of `path` are not those that `manifest` was written for."""
    if file_sha256(path, progress=progress) != manifest.get("sha256"):
        raise InvalidBeton(f"{path} is damaged: its sha256 is not its manifest's; convert its source again")


def cache_folder() -> Path:
    """Where this program keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "viewmill")


def _seal(status: os.stat_result, digest: str) -> Path:
    facts = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {digest}"
    return cache_folder() / "verified" / sha256(facts.encode()).hexdigest()[:32]

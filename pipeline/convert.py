"""Sources -> .beton + manifest: strict, in row order, the same bytes from any number of workers.

Workers decode and encode; this process alone writes, in the order of the listing. What cannot become a sample goes to
OUT.quarantine.jsonl with its reason, and the conversion goes on. OUT.beton appears complete or not at all; the manifest
OUT.beton.json says what it holds and where it came from.
"""

import csv
import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from .beton import MIN_PAGE_SIZE, ROW, Sample, open_beton
from .beton_writer import write_beton
from .sources import Listing, list_folder
from .still import Rejected, encode

CHUNK = 64  # files a task: at 32 px a file takes 0.3 ms, so the exchange between processes stays under 2 %
IN_FLIGHT = 4  # tasks a worker may be ahead of the writer: bounds memory to CHUNK x IN_FLIGHT encoded images each


class Converted(NamedTuple):
    """What a conversion did."""

    target: Path
    rows: int
    rejected: list[Rejected]
    classes: list[str]
    size_bytes: int
    seconds: float


def sidecars(target: Path) -> dict[str, Path]:
    """The files that stand beside a .beton."""
    return {
        "manifest": target.with_name(target.name + ".json"),
        "quarantine": target.with_name(target.name + ".quarantine.jsonl"),
        "columns": target.with_name(target.name + ".columns.csv"),
    }


def convert(
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    workers: int = 0,
    quality: int = 95,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Convert the image folder `source` to `target`; `workers` 0 means one per usable core.

    `progress(done, total)` is called as files are finished. Raises ValueError for a source without a usable image,
    FileExistsError for a target that stands already, OSError where the disk is too small or fails.
    """
    started = time.perf_counter()
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists: add --overwrite to replace it, or choose another name")
    listing = list_folder(source)
    _check_space(listing, target)
    rejected, kept = list(listing.rejected), []
    with closing(_encoded(listing, workers or len(os.sched_getaffinity(0)), quality)) as outcomes:
        samples = _sieve(outcomes, len(listing.files), rejected, kept, progress)
        first = next(samples, None)
        if first is None:
            raise ValueError(f"{source}: not one of {len(listing.files)} files is a usable image: {rejected[0].reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in sidecars(target).values():
            stale.unlink(missing_ok=True)
        rows = write_beton(target, _chain(first, samples), capacity=len(listing.files))
    _write_quarantine(sidecars(target)["quarantine"], rejected)
    _write_columns(sidecars(target)["columns"], listing, kept)
    _write_manifest(target, listing, rows, rejected, quality)
    seconds = time.perf_counter() - started
    return Converted(target, rows, rejected, listing.classes, target.stat().st_size, seconds)


def _chain(first: Sample, rest: Iterator[Sample]) -> Iterator[Sample]:
    yield first
    yield from rest


def _check_space(listing: Listing, target: Path) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    need = sum(path.stat().st_size for path in listing.files) + len(listing.files) * ROW.itemsize * 2 + MIN_PAGE_SIZE
    if need > free:
        raise OSError(f"{folder} has {free} bytes free; the {len(listing.files)} files need about {need}: make room first")


def _encode_chunk(paths: list[Path], labels: list[int], quality: int) -> list[Sample | Rejected]:
    return [encode(path, label, quality=quality) for path, label in zip(paths, labels, strict=True)]


def _encoded(listing: Listing, workers: int, quality: int) -> Generator[Sample | Rejected]:
    """What became of each file, in the order of the listing."""
    chunks = [
        (listing.files[start : start + CHUNK], listing.labels[start : start + CHUNK], quality)
        for start in range(0, len(listing.files), CHUNK)
    ]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield from _encode_chunk(*chunk)
        return
    # spawn, not fork: `train FOLDER` converts inside a process that already runs torch's threads
    pool = ProcessPoolExecutor(min(workers, len(chunks)), multiprocessing.get_context("spawn"))
    pending: deque[Future[list[Sample | Rejected]]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_encode_chunk, *chunk))
            if len(pending) > workers * IN_FLIGHT:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError("a conversion worker was killed (out of memory?): try again with --workers 1") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _sieve(
    outcomes: Iterator[Sample | Rejected],
    total: int,
    rejected: list[Rejected],
    kept: list[int],
    progress: Callable[[int, int], None],
) -> Iterator[Sample]:
    """Pass the samples on; note the rejected, and of each sample which file of the listing it was."""
    for position, outcome in enumerate(outcomes):
        progress(position + 1, total)
        if isinstance(outcome, Rejected):
            rejected.append(outcome)
        else:
            kept.append(position)
            yield outcome


def _write_quarantine(path: Path, rejected: list[Rejected]) -> None:
    if rejected:
        lines = [json.dumps({"path": item.path, "reason": item.reason}) for item in rejected]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_columns(path: Path, listing: Listing, kept: list[int]) -> None:
    """One line per row of the .beton, in row order: the source's metadata.csv, brought into that order."""
    if not listing.columns:
        return
    names = [listing.files[position].relative_to(listing.root).as_posix() for position in kept]
    columns = list(next(iter(listing.columns.values())))
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["row", "file_name", *columns], restval="")
        writer.writeheader()
        for row, name in enumerate(names):
            writer.writerow({"row": row, "file_name": name, **listing.columns.get(name, {})})


def _write_manifest(target: Path, listing: Listing, rows: int, rejected: list[Rejected], quality: int) -> None:
    with open(target, "rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    manifest = {
        "format": 1,
        "source": listing.root.name,
        "rows": rows,
        "rejected": len(rejected),
        "classes": listing.classes,
        "size_bytes": target.stat().st_size,
        "sha256": digest,
        "fingerprint": open_beton(target).fingerprint,
        "settings": {"quality": quality},
    }
    path = sidecars(target)["manifest"]
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_columns(target: Path) -> dict[str, list[str]]:
    """The sidecar table of a .beton: column name -> one text per row; empty where there is none."""
    path = sidecars(target)["columns"]
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}

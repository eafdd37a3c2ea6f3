"""Sources -> .beton + manifest: strict, in row order, the same bytes from any number of workers.

Workers fetch, decode and encode; this process alone writes, in the order of the listing. What cannot become a row goes to
OUT.beton.quarantine.jsonl with its reason, and the conversion goes on. OUT.beton appears complete or not at all.
"""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..files.opening import make_text, partial
from .beton import ALLOCATION, MIN_PAGE_SIZE, ROW, Sample
from .beton_writer import write_beton
from .encoding import Encoded, Encoding
from .manifest import commit, sidecars, write_manifest
from .sources.candidate import Candidate, Rejected
from .sources.opened import Reading, items_of, open_sources
from .survey import Survey, survey
from .target import check_target, placing, remove_partials
from .workers import Outcome, encoded, warm_up

CELL = 100_000  # letters of a cell of the table: Python's own reader of such tables stops at 131,072


class Estimate(NamedTuple):
    """What a conversion will probably take, from encoding some images that are spread over the sources."""

    images: int
    classes: int
    size_bytes: int
    seconds: float
    target: Path


class Converted(NamedTuple):
    """What a conversion did."""

    target: Path
    rows: int
    rejected: int
    first_rejected: list[Rejected]
    classes: list[str]
    size_bytes: int
    seconds: float


def _ignore(*_: Any) -> None:
    pass


def convert(
    paths: Sequence[Path],
    target: Path,
    *,
    encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
    reading: Reading = Reading(),  # noqa: B008
    overwrite: bool = False,
    workers: int = 0,
    max_bad: float | None = None,
    announce: Callable[[Estimate], None] = _ignore,
    progress: Callable[[int, int], None] = _ignore,
) -> Converted:
    """Convert the sources `paths`, as one, to `target`.

    Args:
        workers: processes that decode; 0 for this one alone, which spawns nothing but dies with an image that kills it.
        max_bad: how many unusable images are borne: a share below 1, a number from 1 on; None for any.
        announce: called once, before anything is written.
        progress: called as `progress(done, total)` as images are finished.

    Raises ValueError for sources without a usable image or with too many unusable ones, FileExistsError for a target that
    stands already, OSError where the disk is too small or fails.
    """
    started = time.perf_counter()
    check_target(target, overwrite=overwrite)
    if workers:
        _warm_up(target)
    sources = open_sources(paths, reading)
    found = survey(sources)
    # One crew for both: the images of the estimate go through it first.
    outcomes = encoded(chain(found.spread, items_of(sources)), encoding, workers=workers)
    with closing(outcomes), ExitStack() as stack:
        estimate = _estimate(found, islice(outcomes, len(found.spread)), target)
        _check_space(estimate)
        announce(estimate)
        stack.enter_context(placing(target))
        sieve = _Sieve(found, target, max_bad, progress, stack)

        def publish(written: Path, target: Path) -> None:
            sieve.close()
            names = [str(path) if len(paths) > 1 else path.name for path in paths]
            write_manifest(target, _facts(found, names, encoding, sieve.rejected), beton=written)
            commit(written, target)

        rows = write_beton(target, sieve.samples(outcomes), capacity=found.images, publish=publish)
    seconds = time.perf_counter() - started
    size = target.stat().st_size
    return Converted(target, rows, sieve.rejected, sieve.first_rejected, found.classes, size, seconds)


def _warm_up(target: Path) -> None:
    try:
        warm_up()
    except OSError as error:  # a full temporary folder
        remedy = "make room in the temporary folder, or add --workers 0"
        raise OSError(f"{target} is not written: the processes that decode do not start ({error}); {remedy}") from error


def _facts(found: Survey, names: list[str], encoding: Encoding, rejected: int) -> dict[str, Any]:
    return {
        "sources": names,
        "source_fingerprint": found.fingerprint,
        "rejected": rejected,
        "classes": found.classes,
        "columns": found.columns,
        "settings": encoding._asdict(),
        "versions": {name: _version(name) for name in ("viewmill", "pillow", "numpy", "ffcv")},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _estimate(found: Survey, outcomes: Iterator[Outcome], target: Path) -> Estimate:
    """From what became of `found.spread`; the first half is not timed, since it waits for the processes."""
    stored, started, timed, untimed = 0, 0.0, 0, len(found.spread) // 2
    for number, outcome in enumerate(outcomes, start=1):
        if number == untimed:
            started = time.perf_counter()
        timed = max(0, number - untimed)
        if not isinstance(outcome, Rejected):
            candidate, result = outcome
            stored += candidate.size if result.data is None else len(result.data)
    each = (time.perf_counter() - started) / timed if timed else 0.0
    size = stored * found.images // len(found.spread) + found.images * (ROW.itemsize + ALLOCATION.itemsize) + MIN_PAGE_SIZE
    classes = len(found.classes) or len(found.number.keys() - {None})
    return Estimate(found.images, classes, size, each * found.images, target)


def _check_space(estimate: Estimate) -> None:
    folder = next(parent for parent in estimate.target.absolute().parents if parent.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and estimate.size_bytes > free:  # ramfs knows no size
        need = f"the {estimate.images} images need about {estimate.size_bytes}"
        raise OSError(f"{folder} has {free} bytes free; {need}: make room first")


class _Sieve:
    """Passes the samples on, and writes down what each row was and why others did not become one."""

    SHOWN = 5

    def __init__(
        self,
        found: Survey,
        target: Path,
        max_bad: float | None,
        progress: Callable[[int, int], None],
        stack: ExitStack,
    ) -> None:
        self._found, self._target, self._progress, self._stack = found, target, progress, stack
        self._limit = max_bad if max_bad is None or max_bad >= 1 else int(max_bad * found.images)
        self._files: dict[str, TextIO] = {}
        self.rejected, self.first_rejected = 0, list[Rejected]()

    def samples(self, outcomes: Iterator[Outcome]) -> Iterator[Sample]:
        """The samples among `outcomes`; raises ValueError where none is left, or more are unusable than are borne."""
        remove_partials(self._target)  # what a killed conversion left
        columns = csv.writer(self._open("columns"))
        columns.writerow(["row", "file_name", *self._found.columns])
        row, count = 0, self._found.images
        for outcome in outcomes:
            if isinstance(outcome, Rejected):
                self._reject(outcome)
            elif (data := _bytes_of(*outcome)) is None:
                self._reject(Rejected(outcome[0].path, "the file changed while it was being converted"))
            elif outcome[0].label not in self._found.number:
                self._reject(Rejected(outcome[0].path, "its class came while the source was being converted: convert again"))
            elif row == count:
                raise ValueError(f"{outcome[0].path} came while the source was being converted: convert it again")
            else:
                candidate, result = outcome
                columns.writerow([row, *(text[:CELL] for text in (candidate.name, *candidate.facts))])
                row += 1
                yield Sample(result.mode, result.width, result.height, self._found.number[candidate.label], data)
            self._progress(min(row + self.rejected, count), count)
        if not row:
            path, reason = self.first_rejected[0]
            raise ValueError(f"not one of {count} files is a usable image: the first, {path}: {reason}")

    def _open(self, sidecar: str) -> TextIO:
        path = partial(sidecars(self._target)[sidecar])
        # newline: csv and json lines end their own lines; errors: what is no Unicode is shown by its code
        file = self._stack.enter_context(make_text(path, errors="backslashreplace", newline=""))
        self._files[sidecar] = file
        return file

    def _reject(self, item: Rejected) -> None:
        self.rejected += 1
        if self.rejected <= self.SHOWN:
            self.first_rejected.append(item)
        file = self._files.get("quarantine") or self._open("quarantine")
        file.write(json.dumps(item._asdict()) + "\n")
        if self._limit is not None and self.rejected > self._limit:
            shown = "; ".join(f"{path}: {reason}" for path, reason in self.first_rejected)
            raise ValueError(
                f"{self.rejected} of {self._found.images} files are unusable, more than --max-bad bears: {shown}"
            )

    def close(self) -> None:
        """Bring what was written down to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def _bytes_of(candidate: Candidate, result: Encoded) -> bytes | None:
    """What the row holds; None where it is the candidate's own bytes and these are no longer those that were checked."""
    if result.data is not None:
        return result.data
    try:
        content, stamp = candidate.place.fetch()
    except (OSError, ValueError):
        return None
    return content if isinstance(content, bytes) and stamp == result.stamp else None

"""Sources -> .beton + manifest: strict, in row order, the same bytes from any number of workers.

Workers fetch, decode and encode; this process alone writes, in the order of the listing. What cannot become a row goes to
OUT.beton.quarantine.jsonl with its reason, what there is to remark to OUT.beton.remarks.jsonl, and the conversion goes on.
OUT.beton appears complete or not at all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..beton.manifest import commit, sidecars, write_manifest
from ..beton.writer import write_beton
from ..sources.candidate import Rejected
from ..sources.opened import Reading, items_of, open_sources
from .encoding import Encoding
from .estimate import Estimate, check_space, estimate_of
from .sieve import Counted, Sieve
from .survey import Survey, survey
from .target import check_target, placing
from .workers import encoded, warm_up

KINDS_SHOWN = 12  # of remarks: all of them stand in the file


class Converted(NamedTuple):
    """What a conversion did."""

    target: Path
    rows: int
    rejected: int
    first_rejected: list[Rejected]
    remarks: dict[str, Counted]
    """By kind: of files that are used, and of files that were passed over."""
    classes: list[str]
    labels: int
    """How many classes there are, by name or by number."""
    unlabelled: int
    """Images that were listed without a label."""
    size_bytes: int
    seconds: float


def remarks_on(done: Converted) -> Iterator[str]:
    """What a person should be told of a conversion, a line each: its remarks by kind, then what was lost."""
    for kind, (count, first) in islice(done.remarks.items(), KINDS_SHOWN):
        detail = f" ({first.detail})" if first.detail else ""
        yield f"{count:,} files: {kind}; the first: {first.path}{detail}" if count > 1 else f"{first.path}: {kind}{detail}"
    if len(done.remarks) > KINDS_SHOWN:
        yield f"and remarks of {len(done.remarks) - KINDS_SHOWN} more kinds"
    if done.remarks:
        count = sum(counted.files for counted in done.remarks.values())
        yield f"all remarks ({count:,}): {sidecars(done.target)['remarks']}"
    for item in done.first_rejected:
        yield f"quarantined {item.path}: {item.reason}"
    if done.rejected:
        yield f"all quarantined, with their reasons ({done.rejected:,}): {sidecars(done.target)['quarantine']}"


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
    found = survey(sources, reading.case)
    # One crew for both: the images of the estimate go through it first.
    outcomes = encoded(chain(found.spread, items_of(sources)), encoding, workers=workers)
    with closing(outcomes), ExitStack() as stack:
        estimate = estimate_of(found, islice(outcomes, len(found.spread)), target, workers=workers)
        check_space(estimate)
        announce(estimate)
        stack.enter_context(placing(target))
        sieve = Sieve(found, target, max_bad, progress, stack)

        def publish(written: Path, target: Path) -> None:
            sieve.close()
            names = [str(path) if len(paths) > 1 else path.name for path in paths]
            write_manifest(target, _facts(found, names, encoding, sieve), beton=written)
            commit(written, target)

        rows = write_beton(target, sieve.samples(outcomes), capacity=found.images, publish=publish)
    seconds = time.perf_counter() - started
    size = target.stat().st_size
    rejected = (sieve.rejected, sieve.first_rejected)
    return Converted(
        target, rows, *rejected, sieve.remarks, found.classes, estimate.classes, found.unlabelled, size, seconds
    )


def _warm_up(target: Path) -> None:
    try:
        warm_up()
    except OSError as error:  # a full temporary folder
        remedy = "make room in the temporary folder, or add --workers 0"
        raise OSError(f"{target} is not written: the processes that decode do not start ({error}); {remedy}") from error


def _facts(found: Survey, names: list[str], encoding: Encoding, sieve: Sieve) -> dict[str, Any]:
    return {
        "sources": names,
        "source_fingerprint": found.fingerprint,
        "rejected": sieve.rejected,
        "remarks": {kind: counted.files for kind, counted in sieve.remarks.items()},
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

"""`convert`: images -> one .beton, and what a person is told of it."""

import math

from ..console import counting, duration, say, table
from ..errors import Refused, refusing
from ..pipeline.conversion.convert import convert as convert_sources
from ..pipeline.conversion.convert import remarks_on
from ..pipeline.conversion.encoding import Encoding
from ..pipeline.conversion.estimate import Estimate
from ..pipeline.datasets import size_of
from ..pipeline.sources.opened import Reading
from ..pipeline.threads import usable_cores
from ..settings import Convert

SURE = 0.05  # how far off an estimate may be that is said without more


def convert(config: Convert) -> int:
    """Convert, and print what became of the images."""
    if len(config.paths) < 2:
        raise Refused("name what to convert and the .beton to write: viewmill convert PHOTOS photos.beton")
    *sources, target = config.paths
    if target.suffix != ".beton":
        raise Refused(f"the last path is the file to write and must end in .beton, got {target}")
    with refusing(), counting("converting") as progress:
        done = convert_sources(
            sources,
            target,
            encoding=_encoding(config),
            reading=Reading(**{field: getattr(config, field) for field in Reading._fields}),
            overwrite=config.overwrite,
            workers=usable_cores() if config.workers is None else config.workers,
            max_bad=config.max_bad,
            announce=_announce,
            progress=progress,
        )
    rows = [
        ("images", f"{done.rows:,}"),
        ("classes", f"{done.labels:,}"),
        *([("without a label", f"{done.unlabelled:,}")] if done.labels and done.unlabelled else []),
        ("size", size_of(done.size_bytes)),
        ("time", f"{done.seconds:.1f} s, {done.rows / done.seconds:,.0f} images/s"),
        ("quarantined", f"{done.rejected:,}"),
        ("remarks", f"{sum(counted.files for counted in done.remarks.values()):,}"),
    ]
    table(str(done.target), ("", ""), rows)
    for line in remarks_on(done):
        say(line)
    return 0


def _encoding(config: Convert) -> Encoding:
    if config.grey_range is not None and not -math.inf < config.grey_range[0] < config.grey_range[1] < math.inf:
        low, high = config.grey_range
        raise Refused(f"--grey-range takes what is black and what is white, the smaller first, got {low:g} {high:g}")
    return Encoding(**{field: getattr(config, field) for field in Encoding._fields})


def _announce(estimate: Estimate) -> None:
    classes = f" in {estimate.classes} class{'es' if estimate.classes > 1 else ''}" if estimate.classes else ""
    size = size_of(estimate.size_bytes)
    if estimate.off_bytes > SURE * estimate.size_bytes:
        size += f", give or take {size_of(estimate.off_bytes)},"
    images = f"{estimate.images:,} image{'s' if estimate.images > 1 else ''}"
    say(f"{images}{classes} -> {estimate.target}: about {size} and {duration(max(1, estimate.seconds))}")

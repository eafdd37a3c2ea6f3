"""The commands that look at data sets and take parts of them: inspect, subset, split; and how any command opens one."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .commands import Inspect, Split, Subset
from .console import answer, bars, counting, say, table
from .errors import Refused, refusing
from .files.opening import check_output
from .pipeline.beton import examine, select
from .pipeline.beton.manifest import (
    BOUND,
    check_sidecar,
    classes_of,
    file_sha256,
    manifest_of,
    open_trusted,
    read_manifest,
    read_table,
    verify_sha256,
)
from .pipeline.beton.reader import Beton, open_beton
from .pipeline.sources.opened import Ambiguous, is_source
from .pipeline.threads import usable_cores

GRID_COLUMNS, GRID_ROWS, GRID_SIDE = 12, 6, 96
VIEW_COLUMNS, VIEW_ROWS = 8, 6


def open_images(path: Path) -> Beton:
    """A .beton that was found sound, or other images, converted once and cached."""
    from .pipeline.conversion.cache import open_data

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


def inspect(config: Inspect) -> int:
    """Print what a file holds; exit code 1 where images in it are damaged."""
    path = config.file
    with refusing():
        check_output(config.grid, overwrite=config.overwrite, endings=(".png", ".jpg", ".jpeg"))
        beton = open_beton(path)
        facts = examine.summary(beton)
        checks = {"structure": "sound"}
        if config.verify:
            checks["sha256"] = _verified(path)
        checks |= _sidecars_of(beton)
    damaged: list[tuple[int, str]] = []
    if config.deep:
        with counting(f"decoding {path}") as progress:
            damaged = list(examine.undecodable(beton, threads=usable_cores(), progress=progress))
        checks["images"] = f"{len(damaged)} of {len(beton)} damaged" if damaged else "all decode"
    if config.recipe:
        _show_views(beton, config)
        if config.plan:  # for a pipe: nothing but its lines
            return 0
    elif config.plan:
        raise Refused("--plan says what a recipe draws: add --recipe simclr, say")
    elif config.grid:
        _draw(beton, config.grid)
    histograms = {"label": examine.labels(beton), "shorter side": examine.sides(beton), "bytes": examine.weights(beton)}
    if config.json:
        shown = {name: [bin._asdict() for bin in bins] for name, bins in histograms.items()}
        answer(json.dumps({**facts, "checks": checks, "damaged": damaged, "histograms": shown}))
    else:
        _show(path, facts, checks)
        for name, bins in histograms.items():
            bars(name, bins)
        for row, fault in damaged[:10]:
            say(f"row {row}: {fault}")
    return 1 if damaged else 0


def _sidecars_of(beton: Beton) -> dict[str, str]:
    """That the files beside it are those that it was written with; raises ValueError where they are not."""
    manifest = manifest_of(beton)
    if manifest is None:
        return {
            "sidecars": "no manifest: classes have numbers alone, and nothing tells whether the bytes are the written ones"
        }
    read_table(beton)
    for name in ("quarantine", "remarks"):
        check_sidecar(beton, name)
    return {"sidecars": "as in the manifest" if manifest["format"] >= BOUND else "as many lines as rows"}


def _verified(path: Path) -> str:
    manifest = read_manifest(path)
    with counting(f"reading {path}") as progress:
        if manifest is None:
            return f"{file_sha256(path, progress=progress)}; there is no manifest to compare it with"
        verify_sha256(path, manifest, progress=progress)
    return "as in the manifest"


def _show(path: Path, facts: dict, checks: dict[str, str]) -> None:
    manifest = facts["manifest"] or {}
    rows = [
        ("rows", f"{facts['rows']:,} ({facts['labelled_rows']:,} with a label)"),
        ("stored as", f"{facts['jpeg_rows']:,} JPEG, {facts['raw_rows']:,} raw"),
        ("size", f"{size_of(facts['file_bytes'])}, pages of {size_of(facts['page_bytes'])}"),
        ("median image", f"{facts['width_median']}x{facts['height_median']} px, {facts['image_bytes_median']:,} bytes"),
        ("source", ", ".join(manifest.get("sources", [])) or "no manifest"),
        ("columns", ", ".join(manifest.get("columns", [])) or "none"),
        ("fingerprint", facts["fingerprint"][:16]),
        *checks.items(),
    ]
    table(str(path), ("", ""), rows)


def _draw(beton: Beton, target: Path) -> None:
    """Images that are spread evenly over the rows."""
    from .pipeline.views.picture import mosaic, originals, save

    count = min(len(beton), GRID_COLUMNS * GRID_ROWS)
    columns = min(count, GRID_COLUMNS)
    lines = count // columns
    row_B = np.linspace(0, len(beton) - 1, columns * lines).round().astype(np.int64)
    tiles = originals(beton, row_B, size=GRID_SIDE).reshape(lines, columns, GRID_SIDE, GRID_SIDE, 3)
    with refusing():
        save(mosaic(list(tiles.swapaxes(0, 1)), gaps_after=(), scale=1), target)
    say(f"drew {columns * lines} images: {target}")


def _show_views(beton: Beton, config: Inspect) -> None:
    """What a recipe makes of some images, as a picture and in numbers."""
    from .pipeline.views.picture import plan_lines, save, view_grid
    from .pipeline.views.plan import draw
    from .pipeline.views.recipe_file import recipe_of

    if not (config.grid or config.plan):
        raise Refused("--recipe needs --grid views.png, --plan, or both")
    with refusing():
        recipe = recipe_of(config.recipe, config.size)
        row_B = np.unique(np.linspace(0, len(beton) - 1, VIEW_ROWS).round().astype(np.int64))
        if config.plan:
            sizes = {"height_B": beton.height_N[row_B], "width_B": beton.width_N[row_B]}
            for line in plan_lines(draw(recipe, seed=config.seed, epoch=0, row_B=row_B, **sizes), row_B):
                answer(json.dumps(line))
        if config.grid:
            epochs = max(1, VIEW_COLUMNS // len(recipe.views))
            save(view_grid(beton, recipe, rows=row_B.tolist(), epochs=epochs, seed=config.seed), config.grid)
            say(f"drew {epochs * len(recipe.views)} views of {len(row_B)} images: {config.grid}")


def subset(config: Subset) -> int:
    """Write the chosen rows."""
    with refusing(), counting(f"writing {config.target}") as progress:
        beton = open_trusted(config.source)
        rows = _chosen(beton, config)
        select.copy_rows(beton, rows, config.target, overwrite=config.overwrite, progress=progress)
    say(f"{config.target}: {len(rows):,} of {len(beton):,} rows")
    return 0


def split(config: Split) -> int:
    """Write the chosen rows, and all others."""
    with refusing(), counting("splitting") as progress:
        if os.path.abspath(config.target) == os.path.abspath(config.rest):
            raise ValueError(f"both parts would be written to {config.target}: name two files")
        beton = open_trusted(config.source)
        rows = _chosen(beton, config)
        rest = np.setdiff1d(np.arange(len(beton)), rows)
        for chosen, target in ((rows, config.target), (rest, config.rest)):
            select.check_part(beton, chosen, target, overwrite=config.overwrite)
        for chosen, target in ((rows, config.target), (rest, config.rest)):
            select.copy_rows(beton, chosen, target, overwrite=config.overwrite, progress=progress)
    say(f"{config.target}: {len(rows):,} rows; {config.rest}: {len(rest):,} rows")
    return 0


def _chosen(beton: Beton, config: Subset | Split) -> np.ndarray:
    asked = [config.fraction is not None, bool(config.labels), config.rows is not None]
    if sum(asked) != 1:
        raise ValueError("choose rows by exactly one of --fraction, --labels and --rows")
    if config.fraction is not None:
        return select.by_fraction(beton, config.fraction, seed=config.seed)
    if config.rows is not None:
        return select.by_list(beton, config.rows)
    return select.by_label(beton, config.labels, classes_of(beton))

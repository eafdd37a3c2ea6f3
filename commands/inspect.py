"""`viewmill inspect`: what a .beton holds, whether it is sound, and pictures of it."""

import json
from pathlib import Path

import numpy as np

from ..console import answer, bars, counting, say, table
from ..errors import Refused, refusing
from ..files.opening import check_output
from ..pipeline.beton import examine
from ..pipeline.beton.manifest import (
    BOUND,
    check_sidecar,
    file_sha256,
    manifest_of,
    read_manifest,
    read_table,
    verify_sha256,
)
from ..pipeline.beton.reader import Beton, open_beton
from ..pipeline.datasets import size_of
from ..pipeline.threads import usable_cores
from ..settings import Inspect

GRID_COLUMNS, GRID_ROWS, GRID_SIDE = 12, 6, 96
VIEW_COLUMNS, VIEW_ROWS = 8, 6


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
    from ..pipeline.views.picture import mosaic, originals, save

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
    from ..pipeline.views.picture import plan_lines, save, view_grid
    from ..pipeline.views.plan import draw
    from ..pipeline.views.recipe_file import recipe_of

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

"""A part of a .beton as a file of its own: rows chosen by fraction, list or label, their bytes copied as they are."""

import csv
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...files.opening import make_text, open_to_read, partial, read_text
from ..conversion.target import check_target, placing, remove_partials
from .manifest import commit, manifest_of, read_columns, read_table, sidecars, write_manifest
from .reader import Beton, Sample
from .writer import write_beton


def by_fraction(beton: Beton, fraction: float, *, seed: int) -> np.ndarray:
    """int64: about `fraction` of the rows of every label, drawn by `seed`, in row order; at least one of each label."""
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction must lie between 0 and 1, got {fraction}")
    from .. import counter  # numba takes half a second to load

    draw_N = counter.wide(counter.Key(seed, counter.SUBSET, 0), np.arange(len(beton)))
    order_N = np.lexsort((draw_N, beton.label_N))
    _, first, count = np.unique(beton.label_N[order_N], return_index=True, return_counts=True)
    chosen = [order_N[start : start + max(1, round(fraction * number))] for start, number in zip(first, count, strict=True)]
    return np.sort(np.concatenate(chosen))


def by_label(beton: Beton, names: Collection[str], classes: Sequence[str]) -> np.ndarray:
    """int64: the rows of the classes `names`, each by name or by number."""
    labels = []
    for name in names:
        if name in classes:
            labels.append(classes.index(name))
        elif name.lstrip("-").isdecimal():
            labels.append(int(name))
        else:
            known = ", ".join(classes[:10]) or "numbers only"
            raise ValueError(f"{beton.path} has no class {name!r}; it has {known}")
    return np.flatnonzero(np.isin(beton.label_N, labels))


def by_list(beton: Beton, path: Path) -> np.ndarray:
    """int64: the rows listed in the text file `path`, one number or file name a line, in that order; each row once."""
    names = {name: row for row, name in enumerate(read_columns(beton).get("file_name", []))}
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        row = names.get(entry, int(entry) if entry.isdecimal() else -1)
        if not 0 <= row < len(beton):
            raise ValueError(
                f"{path}, line {number}: {entry!r} is no row of {beton.path} (0 to {len(beton) - 1}) and no file name"
            )
        rows.append(row)
    if len(set(rows)) != len(rows):
        raise ValueError(f"{path} lists a row twice")
    return np.array(rows, np.int64)


def check_part(beton: Beton, row_N: np.ndarray, target: Path, *, overwrite: bool) -> None:
    """Raise ValueError or FileExistsError where rows `row_N` of `beton` may not be written to `target`."""
    if not len(row_N):
        raise ValueError(f"{target} would hold no row of {beton.path}: choose others")
    if target.exists() and os.path.samefile(target, beton.path):
        raise ValueError(f"{target} is the file that is read: choose another name")
    check_target(target, overwrite=overwrite)


def copy_rows(
    beton: Beton,
    row_N: np.ndarray,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write rows `row_N` of `beton`, in that order, to `target`, with their columns and a column `source_row`.

    Labels keep their numbers, and the manifest its class names: an encoder evaluated on a part means the same classes.
    """
    check_part(beton, row_N, target, overwrite=overwrite)
    manifest, told = manifest_of(beton) or {}, read_table(beton)

    def samples() -> Iterator[Sample]:
        remove_partials(target)  # what a killed conversion left
        with open_to_read(beton.path) as file:
            for done, row in enumerate(row_N.tolist(), start=1):
                data = beton.read(file.fileno(), row)
                yield Sample(
                    int(beton.mode_N[row]), int(beton.width_N[row]), int(beton.height_N[row]), int(beton.label_N[row]), data
                )
                progress(done, len(row_N))

    def publish(written: Path, target: Path) -> None:
        _copy_columns(told, target, row_N)
        kept = {name: manifest[name] for name in ("classes", "columns", "settings") if name in manifest}
        source = {"sources": [beton.path.name], "source_fingerprint": beton.fingerprint, "rejected": 0}
        write_manifest(target, source | kept, beton=written)
        commit(written, target)

    with placing(target):
        write_beton(target, samples(), capacity=len(row_N), publish=publish)


def _copy_columns(told: tuple[list[str], list[list[str]]], target: Path, row_N: np.ndarray) -> None:
    """Write the table of `target`: the chosen lines of the source's."""
    head, lines = told
    names = [name for name in head[1:] if name != "source_row"]
    kept = [head.index(name) for name in names]
    with make_text(partial(sidecars(target)["columns"]), errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *names, "source_row"])
        for row, source_row in enumerate(row_N.tolist()):
            cells = [lines[source_row][at] for at in kept] if lines else []
            writer.writerow([row, *cells, source_row])
        file.flush()
        os.fsync(file.fileno())

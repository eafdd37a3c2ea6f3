"""A study as a picture: a panel a task and protocol, a dot a seed, bases beside their regions, floors as lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..journal.folder import replacing
from .table import Panel, Row

WIDE, ROW, AROUND = 9.0, 0.26, 1.0  # inches: of the picture, of a method, of a panel's frame; at 100 a 900 px picture
COLUMNS = 3
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, told apart by everyone
FLOORS = ((0, (1, 1)), (0, (5, 2)), (0, (4, 1, 1, 1)), (0, (8, 3)))
DARK = "#444444"


def draw(panels: Sequence[Panel], title: str, target: Path) -> None:
    """Draw panels to a .png of 1800 px width, meant to be shown at half of that; whole or not at all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    kinds = len(dict.fromkeys(panel.kind for panel in panels))
    columns = min(kinds if kinds > 1 else len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    names = list(dict.fromkeys(row.name for panel in panels for row in panel.rows if not row.floor))
    height = lines * (ROW * len(names) + AROUND) + 0.6
    with pyplot.rc_context({"font.size": 9}):
        figure, grid = pyplot.subplots(
            lines, columns, figsize=(WIDE, height), squeeze=False, sharey=True, layout="constrained"
        )
        for axes, panel in zip(grid.flat, panels, strict=False):
            _panel(axes, panel, names)
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("top-1 (%)")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=11)
        try:
            with replacing(target) as partial:
                figure.savefig(partial, format="png", dpi=200)
        finally:
            pyplot.close(figure)


def _panel(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    families = _families([row for row in panel.rows if not row.floor])
    axes.set_title(panel.title, fontsize=9)
    for place, row in enumerate(row for row in panel.rows if row.floor):
        style = FLOORS[place % len(FLOORS)]
        axes.axvline(100 * row.spread.mean, color=DARK, linestyle=style, linewidth=1, label=row.name, zorder=1)
    for row in panel.rows:
        if row.floor:
            continue
        y, colour = names.index(row.name), COLOURS[families[row.name] % len(COLOURS)]
        values = [100 * value for value in row.values.values()]
        face = colour if not row.base else "white"
        axes.scatter(values, [y] * len(values), s=26, facecolor=face, edgecolor=colour, linewidth=1.2, zorder=3)
        axes.plot([100 * row.spread.mean] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2.2, zorder=2)
    axes.scatter([], [], s=26, facecolor=DARK, edgecolor=DARK, label="a seed of a base")
    axes.scatter([], [], s=26, facecolor="white", edgecolor=DARK, label="a seed of a method with that base")
    axes.plot([], [], color=DARK, linewidth=2.2, label="mean")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _families(rows: Sequence[Row]) -> dict[str, int]:
    """A number for each method, the same for those that share a base."""
    bases, roots = {row.name: row.base for row in rows}, dict[str, str]()
    for name in bases:
        root, seen = name, {name}
        while bases.get(root) and bases[root] not in seen:
            root = bases[root]
            seen.add(root)
        roots[name] = root
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots.values()))}
    return {name: numbers[root] for name, root in roots.items()}

"""A study as a picture: a panel a task and protocol, a dot a seed, bases beside their regions, floors as lines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..console import in_line
from ..files.opening import replacing
from .table import Panel, families

WIDE, ROW, AROUND = 9.0, 0.26, 1.0  # inches: of the picture, of a method, of a panel's frame; at 100 a 900 px picture
COLUMNS = 3
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, told apart by everyone
FLOORS = ((0, (1, 1)), (0, (5, 2)), (0, (4, 1, 1, 1)), (0, (8, 3)))
DARK = "#444444"


@contextmanager
def drawing(lines: int, columns: int, height: float, title: str, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of WIDE x `height` inches and its grid of axes; closed at the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "text.parse_math": False}):
        figure, grid = pyplot.subplots(
            lines, columns, figsize=(WIDE, height), squeeze=False, layout="constrained", **options
        )
        figure.suptitle(in_line(title), fontsize=11)
        try:
            yield figure, grid
        finally:
            pyplot.close(figure)


def save(figure: Any, target: Path) -> None:
    """Write a .png of 1800 px width, meant to be shown at half of that; whole or not at all."""
    with replacing(target) as partial:
        figure.savefig(partial, format="png", dpi=200)


def draw(panels: Sequence[Panel], title: str, target: Path) -> None:
    """Draw panels to the file `target`."""
    kinds = len(dict.fromkeys(panel.kind for panel in panels))
    columns = min(kinds if kinds > 1 else len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    names = list(dict.fromkeys(row.name for panel in panels for row in panel.rows if not row.floor))
    height = lines * (ROW * len(names) + AROUND) + 0.6
    with drawing(lines, columns, height, title, sharey=True) as (figure, grid):
        for axes, panel in zip(grid.flat, panels, strict=False):
            _panel(axes, panel, names)
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("top-1 (%)")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        save(figure, target)


def _panel(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    numbers = families({row.name: row.base for row in panel.rows if not row.floor})
    axes.set_title(in_line(panel.title), fontsize=9)
    for place, row in enumerate(row for row in panel.rows if row.floor):
        style = FLOORS[place % len(FLOORS)]
        axes.axvline(100 * row.spread.mean, color=DARK, linestyle=style, linewidth=1, label=in_line(row.name), zorder=1)
    for row in panel.rows:
        if row.floor:
            continue
        y, colour = names.index(row.name), COLOURS[numbers[row.name] % len(COLOURS)]
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

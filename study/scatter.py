"""The second picture of a study: one number of its trainings against another, a dot a seed, a number at their mean."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..console import in_line
from .axes import OWN, RAW, Scatter, value_of
from .picture import COLOURS, DARK, drawing, save
from .plan import Plan
from .table import Results, lines_of

HIGH, KEYS = 4.0, 5  # inches of a panel; names in a line of the legend


class Cloud(NamedTuple):
    """A method's trainings, or a floor's."""

    name: str
    points: list[tuple[float, float]]
    floor: bool

    @property
    def mean(self) -> tuple[float, float]:
        """Of the points."""
        return fmean(x for x, _ in self.points), fmean(y for _, y in self.points)


def clouds(plan: Plan, there: Results, panel: Scatter) -> list[Cloud]:
    """What a panel shows; a method without both numbers is not in it."""
    found = list[Cloud]()
    for contender in plan.contenders:
        lines = lines_of(plan, there, contender.name)
        names = list(dict.fromkeys(score["encoder"] for line in lines for score in line["evaluations"]))
        for encoder in names:
            known = [cloud.name for cloud in found]
            if encoder in known:  # a floor of another kind of encoder
                continue
            pairs = [tuple(value_of(line, axis, panel.protocol, encoder) for axis in (panel.x, panel.y)) for line in lines]
            points = [(x, y) for x, y in pairs if x is not None and y is not None]
            if points:
                points = points[:1] if encoder == RAW else points
                found.append(Cloud(contender.name if encoder == OWN else encoder, points, encoder != OWN))
    return found


def draw_scatters(plan: Plan, there: Results, target: Path) -> None:
    """Draw every panel to the file `target`; each method has a number, since names would cover one another."""
    shown = [clouds(plan, there, panel) for panel in plan.scatters]
    names = list(dict.fromkeys(cloud.name for found in shown for cloud in found))
    columns = min(2, len(plan.scatters))
    lines = -(-len(plan.scatters) // columns)
    keys = -(-len(names) // KEYS)
    with drawing(lines, columns, lines * HIGH + keys * 0.18 + 0.5, plan.title) as (figure, grid):
        for axes, panel, found in zip(grid.flat, plan.scatters, shown, strict=False):
            _panel(axes, plan, found, panel, names)
        for axes in list(grid.flat)[len(plan.scatters) :]:
            axes.set_axis_off()
        marks = [
            grid.flat[0].scatter([], [], marker=f"${number}$", s=30, color=_colour(plan, name))
            for number, name in enumerate(names, 1)
        ]
        figure.legend(marks, list(map(in_line, names)), loc="outside lower center", ncols=KEYS, frameon=False, fontsize=8)
        save(figure, target)


def _colour(plan: Plan, name: str) -> str:
    """One for each row of `viewmill methods`; floors are grey."""
    methods = {contender.name: contender.train.method for contender in plan.contenders}
    rows = list(dict.fromkeys(methods.values()))
    return COLOURS[rows.index(methods[name]) % len(COLOURS)] if name in methods else DARK


def _panel(axes: Any, plan: Plan, found: Sequence[Cloud], panel: Scatter, names: Sequence[str]) -> None:
    for cloud in found:
        colour, (x, y) = _colour(plan, cloud.name), cloud.mean
        axes.scatter(*zip(*cloud.points, strict=True), s=9, color=colour, alpha=0.45, linewidths=0, zorder=2)
        axes.scatter(x, y, s=95, marker="s" if cloud.floor else "o", color=colour, edgecolor="white", zorder=3)
        number = names.index(cloud.name) + 1
        axes.text(x, y, number, color="white", fontsize=6.5, ha="center", va="center_baseline", zorder=4)
    for line in _lines(plan, found):
        axes.plot(*zip(*line, strict=True), color="#bbbbbb", linewidth=1, zorder=1)
    axes.set_title(in_line(panel.title), fontsize=9)
    axes.set_xlabel(in_line(panel.x.label), fontsize=8)
    axes.set_ylabel(in_line(panel.y.label), fontsize=8)
    axes.grid(color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(plan: Plan, found: Sequence[Cloud]) -> list[list[tuple[float, float]]]:
    """The means of methods that differ by their settings alone, in the order of the file: a sweep is a line."""
    means = {cloud.name: cloud.mean for cloud in found}
    sweeps = dict[tuple, list[tuple[float, float]]]()
    for contender in plan.contenders:
        if contender.name in means and contender.train.set:
            key = (contender.train.method, contender.train.views.recipe, contender.base)
            sweeps.setdefault(key, []).append(means[contender.name])
    return [line for line in sweeps.values() if len(line) > 2]

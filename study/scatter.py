"""The second picture of a study: one number of its trainings against another, a dot a seed, a name at their mean."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from .axes import OWN, RAW, Scatter, value_of
from .picture import COLOURS, DARK, drawing, save
from .plan import Plan
from .table import Results

HIGH = 3.6  # inches of a panel


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
        lines = [there[contender.name, seed] for seed in plan.seeds if (contender.name, seed) in there]
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
    """Draw every panel to the file `target`."""
    columns = min(2, len(plan.scatters))
    lines = -(-len(plan.scatters) // columns)
    with drawing(lines, columns, lines * HIGH + 0.4, plan.title) as (figure, grid):
        for axes, panel in zip(grid.flat, plan.scatters, strict=False):
            _panel(axes, plan, clouds(plan, there, panel), panel)
        for axes in list(grid.flat)[len(plan.scatters) :]:
            axes.set_axis_off()
        save(figure, target)


def _panel(axes: Any, plan: Plan, found: Sequence[Cloud], panel: Scatter) -> None:
    rows = list(dict.fromkeys(contender.train.method for contender in plan.contenders))  # a colour for each
    numbers = {contender.name: rows.index(contender.train.method) for contender in plan.contenders}
    for cloud in found:
        colour = DARK if cloud.floor else COLOURS[numbers[cloud.name] % len(COLOURS)]
        axes.scatter(*zip(*cloud.points, strict=True), s=9, color=colour, alpha=0.45, linewidths=0, zorder=2)
        axes.scatter(*cloud.mean, s=34, marker="s" if cloud.floor else "o", color=colour, edgecolor="white", zorder=3)
    for line in _lines(plan, found):
        axes.plot(*zip(*line, strict=True), color="#bbbbbb", linewidth=1, zorder=1)
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.x.label, fontsize=8)
    axes.set_ylabel(panel.y.label, fontsize=8)
    axes.grid(color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.18, 0.12)
    axes.spines[["top", "right"]].set_visible(False)
    _name(axes, found)


def _lines(plan: Plan, found: Sequence[Cloud]) -> list[list[tuple[float, float]]]:
    """The means of methods that differ by their settings alone, in the order of the file: a sweep is a line."""
    means = {cloud.name: cloud.mean for cloud in found}
    sweeps = dict[tuple, list[tuple[float, float]]]()
    for contender in plan.contenders:
        if contender.name in means and contender.train.set:
            key = (contender.train.method, contender.train.recipe, contender.base)
            sweeps.setdefault(key, []).append(means[contender.name])
    return [line for line in sweeps.values() if len(line) > 2]


def _name(axes: Any, found: Sequence[Cloud]) -> None:
    """Names beside the means, moved down where two would touch, with a thin line to what was moved away from."""
    figure = axes.figure
    figure.canvas.draw()
    renderer, placed = figure.canvas.get_renderer(), list[Any]()
    for cloud in sorted(found, key=lambda cloud: -cloud.mean[1]):
        for step in range(40):
            offset = (6, 4 - 7 * step) if step < 20 else (-6, 4 - 7 * (step - 20))
            align = "left" if step < 20 else "right"
            text = axes.annotate(
                cloud.name,
                cloud.mean,
                xytext=offset,
                textcoords="offset points",
                fontsize=6.5,
                color=DARK,
                ha=align,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999"} if step % 20 > 1 else None,
            )
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in placed) or step == 39:
                placed.append(box)
                break
            text.remove()

"""Charts as inline SVG, written by hand: colours come from the page's style, so that they are right in light and dark.

A chart is as wide as its place; 400 units of the picture are then 300 to 450 px, and a letter of 12 units can be read.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from .axes import Axis, axis, label, steps_axis
from .curve import Point
from .markup import Html, joined, share, short, tag

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 228, 46, 10, 22, 26
COLOURS = 8  # of the palette (Okabe and Ito); the ninth run has the first colour again, with long dashes

_numbers = count(1)


class Line(NamedTuple):
    """A curve: whose (a run's place, which is its colour), what, and where; `second` is drawn dotted."""

    run: int
    name: str
    points: Sequence[Point]
    second: bool = False


def svg(title: str, told: str, *parts: Html, height: float = HEIGHT, width: float = WIDTH, **attributes: str) -> Html:
    """A picture with a title and a description for those who cannot see it."""
    mark = f"c{next(_numbers)}"
    named = (tag("title", title, id=f"{mark}t"), tag("desc", told, id=f"{mark}d"))
    about = {"role": "img", "aria_labelledby": f"{mark}t {mark}d", "viewBox": f"0 0 {width:g} {height:g}"}
    return tag("svg", *named, *parts, **about, **attributes)


def colour(run: int) -> str:
    """The classes of what belongs to a run: its colour, and dashes where the colours have begun again."""
    return f"s{run % COLOURS}" + (" again" if run >= COLOURS else "")


def lines(
    title: str,
    note: str,
    curves: Sequence[Line],
    *,
    what: str = "",
    zero: bool = False,
    log: bool = False,
    per_cent: bool = False,
) -> Html:
    """Curves of `what` over the steps. A None breaks a curve, and is marked by a tick on the axis of the steps."""
    known = [point for line in curves for point in line.points]
    along = steps_axis((step for step, _ in known), LEFT, WIDTH - RIGHT)
    up = axis((value for _, value in known if value is not None), HEIGHT - BOTTOM, TOP, zero=zero, log=log)
    drawn = [_path(line, along, up) for line in curves]
    broken = sorted({round(along.at(step), 1) for step, value in known if value is None})
    ticks = [tag("path", d=f"M{place} {HEIGHT - BOTTOM}v-7", class_="broken") for place in broken[:200]]
    told = "; ".join(f"{line.name}: {_ends(line)}" for line in curves[:12])
    picture = svg(
        title,
        f"{told}. {note}",
        frame(along, up, what=what, per_cent=per_cent),
        *drawn,
        *ticks,
        tag("g", tag("path", class_="cross"), class_="pointed"),
        data_x=_span(along),
        data_y=_span(up),
        data_log="1" if up.log else "",
        data_cent="1" if per_cent else "",
    )
    remark = " Logarithmic." if up.log else ""
    broke = " Red ticks: not finite." if broken else ""
    caption = (tag("b", title), " ", tag("span", note + remark + broke))
    return tag("figure", tag("figcaption", *caption), picture, class_="chart")


def _span(line: Axis) -> str:
    return f"{line.low:.9g} {line.high:.9g} {line.begin:g} {line.end:g}"


def _ends(line: Line) -> str:
    known = [value for _, value in line.points if value is not None]
    return f"from {short(known[0])} to {short(known[-1])}" if known else "no finite value"


def _path(line: Line, along: Axis, up: Axis) -> Html:
    """The pieces of a curve; one of a single point is a dot, as its ends are round."""
    words, pen = [], "M"
    for step, value in line.points:
        if value is None:
            pen = "M"
            continue
        place = f"{along.at(step):.1f} {up.at(value):.2f}"
        words.append(f"M{place}L{place}" if pen == "M" else f"L{place}")
        pen = "L"
    kind = f"line {colour(line.run)}" + (" second" if line.second else "")
    return tag("path", d="".join(words), class_=kind, data_run=line.run, data_name=line.name)


def frame(
    along: Axis, up: Axis, *, what: str = "", per_cent: bool = False, below: str = "step", height: float = HEIGHT
) -> Html:
    """Lines and numbers of both axes; `what` the upward one measures stands above it."""
    parts = [tag("text", what, x=0, y=10, class_="what")] if what else []
    for value in up.ticks():
        y = f"{up.at(value):.1f}"
        parts.append(tag("path", d=f"M{LEFT} {y}H{WIDTH - RIGHT}", class_="grid"))
        said = f"{100 * value:.4g}%" if per_cent else label(value)
        parts.append(tag("text", said, x=LEFT - 6, y=y, class_="up"))
    ticks = along.ticks()
    for value in ticks:
        at = along.at(value)
        near_end = at > WIDTH - RIGHT - 14
        parts.append(tag("text", label(value), x=f"{at:.1f}", y=height - 8, class_="along end" if near_end else "along"))
    if ticks and along.at(ticks[0]) > LEFT + 40:
        parts.append(tag("text", below, x=LEFT, y=height - 8, class_="along start"))
    return tag("g", *parts, class_="axes")


class Bar(NamedTuple):
    """A share of 1 with its interval; `run` None is a floor."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    run: int | None = None


def bars(title: str, note: str, found: Sequence[Bar], *, top: float) -> Html:
    """Horizontal bars with error bars, as long as the chart at `top`: the name above each, so that it fits on a phone."""
    right, each = WIDTH - 62, 38
    along = Axis(0.0, max(top, 1e-6), 0.0, right)
    parts = []
    for place, bar in enumerate(found):
        y, end = place * each, along.at(max(bar.value, 0.0))
        kind = "floor" if bar.run is None else colour(bar.run)
        parts.append(tag("text", cut(bar.name, 52), x=0, y=y + 12, class_="name"))
        parts.append(tag("rect", x=0, y=y + 18, width=f"{end:.1f}", height=12, rx=2, class_=f"bar {kind}"))
        edge = end
        if bar.interval:
            low, high = (along.at(max(value, 0.0)) for value in bar.interval)
            edge = max(end, high)
            cap = f"M{low:.1f} {y + 24}H{high:.1f}M{low:.1f} {y + 20}v8M{high:.1f} {y + 20}v8"
            parts.append(tag("path", d=cap, class_="error"))
        parts.append(tag("text", share(bar.value), x=f"{edge + 6:.1f}", y=y + 28, class_="value"))
    told = "; ".join(f"{bar.name}: {share(bar.value)}" for bar in found)
    picture = svg(title, f"{told}. {note}", *parts, height=len(found) * each)
    return tag("figure", tag("figcaption", tag("b", title), " ", tag("span", note)), picture, class_="chart")


def cut(text: str, most: int) -> str:
    """`text`, or its two ends where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) + 1 :]}"


class Shares(NamedTuple):
    """A histogram: whose, what, and its shares from `low` to `high`; `outline` leaves it empty."""

    run: int
    name: str
    shares: Sequence[float]
    outline: bool = False


def histogram(
    title: str, note: str, found: Sequence[Shares], *, low: float, high: float, below: str, what: str = ""
) -> Html:
    """Histograms over the same range, as steps: shares of `what`, along `below`."""
    along = Axis(low, high, LEFT, WIDTH - RIGHT)
    most = max([1e-9, *(value for item in found for value in item.shares)])
    up = Axis(0.0, most * 1.05, HEIGHT - BOTTOM, TOP)
    drawn = []
    for item in found:
        width = (high - low) / len(item.shares)
        words = [f"M{along.at(low):.1f} {up.at(0):.1f}"]
        for place, value in enumerate(item.shares):
            words.append(f"V{up.at(value):.1f}H{along.at(low + (place + 1) * width):.1f}")
        kind = f"steps {colour(item.run)}" + (" outline" if item.outline else "")
        drawn.append(tag("path", d="".join(words) + f"V{up.at(0):.1f}", class_=kind, data_run=item.run))
    told = "; ".join(f"{item.name}: most at {short(_mode(item, low, high))}" for item in found[:12])
    picture = svg(title, f"{told}. {note}", frame(along, up, what=what, per_cent=True, below=below), *drawn)
    return tag("figure", tag("figcaption", tag("b", title), " ", tag("span", note)), picture, class_="chart")


def _mode(item: Shares, low: float, high: float) -> float:
    place = max(range(len(item.shares)), key=lambda each: item.shares[each])
    return low + (place + 0.5) * (high - low) / len(item.shares)


def heat(
    title: str,
    note: str,
    run: int,
    rows: Sequence[tuple[int, Sequence[float]]],
    *,
    low: float,
    high: float,
    steps: float,
    what: str = "",
) -> Html:
    """Histograms over the steps, of which there were `steps`: a column each up to the next, dark where many are.

    `rows` are step and shares.
    """
    along = steps_axis((0, steps), LEFT, WIDTH - RIGHT)
    up = Axis(low, high, HEIGHT - BOTTOM, TOP)
    most = max([1e-9, *(value for _, shares in rows for value in shares)])
    tall = (HEIGHT - BOTTOM - TOP) / len(rows[0][1])
    edges = [along.at(step) for step, _ in rows]
    edges.append(min(edges[-1] + (edges[-1] - edges[0]) / len(rows), WIDTH - RIGHT))
    cells = []
    for place, (_, shares) in enumerate(rows):
        x, width = edges[place], max(edges[place + 1] - edges[place], 0.0) + 0.3
        for index, value in enumerate(shares):
            if value >= most / 100:
                top = HEIGHT - BOTTOM - (index + 1) * tall
                place_of = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{tall + 0.2:.1f}"'
                cells.append(f'<rect {place_of} opacity="{value / most:.2f}"/>')
    told = f"{len(rows)} histograms between step {rows[0][0]} and {rows[-1][0]}"
    shown = tag("g", Html("".join(cells)), class_=f"heat {colour(run)}", data_run=run)
    picture = svg(title, f"{told}. {note}", frame(along, up, what=what), shown)
    return tag("figure", tag("figcaption", tag("b", title), " ", tag("span", note)), picture, class_="chart")


def grid(figures: Sequence[Html]) -> Html:
    """Charts side by side, as many as there is room for."""
    return tag("div", joined(figures), class_="grid")

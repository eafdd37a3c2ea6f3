"""What encoders were worth on other tasks: the lines of evaluation.jsonl as tables and bars. Unknown or missing keys do not
matter; numbers of different protocols or of different images never stand in one table.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .charts import Bar, bars, colour, cut, grid
from .curve import number
from .markup import Html, folded, joined, section, share, table, tag
from .read import Run

FLOORS = ("untrained encoder", "raw pixels")
MOST_CLASSES = 40  # of a confusion matrix as a table; of a larger one the pairs that are confused most
PAIRS, FEW_PAIRS = 20, 6  # that are named, without and beside the matrix
CHOSEN = re.compile(r"[-+.\d]+(?:e[-+]?\d+)?(?=[^,]*\bchosen\b)")
"""The numbers that a protocol chose for itself: they differ from encoder to encoder, and the protocol is the same."""
MOST_BARS = 24  # of a chart


class Result(NamedTuple):
    """An accuracy: of which run (its place; None is a floor of the run `owner`), at what, by which protocol."""

    owner: int
    run: int | None
    encoder: str
    task: str
    protocol: str
    """In full, with what was chosen."""
    rule: str
    """The same without: what numbers have to have in common to be compared."""
    images: tuple[str, ...]
    """What tells the images that were learned from and told from others."""
    ema: bool
    """Whether the weights were their moving average."""
    top1: float
    interval: tuple[float, float] | None
    top5: float | None
    mean_per_class: float | None
    step: int | None
    confusion: list[list[float]] | None
    classes: list[str]


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Every result of the runs, of repeated ones (task, protocol, encoder, step) the newest."""
    found: dict[tuple, Result] = {}
    for place, run in enumerate(runs):
        for line in run.results:
            top1 = number(line.get("top1"))
            if top1 is None:
                continue
            encoder = str(line.get("encoder") or "run")
            floor = encoder if encoder in FLOORS else None
            step = number(line.get("step"))
            protocol = str(line.get("protocol") or "protocol not recorded")
            result = Result(
                owner=place,
                run=None if floor else place,
                encoder=floor or run.name,
                task=str(line.get("task") or "classes"),
                protocol=protocol,
                rule=CHOSEN.sub("...", protocol),
                images=_images(line.get("data")),
                ema=line.get("weights") == "ema",
                top1=top1,
                interval=_interval(line.get("interval")),
                top5=number(line.get("top5")),
                mean_per_class=number(line.get("mean_per_class")),
                step=None if step is None else int(step),
                confusion=_matrix(line.get("confusion")),
                classes=[str(name) for name in line["classes"]] if isinstance(line.get("classes"), list) else [],
            )
            found[(place, *_group(result), encoder, result.step, result.ema)] = result
    return list(found.values())


def _group(item: Result) -> tuple[str, str, tuple[str, ...]]:
    """What results share that may be compared."""
    return item.task, item.rule, item.images


def _images(data: Any) -> tuple[str, ...]:
    """The fingerprints of both files."""
    parts = [data.get(name) for name in ("train", "test")] if isinstance(data, dict) else []
    return tuple(str(part.get("fingerprint")) for part in parts if isinstance(part, dict))


def _groups(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Results that may be compared, and of what task; where two data sets share a name, with the fingerprint's beginning."""
    keys = list(dict.fromkeys(map(_group, results)))
    found = []
    for key in keys:
        task, _, images = key
        shared = len({other for name, _, other in keys if name == task}) > 1
        told = f" ({', '.join(part[:6] for part in images) or 'unknown images'})" if shared else ""
        found.append((task + told, [item for item in results if _group(item) == key]))
    return found


def best(results: Sequence[Result], run: int) -> list[Result]:
    """The highest of a run's own results on each task, in the order in which tasks were first evaluated."""
    found: dict[str, Result] = {}
    for item in results:
        if item.run == run and (item.task not in found or item.top1 > found[item.task].top1):
            found[item.task] = item
    return list(found.values())


def transfer(runs: Sequence[Run]) -> Html | None:
    """Bars with intervals and a table for each task and protocol, and how classes were confused."""
    results = results_of(runs)
    if not results:
        return None
    note = (
        "What frozen features were worth, from evaluation.jsonl: the share that was told right, with its interval. Compare "
        "within one task and one protocol only, and with the floors: what raw pixels and an untrained encoder reach."
    )
    figures, tables = [], []
    top = max(item.interval[1] if item.interval else item.top1 for item in results)  # one scale for all bars
    for task, group in _groups(results):
        group = sorted(_without_doubles(group), key=lambda item: -item.top1)
        shown = [Bar(_name(item), item.top1, item.interval, item.run) for item in group]
        figures.append(bars(task, group[0].rule, shown[:MOST_BARS], top=top))
        tables.append(_table(task, group))
    across = _across(runs, results) if len(runs) > 1 else None
    matrices = [made for item in results if item.run is not None and (made := _confusion(item, len(runs)))]
    if len(matrices) > 1:
        matrices = [folded(f"Confusion, {len(matrices)} matrices", *matrices)]
    return section("results", "Results", note, across, grid(figures), folded("The same in numbers", *tables), *matrices)


def _without_doubles(group: Iterable[Result]) -> list[Result]:
    """A floor that several runs or steps share (the same number) once."""
    return list(
        {
            (item.run, item.encoder, (item.step, item.ema) if item.run is not None else item.top1): item for item in group
        }.values()
    )


def _name(item: Result) -> str:
    if item.run is None:
        return item.encoder
    return (
        item.encoder + (f", step {item.step:,}" if item.step is not None else "") + (", moving average" if item.ema else "")
    )


def _spread(item: Result) -> str:
    return "-" if item.interval is None else f"{100 * item.interval[0]:.1f} to {share(item.interval[1])}"


def _table(task: str, group: Sequence[Result]) -> Html:
    several = len({item.protocol for item in group}) > 1
    rows = [
        (
            joined([_name(item), tag("small", item.protocol)]) if several else _name(item),
            share(item.top1),
            _spread(item),
            share(item.top5),
            share(item.mean_per_class),
        )
        for item in group
    ]
    head = ("encoder", "top-1", "interval", "top-5", "mean per class")
    return table(head, rows, caption=f"{task}: {group[0].rule}")


def _across(runs: Sequence[Run], results: Sequence[Result]) -> Html:
    """Tasks as rows and runs as columns, of each the newest step; the highest of a row is bold."""
    rows = []
    for task, group in _groups(results):
        newest = {}
        for item in sorted(group, key=lambda item: item.step or 0):
            newest[item.run if item.run is not None else item.encoder] = item
        top = max(item.top1 for item in newest.values())
        cells = []
        for column in (*range(len(runs)), *FLOORS):
            item = newest.get(column)
            text = "-" if item is None else share(item.top1)
            half = None if item is None or item.interval is None else tag("small", f" {_spread(item)}")
            cells.append(joined([tag("b", text) if item is not None and item.top1 == top else text, half]))
        rows.append([joined([task, tag("small", f" {group[0].rule}")]), *cells])
    head = ["task, protocol", *(_coloured(place, run.name) for place, run in enumerate(runs)), *FLOORS]
    return table(head, rows, caption="Top-1 of all runs side by side")


def _coloured(place: int, name: str) -> Html:
    return tag("span", tag("i", class_=f"swatch {colour(place)}"), name)


def _interval(value: Any) -> tuple[float, float] | None:
    if not (isinstance(value, list) and len(value) == 2):
        return None
    low, high = (number(part) for part in value)
    return None if low is None or high is None else (min(low, high), max(low, high))


def _matrix(value: Any) -> list[list[float]] | None:
    """A square of numbers; None for anything else."""
    if not (isinstance(value, list) and value and all(isinstance(row, list) and len(row) == len(value) for row in value)):
        return None
    found = [[number(cell) for cell in row] for row in value]
    return None if any(cell is None for row in found for cell in row) else found  # pyright: ignore[reportReturnType]


def _confusion(item: Result, runs: int) -> Html | None:
    """A heat table of shares of each true class; of many classes the pairs that are confused most."""
    if item.confusion is None:
        return None
    names = [item.classes[at] if at < len(item.classes) else str(at) for at in range(len(item.confusion))]
    totals = [sum(row) or 1.0 for row in item.confusion]
    title = f"Confusion: {item.task}, {item.rule}" + (f", {_name(item)}" if runs > 1 or item.step is not None else "")
    pairs = sorted(
        (
            (row[to] / totals[of], row[to], of, to)
            for of, row in enumerate(item.confusion)
            for to in range(len(row))
            if to != of and row[to] > 0
        ),
        reverse=True,
    )[: PAIRS if len(names) > MOST_CLASSES else FEW_PAIRS]
    worst = table(
        ("true class", "told as", "share of the class", "images"),
        [(names[of], names[to], share(part), f"{count:,.0f}") for part, count, of, to in pairs],
        numbers=2,
    )
    if len(names) > MOST_CLASSES:
        note = f"{len(names)} classes: the {len(pairs)} pairs that are confused most."
        return folded(title, tag("p", note, class_="note"), worst)
    rows = []
    for of, row in enumerate(item.confusion):
        cells = []
        for to, count in enumerate(row):
            part = count / totals[of]
            kind = "right" if of == to else "wrong"
            dark = " dark" if part > 0.75 else ""
            text = f"{100 * part:.0f}" if part >= 0.005 else "·"
            cells.append(
                tag(
                    "td",
                    text,
                    class_=f"cell {kind}{dark}",
                    style=f"--v:{max(0.0, min(1.0, part)):.2f}",
                    title=f"{names[of]} told as {names[to]}: {count:,.0f} of {totals[of]:,.0f}",
                )
            )
        rows.append(tag("tr", tag("th", cut(names[of], 24), scope="row"), *cells))
    head = tag("tr", tag("th", "true ↓ told as →"), *(tag("th", tag("span", cut(name, 18)), scope="col") for name in names))
    heat = tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="heat"), class_="scroll", tabindex="0")
    note = tag("p", "Per cent of each true class (a row); right ones lie on the diagonal.", class_="note")
    return folded(title, note, heat, tag("p", tag("b", "Confused most")), worst)

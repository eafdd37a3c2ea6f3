"""What a study found: for each task and protocol a row a method, its difference to its base, and the floors."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ..console import duration
from .axes import OWN, RAW, Axis, value_of
from .plan import Plan
from .results import Line
from .spread import Paired, Spread, paired, spread

Results = Mapping[tuple[str, int], Line]
"""The line of each job that has one, by name and seed."""


class Row(NamedTuple):
    """A method, or a floor, at one task by one protocol; shares of 1."""

    name: str
    values: dict[int, float]
    """By seed."""
    base: str
    paired: Paired | None
    seconds: float | None
    """Of a training, on average; None of a floor."""

    @property
    def spread(self) -> Spread:
        """Over the seeds."""
        return spread(list(self.values.values()))

    @property
    def floor(self) -> bool:
        """Whether it is one."""
        return self.seconds is None


class Panel(NamedTuple):
    """One task by one protocol."""

    task: str
    kind: str
    protocol: str
    """In full, as the first training was evaluated."""
    rows: list[Row]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.task}, {self.kind}"


def panels(plan: Plan, there: Results) -> list[Panel]:
    """Every task and protocol of the results, task by task; bases before what is compared to them."""
    protocols = dict[tuple[str, str], str]()
    for line in there.values():
        for score in line["evaluations"]:
            protocols.setdefault((score["task"], score["kind"]), score["protocol"])
    tasks = list(dict.fromkeys(task for task, _ in protocols))
    keys = sorted(protocols, key=lambda key: tasks.index(key[0]))
    return [Panel(*key, protocols[key], [*_methods(plan, there, key), *_floors(plan, there, key)]) for key in keys]


def lines_of(plan: Plan, there: Results, name: str) -> list[Line]:
    """The results of a method, seed by seed."""
    return [there[name, seed] for seed in plan.seeds if (name, seed) in there]


def in_families(plan: Plan) -> list[tuple[str, str]]:
    """Name and base of every method, in the order of the file but for those with a base, which follow it."""
    bases, found = {contender.name: contender.base for contender in plan.contenders}, list[tuple[str, str]]()

    def put(name: str) -> None:
        if (name, bases[name]) not in found:
            found.append((name, bases[name]))
            for other, base in bases.items():
                if base == name:
                    put(other)

    for name in [*(name for name, base in bases.items() if not base), *bases]:  # bases of each other come last
        put(name)
    return found


def families(bases: Mapping[str, str]) -> dict[str, int]:
    """A number for each method, by name and base, the same for those that share a base."""
    roots = dict[str, str]()
    for name in bases:
        root, seen = name, {name}
        while bases.get(root) and bases[root] not in seen:
            root = bases[root]
            seen.add(root)
        roots[name] = root
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots.values()))}
    return {name: numbers[root] for name, root in roots.items()}


def _methods(plan: Plan, there: Results, key: tuple[str, str]) -> list[Row]:
    values = {name: _values(plan, there, name, OWN, key) for name, _ in in_families(plan)}
    rows = []
    for name, base in in_families(plan):
        if values[name]:
            seconds = fmean(there[name, seed]["training_s"] for seed in values[name])
            rows.append(Row(name, values[name], base, paired(values[name], values.get(base, {})), seconds))
    return rows


def _floors(plan: Plan, there: Results, key: tuple[str, str]) -> list[Row]:
    """The floors, each once: of methods with another encoder those that differ, with the method's name."""
    found = list[Row]()
    for contender in plan.contenders:
        lines = lines_of(plan, there, contender.name)
        names = dict.fromkeys(score["encoder"] for line in lines for score in line["evaluations"])
        for encoder in (name for name in names if name != OWN):
            values = _values(plan, there, contender.name, encoder, key)
            if encoder == RAW:  # no seed of a training changes pixels
                values = dict(list(values.items())[:1])
            known = [row for row in found if row.name.split(" (as ")[0] == encoder]
            if values and not any(row.values == values for row in known):
                name = f"{encoder} (as {contender.name})" if known else encoder
                found.append(Row(name, values, "", None, None))
    return found


def _values(plan: Plan, there: Results, name: str, encoder: str, key: tuple[str, str]) -> dict[int, float]:
    """Top-1 by seed."""
    found = {}
    for seed in plan.seeds:
        for score in there.get((name, seed), {}).get("evaluations", ()):
            if score["encoder"] == encoder and (score["task"], score["kind"]) == key:
                found[seed] = score["top1"]
    return found


def sentence(row: Row) -> str:
    """What a difference says, in words; "" where there is none."""
    found = row.paired
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{row.name} and {row.base}: not told apart at this n: {points(found.mean)} points at one seed."
    facts = f"{points(found.mean)} points, {points(found.low)} to {points(found.high)}, n = {found.n}"
    if found.verdict == "not told apart":
        return f"{row.name} and {row.base}: not told apart at this n ({facts})."
    return f"{row.name} is {found.verdict} {row.base} ({facts})."


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts, one under each of HEAD."""
    told, found = row.spread, row.paired
    numbers = [f"{told.mean:.2%}", "" if told.deviation is None else f"{100 * told.deviation:.2f}", str(told.n)]
    time = "" if row.seconds is None else duration(row.seconds)
    if found is None:
        return (row.name, *numbers, time, row.base, "", "")
    interval = "" if found.low is None or found.high is None else f"{points(found.low)} to {points(found.high)}"
    return (row.name, *numbers, time, row.base, points(found.mean), interval)


HEAD = ("method", "top-1", "s.d.", "n", "training", "base", "less base", "95 % interval")


def points(share: float) -> str:
    """A difference of two shares in percentage points."""
    text = f"{100 * share:+.2f}".replace("-", "\N{MINUS SIGN}")
    return text if text.strip("+\N{MINUS SIGN}0.") else "0.00"


LEARNED = ("method", "images/s", "bound", "ceiling", "negatives", "bound valid", "false negatives", "left out")


def learned(plan: Plan, there: Results) -> list[tuple[str, ...]]:
    """What each method's log says of its last epoch, as means over seeds; "-" where it has no such thing."""
    rows = []
    for name, _ in in_families(plan):
        lines = lines_of(plan, there, name)
        if not lines:
            continue

        def told(key: str, form: str, lines: Sequence[Line] = lines) -> str:
            numbers = [line["last_epoch"][key] for line in lines if line["last_epoch"].get(key) is not None]
            return f"{fmean(numbers):{form}}" if numbers else "-"

        ceilings = [line["last_epoch"]["ceiling"] for line in lines if line["last_epoch"].get("ceiling") is not None]
        negatives = f"{fmean(math.exp(value) for value in ceilings) - 1:,.0f}" if ceilings else "-"
        speed = f"{fmean(line['images_per_s'] for line in lines):,.0f}"
        shares = [told(key, ".1%") for key in ("bound_valid", "false_negatives")]
        bound = [told(key, ".3f") for key in ("bound", "ceiling")]
        rows.append((name, speed, *bound, negatives, *shares, told("masked", ".0f")))
    return rows


def informed(plan: Plan, there: Results) -> list[tuple[str, ...]]:
    """Head and rows of what accuracies prove in bits, by task and summed as the panels do; [] where none is asked."""
    asked = dict.fromkeys(
        (axis, panel.protocol) for panel in plan.scatters for axis in (panel.x, panel.y) if axis.kind == "bits"
    )
    alone = dict.fromkeys((Axis("bits", (name,)), protocol) for axis, protocol in asked for name in axis.names)
    columns = [*alone, *(key for key in asked if len(key[0].names) > 1)]
    if not columns:
        return []
    found: list[tuple[str, ...]] = [("method", *(" + ".join(axis.names) for axis, _ in columns))]
    names = [(name, name, OWN) for name, _ in in_families(plan)]
    floors = dict.fromkeys(score["encoder"] for line in there.values() for score in line["evaluations"])
    names += [(plan.contenders[0].name, floor, floor) for floor in floors if floor != OWN]
    for contender, name, encoder in names:
        lines = lines_of(plan, there, contender)
        cells = []
        for axis, protocol in columns:
            values = [value for line in lines if (value := value_of(line, axis, protocol, encoder)) is not None]
            told = spread(values) if values else None
            cells.append("-" if told is None else f"{told.mean:.2f}" + f" ± {told.deviation or 0:.2f}" * (told.n > 1))
        if any(cell != "-" for cell in cells):
            found.append((name, *cells))
    return found

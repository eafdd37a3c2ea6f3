"""A study's table for people: as Markdown beside the results, and on the screen."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..console import duration, say, table
from ..files.opening import of_a_run, read_text, replacing
from .matched import budgets
from .plan import Plan
from .results import Line
from .spread import LEVEL
from .table import HEAD, LEARNED, Panel, Results, cells, informed, learned, panels, sentence

INFORMED = (
    "By Fano's inequality from the top-1 of the named protocol: a lower bound on the information that the features have on "
    "each factor, mean and s.d. over seeds. Factors are independent, so their sum is a lower bound as well."
)
PACKAGES = ("viewmill", "torch")
MADE = "`viewmill study "  # in every page: nothing without it is replaced


def check(plan: Plan) -> None:
    """Raise ValueError where what stands in the place of results, page or pictures is not a study's."""
    results, page = plan.results, plan.results.with_suffix(".md")
    if of_a_run(results):
        raise ValueError(f"{results} is a run's own file: name another file for the results")
    pictures = [] if results.exists() or page.exists() else [results.with_suffix(".png"), scattered(results)]
    theirs = [page] if page.exists() and MADE not in read_text(page, errors="replace") else []
    for path in [*theirs, *pictures]:
        if path.exists():
            raise ValueError(f"{path} is not of a study and would be replaced: move it away, or name other results")


def show(plan: Plan, there: Results) -> None:
    """Print a table for each task and protocol, and what the differences say."""
    for panel in panels(plan, there):
        table(panel.title, HEAD, [cells(row) for row in panel.rows])
        for text in filter(None, map(sentence, panel.rows)):
            say(text)


def write(plan: Plan, there: Results) -> None:
    """Write the Markdown beside the results, and where matplotlib is there the picture."""
    target, drawn = plan.results.with_suffix(".md"), plan.results.with_suffix(".png")
    with replacing(target) as partial:
        partial.write_text(markdown(plan, there), encoding="utf-8")
    if find_spec("matplotlib") is not None:
        from .picture import draw
        from .scatter import draw_scatters

        draw(panels(plan, there), plan.title, drawn)
        if plan.scatters:
            draw_scatters(plan, there, scattered(plan.results))
    say(f"table: {target}" + f"; picture: {drawn}" * drawn.exists())


def scattered(results: Path) -> Path:
    """The second picture of a study whose results are in the file `results`."""
    return results.with_name(f"{results.stem}-scatter.png")


def markdown(plan: Plan, there: Results) -> str:
    """The page: the same text for the same study and the same results."""
    found = panels(plan, there)
    parts = [f"# {plan.title}", _opening(plan), f"![{plan.title}]({plan.results.with_suffix('.png').name})"]
    parts += [_grid(("", ""), _facts(plan, list(there.values()))), _methods(plan)]
    notes = budgets(plan.contenders)
    parts += ["What is not the same for all methods:\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    for panel in found:
        parts += [f"## {panel.title}", *_panel(panel)]
    if plan.scatters:
        parts += [f"## One against another\n\n![{plan.title}]({scattered(plan.results).name})"]
    if bits := informed(plan, there):
        parts += [f"## Information that is proven, in bits\n\n{_grid(bits[0], bits[1:])}\n\n{INFORMED}"]
    parts += [f"## The last epoch of the trainings, means over seeds\n\n{_learned(plan, there)}", _footing(found)]
    return "\n\n".join(parts) + "\n"


def _opening(plan: Plan) -> str:
    name, lines = plan.file.name, plan.results.name
    return (
        f"{MADE}{name}` made this page from `{lines}`, which holds every result; with `--table` it makes the page "
        "and the picture anew and trains nothing."
    )


def _facts(plan: Plan, lines: Sequence[Line]) -> list[tuple[str, str]]:
    """What was trained on what, from the first result; machines and versions of all of them."""
    first = lines[0]
    train = plan.contenders[0].train
    network, learning = train.network, train.optimisation
    images, settings = first["images"], first["settings"]
    figures = ", rendered with known factors" if plan.data.figures else ""
    machines = {f"{line['hardware'].get('cpu')}, {line['hardware'].get('cores')} cores" for line in lines}
    versions = {", ".join(f"{name} {line['versions'].get(name, '?')}" for name in PACKAGES) for line in lines}
    length = f"{learning.steps:,} steps" if learning.steps else f"{learning.epochs} epoch" + "s" * (learning.epochs > 1)
    precision = f"precision {settings.get('train.precision')}"
    made = f"{len(lines)} of {len(plan.jobs())}"
    return [
        ("images", f"{images['train']:,} to train on and to learn from, {images['test']:,} to be told{figures}"),
        ("encoder", f"{network.encoder}, width {network.width}, {train.views.size} px"),
        ("training", f"{length}, batches of {learning.batch}, {learning.optimiser}, {precision}"),
        ("seeds", ", ".join(map(str, plan.seeds))),
        (
            "trainings",
            f"{made}, {duration(sum(line['training_s'] + line['evaluation_s'] for line in lines))} with evaluation",
        ),
        ("made on", "; ".join(sorted(machines))),
        ("with", "; ".join(sorted(versions))),
    ]


def _methods(plan: Plan) -> str:
    shared = set(plan.contenders[0].given.items()).intersection(*(each.given.items() for each in plan.contenders))
    rows = []
    for contender in plan.contenders:
        own = [
            f"--{name.replace('_', '-')} {_from_file(plan, value)}"
            for name, value in contender.given.items()
            if (name, value) not in shared
        ]
        settings = [*(f"--set {text}" for text in contender.train.set), *own]
        rows.append(
            (contender.name, f"`{contender.train.method}`", " ".join(f"`{text}`" for text in settings), contender.base)
        )
    return _grid(("method", "row of `viewmill methods`", "settings of its own", "base"), rows)


def _from_file(plan: Plan, value: Any) -> Any:
    """A file of the study by its path from the study, which is the same wherever the command is called."""
    is_path = isinstance(value, Path) or str(value).endswith(".toml")
    return Path(os.path.relpath(value, plan.file.parent)).as_posix() if is_path else value


def _panel(panel: Panel) -> list[str]:
    rows = [cells(row) for row in panel.rows]
    said = [f"- {text}" for text in map(sentence, panel.rows) if text]
    protocol = [] if panel.protocol == panel.kind else [f"Protocol, as the first training was evaluated: {panel.protocol}."]
    return [*protocol, _grid(HEAD, rows), *(["\n".join(said)] if said else [])]


def _learned(plan: Plan, there: Results) -> str:
    text = (
        "Bound and ceiling in nats; negatives: how many an anchor had, by the ceiling; bound valid: the share of anchors "
        "for which the value is a bound; false negatives: the share of negatives of the anchor's own class; left out: "
        "updates that were not finite."
    )
    return f"{_grid(LEARNED, learned(plan, there))}\n\n{text}"


def _footing(found: Sequence[Panel]) -> str:
    told = [row.paired for panel in found for row in panel.rows if row.paired is not None]
    intervals = sum(paired.low is not None for paired in told)
    text = (
        "Top-1 in percent; s.d. is over seeds, with n - 1; differences are in percentage points, seed by seed, with "
        f"{100 * LEVEL:.0f} % intervals by Student's t over seeds. A seed changes weights, order, views and "
        "negatives, not the images."
    )
    if intervals < 2:
        return text
    return f"{text} Of the {intervals} intervals {(1 - LEVEL) * intervals:.1f} would leave out 0 by chance alone."


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; numbers stand to the right of their columns."""
    columns = [[row[at] for row in rows] for at in range(len(head))]
    right = [any(map(_number, each)) and all(_number(cell) or cell in ("", "-") for cell in each) for each in columns]
    lines = [head, ["---:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(cell: str) -> bool:
    return cell.lstrip("+-\N{MINUS SIGN}")[:1].isdigit()

"""The head of the page: what each run is, how far it came and what it reached."""

import time
from collections.abc import Sequence

from ..console import duration
from .charts import colour, cut
from .curve import number
from .markup import Html, joined, section, share, short, table, tag
from .read import Run
from .results import Result, best, results_of

TIED = "\N{NO-BREAK SPACE}"
MOST_TASKS = 4  # cards
QUIET_S = 120  # without a record for that long, a run without an end is probably none that goes on


def summary(runs: Sequence[Run], *, now: float) -> Html:
    """Cards for one run; a table with a line for each of several."""
    results = results_of(runs)
    if len(runs) > 1:
        head = ("run", "method", "data", "steps", "state", "loss", "bound", "probe, online", "top-1", "trained for")
        rows = [_line(place, run, results, now) for place, run in enumerate(runs)]
        shown = table(head, rows, numbers=99)
    else:
        run = runs[0]
        facts = _facts(run, best(results, 0), now)
        shown = tag(
            "dl",
            *(tag("div", tag("dt", name), tag("dd", value), tag("dd", told, class_="aside")) for name, value, told in facts),
            class_="cards",
        )
    note = "What was trained on what, how far it came, and the best numbers with how they were measured."
    return section("summary", "Summary", note, shown)


def state(run: Run, *, now: float) -> tuple[str, str]:
    """Whether a run is done, in a word or two, and a sentence more."""
    code = number(run.ending.get("code"))
    if code is not None:
        words = {0: "done", 2: "refused", 75: "stopped early", 130: "interrupted"}
        told = str(run.ending.get("reason") or "")
        return words.get(int(code), f"failed, exit code {code:.0f}"), "" if told in words.values() else told
    if run.told.time is None:
        return "not begun", "its log holds no record"
    quiet = max(0.0, now - run.told.time)
    if quiet < QUIET_S:
        return "under way", f"the last record is {duration(quiet)} old"
    return "no end recorded", f"the last record is {duration(quiet)} old: still under way, or killed"


def doubted(run: Run) -> str:
    """What looks wrong at the end, in its short names."""
    return f"looks wrong: {', '.join(run.doubts)}" if run.doubts else ""


def _facts(run: Run, tops: Sequence[Result], now: float) -> list[tuple[str, str, str]]:
    word, told = state(run, now=now)
    told = told or doubted(run)
    curves = run.told.curves
    speed, wait = (curves[name].mean if name in curves else None for name in ("images_per_s", "wait"))
    cost = f"{short(speed and round(speed))} images/s, {share(wait)} of the time waiting for data" if speed else ""
    facts = [
        ("Method", str(run.config.get("method") or "-"), _network(run)),
        ("Data", data_name(run), f"{_count(run.config.get('rows'))} images"),
        ("Steps", f"{run.told.step:,} of {run.steps:,}", "; ".join(filter(None, [word, _epoch(run), told]))),
        ("Time", duration(run.told.seconds), cost),
    ]
    for top in tops[:MOST_TASKS]:
        spread = "" if top.interval is None else f"{100 * top.interval[0]:.1f} to {share(top.interval[1])}; "
        facts.append((f"Top-1: {cut(top.task, 28)}", share(top.top1), f"{spread}{top.protocol}"))
    for name, title in (("probe", "Linear probe, online"), ("neighbours", "Neighbours, online")):
        if name in curves and curves[name].count:
            high = curves[name].high or (0, None)
            told = f"last reading, on training views; highest {share(high[1])} at step {high[0]:,.0f}"
            facts.append((title, share(curves[name].last), told))
    if "bound" in curves and curves["bound"].count:
        ceiling = curves["ceiling"].last if "ceiling" in curves else None
        facts.append(
            (
                "Bound",
                f"{short(_rounded(curves['bound'].last))} nats",
                f"ceiling log K = {short(_rounded(ceiling))}{_valid(run)}",
            )
        )
    return facts


def _line(place: int, run: Run, results: Sequence[Result], now: float) -> list[Html | str]:
    word, told = state(run, now=now)
    told = told or doubted(run)
    top, curves = next(iter(best(results, place)), None), run.told.curves
    reached = "-" if top is None else joined([share(top.top1), tag("small", f" {top.task}, {top.protocol}")])
    loss, bound, ceiling, probe = (
        curves[name].last if name in curves else None for name in ("loss", "bound", "ceiling", "probe")
    )
    limit = f"{TIED}of{TIED}{short(_rounded(ceiling))}" if ceiling is not None else ""
    return [
        tag("span", tag("i", class_=f"swatch {colour(place)}"), run.name),
        joined([str(run.config.get("method") or "-"), tag("small", f" {_network(run)}")]),
        data_name(run),
        f"{run.told.step:,}{TIED}of{TIED}{run.steps:,}",
        joined([word, tag("small", f" {told}") if told else None]),
        short(_rounded(loss)),
        f"{short(_rounded(bound))}{limit}",
        share(probe),
        reached,
        duration(run.told.seconds),
    ]


def _network(run: Run) -> str:
    parts = [run.config.get("encoder"), f"width {run.config['width']}" if "width" in run.config else None]
    parts += [f"{run.config['size']} px" if "size" in run.config else None]
    parts += [f"batch {run.config['batch']}" if "batch" in run.config else None]
    return ", ".join(str(part) for part in parts if part)


def data_name(run: Run) -> str:
    """The file or folder of the images."""
    return run.data.name if run.data else "not recorded"


def _valid(run: Run) -> str:
    bound, curve = (run.told.curves.get(name) for name in ("bound", "bound_valid"))
    valid = "" if curve is None or curve.last is None else f"; valid for {share(curve.last)} of the anchors"
    nothing = bound is not None and bound.last is not None and bound.last <= 0
    return f"{valid}, but tells nothing: information is never below 0" if nothing else valid


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _count(value: object) -> str:
    found = number(value)
    return "-" if found is None else f"{found:,.0f}"


def _epoch(run: Run) -> str:
    return "" if run.told.epoch is None else f"epoch {run.told.epoch:.1f}"


def moment(seconds: float) -> str:
    """A point in time for people, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

"""What a training's log shows: curves of what was learned, of the bound and its negatives, of speed and memory."""

from collections.abc import Sequence
from typing import NamedTuple

from .charts import Line, Shares, grid, heat, histogram, lines
from .markup import Html, folded, section, share, short, size, table
from .read import Run


class Panel(NamedTuple):
    """A chart of one or two quantities of the log; the second is dotted."""

    title: str
    note: str
    names: tuple[str, ...]
    second: str = ""
    """What is dotted, where it was logged."""
    per_cent: bool = False
    zero: bool = False
    log: bool = False


LEARNING = (
    Panel("Loss", "What is minimised, all terms together.", ("loss",), log=True),
    Panel("Bound and its ceiling", "In nats.", ("bound", "ceiling"), "Dotted: log K, which no bound can exceed.", zero=True),
    Panel("Linear probe, online", "Accuracy on training views.", ("probe",), per_cent=True, zero=True),
    Panel("Nearest neighbours, online", "Accuracy on training views.", ("neighbours",), per_cent=True, zero=True),
    Panel("Learning rate", "What the schedule asked for.", ("learning_rate",), zero=True),
    Panel("Gradient norm", "Of all weights, before clipping.", ("grad_norm",), log=True),
)
NEGATIVES = (
    Panel(
        "Anchors with a valid bound",
        "Share for which the value is a lower bound.",
        ("bound_valid", "bound_valid_strict"),
        "Dotted: by the stricter condition.",
        per_cent=True,
        zero=True,
    ),
    Panel(
        "Edges of the region",
        "Cosine to the nearest negative, averaged over anchors.",
        ("nearest_negative", "farthest_negative"),
        "Dotted: to the farthest.",
    ),
    Panel("Outer edge", "Where the ring ends, as a share of the ranking.", ("outer",), per_cent=True, zero=True),
    Panel(
        "False negatives", "Share of the negatives with the anchor's class.", ("false_negatives",), per_cent=True, zero=True
    ),
    Panel(
        "Anchors that have learned", "Loss within 1e-6 of 0: no gradient is left.", ("learned",), per_cent=True, zero=True
    ),
    Panel("Age of the negatives", "Steps since their rows of the bank were written.", ("bank_age",), zero=True),
)
HEALTH = (
    Panel("Alignment", "Squared distance of anchor and positive, 0 to 4: low is close.", ("alignment",), zero=True),
    Panel("Uniformity", "Nats: -3.9 fills a sphere of 128 dimensions, 0 is one point.", ("uniformity",)),
    Panel("Effective rank", "Directions that the batch fills; under 2 is a collapse.", ("effective_rank",), zero=True),
    Panel("Spread", "1: embeddings fill the sphere, 0: all are one point.", ("spread",), zero=True),
)
SPEED = (
    Panel("Throughput", "Images a second, between two readings.", ("images_per_s",), zero=True),
    Panel("Waiting for data", "Share of the time.", ("wait",), per_cent=True, zero=True),
    Panel("Memory", "Bytes: most of the GPU's, or what the process holds on a CPU.", ("memory_bytes",), zero=True),
    Panel("Updates left out", "So far, since something was not finite.", ("masked",), zero=True),
    Panel("Loss scale", "Of fp16.", ("scale",), log=True),
)
KNOWN = {name for panels in (LEARNING, NEGATIVES, HEALTH, SPEED) for panel in panels for name in panel.names}
SAID = {
    "loss": "loss",
    "bound": "bound (nats)",
    "ceiling": "ceiling, log K (nats)",
    "probe": "linear probe, online",
    "neighbours": "nearest neighbours, online",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "bound_valid": "anchors with a valid bound",
    "bound_valid_strict": "anchors with a valid bound, strict",
    "images_per_s": "images/s",
    "wait": "waiting for data",
    "memory_bytes": "memory",
    "masked": "updates left out",
}
SHARES = {"probe", "neighbours", "bound_valid", "bound_valid_strict", "false_negatives", "learned", "wait", "outer"}
MOST_OTHERS = 40
UNITS = {  # what an axis upwards measures; of other quantities their name
    "bound": "nats",
    "probe": "accuracy",
    "neighbours": "accuracy",
    "grad_norm": "norm",
    "bound_valid": "share of the anchors",
    "nearest_negative": "cosine",
    "outer": "share of the ranking",
    "false_negatives": "share of the negatives",
    "learned": "share of the anchors",
    "bank_age": "steps",
    "alignment": "squared distance",
    "uniformity": "nats",
    "effective_rank": "directions",
    "wait": "share of the time",
    "memory_bytes": "bytes",
    "masked": "updates",
}


def learning(runs: Sequence[Run]) -> Html | None:
    """Loss, bound, accuracies, learning rate, gradients."""
    note = (
        "How the training went. The bound is the lower bound on mutual information in nats: near its ceiling it can tell no "
        "more, and more negatives would lift the ceiling. Probe and neighbours watch the training's own views: a sign of "
        "progress, not a result."
    )
    return _section("curves", "Learning", note, runs, LEARNING)


def negatives(runs: Sequence[Run]) -> Html | None:
    """Validity of the bound, the region and its histograms."""
    note = (
        "Which negatives the loss met. Where the share of anchors with a valid bound is under 100 %, the logged value is no "
        "lower bound for the others; bounds of different regions do not compare."
    )
    last, over = [], []
    steps = max(run.told.step for run in runs)
    for place, run in enumerate(runs):
        found = run.told.histograms
        if not found:
            continue
        last.append(Shares(place, f"{run.name}, step {found[-1][0]}", found[-1][1]))
        if len(found) > 1 and len(runs) == 1:
            last.insert(0, Shares(place, f"step {found[0][0]}", found[0][1], outline=True))
        if len(found) > 1:
            title = "Negatives over the steps" + (f": {run.name}" if len(runs) > 1 else "")
            over.append(heat(title, "Dark where many are.", place, found, low=-1, high=1, steps=steps, what="cosine"))
    figures = []
    if last:
        told = "Cosine to the anchor, at the last reading." + (" Outline: at the first." if len(runs) == 1 else "")
        figures = [histogram("Negatives by cosine", told, last, low=-1, high=1, below="cosine", what="share of them"), *over]
    return _section("negatives", "Bound and negatives", note, runs, NEGATIVES, figures)


def health(runs: Sequence[Run]) -> Html | None:
    """Whether embeddings have collapsed."""
    note = "Whether images keep apart: a representation that collapses loses rank and spread, whatever the loss says."
    return _section("embeddings", "Embeddings", note, runs, HEALTH)


def others(runs: Sequence[Run]) -> Html | None:
    """Whatever else was logged."""
    names = sorted({name for run in runs for name in run.told.curves} - KNOWN)[:MOST_OTHERS]
    panels = [Panel(name.replace("_", " "), "", (name,)) for name in names]
    note = "Everything else in the log: terms of the method's loss and what they are made of, as its page in the docs says."
    return _section("terms", "Terms of the method", note, runs, panels)


def speed(runs: Sequence[Run]) -> Html | None:
    """Throughput, waiting, memory, and what stands on disk."""
    note = "What the training cost. A waiting share above some 10 % says that data comes too slowly: more threads or cores."
    saved = [(run.name, f"{kept.step:,}", size(kept.bytes)) for run in runs for kept in run.checkpoints[-4:]]
    extra = [table(("checkpoints on disk", "step", "size"), saved)] if saved else []
    return _section("speed", "Speed and memory", note, runs, SPEED, after=extra)


def _section(
    name: str,
    title: str,
    note: str,
    runs: Sequence[Run],
    panels: Sequence[Panel],
    more: Sequence[Html] = (),
    after: Sequence[Html] = (),
) -> Html | None:
    shown = [(panel, curves) for panel in panels if (curves := _curves(runs, panel))]
    figures = [
        lines(
            panel.title,
            _note(panel, curves),
            curves,
            what=UNITS.get(panel.names[0], SAID.get(panel.names[0], panel.names[0].replace("_", " "))),
            zero=panel.zero,
            log=panel.log,
            per_cent=panel.per_cent,
        )
        for panel, curves in shown
    ]
    figures += more
    if not (figures or after):
        return None
    rows = [row for panel, _ in shown for key in panel.names for row in _numbers(runs, key)]
    head = ("quantity", *(["run"] if len(runs) > 1 else []), "first", "lowest", "at step", "highest", "at step", "last")
    numbers = [folded("The same in numbers", table(head, rows, numbers=2 if len(runs) > 1 else 1))] if rows else []
    return section(name, title, note, grid(figures) if figures else None, *after, *numbers)


def _curves(runs: Sequence[Run], panel: Panel) -> list[Line]:
    """The curves of a panel; a quantity that stayed 0 in every run, as masked updates should, is none."""
    found = []
    for at, name in enumerate(panel.names):
        for place, run in enumerate(runs):
            curve = run.told.curves.get(name)
            if curve is None or (not curve.count and name != "loss"):
                continue
            what = SAID.get(name, name.replace("_", " "))
            label = f"{run.name}: {what}" if len(runs) > 1 else what
            found.append(Line(place, label, curve.points(), second=at > 0))
    silent = panel.names == ("masked",) and not any(value for line in found for _, value in line.points)
    return [] if silent else found


def _note(panel: Panel, curves: Sequence[Line]) -> str:
    return f"{panel.note} {panel.second}".strip() if any(line.second for line in curves) else panel.note


def _numbers(runs: Sequence[Run], name: str) -> list[list[str]]:
    rows = []
    say = share if name in SHARES else (lambda value: "-" if value is None else size(value)) if "bytes" in name else short
    for run in runs:
        curve = run.told.curves.get(name)
        if curve is None:
            continue
        lowest, highest = curve.low or (0, None), curve.high or (0, None)
        ends = (
            say(curve.first),
            say(lowest[1]),
            f"{lowest[0]:,.0f}",
            say(highest[1]),
            f"{highest[0]:,.0f}",
            say(curve.last),
        )
        rows.append([SAID.get(name, name.replace("_", " ")), *([run.name] if len(runs) > 1 else []), *ends])
    return rows

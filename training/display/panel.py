"""One frame of the screen: a reading as a panel of any width, and as one line of text."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...console import duration, in_line

MOST_COLUMNS = 120
STALE_S = 30.0  # without a reading for that long the panel says so
WARNINGS = 5
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"


class Progressed(NamedTuple):
    """One reading of a training run. Times in seconds; `wait` is the share of time spent waiting for data."""

    step: int
    steps: int
    epoch: float
    loss: float | None
    """None where it is not finite."""
    bound: float | None
    ceiling: float | None
    """None unless observed in this step."""
    learning_rate: float
    images_per_s: float
    wait: float
    left_s: float
    grad_norm: float | None
    masked: int
    """Updates so far that were masked because something was not finite."""
    probe: float | None
    """Accuracy of the online linear probe, 0 to 1."""
    neighbours: float | None
    """Accuracy of the online nearest neighbours, 0 to 1."""
    memory_bytes: int | None
    saved_step: int | None
    """Step of the newest checkpoint, and its age."""
    saved_age_s: float | None


class Passed(NamedTuple):
    """How far a run is between two readings, as far as that is known without waiting for the device."""

    step: int
    epoch: float
    images_per_s: float
    left_s: float


def passed_line(now: Passed, steps: int) -> str:
    """How far a run is, as one line of text."""
    far = f"step {now.step}/{steps}  epoch {now.epoch:.2f}  {now.images_per_s:.3g} images/s"
    return f"{far}  left {duration(now.left_s)}"


def bound_line(now: Progressed) -> str:
    """The bound beside its ceiling; a dash where a run stopped between two observations."""
    if now.bound is None:
        return "-"
    return f"{now.bound:.3f} nats" if now.ceiling is None else f"{now.bound:.3f} of {now.ceiling:.3f} nats"


def plain_line(now: Progressed) -> str:
    """One reading as one line of text."""
    parts = [
        f"step {now.step}/{now.steps}",
        f"epoch {now.epoch:.2f}",
        f"loss {_loss(now)}",
        f"bound {bound_line(now)}",
        f"{now.images_per_s:.0f} images/s",
        f"data {now.wait:.0%}",
        f"left {duration(now.left_s)}",
    ]
    if now.probe is not None:
        parts.append(f"probe {now.probe:.1%}")
    if now.neighbours is not None:
        parts.append(f"neighbours {now.neighbours:.1%}")
    if now.masked:
        parts.append(f"masked {now.masked}")
    return "  ".join(parts)


def sparkline(values: Sequence[float | None], width: int, *, plain: bool) -> str:
    """The values as heights of a block, lowest to highest, a gap where one is None; of many, means of neighbours."""
    if len(values) > width:
        edges = [len(values) * index // width for index in range(width + 1)]
        values = [mean(values[begin:end]) for begin, end in pairwise(edges)]
    finite = [value for value in values if value is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    blocks = ASCII_BLOCKS if plain else BLOCKS
    scale = (len(blocks) - 1) / ((high - low) or 1.0)
    return "".join(" " if value is None else blocks[round((value - low) * scale)] for value in values)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are not None."""
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if finite else None


def bar(share: float, width: int, *, style: str, plain: bool) -> Text:
    """A bar of `width` columns, filled from the left by `share` of it; half columns count where glyphs allow it."""
    share = min(max(share, 0.0), 1.0)
    if plain:
        full = int(share * width)
        return Text.assemble(("#" * full, style), ("-" * (width - full), "bright_black"))
    halves = int(share * width * 2)
    done = "━" * (halves // 2) + "╸" * (halves % 2)
    return Text.assemble((done, style), ("─" * (width - len(done)), "bright_black"))


def frame(
    title: str,
    now: Progressed | None,
    losses: Sequence[float | None],
    warnings: Sequence[tuple[str, int]],
    *,
    age_s: float,
    width: int,
    height: int,
    plain: bool,
) -> RenderableType:
    """The panel of a reading that is `age_s` old, with the newest `warnings` (text, how often) below.

    It is `width` columns wide, at most MOST_COLUMNS, and leaves out what `height` rows do not hold: empty lines first, then
    the oldest warnings. `plain` asks for ASCII alone.
    """
    width = min(width, MOST_COLUMNS)
    inner = width - 4
    below = _warnings(warnings, width)
    if now is None:
        body: list[RenderableType] = [Text(f"waiting for the first reading, {duration(age_s)}", "dim", overflow="crop")]
        rows = 1
    else:
        body = [*_progress(now, age_s, inner, plain=plain), *_curves(now, losses, inner, plain=plain)]
        if age_s > STALE_S:
            body.append(_fitting(Text(f"no reading for {duration(age_s)}", "yellow")))
        facts, columns = _facts(now, age_s), max(1, min(3, inner // 36))
        lines = min(-(-len(facts) // columns), max(0, height - 2 - len(body)))
        rows = len(body) + lines
        body.append(_grid(facts[: lines * columns], columns))
        if rows + len(below) + 4 <= height:
            body = [*body[:2], Text(), *body[2:4], Text(), *body[4:]]
            rows += 2
    room = min(max(0, height - rows - 2), len(below))
    head = Text(_shortened(in_line(title), inner - 2), "bold")
    kind = box.ASCII if plain else box.ROUNDED
    shown = Panel(Group(*body), title=head, title_align="left", box=kind, border_style="bright_black", width=width)
    return Group(shown, *below[len(below) - room :])


def _progress(now: Progressed, age_s: float, inner: int, *, plain: bool) -> list[Text]:
    done = now.step / max(now.steps, 1)
    left = "done" if now.step >= now.steps else f"{duration(now.left_s - age_s)} left"
    aside = f"  {done:.1%}  {left}"
    line = bar(done, max(0, inner - len(aside)), style="green" if done >= 1 else "cyan", plain=plain)
    line.append(aside)
    return [_fitting(line), _ends(f"step {now.step:,} of {now.steps:,}", f"epoch {now.epoch:.2f}", inner)]


def _curves(now: Progressed, losses: Sequence[float | None], inner: int, *, plain: bool) -> list[Text]:
    loss = Text.assemble(("loss   ", "dim"), (f"{_loss(now):<8}", "bold" if now.loss is not None else "bold red"), "  ")
    loss.append(sparkline(losses, max(1, inner - len(loss)), plain=plain), "cyan")
    bound = Text.assemble(("bound  ", "dim"), ("-" if now.bound is None else f"{now.bound:.3f}", "bold"))
    if now.bound is not None and now.ceiling is not None:
        bound.append(f" of {now.ceiling:.3f}" + (" nats  " if inner >= 48 else "  "))
        share = now.bound / now.ceiling if now.ceiling > 0 else 0.0
        aside = f"  {share:.0%}"
        bound.append_text(bar(share, max(0, inner - len(bound) - len(aside)), style="magenta", plain=plain)).append(aside)
    elif now.bound is not None:
        bound.append(" nats")
    return [_fitting(loss), _fitting(bound)]


def _facts(now: Progressed, age_s: float) -> list[tuple[str, Text]]:
    waiting = "red" if now.wait > 0.3 else "yellow" if now.wait > 0.1 else ""
    facts = [
        ("images/s", Text(f"{now.images_per_s:,.0f}")),
        ("waiting for data", Text(f"{now.wait:.1%}", waiting)),
        ("learning rate", Text(f"{now.learning_rate:.4g}")),
        ("gradient norm", Text("-" if now.grad_norm is None else f"{now.grad_norm:.3g}")),
    ]
    if now.memory_bytes is not None:
        facts.append(("memory", Text(f"{now.memory_bytes / 2**30:.1f} GiB")))
    if now.saved_step is None or now.saved_age_s is None:
        facts.append(("checkpoint", Text("none yet")))
    else:
        facts.append(("checkpoint", Text(f"{now.saved_step:,}, {duration(now.saved_age_s + age_s)} ago")))
    if now.probe is not None:
        facts.append(("linear probe", Text(f"{now.probe:.1%}")))
    if now.neighbours is not None:
        facts.append(("neighbours", Text(f"{now.neighbours:.1%}")))
    if now.masked:
        facts.append(("masked updates", Text(f"{now.masked:,}", "yellow")))
    return facts


def _grid(facts: Sequence[tuple[str, Text]], columns: int) -> Table:
    grid = Table.grid(expand=True)
    for _ in range(columns):
        grid.add_column(style="dim", no_wrap=True, width=18)
        grid.add_column(no_wrap=True, overflow="crop", ratio=1)
    for begin in range(0, len(facts), columns):
        cells: list[RenderableType] = []
        for name, value in facts[begin : begin + columns]:
            cells += [name, value]
        grid.add_row(*cells)
    return grid


def _warnings(warnings: Sequence[tuple[str, int]], width: int) -> list[Text]:
    lines: list[Text] = []
    for text, count in warnings[-WARNINGS:]:
        text = in_line(text)
        whole = text if count == 1 else f"{text} ({count:,} times)"
        room = max(1, width - 2)
        for index, line in enumerate(_folded(whole, room)):
            lines.append(Text.assemble(("  " if index else "! ", "bold yellow"), (line, "yellow")))
    earlier = len(warnings) - WARNINGS
    return [Text(f"  and {earlier} earlier, see log.jsonl"[:width], "dim"), *lines] if earlier > 0 else lines


def _folded(text: str, room: int) -> list[str]:
    """Lines of at most `room` columns; a word that is longer (a path) is cut."""
    lines = [""]
    for word in text.split():
        if lines[-1] and Text(lines[-1]).cell_len + 1 + Text(word).cell_len > room:
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
        while Text(lines[-1]).cell_len > room:
            head = Text(lines[-1])
            head.truncate(room)
            lines[-1:] = [head.plain, lines[-1][len(head.plain) :]]
    return lines


def _loss(now: Progressed) -> str:
    return "not finite" if now.loss is None else f"{now.loss:.4f}"


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 3)] + "..."


def _ends(left: str, right: str, inner: int) -> Text:
    return _fitting(Text(f"{left}{right:>{max(len(right) + 1, inner - len(left))}}"))


def _fitting(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "crop"
    return line

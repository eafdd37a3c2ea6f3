"""What a start says of a training before its first step: what it is, and on a CPU what it will take."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import duration, opening
from ..methods.method import Method
from ..methods.overrides import summary, values
from ..methods.parts import Bank, Queue
from ..methods.table import METHODS
from ..objectives.memory import rows_of
from ..objectives.warm_start import ranking_edge
from ..settings import Train
from ..settings.training import Network, Views
from .options import QUEUE, peak_rate

if TYPE_CHECKING:
    from .pretraining import Pretraining

LONG_S = 1800.0  # a training that takes longer is told what would make it shorter


def plan(config: Train, run: Pretraining, given: str) -> None:
    """Print what is about to happen, in some ten lines."""
    from ..checkpoint.writer import needed_bytes
    from ..evaluation.online import too_large
    from .resume import parts_of

    settings, world, device = run.settings, run.accelerator.num_processes, run.accelerator.device
    network, views, optimisation = config.network, config.views, config.optimisation
    count = sum(parameter.numel() for parameter in run.state.network.parameters())
    _, positive, negatives, memory, loss, source = summary(run.method)
    rate = f"rate {peak_rate(optimisation, run.method):g} {optimisation.schedule}"
    share = f", {settings['batch'] // world} on each of {world} processes" if world > 1 else ""
    gathered = f", {optimisation.accumulate} batches an update" if optimisation.accumulate > 1 else ""
    extras = [f"clipped at {optimisation.clip:g}"] if optimisation.clip else []
    extras += [f"moving average {optimisation.ema:g}"] if optimisation.ema else []
    size = needed_bytes(parts_of(run.state)) / 1e6
    number_C = run.state.number_C
    classes = 0 if number_C is None else len(number_C)
    unwatched = too_large(run.state.network.features, classes) if settings["online"] and classes > 1 else ""
    rows = [
        ("data", f"{config.data}: {len(run.beton):,} images, {f'{classes} classes' if classes > 0 else 'no classes'}"),
        (
            "views",
            f"{views.recipe or run.method.recipe} at {views.size} px; {run.loader.engine_name} engine, colours on the "
            f"{run.loader.placement}",
        ),
        ("method", f"{config.method} ({source}): positive {positive}; negatives {negatives}; memory {memory}; {loss}"),
        *_pairs_row(run.method),
        *settings_rows(run, assigned=config.set),
        ("encoder", f"{network.encoder}, {count / 1e6:.1f} M parameters with heads, batch norm {network.batch_norm}"),
        ("begins with", given or f"random weights of seed {config.seed}"),
        ("optimiser", ", ".join([optimisation.optimiser, rate, *extras])),
        ("batch", f"{optimisation.batch} images{share}{gathered}"),
        ("runs on", f"{device.type}, precision {'float32' if optimisation.precision == 'no' else optimisation.precision}"),
        ("steps", f"{run.first:,} to {run.steps:,}, {len(run.loader):,} an epoch"),
        *([("online probe", unwatched)] if unwatched else []),
        ("results", f"{config.out}; a checkpoint of {size:,.0f} MB every {run.every:,} steps, {free_text(config.out)}"),
    ]
    if device.type == "cpu" and run.first < run.steps:
        rows.insert(-1, ("time", _estimate(run, network, views)))
    opening(f"viewmill train {config.method}", rows)


def _pairs_row(method: Method) -> list[tuple[str, str]]:
    """Which views are contrasted with which, where that is more than both ways between two."""
    views, keys = method.views, len(method.key_views)
    if views <= 2 or not method.pairs:
        return []
    alone = f", {views - keys} of them anchors alone" if keys < views else ""
    return [("pairs", f"{len(method.pairs)} of {views} views{alone}; the bound is the mean of theirs")]


def _estimate(run: Pretraining, network: Network, views: Views) -> str:
    """What the steps that are left will take on this processor, measured on two images, and what would make it less."""
    from .cost import seconds_per_image
    from .state import autocast

    recipe = run.loader.recipe
    tensors = [(len(recipe.groups[group]), recipe.views[recipe.groups[group][0]].size) for group, *_ in recipe.tensors]
    followed = len(run.method.target_views) / max(run.method.online_views, 1) if run.method.target else 0.0
    options = {"followed": followed, "autocast": lambda: autocast(run.accelerator)}
    each = seconds_per_image(run.state.network, tensors, **options)
    seconds = each * run.batch / run.accelerator.num_processes * (run.steps - run.first)
    text = f"about {duration(seconds)} at {run.accelerator.num_processes / each:.3g} images/s on this processor"
    if seconds < LONG_S:
        return text
    width = "" if network.encoder.startswith("timm:") else f" and --width {network.width // 2}"
    return f"{text}; shorter: fewer --epochs, and --size {views.size // 2}{width} take about a quarter of it each"


def free_text(out: Path) -> str:
    """How much room there is where the results go."""
    return f"{shutil.disk_usage(out).free / 1e9:,.0f} GB free"


def settings_rows(run: Pretraining, *, assigned: Sequence[str]) -> list[tuple[str, str]]:
    """What of the method is not as its row of the table has it, and a queue that does not fit the data."""
    preset, own = dict(values(METHODS[run.settings["method"]])), dict(values(run.method))
    unlike = [name for name in dict.fromkeys((*own, *preset)) if own.get(name) != preset.get(name)]
    told = [f"{name} {_said(own.get(name))} (preset {_said(preset.get(name))})" for name in unlike]
    rows = [("settings", "; ".join(told))] if told else []
    rows += [("short run", text) for text in [_short_run(run, assigned)] if text]
    if not isinstance(run.method.memory, Queue):
        return rows
    size, images = run.method.memory.size, len(run.beton)
    set_by_hand = any(assignment.startswith(QUEUE) for assignment in assigned)
    if size == images and not set_by_hand:
        rows.append(("queue", f"{size:,} keys, as many as there are images; --set {QUEUE}N for another number"))
    elif size > images:
        rows.append(
            (
                "queue",
                f"{size:,} keys of {images:,} images, {size / images:.3g} of each: all are in the loss, the bound counts "
                f"images; --set {QUEUE}{images} has one of each",
            )
        )
    return rows


def _short_run(run: Pretraining, assigned: Sequence[str]) -> str:
    """Which presets were made for a run of few epochs, why, and what keeps those of the sources; "" for none."""
    method, names = run.method, {assignment.partition("=")[0] for assignment in assigned}
    found = []
    if isinstance(method.memory, Bank) and method.memory.unvisited == "own" and "memory.unvisited" not in names:
        rate = METHODS[run.settings["method"]].learning_rate
        slower = "" if method.learning_rate == rate else f", at {method.learning_rate:g} for SGD's usual rate of {rate:g}"
        found.append(f"the bank is filled before it is learnt from{slower} (--set memory.unvisited=random: not)")
    if method.ranked_share > 0 and not names & {"warm_start", "ranked_share"}:
        edge = ranking_edge(method, rows=rows_of(run.state.memory))
        found.append(
            f"region and positives are in force after {method.warm_start:g} epochs, once {method.ranked_share:.0%} of the "
            f"anchors have their own row among the nearest {edge:.3g} of all, at {method.latest:.0%} of the run at the "
            "latest (--set warm_start=0: at once)"
        )
    if not found:
        return ""
    memory = "queue" if isinstance(method.memory, Queue) else "bank"
    return f"{run.steps / run.per_epoch:.3g} epochs renew a {memory} so often: " + "; ".join(found)


def _said(value: object) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

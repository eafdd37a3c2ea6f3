"""What a benchmark found, for people: a bar for each contender, and ratios of neighbours within a round."""

import statistics
from pathlib import Path

from ..files.opening import check_output, replacing
from ..settings import Bench

PICTURES = (".png", ".svg", ".pdf")
"""Endings of the file that `picture` writes."""

Rounds = list[dict[str, float]]
"""Images/s by contender, round by round."""


def ratios(rounds: Rounds, one: str, other: str) -> list[float]:
    """Median, lowest and highest of `one` over `other`, round by round."""
    found = [turn[one] / turn[other] for turn in rounds]
    return [round(value, 3) for value in (statistics.median(found), min(found), max(found))]


def check_picture(config: Bench) -> None:
    """Raise ValueError or OSError unless the picture that is asked for may be written."""
    check_output(config.picture, overwrite=config.overwrite, endings=PICTURES)


def picture(rounds: Rounds, ours: str, title: str, target: Path) -> None:
    """Bars of medians with their ranges; those whose names begin with `ours` in colour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = sorted(rounds[0], key=lambda name: statistics.median(turn[name] for turn in rounds))
    middles = [statistics.median(turn[name] for turn in rounds) for name in names]
    spread = [
        [middle - min(turn[name] for turn in rounds) for name, middle in zip(names, middles, strict=True)],
        [max(turn[name] for turn in rounds) - middle for name, middle in zip(names, middles, strict=True)],
    ]
    colours = ["#2a6fbb" if name.startswith(ours) else "#9aa5b1" for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(names) + 1.2), layout="constrained")
    axes.barh(names, middles, xerr=spread, color=colours, error_kw={"ecolor": "#444", "capsize": 2, "lw": 1})
    for place, middle in enumerate(middles):
        end = middle + spread[1][place]
        axes.annotate(f"{middle:,.0f}", (end, place), xytext=(6, -3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("images/s (logarithmic), median and range")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(target) as partial:
        figure.savefig(partial, format=target.suffix[1:], dpi=140)

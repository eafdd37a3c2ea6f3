"""The page and the picture of `known_information.py`, from its lines alone: the same lines, the same page."""

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from viewmill.files.opening import replacing
from viewmill.study.picture import save
from viewmill.study.spread import Spread, paired, spread

Lines = Sequence[dict[str, Any]]
Curve = Callable[[str, int], float]
"""What a critic that tells figures apart and nothing more is worth, by method and number of figures."""
HEAD = (
    "figures n",
    "method",
    "terms K",
    "log n",
    "sharp critic",
    "on these batches",
    "bound logged",
    "s.d.",
    "to log n",
    "bound valid",
    "copies",
)
FEW = 0.5  # share of anchors with a bound, under which a run warns that the value is none (objectives/alarms.py)
COLOURS, DARK = ("#0072B2", "#009E73", "#D55E00"), "#444444"  # Okabe and Ito, told apart by everyone


class Group(NamedTuple):
    """The lines of one method on one number of figures; values in nats."""

    figures: int
    method: str
    terms: int
    known: float
    best: float
    sharp: float
    here: float
    """Of the same critic on the very batches that were measured, a mean over seeds."""
    most: float
    """By how much a training's bound exceeds that, at most."""
    bound: Spread
    valid: float
    copies: float
    verdict: str
    """Where the bound lies against the known information, by a 95 % interval over seeds: as `study.spread.Paired` has it."""

    @property
    def excess(self) -> float:
        """Of the mean over the known information."""
        return self.bound.mean - self.known

    @property
    def gap(self) -> float:
        """From the mean to what a critic that tells figures apart makes of the same batches."""
        return self.here - self.bound.mean

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        deviation = "" if self.bound.deviation is None else f"{self.bound.deviation:.4f}"
        numbers = (f"{self.known:.4f}", f"{self.sharp:.4f}", f"{self.here:.4f}", f"{self.bound.mean:.4f}", deviation)
        shares = (f"{self.valid:.1%}", f"{self.copies:.1%}")
        return (f"{self.figures:,}", self.method, str(self.terms), *numbers, self.verdict, *shares)


def groups(lines: Lines) -> list[Group]:
    """In the order of figures, then of methods as they first come."""
    methods = list(dict.fromkeys(line["method"] for line in lines))
    keys = sorted({(line["figures"], methods.index(line["method"])) for line in lines})
    return [_group([line for line in lines if (line["figures"], line["method"]) == (n, methods[at])]) for n, at in keys]


def _group(lines: Lines) -> Group:
    one: dict[str, Any] = {name: lines[0][name] for name in ("figures", "method", "terms", "known", "best", "sharp")}
    bounds = {line["seed"]: line["bound"] for line in lines}
    known: float = one["known"]
    told = paired(bounds, dict.fromkeys(bounds, known))
    assert told is not None
    shown = {"here": "sharp_here", "valid": "bound_valid", "copies": "copies"}
    means: dict[str, Any] = {name: fmean(line[key] for line in lines) for name, key in shown.items()}
    most = max(line["bound"] - line["sharp_here"] for line in lines)
    return Group(**one, **means, most=most, bound=spread(list(bounds.values())), verdict=told.verdict)


def write(lines: Lines, results: Path, curve: Curve) -> None:
    """Write the page beside the lines, and where matplotlib is there the picture."""
    with replacing(results.with_suffix(".md")) as partial:
        partial.write_text(markdown(lines, results.name), encoding="utf-8")
    if find_spec("matplotlib") is not None:
        picture(groups(lines), results.with_suffix(".png"), curve)


def markdown(lines: Lines, name: str) -> str:
    """The page, in Markdown; `name` is the file of the lines."""
    found, first, title = groups(lines), lines[0], "Does the logged bound track the information of the views?"
    machines = sorted({f"{line['hardware']['cpu']}, {line['hardware']['cores']} cores" for line in lines})
    versions = sorted({f"viewmill {line['versions']['viewmill']}, torch {line['versions']['torch']}" for line in lines})
    opening = (
        f"`python benchmarks/known_information.py {name}` made this page from `{name}`, which has a line for each training; "
        f"with `--table` it makes page and picture anew and trains nothing. {first['rows']:,} rows are copies of n rendered "
        "figures. Two views of a row share which figure it was and nothing else, so their mutual information is log n where "
        f"a view tells its figure: {min(line['told_apart'] for line in lines):.2%} of a data set's views at least lay "
        f"nearest to their own figure. Batches of {first['batch']}, "
        f"{first['settings']['epochs']} epochs, of which the last is measured; {len(lines)} trainings of "
        f"{fmean(line['training_s'] for line in lines):.0f} s on the mean. Made with {'; '.join(versions)}, on "
        f"{'; '.join(machines)}."
    )
    rule = ["---:" if at not in (1, 8) else "---" for at in range(len(HEAD))]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEAD, rule, *(each.cells() for each in found)))
    footing = (
        "Nats. Sharp critic: what one that tells figures apart and nothing more makes of the region at this K, exactly, "
        "over all batches and on those that were measured; of everything (simclr) no critic makes more. Bound logged: the "
        "mean of the last epoch, over seeds, and the deviation of seeds (n - 1); whether it is above or below log n is by "
        "a 95 % interval over seeds, by Student's t. Bound valid: the share of anchors for which the log calls the value "
        "a bound. Copies: the share of negatives that show the anchor's own figure."
    )
    said = "\n".join(f"- {text}" for text in sentences(found))
    return "\n\n".join((f"# {title}", opening, f"![{title}]({Path(name).stem}.png)", said, grid, footing)) + "\n"


def sentences(found: Sequence[Group]) -> Iterator[str]:
    """What the lines say: of the method whose negatives are everything, of its best critic, and of each region."""
    whole = {each.figures: each for each in found if each.sharp == each.best}
    for method in dict.fromkeys(each.method for each in found):
        its = [each for each in found if each.method == method]
        yield f"**{method}**: " + (_everything(its) if whole.get(its[0].figures) == its[0] else _region(its, whole))
    if loose := [each for each in whole.values() if each.best > each.known]:
        yield (
            f"The best critic's own value lies above log n at n = {_numbers(loose)}, by up to "
            f"{max(each.best - each.known for each in loose):.4f} nats: both views of each other image are negatives, and "
            "two views of one image are not the independent draws that the theorem asks for."
        )


def _everything(its: Sequence[Group]) -> str:
    near, above = (
        [each for each in its if each.known < math.log(each.terms)],
        [each for each in its if each.verdict == "above"],
    )
    said = list[str]()
    if near:
        excess = ", ".join(f"{each.excess:+.4f} at n = {each.figures}" for each in near).replace("-", "\N{MINUS SIGN}")
        said.append(f"where log n is under log K, the value less log n is {excess}.")
    gaps = ", ".join(f"{each.gap:.4f} at n = {each.figures:,}" for each in its)
    said.append(f"Under what the best critic makes of the same batches it lies by {gaps}")
    most = max(each.most for each in its)
    said[-1] += "; no training exceeds that." if most <= 0 else f"; one training exceeds that, by {most:.4f}."
    said.append(f"Over log n by the interval: {_listed(above)}." if above else "At no n is it over log n by the interval.")
    return " ".join(said)


def _region(its: Sequence[Group], whole: dict[int, Group]) -> str:
    above, low = [each for each in its if each.verdict == "above"], [each for each in its if each.valid < FEW]
    text = f"above log n at {_listed(above)}" if above else "nowhere above log n"
    beside = [(each, whole[each.figures]) for each in its if each.figures in whole]
    over = [each for each, other in beside if each.bound.mean >= other.bound.mean]
    if beside:
        text += (
            f", above {beside[0][1].method} at n = {_numbers(over)}" if over else f", below {beside[0][1].method} at every n"
        )
    if not low:
        return f"{text}. `bound_valid` is {min(each.valid for each in its):.1%} at least."
    text += f". `bound_valid` is under {FEW:.0%} at n = {_numbers(low)}"
    text += ": wherever the value exceeds log n" if set(above) <= set(low) else ": not wherever the value exceeds log n"
    inside = [each for each in low if each not in above]
    if not inside:
        return f"{text}, and there alone."
    why = (
        "there log K keeps it below"
        if all(math.log(each.terms) < each.known for each in inside)
        else "the test is sufficient"
    )
    return f"{text}, and at n = {_numbers(inside)}, where it does not: {why}."


def _numbers(its: Sequence[Group]) -> str:
    return ", ".join(f"{each.figures:,}" for each in its)


def _listed(its: Sequence[Group]) -> str:
    return ", ".join(f"n = {each.figures:,} (by {each.excess:.3f})" for each in its)


def picture(found: Sequence[Group], target: Path, curve: Curve) -> None:
    """Draw known against logged information, with what limits it, to a .png of 1500 px width; whole or not at all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    limit, most = max(each.known for each in found) * 1.05, max(each.figures for each in found)
    with pyplot.rc_context({"font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(7.5, 5.0), layout="constrained")
        axes.plot((0, limit), (0, limit), color=DARK, linewidth=1, label="the information itself", zorder=1)
        doubled = [1 << power for power in range(most.bit_length())]
        for place, method in enumerate(dict.fromkeys(each.method for each in found)):
            its, colour = [each for each in found if each.method == method], COLOURS[place % len(COLOURS)]
            ceiling, label = math.log(its[0].terms), f"log K = log {its[0].terms}"
            axes.plot(
                [math.log(n) for n in doubled], [curve(method, n) for n in doubled], color=colour, linewidth=1, zorder=2
            )
            axes.axhline(ceiling, color=colour, linestyle=(0, (1, 2)), linewidth=1, zorder=1)
            axes.annotate(label, (0, ceiling), (3, 2 - 13 * (place == 2)), textcoords="offset points", color=colour)
            for each in its:
                face = colour if each.valid >= FEW else "white"
                deviation = each.bound.deviation or 0
                axes.errorbar(each.known, each.bound.mean, deviation, color=colour, capsize=3, linewidth=1, zorder=3)
                axes.scatter(each.known, each.bound.mean, s=30, facecolor=face, edgecolor=colour, linewidth=1.3, zorder=4)
            axes.scatter([], [], s=30, color=colour, label=f"{method}: mean over seeds, deviation")
        axes.scatter(
            [], [], s=30, facecolor="white", edgecolor=DARK, label=f"bound valid for under {FEW:.0%} of the anchors"
        )
        axes.plot([], [], color=COLOURS[0], linewidth=1, label="in each colour: a critic that tells figures apart")
        ticks = {each.known: f"log {each.figures}" for each in found}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set(xlabel="mutual information of the views", ylabel="bound in the log (nats)", xlim=(0, limit))
        axes.set_ylim(0, 1.12 * max(math.log(each.terms) for each in found))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        try:
            save(figure, target)
        finally:
            pyplot.close(figure)

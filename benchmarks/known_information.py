"""Whether the bound that a training logs tracks the mutual information of its views, on images where that is known.

    OMP_NUM_THREADS=1 python benchmarks/known_information.py studies/results/known-information.jsonl

N rows are copies of n rendered figures, N/n of each. Two views of a row share which figure it was and nothing else, so
I(U; V) <= log n by the data processing inequality, and = log n where a view tells its figure, which is measured before
each training. Both views of the other images are negatives, so that copies of the anchor are among them, two of each: K =
2B - 1 terms, and of the other B - 1 images H hypergeometric show the anchor's figure. The 1 + 2H views of it in the
denominator are exchangeable given the anchor, so by Jensen no critic exceeds E log(K / (1 + 2H)); one that tells figures
apart and nothing more attains it (InfoNCE: arXiv 1807.03748; regions: arXiv 2005.13149). A pair is two rows but one draw, so
this may lie above log n by some thousandths of a nat; with one view of each other image it could not.

One JSON line a training is added to the file, and what stands there is not made again. Then a page and a picture are made
from the lines, with --table these alone. The 54 trainings took 12 CPU-minutes.
"""

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from viewmill.benchmarks.known_page import write
from viewmill.files.opening import LARGE, make_bytes, read_text
from viewmill.methods.parts import Region
from viewmill.methods.table import METHODS
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.factors import draw, render
from viewmill.pipeline.order import permutation
from viewmill.study.process import Call, called
from viewmill.study.results import append, last_epoch
from viewmill.training.run_folder import read_config
from viewmill.training.signals import deferred

SIZE = 24  # pixels: of the figures and of their views
# The whole image, for half of the views mirrored, a fifth brighter or darker and of more or less contrast: what may differ
# between two views says nothing of the figure, and none of it hides which one it is, as a crop or greyscale might.
RECIPE = f"""[[views]]
count = 2
size = {SIZE}
crop = {{share = 1.0}}
flip = 0.5
jitter = {{brightness = 0.2, contrast = 0.2, saturation = 0.0, hue = 0.0}}
"""
FLAGS = {  # 2 / .07 = 28.6 nats from the least to the largest critic value, of log n <= 7.6; at .2 they are 10
    "--width": "8",
    "--size": str(SIZE),
    "--optimiser": "adamw",
    "--learning-rate": "0.004",
    "--precision": "no",
    "--threads": "1",
    "--log-every": "1",
    "--set": "bound.temperature=0.07",
}
TOLD = ("bound", "ceiling", "bound_valid", "alignment", "nearest_negative", "farthest_negative")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where results stand, and which trainings there are."""

    results: tyro.conf.Positional[Path]
    """A .jsonl file; page and picture are made beside it."""
    table: bool = False
    """Train nothing."""
    figures: tuple[int, ...] = (4, 16, 32, 64, 256, 2048)
    """n: different images, each a divisor of the rows."""
    methods: tuple[str, ...] = ("simclr", "simclr-ball", "simclr-ring")
    """Rows of the table of methods whose negatives are the batch."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings; the images are the same for all."""
    rows: int = 2048
    """N: images of the data set, copies included."""
    batch: int = 64
    """B: images of a batch."""
    epochs: int = 4
    """Passes over the rows; the last one is measured."""

    def __post_init__(self) -> None:
        for n in self.figures:
            if n < 1 or self.rows % n:
                raise ValueError(f"{self.rows} rows are no whole number of copies of {n} figures: choose divisors of it")


def worth(region: Region, batch: int) -> Callable[[int], float]:
    """What an anchor is worth, in nats, to a critic that tells figures apart and nothing more, by H, the other images of its
    figure: of the region's terms their 2H views count, which rank first; of the 2B rows on offer the own two rank last.
    """
    from viewmill.objectives.regions import window

    where = window(region, 2 * batch, limit=None)
    taken = min(where.outer, 2 * batch - 2) - where.inner
    return lambda h: math.log((1 + taken) / (1 + min(max(2 * h - where.inner, 0), taken)))


def sharp(region: Region, *, rows: int, figures: int, batch: int) -> float:
    """The mean of `worth` over all batches. Of everything it is the largest value of any critic."""
    each, copies, ways = worth(region, batch), rows // figures - 1, math.comb(rows - 1, batch - 1)
    share = [math.comb(copies, h) * math.comb(rows - 1 - copies, batch - 1 - h) / ways for h in range(batch)]
    return math.fsum(part * each(h) for h, part in enumerate(share))


def sharp_here(region: Region, *, rows: int, figures: int, batch: int, seed: int, epoch: int) -> float:
    """The mean of `worth` over the batches of a training's epoch, where views alone are left to chance."""
    figure_SB = (permutation(rows, seed=seed, epoch=epoch) // (rows // figures))[: rows // batch * batch].reshape(-1, batch)
    each, number = worth(region, batch), [Counter(figure_B.tolist()) for figure_B in figure_SB]
    return math.fsum(count * each(count - 1) for step in number for count in step.values()) / figure_SB.size


def made(folder: Path, figures: int, rows: int) -> Path:
    """A .beton of `rows` rows, copies of `figures` images, each a class of its own: so the log counts the copies."""
    table = draw(figures, seed=0)
    for figure in range(figures):
        place = folder / "images" / f"{figure:04d}"
        place.mkdir(parents=True)
        for copy in range(rows // figures):
            Image.fromarray(render(table[figure], SIZE)).save(place / f"{copy:04d}.png")
    return convert([folder / "images"], folder / "figures.beton").target


def told_apart(data: Path, recipe: Path, batch: int) -> float:
    """The share of an epoch's views that lie nearest to their own figure, as it is or mirrored.

    Distances are of views that were centred and scaled to length 1, over all pixels and colours, which undoes brightness and
    contrast. A share of 1 says that views tell their figures: then I(U; V) = log n.
    """
    import torch

    from viewmill.pipeline.beton.reader import open_beton
    from viewmill.pipeline.engines.engine import choose
    from viewmill.pipeline.loader import BetonLoader
    from viewmill.pipeline.views.recipe_file import recipe_of

    wanted = recipe_of(str(recipe), SIZE)
    mean_C, std_C = (torch.tensor(numbers) for numbers in (wanted.views[0].mean, wanted.views[0].std))

    def scaled(views: torch.Tensor) -> torch.Tensor:
        pixels_ND = (views * std_C[:, None, None] + mean_C[:, None, None]).flatten(1)
        return torch.nn.functional.normalize(pixels_ND - pixels_ND.mean(dim=1, keepdim=True), dim=1)

    options: dict[str, Any] = {"batch": batch, "seed": 0, "device": torch.device("cpu"), "engine_name": choose("auto")}
    with closing(BetonLoader(open_beton(data), wanted, threads=1, **options)) as loader:
        figure = dict[int, torch.Tensor]()
        for each in loader.once():
            figure |= dict(zip(each.label_B.tolist(), each.views[0].clone(), strict=True))
        known = torch.stack([figure[label] for label in sorted(figure)])
        known_ND = torch.cat((scaled(known), scaled(known.flip(3))))
        found = list[bool]()
        for each in loader.epoch(0):
            nearest_N = (scaled(each.views[0]) @ known_ND.T).argmax(dim=1) % len(known)
            found += (nearest_N == each.label_B.repeat(2)).tolist()
    return sum(found) / len(found)


def result(settings: Settings, n: int, method: str, seed: int, run: Path) -> dict[str, Any]:
    """The line of a training that has ended in `run`."""
    records = [json.loads(text) for text in read_text(run / "log.jsonl", limit=LARGE).splitlines()]
    begun, config, late = records[0], read_config(run), last_epoch(records)
    shape = {"rows": settings.rows, "figures": n, "batch": settings.batch}
    return {
        "method": method,
        "seed": seed,
        **shape,
        "known": math.log(n),
        "best": sharp(METHODS["simclr"].region, **shape),
        "sharp": sharp(METHODS[method].region, **shape),
        "sharp_here": sharp_here(METHODS[method].region, **shape, seed=seed, epoch=settings.epochs - 1),
        **{name: late[name] for name in TOLD},
        "copies": late["false_negatives"],
        "terms": round(math.exp(late["ceiling"])),
        "steps": config["steps"],
        "training_s": round(records[-1]["time"] - begun["time"], 1),
        "engine": config["engine"],
        "versions": begun["versions"],
        "hardware": begun["hardware"],
        "time": round(time.time(), 3),
    }


def asked_of(settings: Settings) -> dict[str, Any]:
    """What all lines of a file have in common."""
    return {"rows": settings.rows, "batch": settings.batch, "epochs": settings.epochs, "recipe": RECIPE, "flags": FLAGS}


def read(path: Path, settings: Settings) -> dict[tuple[int, str, int], dict[str, Any]]:
    """The lines of a file by figures, method and seed; a last one that a crash has cut off counts as not there.

    Raises ValueError for a line that is none, or that was made with other settings.
    """
    found = {}
    texts = read_text(path).split("\n") if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text or "null")
        except ValueError:
            if number < len(texts):
                raise ValueError(f"{path}: line {number} is no result: remove it, and its training is made again") from None
            continue
        if line is not None:
            if line["settings"] != asked_of(settings):
                raise ValueError(f"{path}: line {number} was made with other settings: name another file")
            found.setdefault((line["figures"], line["method"], line["seed"]), line)
    return found


def make(settings: Settings, call: Call = called, say: Callable[[str], None] = print) -> int:
    """Train what is missing; returns 0, 1 where a training failed, or what a signal asks for."""
    there = read(settings.results, settings)
    from viewmill.pipeline.engines.engine import choose

    engine = choose("auto")  # to measure which one is faster would take seconds of every training
    with deferred() as asked, tempfile.TemporaryDirectory() as name:
        for n in settings.figures:
            missing = [(m, seed) for m in settings.methods for seed in settings.seeds if (n, m, seed) not in there]
            if not missing:
                continue
            folder = Path(name) / str(n)
            data, recipe = made(folder, n, settings.rows), folder / "views.toml"
            make_bytes(recipe, RECIPE.encode())
            share = told_apart(data, recipe, settings.batch)
            for method, seed in missing:
                run, output = folder / f"{method}-{seed}", folder / "output"
                given = {"--data": data, "--out": run, "--seed": seed, "--recipe": recipe, "--batch": settings.batch}
                given |= {"--epochs": settings.epochs, "--checkpoint-every": 1 << 30, "--engine": engine} | FLAGS
                words = [str(word) for pair in given.items() for word in pair]
                code = asked() or call(["train", method, *words, "--no-online"], output, asked).code
                if code:
                    say(read_text(output) if output.exists() else "")
                    return code
                line = result(settings, n, method, seed, run) | {"told_apart": share, "settings": asked_of(settings)}
                append(settings.results, line)
                say(f"{n} figures, {method}, seed {seed}: {line['bound']:.3f} of {line['known']:.3f} nats")
    return 0


def main(settings: Settings) -> int:
    """Train what is missing, then make page and picture."""
    code = 0 if settings.table else make(settings)
    lines = list(read(settings.results, settings).values())
    if lines and not code:
        shape = {"rows": settings.rows, "batch": settings.batch}
        write(lines, settings.results, lambda method, n: sharp(METHODS[method].region, **shape, figures=n))
    return code


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))

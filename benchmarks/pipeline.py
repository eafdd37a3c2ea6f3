"""How fast views are milled: our engines and placements beside their peers and beside decoding alone, on the same bytes.

Contenders run in turn, round by round, in one process, each over the same images: medians over the rounds, ratios of
neighbours within a round. What each round does first changes with the round, so that none profits from its place.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import answer, say, table
from ..errors import refusing
from ..pipeline.beton.reader import JPEG, Beton, open_beton
from ..pipeline.engines.engine import ENGINES, survey
from ..pipeline.loader import BetonLoader
from ..pipeline.threads import usable_cores
from ..pipeline.views.plan import draw
from ..pipeline.views.recipe import RECIPES, Recipe, View
from ..settings import Bench
from ..training.log import hardware, versions
from .peers import PEERS, Contender, Data, extract
from .report import Rounds, check_picture, picture, ratios

CPU = torch.device("cpu")
BEST = "viewmill"
WARM_S = 4.0
PASS_S = 1.0  # a measurement repeats its pass until it has taken so long
FIRST = """
import time; started = time.perf_counter()
import sys, torch
from pathlib import Path
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.loader import BetonLoader
from viewmill.pipeline.views.recipe import simclr
beton, size, batch = open_beton(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
loader = BetonLoader(beton, simclr(size), batch=min(batch, len(beton)), seed=0, device=torch.device("cpu"))
next(loader.epoch(0)); print(time.perf_counter() - started)
"""


class Ours:
    """A loader's epochs as passes."""

    def __init__(self, beton: Beton, recipe: Recipe, batch: int, threads: int, **options: Any) -> None:
        settings = {"seed": 0, "device": CPU, **options}
        self._loader = BetonLoader(beton, recipe, batch=min(batch, len(beton)), threads=threads, **settings)
        self._epoch = 0
        self._batches = self._loader.epoch(0)

    def run(self) -> int:
        """An epoch, or `PASS_S` seconds of one, which the next pass continues."""
        done, started = 0, time.perf_counter()
        for batch in self._batches:
            done += len(batch.row_B)
            if time.perf_counter() - started > PASS_S:
                return done
        self._epoch += 1
        self._batches = self._loader.epoch(self._epoch)
        return done

    def close(self) -> None:
        """Let go of the engine."""
        self._batches.close()
        self._loader.close()


class Crops:
    """uint8 crops of a recipe's boxes, with nothing done to them."""

    def __init__(self, beton: Beton, recipe: Recipe, batch: int, threads: int) -> None:
        self._beton, self._engine = beton, ENGINES["ffcv"].make(beton, threads)
        self._rows = [np.arange(start, min(start + batch, len(beton))) for start in range(0, len(beton), batch)]
        self._recipe = recipe
        shapes = [(len(group), batch, *[recipe.views[group[0]].size] * 2, 3) for group in recipe.groups]
        self._outs = [np.empty(shape, np.uint8) for shape in shapes]

    def run(self) -> int:
        """Every row once."""
        for row_B in self._rows:
            sizes = {"height_B": self._beton.height_N[row_B], "width_B": self._beton.width_N[row_B]}
            plan = draw(self._recipe, seed=0, epoch=0, row_B=row_B, **sizes)
            self._engine.crops(row_B, plan, tuple(out[:, : len(row_B)] for out in self._outs))
        return sum(map(len, self._rows))

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()


def bench(config: Bench) -> int:
    """Measure, print one JSON object a contender and a summary, a table, and draw."""
    torch.set_num_threads(config.threads or usable_cores())
    with refusing():
        check_picture(config)
        if config.data is None:
            raise ValueError("name a .beton of JPEG images: viewmill bench pipeline photos.beton")
        beton = open_beton(config.data)
        if (beton.mode_N != JPEG).any():
            raise ValueError(f"{config.data} holds raw pixels, which no peer reads: convert photographs")
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder, ExitStack() as stack:
        if config.peers:
            extract(beton, Path(folder))
        contenders = dict[str, Contender]()
        for name, make in lineup(beton, Path(folder), config):
            try:
                contenders[name] = stack.enter_context(opened(make))
            except ImportError as error:
                say(f"without {name}: {error}")
        rounds = measured(contenders, config.repeats)
    facts = {
        "data": beton.path.name,
        "rows": len(beton),
        "median_px": f"{int(np.median(beton.width_N))}x{int(np.median(beton.height_N))}",
        "size": config.size,
        "batch": config.batch,
        "threads": config.threads or usable_cores(),
        "n": config.repeats,
    }
    report(rounds, facts, beton, config)
    return 0


def first_rows(beton: Beton, count: int) -> Beton:
    """The first `count` rows; where there are fewer, again from the first: pointers to the same bytes."""
    row_N = np.arange(count) % len(beton)
    columns = ("mode_N", "height_N", "width_N", "offset_N", "size_N", "label_N")
    return dataclasses.replace(beton, **{name: getattr(beton, name)[row_N] for name in columns})


@contextmanager
def opened(make: Callable[[], Contender]) -> Iterator[Contender]:
    """A contender that has had its first pass, which compiles and starts workers."""
    with closing(make()) as contender:
        contender.run()
        yield contender


def lineup(beton: Beton, folder: Path, config: Bench) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Who is measured, by name."""
    threads, batch = config.threads or usable_cores(), min(config.batch, len(beton))
    simclr = RECIPES["simclr"](config.size)
    yield BEST, lambda: Ours(beton, simclr, batch, threads)
    yield "viewmill, half", lambda: Ours(beton, simclr, batch, threads, dtype=torch.float16)
    yield "viewmill, on the device", lambda: Ours(beton, simclr, batch, threads, placement="device")
    if threads > 1:
        yield "viewmill, 1 thread", lambda: Ours(beton, simclr, batch, 1)
    million = first_rows(beton, 1_000_000)
    yield "viewmill, 1,000,000 rows", lambda: Ours(million, simclr, batch, threads)
    yield "viewmill, 8 views", lambda: Ours(beton, RECIPES["multicrop"](config.size), batch, threads)
    for name in (status.name for status in survey() if status.works and status.name != "ffcv"):
        yield f"viewmill, {name} engine", lambda name=name: Ours(beton, simclr, batch, threads, engine_name=name)
    plain = Recipe((View(config.size), View(config.size)))
    yield "2 crops, uint8", lambda: Crops(beton, plain, batch, threads)
    data = Data(beton.path, folder, config.size, batch, threads)
    wanted = PEERS if config.peers else {"decode": PEERS["decode"]}
    for name, peer in wanted.items():
        yield name, lambda peer=peer: peer(data)


def measured(contenders: dict[str, Contender], repeats: int) -> Rounds:
    """Images/s of each contender in each round."""
    rounds = []
    for turn in range(repeats):
        say(f"round {turn + 1} of {repeats}")
        names = list(contenders)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        rounds.append({name: speed(contenders[name]) for name in names})
    return rounds


def speed(contender: Contender) -> float:
    """Images/s over passes that together take PASS_S seconds at least.

    Where a pass is short, one goes before, unmeasured: while others had their turns, the system may have taken the
    contender's memory, and in a virtual machine 130 MB of it are a third of a second.
    """
    started = time.perf_counter()
    done = contender.run()
    if (first := time.perf_counter() - started) > WARM_S:
        return done / first
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < PASS_S:
        done += contender.run()
    return done / (time.perf_counter() - started)


def planning(beton: Beton, config: Bench) -> float:
    """Images/s of drawing plans alone, on one core."""
    row_B = np.arange(min(config.batch, len(beton)))
    sizes = {"height_B": beton.height_N[row_B], "width_B": beton.width_N[row_B]}
    recipe, turns = RECIPES["simclr"](config.size), 200
    started = time.perf_counter()
    for epoch in range(turns):
        draw(recipe, seed=0, epoch=epoch, row_B=row_B, **sizes)
    return turns * len(row_B) / (time.perf_counter() - started)


def first_batch(config: Bench) -> float:
    """Seconds from a new process's start to its first batch, compiled code cached."""
    arguments = [str(config.data), str(config.size), str(config.batch)]
    done = subprocess.run([sys.executable, "-c", FIRST, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def stages(rounds: Rounds, beton: Beton, config: Bench) -> dict[str, float]:
    """Microseconds of one core that each stage takes for an image, by difference."""
    cores = 1e6 * (config.threads or usable_cores())
    cost = {name: cores / statistics.median(turn[name] for turn in rounds) for name in ("decode", "2 crops, uint8", BEST)}
    return {
        "plan": 1e6 / planning(beton, config),
        "decode": cost["decode"],
        "crop and resize": cost["2 crops, uint8"] - cost["decode"],
        "photometrics": cost[BEST] - cost["2 crops, uint8"],
    }


def report(rounds: Rounds, facts: dict[str, Any], beton: Beton, config: Bench) -> None:
    """Print the JSON lines, then the tables, and draw the picture that was asked for."""
    shared = {"hardware": hardware(), "versions": versions(), **facts}
    rows = []
    for name in rounds[0]:
        found = [turn[name] for turn in rounds]
        middle = statistics.median(found)
        line = {"contender": name, "images_per_s": round(middle), "lowest": round(min(found)), "highest": round(max(found))}
        line |= {"of_decode": ratios(rounds, name, "decode"), "viewmill_over_it": ratios(rounds, BEST, name)}
        answer(json.dumps(line | shared))
        over = line["viewmill_over_it"]
        rows.append(
            (
                name,
                f"{middle:,.0f}",
                f"{min(found):,.0f} to {max(found):,.0f}",
                f"{line['of_decode'][0]:.2f}",
                f"{over[0]:.2f}",
            )
        )
    parts = stages(rounds, beton, config)
    whole, start = sum(parts.values()), first_batch(config)
    limit = max(parts, key=lambda name: parts[name])
    answer(json.dumps({"us_per_image_and_core": parts, "limit": limit, "first_batch_s": round(start, 2), **facts}))
    if config.json:
        return
    title = ", ".join(f"{name} {value}" for name, value in facts.items())
    table(title, ("contender", "images/s", "range", "of decode", "viewmill over it"), rows)
    shown = [(name, f"{cost:.1f}", f"{cost / whole:.1%}") for name, cost in parts.items()]
    table(f"one image on one core; {limit} limits; first batch {start:.1f} s", ("stage", "us", "share"), shown)
    if config.picture:
        picture(rounds, BEST, title, config.picture)

"""`viewmill bench step`: what the training engine adds to the arithmetic of a training, against the project's limits.

Whatever a machine's speed drifts with slows both sides of a comparison: they take turns, and ratios are of neighbours.
launched.py has what is measured on whole processes. A bank is as large as ImageNet's, whatever the data.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from ..checkpoint.writer import Writer
from ..console import answer, say, table
from ..distributed.steps import seed_step
from ..errors import Refused
from ..files.opening import open_to_read, read_text
from ..pipeline import factors
from ..pipeline.beton.reader import Beton, open_beton
from ..pipeline.conversion.convert import convert
from ..pipeline.datasets import open_images
from ..pipeline.engines.engine import choose
from ..pipeline.loader import batches
from ..pipeline.threads import usable_cores
from ..settings import Bench
from ..training.log import hardware, versions
from ..training.resume import facts_of, parts_of, restore_
from ..training.state import advance_, forward, update_probe_
from . import launched
from .launched import WALKTHROUGH, described
from .measured import Measured
from .pipeline import first_rows
from .prepared import clock, opened, step

LARGE = {"width": 64, "size": 224, "batch": 32}
"""ResNet-18 as it is, in batches that a CPU trains in seconds."""
BANK_ROWS = 1_281_167
INTERVAL = 1000  # steps between checkpoints, at most, unless asked otherwise
ROUNDS = 4
"""Steps around which the additions are timed, a round."""


class Fed(NamedTuple):
    """A training whose loader is measured."""

    settings: dict[str, Any]
    images: int
    """Of the data set that is rendered for it, and their `side` in pixels."""
    side: int
    block: int
    """Steps at a time, and `pairs` of blocks a round."""
    pairs: int
    least: float
    """Of its throughput over the same steps on batches in memory."""


FED = (Fed(WALKTHROUGH, 2048, 48, block=5, pairs=4, least=0.95), Fed(LARGE, 512, 256, block=1, pairs=2, least=0.97))


def bench(config: Bench) -> int:
    """Measure, print a JSON line for each as soon as it is known, then a table."""
    if config != Bench("step", data=config.data, threads=config.threads, repeats=config.repeats, json=config.json):
        raise Refused("steps are measured at sizes of their own: take only a file, --repeats, --threads and --json")
    threads = config.threads or usable_cores()
    torch.set_num_threads(threads)
    shared = {"hardware": hardware(), "versions": versions(), "threads": threads}
    rows = []
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        for measured in measurements(config, Path(folder)):
            answer(json.dumps(measured.line() | shared))
            rows.append(measured.row())
    if not config.json:
        table(f"on {threads} threads", ("what", "median", "range", "n", "asked", "kept", ""), rows)
    return 0


def measurements(config: Bench, folder: Path) -> Iterator[Measured]:
    """All of them, one after the other."""
    name, repeats = choose("auto"), config.repeats
    fixed = {"engine": name, "threads": config.threads}
    given, least = None if config.data is None else open_images(config.data), max(fed.settings["batch"] for fed in FED)
    if given is not None and len(given) < least:
        raise Refused(f"{config.data} has {len(given)} images, less than a batch of {least}: take another, or none")
    data = [given or rendered(folder, fed.images, fed.side) for fed in FED]
    small = data[0]
    # first, while this process is small: a process counts as its own peak what its parent held as it began
    yield from launched.start(small.path, folder, name, repeats=repeats)
    yield from launched.second_rank(small.path, folder, name, repeats=repeats)
    yield from launched.growth(small.path, folder, name)
    yield from launched.options(small.path, folder, name, repeats=repeats)
    yield from launched.help_time(repeats=repeats)
    for fed, beton in zip(FED, data, strict=True):
        with opened(beton, folder, **fed.settings, **fixed) as job:
            yield loader_price(job, fed, repeats=repeats)
    with opened(small, folder, **WALKTHROUGH, **fixed, ema=0.99) as job:
        yield from additions(job, repeats=repeats)
        yield from stall(job, repeats=repeats)
    bank = {"method": "ir", **WALKTHROUGH, **fixed}
    with opened(first_rows(small, BANK_ROWS), folder, **bank) as job:
        yield from stall(job, repeats=repeats)
        saved = job.out
    yield restoring(small, folder, saved, bank, repeats=repeats)


def rendered(folder: Path, count: int, side: int) -> Beton:
    """The data set of rendered figures, `count` of them of `side` pixels."""
    images, target = folder / f"images-{side}", folder / f"images-{side}.beton"
    convert([factors.write_folder(images, count, seed=0, size=side)], target, workers=0)
    return open_beton(target)


def loader_price(job: Any, fed: Fed, *, repeats: int) -> Measured:
    """Throughput of steps that the loader feeds, over that of the same steps on batches that lie in memory already."""
    device, found = job.accelerator.device, []
    ahead = 2 if device.type == "cuda" else 0  # batches that a GPU's loader has milled while it was not asked

    def steps(source: Iterable[Any]) -> None:
        for batch in islice(source, fed.block):
            step(job, batch)

    with closing(batches(job.loader, start=0, stop=10**9)) as milled:
        kept = list(islice(milled, fed.block))
        clock(lambda: steps(kept), device)
        for turn in range(fed.pairs * repeats):
            taken = {}
            for source in (milled, kept) if turn % 2 else (kept, milled):
                if source is milled:
                    list(islice(milled, ahead))
                taken[source is milled] = clock(lambda source=source: steps(source), device)
            found.append(taken[False] / taken[True])
    note = f"{described(fed.settings)}, {job.loader.engine_name} engine, blocks of {fed.block}"
    name = f"training at {job.settings['size']} px over batches in memory"
    return Measured(name, "times", found, least=fed.least, note=note)


def additions(job: Any, *, repeats: int) -> Iterator[Measured]:
    """What the engine does in a step beside forward, backward and a bare update, each timed after a real step."""
    state, method, moment, accelerator = job.state, job.method, job.moment(0), job.accelerator
    plain, optimiser = state._replace(average=None), state.optimiser
    with closing(batches(job.loader, start=0, stop=1)) as source:
        batch = next(source)
    outputs = forward(state, method, batch, moment, accelerator)
    gradients = [(p, torch.randn_like(p)) for p in state.network.parameters() if p.requires_grad]

    def update(whose: Any) -> None:
        to_agree = (torch.zeros((), device=accelerator.device), batch.valid_B.any())
        advance_(whose, method, moment, to_agree=to_agree)

    def bare() -> None:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def statistics() -> None:
        state.statistics.keep()
        state.statistics.mend_()

    def probe(observe: bool) -> None:
        update_probe_(state, outputs, batch, moment, observe=observe)

    contenders: dict[str, Callable[[], Any]] = {
        "bare update": bare,
        "guarded update": lambda: update(plain),
        "guarded update with moving average": lambda: update(state),
        "running statistics kept": statistics,
        "seed of the step": lambda: seed_step(state.settings["seed"], moment.step),
        "online probe": lambda: probe(False),
        "online probe, observed": lambda: probe(True),
    }
    rounds, names = [], list(contenders)
    for turn in range(-1, ROUNDS * repeats):
        found = {"step": clock(lambda: step(job, batch, plain), accelerator.device)}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            found[name] = clock(contenders[name], accelerator.device)
        rounds.append(found)
    rounds = rounds[1:]
    whole = median(turn["step"] for turn in rounds)
    yield Measured("a step", "ms", [1e3 * turn["step"] for turn in rounds], note=described(WALKTHROUGH))
    added = {"finiteness guard": ("guarded update", "bare update")}
    added |= {"moving average": ("guarded update with moving average", "guarded update")}
    added |= {name: (name, "") for name in names[3:]}
    for name, (one, other) in added.items():
        differences = [turn[one] - turn.get(other, 0.0) for turn in rounds]
        note = f"{100 * median(differences) / whole:.2f} % of a step"
        yield Measured(f"what is added to a step: {name}", "ms", [1e3 * found for found in differences], note=note)


def stall(job: Any, *, repeats: int) -> Iterator[Measured]:
    """How long the loop stands still for a checkpoint, none being under way, and its share of the time between two."""
    state, accelerator, waits, steps = job.state, job.accelerator, [], []
    with closing(batches(job.loader, start=0, stop=1)) as source:
        batch = next(source)
    with Writer(job.out / "checkpoints") as writer:

        def submit(number: int) -> None:
            writer.submit(number, parts_of(state), facts_of(state, accelerator, step=number))

        for turn in range(repeats + 1):
            steps.append(clock(lambda: step(job, batch), accelerator.device))
            waits.append(clock(lambda number=turn + 1: submit(number), accelerator.device))
            writer.wait()
        if faults := writer.take_faults():
            raise RuntimeError(faults[0])
    rows, apart = len(job.beton), INTERVAL * median(steps[1:])
    name = "checkpoint, training stands still" + (f", bank of {rows:,} x 128" if "bank" in state.memory else "")
    yield Measured(name, "ms", [1e3 * wait for wait in waits[1:]], note=f"the first, into new memory, {1e3 * waits[0]:.1f}")
    note = f"{INTERVAL:,} steps of {apart / INTERVAL * 1e3:,.0f} ms"
    yield Measured(f"{name}, of the time between two", "%", [100 * w / apart for w in waits[1:]], most=1, note=note)


def restoring(data: Beton, folder: Path, saved: Path, settings: dict[str, Any], *, repeats: int) -> Measured:
    """Seconds in which a new process has read, verified and taken over the newest checkpoint of the run in `saved`."""
    found = []
    for turn in range(repeats):
        say(f"restoring, {turn + 1} of {repeats}")
        forget(saved / "checkpoints")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            found.append(fresh.submit(restored, data.path, BANK_ROWS, folder, saved, settings).result())
    latest = saved / "checkpoints" / read_text(saved / "checkpoints" / "latest").strip()
    size = sum(file.stat().st_size for file in latest.iterdir()) / 1e6
    note = f"new process, from the disk, {size:,.0f} MB"
    return Measured(f"resume with a bank of {BANK_ROWS:,} x 128", "s", found, most=10, note=note)


def restored(data: Path, rows: int, folder: Path, saved: Path, settings: dict[str, Any]) -> float:
    """Seconds of restoring in this process."""
    with opened(first_rows(open_beton(data), rows), folder, **settings) as job:
        started = time.perf_counter()
        there = restore_(saved, job.state)
        seconds = time.perf_counter() - started
    if there.step == 0 or there.passed_over:
        raise RuntimeError(f"{saved} was not restored: {there}")
    return seconds


def forget(folder: Path) -> None:
    """Have the system read the files of `folder` from the disk the next time."""
    for file in folder.rglob("*.safetensors"):
        with open_to_read(file) as opened_file:
            os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

"""Whether a change has changed a number: digests of what every method, engine and command computes, from the outside.

    OMP_NUM_THREADS=1 python -m viewmill.benchmarks.trace --out before.json       # on the commit before
    OMP_NUM_THREADS=1 python -m viewmill.benchmarks.trace --against before.json   # on the one after: 1 if anything differs

Everything goes through the command line and the files that it leaves, so that a trace outlives any change within. Floats
differ between kinds of processors and versions of torch: compare on one machine, with one thread.
"""

import argparse
import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..console import answer, say
from ..files.opening import read_bytes, read_text, replacing
from ..methods.overrides import values
from ..methods.table import METHODS
from ..pipeline import factors

SMALL = ("--width", "4", "--hidden", "16", "--embedding", "8", "--size", "16", "--batch", "16", "--threads", "1")
SMALL = (*SMALL, "--engine", "ffcv", "--log-every", "1", "--precision", "no")
FITTING = {  # what makes a method's memory fit 64 images
    "ring": ("region.inner=0.05", "region.outer=0.5"),
    "nearest": ("region.count=30", "positives.rows_per_cluster=8", "positives.clusterings=2", "warm_start=0.5"),
    "queue": ("memory.size=128",),
    "bank": ("memory.unvisited=random",),  # presets of a long run, so that three steps learn from the bank
    "waiting": ("warm_start=0",),
}
OF_TIME = ("time", "seconds", "images_per_s", "wait", "left_s", "memory_bytes", "saved_step", "saved_age_s")
OF_RESULTS = ("task", "encoder", "protocol", "top1", "top5", "mean_class", "interval")
VARIANTS = {
    "torch engine": ("simclr", "--engine", "torch"),
    "dali-cpu engine": ("simclr", "--engine", "dali-cpu"),
    "colours in the loader's thread": ("simclr", "--placement", "device"),
    "bf16": ("moco-v2-ring", "--precision", "bf16"),
    "accumulated": ("simclr", "--accumulate", "2", "--clip", "1"),
    "averaged, lars": ("byol", "--ema", "0.9", "--optimiser", "lars"),
    "adamw": ("vicreg", "--optimiser", "adamw"),
    "another recipe": ("simclr", "--recipe", "moco-v2"),
}


def digest(*parts: bytes) -> str:
    """The first 16 hex digits of their sha256."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def command(*words: object) -> str:
    """What a command writes on standard output; raises RuntimeError with the rest where it fails."""
    from accelerate.state import AcceleratorState

    from ..run import main

    AcceleratorState._reset_state(reset_partial_state=True)  # of the command before, which a user has in another process
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    if code:
        raise RuntimeError(f"viewmill {' '.join(map(str, words))}: code {code}\n{err.getvalue()[-2000:]}")
    return out.getvalue()


def readings(run: Path) -> bytes:
    """The numbers of a log, without what a clock says."""
    records = [json.loads(line) for line in read_text(run / "log.jsonl").splitlines()]
    kept = [record for record in records if record.get("event") in ("step", "epoch", "clusters")]
    told = [{name: value for name, value in record.items() if name not in OF_TIME} for record in kept]
    return json.dumps(told, sort_keys=True).encode()


def of_run(run: Path) -> dict[str, str]:
    """Digests of a run's numbers and of each file of tensors in its newest checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    files = sorted(path for path in newest.iterdir() if path.suffix == ".safetensors")
    return {"log": digest(readings(run)), **{path.name: digest(read_bytes(path)) for path in files}}


def fitting(name: str) -> tuple[str, ...]:
    """The `--set` that lets a method live on few images."""
    told = dict(values(METHODS[name]))
    chosen = FITTING["queue"] if "memory.size" in told else ()
    if "memory.since" in told:
        chosen += ("memory.since=0", "memory.hardest=32")
    if told.get("region.inner", 0) > 0 and not told.get("region.relative"):
        chosen += FITTING["ring"]
    if "region.count" in told:
        chosen += FITTING["nearest"]
    if "memory.unvisited" in told:
        chosen += FITTING["bank"]
    if told.get("region.inner") is not None and ("memory.unvisited" in told or "memory.size" in told):
        chosen += FITTING["waiting"]
    return ("--set", *chosen) if chosen else ()


def rendered(folder: Path, count: int = 64) -> Path:
    """A .beton of rendered images, converted as a person would."""
    factors.write_folder(folder / "images", count, seed=0)
    command("convert", folder / "images", folder / "figures.beton")
    return folder / "figures.beton"


def traces(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and digests of each thing that is traced."""
    data = rendered(folder)
    yield "conversion", digest(read_bytes(data))
    for name in METHODS:
        run = folder / name
        command("train", name, "--data", data, *SMALL, *fitting(name), "--steps", 3, "--out", run)
        yield name, of_run(run)
    for title, (method, *more) in VARIANTS.items():
        run = folder / digest(title.encode())
        command("train", method, "--data", data, *SMALL, *fitting(method), *more, "--steps", 4, "--out", run)
        yield title, of_run(run)
    for name in ("cmc-ring", "la", "moco-v2-ring"):  # with the presets of a short run, through the end of the warm start
        run, own = folder / f"short-{name}", ("warm_start=0.5", *FITTING["bank"])
        told = [each for each in fitting(name)[1:] if each not in (*own, *FITTING["waiting"])]
        command("train", name, "--data", data, *SMALL, "--set", *told, "--steps", 20, "--out", run)
        yield f"short run of {name}", of_run(run)
    command("inspect", data, "--grid", folder / "grid.png")
    yield "grid of views", digest(read_bytes(folder / "grid.png"))
    both = ("--train", data, "--test", data)
    for run in ("simclr", "ring"):
        lines = command("evaluate", folder / run, *both, "--json", "--k", 5).splitlines()
        kept = [{name: told for name, told in json.loads(line).items() if name in OF_RESULTS} for line in lines]
        yield f"evaluation of {run}", digest(json.dumps(kept).encode())
    tuned = (folder / "simclr", *both, "--threads", 1, "--batch", 16)
    command("finetune", *tuned, "--epochs", 1, "--log-every", 1, "--out", folder / "tuned")
    yield "fine-tuning", of_run(folder / "tuned")


def main() -> int:
    """Trace, write and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write the digests")
    parser.add_argument("--against", type=Path, help="digests of another version to compare with")
    asked = parser.parse_args()
    found, started = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, told in traces(Path(folder)):
            found[name] = told
            say(f"{time.perf_counter() - started:6.1f} s  {name}")
    if asked.out:
        with replacing(asked.out) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
    if asked.against is None:
        return 0
    before = json.loads(read_text(asked.against))
    other = [name for name in before | found if before.get(name) != found.get(name)]
    for name in other:
        answer(f"{name}: {before.get(name)} before, {found.get(name)} now")
    answer(f"{len(found) - len(other)} of {len(before | found)} traces are the same")
    return bool(other)


if __name__ == "__main__":
    raise SystemExit(main())

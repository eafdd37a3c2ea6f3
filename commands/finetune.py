"""`viewmill finetune`: encoder and classifier learn together from labelled images, and are measured on others."""

import dataclasses
import json
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..console import opening, say, table
from ..errors import Refused, refusing
from ..files.typed import check_settings, read_json
from ..pipeline.datasets import open_images, told_apart
from ..settings.parts import flat, replaced
from ..settings.transfer import ClassifierOptimisation, Finetune
from ..training.launch import starting
from ..training.log import versions
from ..training.run_config import FORMAT, recorded
from ..training.run_folder import read_config, write_json
from ..training.signals import deferred
from ..transfer.presets import Course
from ..transfer.results import Begun

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from ..evaluation.tasks import Task
    from ..pipeline.beton.reader import Beton
    from ..pipeline.views.recipe import View
    from ..transfer.tuning import FineTuning

FREE = {
    "source",
    "train",
    "test",
    "out",
    "config",
    "classes_by",
    "threads",
    "timeout",
    "max_masked",
    "checkpoint_every",
    "keep",
    "log_every",
}
"""What does not make a run another one."""
MAY_DIFFER = ("source", "train", "test", "config", "threads")
"""Between the processes of one start."""
RATES = {"sgd": 0.1, "adamw": 0.001}  # at batches of 256; SGD's grows with the batch (arXiv 1706.02677)


def finetune(config: Finetune) -> int:
    """Fine-tune a classifier, or continue, and measure it; returns the exit code, which also stands in OUT/exit.json."""
    with starting(config.out, timeout=config.timeout) as start:
        with refusing():
            check_settings(config)
            train, test = open_images(config.train), open_images(config.test)
        accelerator = start.meet(lambda: told_of(config, train, test), precision=config.optimisation.precision)
        config = replaced(config, precision=accelerator.mixed_precision)  # what "auto" has come to be
        ended = start.ended
        from ..evaluation.classes import class_task
        from ..pipeline.beton.overlap import overlap, overlap_in_words
        from ..transfer.tuning import train as train_

        asked = start.stack.enter_context(deferred())
        with refusing():
            labels = class_task(train, test, by=config.labels.classes_by, labelled_only=config.labels.labelled_only)
            shared = overlap(train, test)
            job, settings = prepare(config, train, test, labels, accelerator, start.stack)
        for note in filter(None, (overlap_in_words(shared, config.train, config.test), *labels.notes)):
            say(note) if accelerator.is_main_process else None
        ended |= {"step": job.first, "steps": job.course.steps, "reason": "it failed"}
        ended |= train_(job, asked, start)
        if ended["code"] == 0 and not (config.out / "results.json").exists():
            measured = job.task.evaluate(asked)
            if measured is None:
                ended |= {"code": asked() or 75, "reason": "stopped while it was measured: start again"}
            elif accelerator.is_main_process:
                init = {"source": settings["source"], "sha256": settings["init"], "words": settings["given"]}
                told = {
                    "protocol": protocol(settings),
                    "init": init,
                    "step": job.course.steps,
                    "overlap": shared,
                    **measured,
                }
                write_json(config.out / "results.json", told | {"versions": versions()})
        if ended["code"] == 0 and accelerator.is_main_process:
            with refusing():
                show(config.out)
    return ended["code"]


def told_of(config: Finetune, train: "Beton", test: "Beton") -> dict[str, Any]:
    """What every process must have been started with: all but where things lie on its machine."""
    own = flat(config, without=MAY_DIFFER)
    return {"command": "finetune", **own, "train": told_apart(train), "test": told_apart(test)}


def prepare(
    config: Finetune, train: "Beton", test: "Beton", labels: "Task", accelerator: "Accelerator", stack: ExitStack
) -> "tuple[FineTuning, dict[str, Any]]":
    """The job, continued where it stands, and its configuration; raises ValueError for what does not fit."""
    import torch

    from ..evaluation.features import mild
    from ..pipeline.loader import BetonLoader
    from ..pipeline.views.recipe import weak
    from ..transfer.classification import Classification, Classifier
    from ..transfer.tuning import prepared

    encoder, shown, given, init = begin(config)
    loader = BetonLoader(
        train,
        mild(weak(shown.size, shown)),
        batch=config.optimisation.batch,
        seed=config.seed,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        threads=config.threads,
    )
    stack.enter_context(closing(loader))
    optimisation, course = config.optimisation, course_of(config.optimisation, per_epoch=len(loader))
    own = flat(config, without=FREE)
    settings = {
        "format": FORMAT,
        "command": "finetune",
        "source": os.path.abspath(config.source),
        "init": init,
        "given": given,
    }
    settings |= {**own, **dataclasses.asdict(course), "engine": loader.engine_name, "side": shown.size}
    settings |= {"data_fingerprint": train.fingerprint, "test_fingerprint": test.fingerprint, "classes": labels.classes}
    settings |= {"rows": len(train), "test_rows": len(test)}
    settings = json.loads(json.dumps(settings))
    torch.manual_seed(config.seed)
    module = Classifier(encoder, encoder.features, len(labels.classes))  # pyright: ignore[reportArgumentType]
    data = (loader, test, weak(shown.size, shown), labels)
    task = Classification(module, *data, optimisation.smoothing, accelerator, protocol(settings))
    job = prepared(config, task, course, settings, accelerator, data=config.train)
    if accelerator.is_main_process:
        count = sum(parameter.numel() for parameter in module.parameters())
        rows = [
            ("data", f"{len(train):,} images to learn from, {len(test):,} to be told, {len(labels.classes)} classes"),
            ("begins with", given),
            ("learns", f"{count / 1e6:.1f} M parameters, all of them; batch norm by each process's images"),
            ("views", f"a random crop and a flip, at {shown.size} px; {loader.engine_name} engine"),
            (
                "optimiser",
                f"{optimisation.optimiser}, rate {course.learning_rate:g} cosine, warm-up {course.warmup:,} steps",
            ),
            ("runs on", f"{accelerator.device.type}, precision {optimisation.precision.replace('no', 'float32')}"),
            ("steps", f"{job.first:,} to {course.steps:,}, {len(loader):,} an epoch, {course.batch} images each"),
            ("results", f"{config.out}; a checkpoint every {config.checkpoints.checkpoint_every:,} steps"),
        ]
        opening("viewmill finetune", rows)
    return job, settings


def begin(config: Finetune) -> "tuple[nn.Module, View, str, str]":
    """The encoder, what it is shown, what it begins with in words, and the fingerprint of that.

    From the first checkpoint on the beginning is history: the run that it came from may have gone on since.
    """
    from ..models import weights
    from ..pipeline.views.recipe import View
    from ..training.resume import begun, load_encoders
    from ..transfer import backbone

    path, earlier = Path(config.source), recorded(config.out) if begun(config.out) else {}
    if earlier and earlier.get("command") != "finetune":
        raise Refused(f"{config.out} holds a run of another kind: choose another --out")
    if (path / "config.json").is_file() and "architecture" in read_config(path):
        held = load_encoders(path, ema=config.network.ema)
        given = f"the encoder of run {path}" + (", the moving average of its weights" if config.network.ema else "")
        encoder, shown = held.trained, held.colours
    else:
        found = backbone.begin(config.source, seed=config.seed, **flat(config.network))
        encoder, given = found.encoder, found.given
        shown = View(size=config.network.size, mean=tuple(found.made_of["mean"]), std=tuple(found.made_of["std"]))
    if earlier:
        return encoder, shown, earlier["given"], earlier["init"]
    init = backbone.RANDOM if config.source == backbone.RANDOM else weights.fingerprint(path)
    return encoder, shown, given, init


def course_of(optimisation: ClassifierOptimisation, *, per_epoch: int) -> Course:
    """A linear rise and half a cosine."""
    steps, batch, rate = optimisation.epochs * per_epoch, optimisation.batch, optimisation.learning_rate
    if rate is None:
        rate = RATES[optimisation.optimiser] * (batch / 256 if optimisation.optimiser == "sgd" else 1)
    return Course(steps, (), round(optimisation.warmup * steps), rate, batch, shape="cosine")


def protocol(settings: dict[str, Any]) -> str:
    """How the numbers came about, but for what the encoder began with: numbers compare where this line is the same."""
    half = "" if settings["precision"] == "no" else f", trained in {settings['precision']}"
    smooth = f", label smoothing {settings['smoothing']:g}" if settings["smoothing"] else ""
    return (
        f"full fine-tuning, {settings['optimiser']} rate {settings['learning_rate']:g} cosine, {settings['epochs']} epochs "
        f"of {settings['rows']:,} images in batches of {settings['batch']}, last epoch, {settings['side']} px, "
        f"random crop and flip{smooth}{half}, seed {settings['seed']}, {settings['test_rows']:,} test images"
    )


class Told(Struct, frozen=True):
    """What is read of OUT/results.json."""

    init: Begun
    protocol: str
    top1: float
    interval: tuple[float, float]
    mean_per_class: float
    top5: float | None = None


def show(out: Path) -> None:
    """Print the table of OUT/results.json."""
    told = read_json(out / "results.json", Told)
    low, high = told.interval
    top5 = "" if told.top5 is None else f"{told.top5:.3f}"
    accuracies = (f"{told.top1:.3f}", f"{low:.3f} to {high:.3f}", top5, f"{told.mean_per_class:.3f}")
    table(
        "fine-tuned classifier",
        ("begins with", "top-1", "from to", "top-5", "per class"),
        [(told.init.words, *accuracies)],
    )
    say(told.protocol)

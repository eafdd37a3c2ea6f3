"""`viewmill transfer`: an encoder becomes a detector, is fine-tuned, and is measured on images that it has not seen."""

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..console import say
from ..distributed import rendezvous
from ..errors import Refused, refusing
from ..files.typed import check_settings
from ..settings.parts import flat
from ..settings.transfer import Transfer
from ..training.launch import Start, starting
from ..training.run_config import FORMAT, config_of, recorded, unlike
from ..training.signals import deferred
from ..transfer.opened import check_objects, open_scenes
from ..transfer.precision import average_precision
from ..transfer.presets import JUDGED, PRESETS, Course, course_of
from ..transfer.results import plan, show, write_results
from ..transfer.scene import SceneSet, check_sizes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..transfer.backbone import Beginning
    from ..transfer.detectors import Design
    from ..transfer.tuning import FineTuning

# what does not make a run another one: where things lie, and how a start of it goes about its work
FREE = {"source", "train", "test", "out", "config", "train_images", "test_images", "threads", "timeout", "max_masked"}
FREE |= {"checkpoint_every", "keep", "log_every"}
MAY_DIFFER = (
    "source",
    "train",
    "test",
    "config",
    "train_images",
    "test_images",
    "threads",
)  # between the processes of one start


class Data(NamedTuple):
    """What is learnt from, and what is measured on, with the same classes."""

    train: SceneSet
    test: SceneSet


def transfer(config: Transfer) -> int:
    """Fine-tune a detector, or continue, and measure it; returns the exit code, which also stands in OUT/exit.json."""
    with starting(config.out, timeout=config.timeout) as start:
        with refusing():
            check_settings(config)
            optimisation = config.optimisation
            course = course_of(
                optimisation.schedule,
                steps=optimisation.steps,
                batch=optimisation.batch,
                learning_rate=optimisation.learning_rate,
                scale_rate=optimisation.scale_rate,
                warmup=optimisation.warmup,
            )
            data = open_data(config)
        accelerator, ended = start.meet(lambda: told_of(config, data), precision=optimisation.precision), start.ended
        asked = start.stack.enter_context(deferred())
        with refusing():
            settings, beginning = describe(config, course, data)
            complete = finished(config, settings)
            job = None if complete else prepare(config, course, data, settings, beginning, accelerator)
        if job is None:
            ended |= {"code": 0, "step": course.steps, "steps": course.steps, "reason": "done"}
        else:
            ended |= run(config, job, settings, data, asked, start)
        if ended["code"] == 0 and accelerator.is_main_process:
            with refusing():
                show(config.out)
    return ended["code"]


def told_of(config: Transfer, data: Data) -> dict[str, Any]:
    """What every process must have been started with: all but where things lie on its machine."""
    own = flat(config, without=MAY_DIFFER)
    sets = {"train_fingerprint": data.train.fingerprint, "test_fingerprint": data.test.fingerprint}
    return {"command": "transfer", **own, **sets}


def open_data(config: Transfer) -> Data:
    """Both sets; raises ValueError for what cannot be read, be told apart by the same classes, or be judged."""
    train = open_scenes(config.train, config.train_images, task=config.task)
    test = open_scenes(config.test, config.test_images, task=config.task, categories=train.categories)
    if config.task == "keypoints" and train.keypoints != test.keypoints:
        raise ValueError(f"{config.train} and {config.test} have other keypoints: they must be the same, in the same order")
    check_objects(train, config.train, task=config.task, use="learn")
    check_objects(test, config.test, task=config.task, use="be measured on")
    for kind in JUDGED[config.task].values():
        average_precision(test, (), kind=kind)  # what it refuses must not be refused after days of training
    if not (config.out / "config.json").exists() and os.environ.get("RANK", "0") == "0":
        for part in (train, test):
            check_sizes(part.scenes)
    return Data(train, test)


def design_of(config: Transfer, data: Data, made_of: dict[str, Any]) -> "Design":
    """The detector that is asked for, for the images that its encoder knows."""
    from ..transfer.detectors import Design

    preset, asked, side = PRESETS[config.optimisation.schedule], config.design, config.images.side
    return Design(
        task=config.task,
        kind=asked.detector,
        classes=len(data.train.categories),
        keypoints=len(data.train.keypoints) if config.task == "keypoints" else 0,
        side=side or preset.side,
        longest=config.images.longest or (round(side * 5 / 3) if side else preset.longest),
        mean=tuple(made_of["mean"]),
        std=tuple(made_of["std"]),
        anchors=asked.anchors,
        channels=asked.channels,
        hidden=asked.hidden,
        regions=asked.regions,
        norm=config.network.norm,
        extra_norm=asked.extra_norm,
        freeze=config.network.freeze,
    )


def sides_of(config: Transfer) -> tuple[int, ...]:
    """The sides that training images may have."""
    images = config.images
    return images.sides or ((images.side,) if images.side else PRESETS[config.optimisation.schedule].sides)


def describe(config: Transfer, course: Course, data: Data) -> tuple[dict[str, Any], "Beginning | None"]:
    """What makes a fine-tuning this one, as it stands in config.json, and what it begins with.

    From its first checkpoint on its beginning is history, and None here: the run it came from may have gone on, or be gone.
    """
    from ..training.resume import begun
    from ..transfer import backbone

    own = flat(config, without=FREE)
    source, beginning = backbone.place_of(config.source), None
    if begun(config.out):
        earlier = recorded(config.out)
        if earlier.get("command") != "transfer":
            raise Refused(f"{config.out} holds a run of another kind: choose another --out")
        begins = {name: earlier[name] for name in ("init", "given", "made_of")}
        with suppress(ValueError):
            if backbone.fingerprint(config.source) != earlier["init"]:
                say(f"{config.source} has other weights by now: this goes on with those that it began with")
    else:
        network = config.network
        options = {"encoder": network.encoder, "width": network.width, "size": network.size, "ema": network.ema}
        beginning = backbone.begin(config.source, seed=config.seed, **options)
        begins = {"init": backbone.fingerprint(config.source), "given": beginning.given, "made_of": beginning.made_of}
    described = {
        "format": FORMAT,
        "command": "transfer",
        "source": source,
        **begins,
        **own,
        **dataclasses.asdict(course),
        "sides": sides_of(config),
        "design": dataclasses.asdict(design_of(config, data, begins["made_of"])),
        "data_fingerprint": data.train.fingerprint,
        "test_fingerprint": data.test.fingerprint,
    }
    return json.loads(json.dumps(described)), beginning  # as a later start will read it: JSON knows no tuples


def finished(config: Transfer, settings: dict[str, Any]) -> bool:
    """Whether this very fine-tuning is complete, the same on every process; raises Refused where it is another one."""

    def complete() -> bool:
        there = (config.out / "results.json").exists() and (config.out / "config.json").exists()
        if there:
            if other := unlike(settings, config_of(config.out)):
                raise Refused(
                    f"{config.out} holds a run with {other}: choose another --out, or start it as before to see it"
                )
            say(f"{config.out} was complete already")
        return there

    return rendezvous.current().of_main("complete", complete)


def prepare(
    config: Transfer,
    course: Course,
    data: Data,
    settings: dict[str, Any],
    beginning: "Beginning | None",
    accelerator: "Accelerator",
) -> "FineTuning":
    """The job, continued where it stands; raises ValueError for what does not fit."""
    from ..pipeline.order import share, steps_per_epoch
    from ..pipeline.threads import usable_cores
    from ..transfer import backbone
    from ..transfer.batches import Feed
    from ..transfer.detection import Detection
    from ..transfer.detectors import build
    from ..transfer.tuning import prepared

    rank, world = accelerator.process_index, accelerator.num_processes
    share(course.batch, rank=rank, world=world)
    steps_per_epoch(len(data.train.scenes), course.batch)
    encoder = backbone.build(settings["made_of"]) if beginning is None else beginning.encoder
    design = design_of(config, data, settings["made_of"])
    module = build(encoder, design, device_type=accelerator.device.type, seed=config.seed)
    feed = Feed(
        data.train,
        course.batch,
        sides_of(config),
        seed=config.seed,
        flip=config.images.flip,
        masks=config.task == "segmentation",
        keypoints=config.task == "keypoints",
        rank=rank,
        world=world,
        threads=config.threads or usable_cores(),
    )
    task = Detection(module, feed, data.test, config.task, config.out, accelerator)
    job = prepared(config, task, course, settings, accelerator, data=config.train)
    if accelerator.is_main_process:
        if job.first:
            say(f"continuing {config.out} at step {job.first:,} of {course.steps:,}")
        plan(job, settings, data.train, data.test)
    return job


def run(
    config: Transfer, job: "FineTuning", settings: dict[str, Any], data: Data, asked: Callable[[], int], start: Start
) -> dict[str, Any]:
    """Train, measure, and write results.json last; returns how it ended."""
    from ..transfer.tuning import train

    start.ended |= {"step": job.first, "steps": job.course.steps, "reason": "it failed"}
    told = train(job, asked, start)
    if told["code"]:
        return told
    measured = job.task.evaluate(asked)
    if measured is None:
        return told | {"code": asked() or 75, "reason": "stopped while it was measured: start again"}
    if job.accelerator.is_main_process:
        write_results(config.out, settings, data.train, data.test, measured)
    return told

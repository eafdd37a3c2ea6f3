"""What a fine-tuning tells: its plan, results.json with the protocol beside the numbers, and the table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..console import opening, table
from ..files.typed import read_json
from ..pipeline.beton.overlap import overlap_in_words, overlap_of_files
from ..training.log import versions
from ..training.run_folder import write_json
from .scene import SceneSet

if TYPE_CHECKING:
    from .tuning import FineTuning

HEAD = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}
NAMES = {"detection": "Faster R-CNN", "segmentation": "Mask R-CNN", "keypoints": "Keypoint R-CNN"}
PARTS = ("nothing", "the stem", "stem and 1 stage", "stem and 2 stages", "stem and 3 stages", "the whole encoder")


class Measured(Struct, frozen=True):
    """Average precisions of one kind, shares of 1; None where there was nothing to count."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    by_category: dict[str, float | None] = {}


class Begun(Struct, frozen=True):
    """What a fine-tuning began with."""

    words: str


class Told(Struct, frozen=True):
    """What is read of OUT/results.json."""

    init: Begun
    protocol: str
    results: dict[str, Measured]


def protocol(settings: dict[str, Any], train: SceneSet, test: SceneSet) -> str:
    """How the numbers came about, but for what the encoder began with: numbers compare where this line is the same."""
    half = "" if settings["precision"] == "no" else f", trained in {settings['precision']}"
    made_of, extra = settings["made_of"], " with extra norm" if settings["extra_norm"] else ""
    sides, flip = "/".join(map(str, settings["sides"])), settings["flip"]
    parts = [
        f"{NAMES[settings['task']]} {settings['detector'].upper()}, {made_of['encoder']} width {made_of['width']}",
        f"{settings['norm']} norm{extra}, {PARTS[settings['freeze']]} frozen",
        f"{settings['steps']:,} steps of {settings['batch']} images{half}",
        f"{settings['optimiser']} rate {settings['learning_rate']:g} falling at {' and '.join(map(str, settings['drops']))}",
        f"sides {sides}, tested at {settings['design']['side']} px, mirrored {flip:.0%}, seed {settings['seed']}",
        f"{len(train.scenes):,} train ({train.fingerprint[:8]}), {len(test.scenes):,} test ({test.fingerprint[:8]})",
    ]
    return "; ".join(parts)


def plan(job: "FineTuning", settings: dict[str, Any], train: SceneSet, test: SceneSet) -> None:
    """Print what is about to happen."""
    course, accelerator = job.course, job.accelerator
    count = sum(parameter.numel() for parameter in job.task.module.parameters())
    learns = sum(parameter.numel() for parameter in job.task.module.parameters() if parameter.requires_grad)
    world, classes = accelerator.num_processes, len(train.categories)
    share = f", {course.batch // world} on each of {world} processes" if world > 1 else ""
    rate = f"rate {course.learning_rate:g}, warm-up {course.warmup:,} steps, to a tenth at {list(course.drops)}"
    if course.batch != 16 and course.learning_rate == 0.02:
        rate += " (.02 is meant for batches of 16: --scale-rate multiplies it by batch / 16)"
    unlearnt = settings["norm"] == "frozen" and settings["init"] == "random"
    norm = settings["norm"] + (" (at random it does nothing: --norm local learns)" if unlearnt else "")
    shared = overlap_in_words(overlap_of(train, test), "the test set", "the training set")
    rows = [
        ("data", f"{len(train.scenes):,} images to learn from, {len(test.scenes):,} to be measured on, {classes} classes"),
        ("detector", f"{NAMES[settings['task']]} {settings['detector'].upper()}, {count / 1e6:.1f} M parameters"),
        ("encoder", f"{settings['made_of']['encoder']}, width {settings['made_of']['width']}: {settings['given']}"),
        ("learns", f"{learns / 1e6:.1f} M parameters; {PARTS[settings['freeze']]} frozen, batch norm {norm}"),
        ("schedule", f"{settings['schedule']}: {settings['optimiser']}, {rate}"),
        ("batch", f"{course.batch} images{share}; sides {settings['sides']}, tested at {settings['design']['side']} px"),
        ("runs on", f"{accelerator.device.type}, precision {settings['precision'].replace('no', 'float32')}"),
        ("steps", f"{job.first:,} to {course.steps:,}, {job.task.per_epoch:,} an epoch"),
        ("results", f"{job.out}; a checkpoint every {job.habits.checkpoint_every:,} steps"),
        *[("note", text) for text in (*train.notes, *test.notes, *filter(None, [shared]))],
    ]
    opening(f"viewmill transfer {settings['task']}", rows)


def overlap_of(train: SceneSet, test: SceneSet) -> float:
    """The share of the test images that are learned from too."""
    return overlap_of_files([scene.path for scene in train.scenes], [scene.path for scene in test.scenes])


def write_results(out: Path, settings: dict[str, Any], train: SceneSet, test: SceneSet, measured: dict[str, Any]) -> None:
    """Write OUT/results.json, by which a fine-tuning is complete."""
    kept = ("task", "detector", "norm", "extra_norm", "freeze", "schedule", "steps", "drops", "batch", "learning_rate")
    about = {name: settings[name] for name in kept}
    init = {"source": settings["source"], "sha256": settings["init"], "words": settings["given"]}
    told = {"protocol": protocol(settings, train, test), "init": init, **about, "step": settings["steps"]}
    told["overlap"] = overlap_of(train, test)
    write_json(out / "results.json", told | {"encoder": settings["made_of"], "results": measured, "versions": versions()})


def show(out: Path) -> None:
    """Print the table of OUT/results.json."""
    told = read_json(out / "results.json", Told)
    rows = [(name, *(_share(getattr(numbers, key)) for key in HEAD)) for name, numbers in told.results.items()]
    table(f"{told.init.words}: {told.protocol}", ("", *HEAD.values()), rows)
    columns = [numbers.by_category for numbers in told.results.values()]
    if columns and len(columns[0]) > 1:
        rows = [(name, *(_share(column.get(name)) for column in columns)) for name in columns[0]]
        table("AP by class", ("", *told.results), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""What a run was started with, read back from its config.json: the settings that would begin another one like it."""

from pathlib import Path
from typing import Any

from ..methods.method import bounded
from ..methods.overrides import assignments_of, changed, method_named, values
from ..pipeline.order import steps_per_epoch
from ..settings import Finetune, Train
from ..settings.parts import flags_of
from .options import FREE, SHORT, for_run
from .run_config import FREE_OF_TUNING, Config


def of_run(config: Config, path: Path, kind: type) -> dict[str, Any]:
    """Settings of the command `kind` by name, but for places, threads, and how a start goes about its work.

    `config` is as this version has it, `path` its file. Raises ValueError where a method's settings cannot be set any more.
    """
    free = set(FREE if kind is Train else FREE_OF_TUNING)
    found = {name: config[name] for name in flags_of(kind) if name in config and name not in free}
    if kind is Train:
        return found | _of_training(config, path)
    return found | _of_tuning(config, kind)


def _of_training(config: Config, path: Path) -> dict[str, Any]:
    row = bounded(method_named(config["method"]), rows=config["rows"])
    try:
        assignments = assignments_of(row, config["objective"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    epochs = config["steps"] / steps_per_epoch(config["rows"], config["batch"])
    chosen = for_run(changed(row, assignments), assigned=assignments, rows=config["rows"], epochs=epochs)
    if dict(values(chosen)) != config["objective"]:  # what the run had, not what one of its length would have today
        given = {assignment.partition("=")[0] for assignment in assignments}
        assignments += [f"{name}={value}" for name, value in values(row) if name in SHORT and name not in given]
    by_epochs = config["epochs"] * steps_per_epoch(config["rows"], config["batch"])
    return {
        "set": assignments,
        "steps": 0 if config["steps"] == by_epochs else config["steps"],
        "recipe": str(path) if config["recipe"] else "",
    }


def _of_tuning(config: Config, kind: type) -> dict[str, Any]:
    """Its schedule stands as what it came to be: a rate that was scaled is not scaled again."""
    found = {"learning_rate": config["learning_rate"], "batch": config["batch"]}
    if kind is Finetune:
        return found | {"warmup": config["warmup"] / config["steps"]}
    own = {"steps": config["steps"], "warmup": config["warmup"], "scale_rate": False}
    return found | own | ({"sides": config["sides"]} if not config.get("side") else {})

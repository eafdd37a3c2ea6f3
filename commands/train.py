"""`viewmill train`: pretrain an encoder, or continue where the run stands."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..distributed import rendezvous
from ..errors import refusing
from ..methods.method import Method
from ..methods.overrides import values
from ..pipeline.datasets import open_images, told_apart
from ..pipeline.sources.opened import is_source
from ..settings import Train
from ..settings.parts import flat, replaced
from ..training.launch import starting
from ..training.options import MAY_DIFFER, method_of
from ..training.signals import deferred

if TYPE_CHECKING:
    from ..pipeline.beton.reader import Beton


def train(config: Train) -> int:
    """Train, or continue; returns the exit code, which also stands in RUN/exit.json."""
    with starting(config.out, timeout=config.timeout) as start:
        with refusing():
            method = method_of(config)
            if config.logging.track:
                from ..training.display.trackers import installed

                installed(config.logging.track)
            # a bad file is refused before torch loads
            beton = None if is_source(config.data) else open_images(config.data)
            if beton is not None:
                from ..pipeline.order import steps_per_epoch

                steps_per_epoch(len(beton), config.optimisation.batch)
        accelerator = start.meet(lambda: told_of(config, method, beton), precision=config.optimisation.precision)
        config = replaced(config, precision=accelerator.mixed_precision)  # what "auto" has come to be
        if beton is None:
            beton = converted(config.data)
        asked = start.stack.enter_context(deferred())  # from here on: a conversion may be longer than a scheduler waits
        from ..training.loop import loop
        from ..training.prepare import prepare

        with refusing():
            run = prepare(config, method, beton, accelerator, start.stack)
        start.ended |= {"step": run.first, "steps": run.steps, "reason": "it failed"}
        start.ended |= loop(run, asked, start)
    return start.ended["code"]


def told_of(config: Train, method: Method, beton: "Beton | None") -> dict[str, Any]:
    """What every process of a training must have been started with: all but where things lie, and how it goes about them."""
    own = flat(config, without=MAY_DIFFER)
    data = {"data": "images, to be converted"} if beton is None else {"data": "a .beton file", **told_apart(beton)}
    return {"command": "train", **data, **own, **dict(values(method))}


def converted(data: Path) -> "Beton":
    """Images as a data set: the main process converts them, however long it takes, the others find what it has made."""
    made: list[Beton] = []
    rendezvous.current().of_main("converted", lambda: made.append(open_images(data)), seconds=rendezvous.FOR_EVER_S)
    return made[0] if made else open_images(data)

"""A run before its first step: its loader and its state, built from the command's settings or continued where it stands."""

import dataclasses
import json
from contextlib import ExitStack, closing

from accelerate import Accelerator

from ..checkpoint.writer import check_room
from ..console import say
from ..distributed import rendezvous
from ..methods.method import Method
from ..methods.overrides import values
from ..models.weights import fingerprint
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader
from ..pipeline.views.recipe_file import data_of
from ..settings import Train
from .announce import plan
from .loaders import colours_of, open_loader
from .options import FREE, for_images
from .pretraining import Pretraining
from .resume import begun, parts_of, restore_
from .run_config import FORMAT, recorded, settle_config
from .state import Settings, architecture, build


def prepare(config: Train, method: Method, beton: Beton, accelerator: Accelerator, stack: ExitStack) -> Pretraining:
    """Loader and state of a run, continued where it stands; raises ValueError for what does not fit."""
    method = for_images(config, method, rows=len(beton), earlier=recorded(config.out))
    loader = stack.enter_context(closing(open_loader(config, method, beton, accelerator)))
    settings = describe(config, method, beton, loader)
    # what a run began with is in its checkpoints: the file may be gone, or be of a run that has gone on
    goes_on = begun(config.out)
    init = None if goes_on else config.init
    settings["init"] = recorded(config.out).get("init") if goes_on else init and fingerprint(init)
    state, given = build(
        settings,
        method,
        beton,
        accelerator,
        sides=[view.size for view in loader.recipe.views],
        init=init,
        recompute=config.recompute,
        compiled=config.compile,
        agreed=lambda: rendezvous.current().agree("configuration", lambda: settings),
    )
    if accelerator.is_main_process:  # what was refused until here leaves no configuration behind
        settle_config(config.out, settings)
    step, passed_over = restore_(config.out, state)
    run = Pretraining(
        config=config,
        method=method,
        settings=settings,
        beton=beton,
        loader=loader,
        state=state,
        accelerator=accelerator,
        out=config.out,
        data=config.data,
        first=step,
        steps=settings["steps"],
        per_epoch=len(loader),
        batch=config.batch,
        accumulate=config.accumulate,
        every=config.checkpoint_every or min(len(loader), 1000),
        keep=config.keep,
        keep_every=config.keep_every,
        log_every=config.log_every,
        max_masked=config.max_masked,
        takes_init=True,
    )
    if accelerator.is_main_process:
        for fault in passed_over:
            say(f"passed over: {fault}")
        if step:
            say(f"continuing {config.out} at step {step} of {settings['steps']}")
        if step < settings["steps"]:
            tight = check_room(config.out / "checkpoints", parts_of(state), keep=config.keep)
            plan(run, given)
            say(tight) if tight else None
    return run


def describe(config: Train, method: Method, beton: Beton, loader: BetonLoader) -> Settings:
    """What makes a run this run, as it stands in config.json."""
    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    steps = config.steps or config.epochs * len(loader)
    data = {"rows": len(beton), "data_fingerprint": beton.fingerprint}
    views = {"recipe": config.recipe and data_of(loader.recipe), "engine": loader.engine_name, "placement": loader.placement}
    network = dataclasses.asdict(architecture(own, method))
    made_of = {
        "objective": dict(values(method)),
        "architecture": {name: value for name, value in network.items() if name != "recompute"},
        "colours": colours_of(loader.recipe.views[0]),
    }
    described = {"format": FORMAT, **own, **views, "steps": steps, **data, **made_of}
    return json.loads(json.dumps(described))  # as a later start will read it: JSON knows no tuples

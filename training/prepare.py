"""A run before its first step: its loader and its state, built from the command's settings or continued where it stands."""

import json
from contextlib import ExitStack, closing

from accelerate import Accelerator

from ..console import say
from ..distributed import rendezvous
from ..methods.architecture import architecture
from ..methods.method import Method
from ..methods.overrides import values
from ..models.weights import fingerprint
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader
from ..pipeline.views.recipe import RECIPES
from ..pipeline.views.recipe_file import data_of
from ..settings import Train
from ..settings.parts import flat
from .announce import plan
from .loaders import colours_of, open_loader
from .options import FREE, epochs_of, for_run
from .pretraining import Pretraining
from .resume import begun, take_up_
from .run_config import FORMAT, recorded, settle_config
from .state import Settings, build


def prepare(config: Train, method: Method, beton: Beton, accelerator: Accelerator, stack: ExitStack) -> Pretraining:
    """Loader and state of a run, continued where it stands; raises ValueError for what does not fit."""
    method = for_run(
        method, assigned=config.set, rows=len(beton), epochs=epochs_of(config, len(beton)), earlier=recorded(config.out)
    )
    optimisation, checkpoints = config.optimisation, config.checkpoints
    begun_with = {"batch": optimisation.batch, "seed": config.seed, "out": config.out}
    loader = stack.enter_context(closing(open_loader(config.views, config.method, method, beton, accelerator, **begun_with)))
    settings = describe(config, method, beton, loader)
    # what a run began with is in its checkpoints: the file may be gone, or be of a run that has gone on
    goes_on = begun(config.out)
    init = None if goes_on else config.network.init
    settings["init"] = recorded(config.out).get("init") if goes_on else init and fingerprint(init)
    state, given = build(
        settings,
        method,
        beton,
        accelerator,
        sides=[view.size for view in loader.recipe.views],
        init=init,
        recompute=config.network.recompute,
        compiled=config.network.compile,
        agreed=lambda: rendezvous.current().agree("configuration", lambda: settings),
    )
    if accelerator.is_main_process:  # what was refused until here leaves no configuration behind
        settle_config(config.out, settings)
    step, tight = take_up_(config.out, state, steps=settings["steps"], keep=checkpoints.keep)
    run = Pretraining(
        optimisation=optimisation,
        logging=config.logging,
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
        batch=optimisation.batch,
        accumulate=optimisation.accumulate,
        every=checkpoints.checkpoint_every or min(len(loader), 1000),
        keep=checkpoints.keep,
        keep_every=checkpoints.keep_every,
        log_every=config.logging.log_every,
        max_masked=optimisation.max_masked,
        takes_init=True,
    )
    if accelerator.is_main_process:
        if step:
            say(f"continuing {config.out} at step {step} of {settings['steps']}")
        if step < settings["steps"]:
            plan(config, run, given)
            say(tight) if tight else None
    return run


def describe(config: Train, method: Method, beton: Beton, loader: BetonLoader) -> Settings:
    """What makes a run this run, as it stands in config.json."""
    own = flat(config, without=FREE)
    steps = config.optimisation.steps or config.optimisation.epochs * len(loader)
    data = {"rows": len(beton), "data_fingerprint": beton.fingerprint}
    usual = not config.views.recipe and loader.recipe == RECIPES[method.recipe](config.views.size)
    recipe = "" if usual else data_of(loader.recipe)
    views = {"recipe": recipe, "engine": loader.engine_name, "placement": loader.placement}
    made_of = {
        "objective": dict(values(method)),
        "architecture": architecture(own, method).record(),
        "colours": colours_of(loader.recipe.views[0]),
    }
    described = {"format": FORMAT, **own, **views, "steps": steps, **data, **made_of}
    return json.loads(json.dumps(described))  # as a later start will read it: JSON knows no tuples

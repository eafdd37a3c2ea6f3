"""Which views a training has: its recipe, its engine, its loader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say
from ..distributed import rendezvous
from ..methods.method import Method
from ..pipeline.views.recipe import Recipe, View, contrasted
from ..pipeline.views.recipe_file import recipe_of
from ..settings.training import Views
from .run_config import recorded

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..pipeline.beton.reader import Beton
    from ..pipeline.loader import BetonLoader


def open_loader(
    views: Views, name: str, method: Method, beton: Beton, accelerator: Accelerator, *, batch: int, seed: int, out: Path
) -> BetonLoader:
    """The loader of the run in the folder `out`.

    `batch` counts images over all processes; raises ValueError where it leaves one view to each, or the data no step.
    """
    from ..pipeline.loader import BetonLoader
    from ..pipeline.order import steps_per_epoch

    if batch // accelerator.num_processes * method.online_views < 2:
        raise ValueError(
            f"a batch of {batch} over {accelerator.num_processes} processes leaves one view to each, and "
            "batch norm nothing to average: raise --batch"
        )
    recipe = recipe_for(views, name, method)
    steps_per_epoch(len(beton), batch)  # refuses a batch beyond the data, before an engine is timed
    return BetonLoader(
        beton,
        recipe,
        batch=batch,
        seed=seed,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        engine_name=engine_of(views, beton, recipe, accelerator, out=out),
        threads=views.threads,
        placement=views.placement,
    )


def recipe_for(views: Views, name: str, method: Method) -> Recipe:
    """The recipe that was asked for, or that of the method, called `name`; raises ValueError where its views do not fit."""
    own = own_recipe(method, views.size)
    if not views.recipe:
        return own
    recipe = recipe_of(views.recipe, views.size)
    if method.network == "shared":
        _check_shared(recipe, views.recipe, name, method)
        return recipe
    counts, wanted = [[len(members) for members in made.groups] for made in (recipe, own)]
    if counts != wanted:
        raise ValueError(f"{name} takes views in groups of {wanted}; {views.recipe} makes groups of {counts}")
    parts, wanted = [[channels for _, _, channels in made.tensors] for made in (recipe, own)]
    if parts != wanted:
        raise ValueError(f"{name} takes tensors of {wanted} channels; {views.recipe} makes {parts}")
    return recipe


def own_recipe(method: Method, size: int) -> Recipe:
    """The recipe of a method, with as many views or parts as it contrasts."""
    return contrasted(method.recipe, size, views=method.views, network=method.network)


def _check_shared(recipe: Recipe, told: str, name: str, method: Method) -> None:
    """One encoder takes views of any size, as long as they are whole and as many as the method asks for."""
    if len(recipe.views) != method.views:
        more = f"contrast=graph contrast.views={len(recipe.views)}"
        remedy = f"--set {more}" if method.contrast and len(recipe.views) > 1 else "take another recipe"
        raise ValueError(f"{name} takes {method.views} views of an image; {told} makes {len(recipe.views)}: {remedy}")
    if any(channels != 3 for _, _, channels in recipe.tensors):
        raise ValueError(f"{name} takes whole views; {told} cuts them into parts, for the methods of CMC")
    if method.decodes_own and len(recipe.groups) > 1:
        raise ValueError(f"the decoder of {name} makes views of one size; {told} has {len(recipe.groups)} groups of them")


def colours_of(view: View) -> dict[str, Any]:
    """What an encoder has to be shown later: colour space and normalisation, as they stand in config.json."""
    return {"space": view.space, "mean": list(view.mean), "std": list(view.std)}


def engine_of(views: Views, beton: Beton, recipe: Recipe, accelerator: Accelerator, *, out: Path) -> str:
    """The engine that was asked for; for "auto" the one the run began with, or the fastest on the main process's machine."""
    from ..pipeline.engines.speed import engine_speeds

    def fastest() -> str:
        if known := recorded(out).get("engine"):
            return str(known)
        options = {"device": accelerator.device, "threads": views.threads, "placement": views.placement}
        speeds = engine_speeds(beton, recipe, **options)
        say(f"engine {next(iter(speeds))}; images/s: {', '.join(f'{name} {speed:,.0f}' for name, speed in speeds.items())}")
        return next(iter(speeds))

    chosen = rendezvous.current().of_main("engine", fastest if views.engine == "auto" else lambda: views.engine)
    return chosen if views.engine == "auto" else views.engine

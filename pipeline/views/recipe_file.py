"""A recipe by its name, or from a user's TOML file.

[[views]]                      # as pipeline/views/recipe.py's View; what is left out is its default
count = 2                      # of this view; 1 if left out
size = 224                     # the command's --size if left out
crop = {scale = [0.2, 1.0]}    # a RandomCrop; {share = 0.875} a CentreCrop; {slot = 0} a Patch
jitter = {brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1, probability = 0.8}
blur = {probability = 0.5, sigma = [0.1, 2.0]}
grey = 0.2
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ...files.typed import Misfit, fitted, read_json, read_toml
from ...files.wording import dotted, fields_of, nearest
from .recipe import RECIPES, VIEWS, CentreCrop, Patch, RandomCrop, Recipe, View

Table = dict[str, Any]
COUNT: Any = Annotated[int, Meta(ge=1, le=VIEWS)]


class Given(Struct, forbid_unknown_fields=True, frozen=True):
    """A recipe as it stands in a file."""

    views: Annotated[list[Table], Meta(min_length=1, max_length=VIEWS)]


class Of(Struct, frozen=True):
    """What is read of a run's config.json."""

    recipe: Table | str = ""


def recipe_of(name: str, size: int) -> Recipe:
    """The recipe called `name` at `size` pixels, or the one in the file `name`; raises ValueError or OSError.

    A file is a .toml, or the config.json of a run that had a recipe of its own.
    """
    if name in RECIPES:
        return RECIPES[name](size)
    if name.endswith(".json"):
        held = read_json(Path(name), Of).recipe
        if not held:
            raise ValueError(f"{name} has no recipe of its own: its views are those of its method")
        return recipe_from(held, where=f"{name}: recipe")
    if not name.endswith(".toml"):
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(RECIPES)}, or a file that ends in .toml"
        raise ValueError(f"no recipe is called {name!r}: {hint}")
    given = read_toml(Path(name), Given)
    return made(given, where=name, size=size)


def recipe_from(content: Any, *, where: str) -> Recipe:
    """The recipe that `data_of` has written; raises Misfit, in which `where` says what it stands in."""
    return made(fitted(content, Given, where=where), where=where)


def data_of(recipe: Recipe) -> Table:
    """A recipe as data, as it would stand in a file: tables, lists, texts and numbers."""
    return _plain(dataclasses.asdict(recipe))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def made(given: Given, *, where: str, size: int | None = None) -> Recipe:
    """The recipe of what a file holds, whose views are of `size` pixels where they do not say."""
    views: list[View] = []
    for place, view in enumerate(given.views):
        at = ("views", place)
        counted = fitted(view.get("count", 1), COUNT, where=where, at=(*at, "count"))
        views += [_view(view, where, at, size)] * counted
    try:
        return Recipe(tuple(views))
    except ValueError as error:
        raise Misfit(f"{where}: {error}") from None


def _view(given: Table, where: str, at: tuple[str, int], size: int | None) -> View:
    kinds = fields_of(View)
    found: Table = {} if size is None else {"size": size}
    for name, value in given.items():
        if name == "count":
            continue
        if name not in kinds:
            raise Misfit(f"{where}: {dotted(at)} has no setting {name!r}: {nearest(name, ['count', *kinds])}")
        kind = _crop_of(value) if name == "crop" else kinds[name]
        found[name] = fitted(value, kind, where=where, at=(*at, name))
    if "size" not in found:
        raise Misfit(f"{where}: {dotted((*at, 'size'))} is missing")
    try:
        return View(**found)
    except ValueError as error:
        raise Misfit(f"{where}: {dotted(at)}: {error}") from None


def _crop_of(settings: Any) -> type[RandomCrop | CentreCrop | Patch]:
    given = settings if isinstance(settings, dict) else {}
    return Patch if "slot" in given else CentreCrop if "share" in given else RandomCrop

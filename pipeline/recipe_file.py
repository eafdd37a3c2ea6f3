"""A recipe by its name, or from a user's TOML file.

[[views]]                      # as pipeline/recipe.py's View; what is left out is its default
count = 2                      # of this view; 1 if left out
size = 224                     # the command's --size if left out
crop = {scale = [0.2, 1.0]}    # a RandomCrop; {share = 0.875} a CentreCrop; {slot = 0} a Patch
jitter = {brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1, probability = 0.8}
blur = {probability = 0.5, sigma = [0.1, 2.0]}
grey = 0.2
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .recipe import RECIPES, Blur, CentreCrop, Jitter, Patch, RandomCrop, Recipe, View


def recipe_of(name: str, size: int) -> Recipe:
    """The recipe called `name` at `size` pixels, or the one in the file `name`; raises ValueError or OSError."""
    if name in RECIPES:
        return RECIPES[name](size)
    if not name.endswith(".toml"):
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(RECIPES)}, or a file that ends in .toml"
        raise ValueError(f"no recipe is called {name!r}: {hint}")
    with open(name, "rb") as file:
        try:
            return _recipe(tomllib.load(file), size)
        except (ValueError, TypeError) as error:  # tomllib's errors are ValueErrors
            raise ValueError(f"{Path(name)}: {error}") from None


def _recipe(content: Mapping[str, Any], size: int) -> Recipe:
    if set(content) != {"views"} or not isinstance(content["views"], list):
        raise ValueError("a recipe is a list of [[views]] and nothing else")
    views: list[View] = []
    for given in content["views"]:
        settings = {"size": size, **_table(given, "views")}
        count = settings.pop("count", 1)
        if not (isinstance(count, int) and isinstance(settings["size"], int)):
            raise ValueError(f"size and count are whole numbers, got {settings['size']!r} and {count!r}")
        for name, kind in (("crop", _crop_kind), ("jitter", lambda _: Jitter), ("blur", lambda _: Blur)):
            if name in settings:
                given = _table(settings[name], name)
                settings[name] = _filled(kind(given), given, name)
        views += [_filled(View, settings, "views")] * count
    return Recipe(tuple(views))


def _table(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a table, got {given!r}")
    return given


def _crop_kind(settings: Mapping[str, Any]) -> type[RandomCrop | CentreCrop | Patch]:
    return Patch if "slot" in settings else CentreCrop if "share" in settings else RandomCrop


def _filled(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in names:
            raise ValueError(f"{where} has no setting {name!r}: it has {', '.join(names)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

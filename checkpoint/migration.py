"""The one place where a configuration in the format of an older version becomes one of this version's.

A checkpoint's facts hold the same configuration and pass through here too. Formats:

1   0.1.0: the recipe was a dataclass's repr
2   the recipe is data, as in a recipe's own file: {"views": [...]}, or "" where it is the method's own
"""

import ast
from collections.abc import Callable
from typing import Any

from ..files.typed import Misfit
from ..files.wording import shown
from ..pipeline.views.recipe_file import data_of, recipe_from

FORMAT = 2
Config = dict[str, Any]


def _from_1(config: Config, where: str) -> Config:
    """The recipe as data."""
    recipe = config.get("recipe")
    return config | {"recipe": of_repr(recipe, where=where)} if isinstance(recipe, str) and recipe else config


MIGRATIONS: dict[int, Callable[[Config, str], Config]] = {1: _from_1}
PARTS = ("Recipe", "View", "RandomCrop", "CentreCrop", "Patch", "Jitter", "Blur")


def of_repr(text: str, *, where: str) -> Config:
    """A recipe as data, from the words in which 0.1.0 kept it; nothing in them is run. Raises Misfit."""
    try:
        if len(text) > 100_000:
            raise ValueError
        found = _of_node(ast.parse(text, mode="eval").body)
        if not isinstance(found, dict) or set(found) != {"views"}:
            raise ValueError
        return data_of(recipe_from(found, where=f"{where}: recipe"))
    except Misfit:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise Misfit(f"{where}: recipe must be a table with views, as viewmill writes it, got {shown(text)}") from None


def _of_node(node: ast.expr) -> Any:
    """The data in a dataclass's repr: calls of PARTS by keywords, tuples and constants; everything else is refused."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PARTS and not node.args:
        given = {word.arg: _of_node(word.value) for word in node.keywords if word.arg}
        return {name: value for name, value in given.items() if value is not None}
    if isinstance(node, ast.Tuple):
        return [_of_node(part) for part in node.elts]
    return ast.literal_eval(node)

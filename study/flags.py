"""Flags of another command in a TOML file: checked against its dataclass, and turned into words of a command line."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def known(given: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise ValueError for the first key that is none of `names`, with the nearest that is."""
    names = list(names)
    for key in given:
        if key not in names:
            nearest = difflib.get_close_matches(key, names, n=1)
            advice = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(names)}"
            raise ValueError(f"{where} has no setting {key!r}: {advice}")


def flags(kind: type, given: Any, where: str, *, fixed: Mapping[str, str]) -> dict[str, Any]:
    """`given` as values of the fields of `kind`, a command's dataclass.

    `fixed` are fields that the study sets itself, each with where it stands instead. Raises ValueError naming `where`, the
    key, what it takes, and for an unknown one the nearest.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} must be a table, got {given!r}")
    for key in given:
        if key in fixed:
            raise ValueError(f"{where} cannot set {key!r}: {fixed[key]}")
    hints = typing.get_type_hints(kind)
    known(given, [field.name for field in dataclasses.fields(kind) if field.name not in fixed], where)
    return {key: _fitted(hints[key], value, f"{where} {key}") for key, value in given.items()}


def _fitted(hint: Any, value: Any, where: str) -> Any:
    """`value` of a TOML file as one of type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _fitted(next(part for part in inner if part is not types.NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} takes a list, got {value!r}")
        return tuple(_fitted(inner[0], item, where) for item in value)
    if origin is typing.Literal:
        if value not in inner:
            nearest = difflib.get_close_matches(str(value), inner, n=1)
            raise ValueError(f"{where} takes {', '.join(inner)}, got {value!r}" + f": did you mean {nearest[0]}?" * bool(nearest))
        return value
    fits = isinstance(value, bool) == (hint is bool) and isinstance(value, (int, float) if hint is float else hint)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not fits:
        kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "a text")
        raise ValueError(f"{where} takes {kind}, got {value!r}")
    return float(value) if hint is float else value


def words(given: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line; an empty list is left out."""
    found = list[str]()
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found += [f"--{flag}", *map(str, value)] if value else []
        else:
            found += [f"--{flag}", str(value)]
    return found

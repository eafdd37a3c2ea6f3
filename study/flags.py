"""Flags of another command in a TOML file: checked against its dataclass, and turned into words of a command line."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..commands import Evaluate, Train

OF_TRAINING = {
    "data": "[data] says what is trained on",
    "out": "`runs` says where runs lie",
    "method": "`method` of [[methods]] does",
    "set": "`set` of [[methods]] does",
    "seed": "`seeds` does",
}
OF_EVALUATION = {
    "run": "every run of the study is evaluated",
    "train": "[data] says what is learned from",
    "test": "[data] says what is told",
    "floors": "floors are measured once for each seed",
    "json": "the study reads what is printed",
}
LOWEST = {"k": 1, "temperature": 1e-9, "probe_epochs": 1, "augment": 0, "shots": 1, "draws": 1, "seed": 0}


def known(given: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise ValueError for the first key that is none of `names`, with the nearest that is."""
    names = list(names)
    for key in given:
        if key not in names:
            raise ValueError(f"{where} has no setting {key!r}: {nearest(key, names)}")


def nearest(word: str, names: Sequence[str]) -> str:
    """Which of `names` may have been meant, or all of them."""
    found = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(names)}"


def of_training(given: Any, where: str) -> dict[str, Any]:
    """Flags of `train` that a study may give; raises ValueError naming `where` and what is wrong."""
    return _flags(Train, given, where, fixed=OF_TRAINING)


def of_evaluation(given: Any) -> dict[str, Any]:
    """Flags of `evaluate` that a study may give; raises ValueError naming what is wrong."""
    found = _flags(Evaluate, given, "[evaluate]", fixed=OF_EVALUATION)
    for name, lowest in LOWEST.items():
        value = found.get(name, ())
        if min(value if isinstance(value, tuple) else (value,), default=lowest) < lowest:
            raise ValueError(f"[evaluate] {name} must be {lowest:g} or more, got {value}")
    if not found.get("protocols", ("knn",)):
        raise ValueError("[evaluate] protocols is empty: name knn, linear, ridge or low-shot")
    return found


def _flags(kind: type, given: Any, where: str, *, fixed: Mapping[str, str]) -> dict[str, Any]:
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
            raise ValueError(f"{where} cannot be {value!r}: {nearest(str(value), inner)}")
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    fits = isinstance(value, bool) == (hint is bool) and isinstance(value, int | float if hint is float else hint)
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

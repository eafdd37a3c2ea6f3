"""Flags of another command in a TOML file: checked against its dataclass."""

from collections.abc import Mapping
from typing import Any

from ..files.typed import fitted
from ..files.wording import nearest
from ..settings import Evaluate, Train
from ..settings.parts import flags_of

OF_TRAINING = {
    "data": "[data] says what is trained on",
    "out": "`runs` says where runs lie",
    "method": "`method` of [[methods]] does",
    "set": "`set` of [[methods]] does",
    "config": "[train] and `train` of [[methods]] say it all",
    "seed": "`seeds` does",
}
OF_EVALUATION = {
    "run": "every run of the study is evaluated",
    "train": "[data] says what is learned from",
    "test": "[data] says what is told",
    "floors": "floors are measured once for each seed",
    "json": "the study reads what is printed",
    "floor_seconds": "floors of a study have no limit, so that they are comparable",
    "classes_by": "classes are matched by name",
}


def of_training(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Flags of `train` that a study may give; raises ValueError naming `where` and what is wrong."""
    return _flags(Train, given, where, fixed=OF_TRAINING)


def of_evaluation(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of `evaluate` that a study may give; raises ValueError naming what is wrong."""
    found = _flags(Evaluate, given, "[evaluate]", fixed=OF_EVALUATION)
    if not found.get("protocols", ("knn",)):
        raise ValueError("[evaluate] protocols is empty: name knn, linear, ridge or low-shot")
    return found


def _flags(kind: type, given: Mapping[str, Any], where: str, *, fixed: Mapping[str, str]) -> dict[str, Any]:
    """`given` as values of the fields of `kind`, a command's dataclass, within their ranges.

    `fixed` are fields that the study sets itself, each with where it stands instead. Raises ValueError naming `where`, the
    key, what it takes, and for an unknown one the nearest.
    """
    hints = {flag.name: flag.hint for flag in flags_of(kind).values() if flag.name not in fixed}
    found = {}
    for key, value in given.items():
        if key in fixed:
            raise ValueError(f"{where} cannot set {key!r}: {fixed[key]}")
        if key not in hints:
            raise ValueError(f"{where} has no setting {key!r}: {nearest(key, list(hints))}")
        found[key] = fitted(value, hints[key], at=(f"{where} {key}",))
    return found

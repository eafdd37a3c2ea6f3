"""Settings in parts: a command's settings may be dataclasses within a dataclass, and are flat wherever somebody names them.

The command line, a study's file, config.json and a person know a setting by its name alone: `--width`, not
`--network.width`. No two settings of a command have the same name, whichever part they stand in.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

S = TypeVar("S")


class Flag(NamedTuple):
    """One setting of a command."""

    name: str
    hint: Any
    """Its type, with its range."""
    default: Any
    """dataclasses.MISSING where it has to be given."""
    part: str
    """The part in which it stands; "" for the command itself."""


@cache
def flags_of(kind: type) -> dict[str, Flag]:
    """Every setting of a command by its name, those of its parts included, in the order of `--help`."""
    found = dict[str, Flag]()
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        inner = flags_of(hint).values() if dataclasses.is_dataclass(hint) else ()
        own = [flag._replace(part=field.name) for flag in inner] or [Flag(field.name, hint, field.default, "")]
        for flag in own:
            assert flag.name not in found, f"{kind.__name__} has two settings called {flag.name}"
            found[flag.name] = flag
    return found


def flat(settings: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The values of a command's settings by their names, but for those that are named."""
    return {
        name: getattr(getattr(settings, flag.part) if flag.part else settings, name)
        for name, flag in flags_of(type(settings)).items()
        if name not in without
    }


def made(kind: type[S], **given: Any) -> S:
    """The settings of a command with what is given by name; the others are their defaults.

    Raises TypeError for a name that there is not, and where one that has to be given is not.
    """
    flags, own, parts = flags_of(kind), dict[str, Any](), dict[str, dict[str, Any]]()
    for name, value in given.items():
        if name not in flags:
            raise TypeError(f"{kind.__name__} has no setting {name!r}")
        (parts.setdefault(flags[name].part, {}) if flags[name].part else own)[name] = value
    hints = typing.get_type_hints(kind)
    return kind(**own, **{part: hints[part](**values) for part, values in parts.items()})


def words_of(given: Mapping[str, Any]) -> list[str]:
    """Settings by name as words of a command line; None and an empty list are left out."""
    found = list[str]()
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found += [f"--{flag}", *map(str, value)] if value else []
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def replaced(settings: S, **given: Any) -> S:
    """The same settings but for what is given by name; raises TypeError for a name that there is not."""
    return made(type(settings), **(flat(settings) | given))

"""`--config FILE`: settings of a command that stand in a file, as words of its command line in front of one's own.

FILE is a run's config.json, or its folder, or a .toml file of one's own:

    method = "ring"            # a setting by its name, as config.json and the flags have it
    set = ["region.outer=0.2"]
    size = 32

    [optimisation]             # the groups of --help may stand as tables
    batch = 512

Flags go before what stands in the file, `--set` name by name. What says where things lie and how a start goes about its work
(data, out, threads, engine, checkpoints, logging) is not taken from a run: another one has its own.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tyro

from ..errors import Refused
from ..files.typed import Misfit, fitted, nearest, read_toml
from ..settings.parts import Flag, flags_of, words_of
from .line import is_flag

Values = dict[str, Any]


def with_file(words: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """`words`, in order, with those of the file that `--config` names; raises Refused for a file that does not fit."""
    if not words or words[0] not in commands or "--help" in words or "-h" in words:
        return list(words)
    name, *own = words
    kind = commands[name]
    named = [path for _, (path, *_) in _given(own, "--config") if path]
    if not named or "config" not in flags_of(kind):
        return list(words)
    if len(named) > 1:
        raise Refused(f"--config is given {len(named)} times: put the settings of both into one file")
    try:
        found = values_of(Path(named[0]).expanduser(), name, kind)
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from None
    return [name, *_merged(found, own, kind)]


def values_of(path: Path, command: str, kind: type) -> Values:
    """Settings of a command, by name, that stand in a file or in a run's folder.

    Raises ValueError naming file and key for what does not fit, Refused for no run, OSError where it cannot be read.
    """
    if path.suffix == ".toml":
        return _of_table(path, kind)
    if path.is_dir() or path.suffix == ".json":
        from ..training.run_config import config_at

        config_path = path / "config.json" if path.is_dir() else path
        try:
            return _of_run(config_at(config_path), config_path, command, kind)
        except FileNotFoundError:
            raise Refused(f"{path} holds no run: it has no config.json") from None
    raise Refused(f"--config takes a run, its config.json, or a .toml file of settings: {path} is none of them")


def _of_table(path: Path, kind: type) -> Values:
    """What a person has written."""
    flags, parts = flags_of(kind), {field.name for field in dataclasses.fields(kind)} - flags_of(kind).keys()
    given = Values()
    for key, value in read_toml(path, Values).items():
        if isinstance(value, dict) and key not in parts:
            raise Misfit(f"{path}: no group of settings is called {key!r}: {nearest(key, sorted(parts))}")
        content = value if isinstance(value, dict) else {key: value}
        if twice := sorted(given.keys() & content.keys()):
            raise Misfit(f"{path}: {twice[0]} is there twice, by itself and in a table")
        given |= content
    given = {key.replace("-", "_"): value for key, value in given.items()}
    for key in given.keys() & flags.keys() & {"config"}:
        raise Misfit(f"{path}: {key} would name a further file: put all settings into this one")
    fields = [(flag.name, flag.hint | msgspec.UnsetType, msgspec.UNSET) for flag in flags.values() if flag.name != "config"]
    held = fitted(given, msgspec.defstruct("Settings", fields, forbid_unknown_fields=True), where=str(path))
    return {name: getattr(held, name) for name in given}


def _of_run(config: Values, path: Path, command: str, kind: type) -> Values:
    """What a run of the same command was started with, as far as another start may be."""
    from ..training.recorded_settings import of_run

    was = config.get("command", "train")
    if was != command:
        raise Refused(f"{path} is of `viewmill {was}`, and this is `viewmill {command}`: name a run of that command")
    return of_run(config, path, kind)


def _merged(found: Values, own: Sequence[str], kind: type) -> list[str]:
    """The file's settings as words, and after them one's own, so that these count."""
    flags, own = flags_of(kind), list(own)
    positional = [name for name, flag in flags.items() if _is_positional(flag)]
    given = next((place for place, word in enumerate(own) if is_flag(word)), len(own))
    first, words = own[:given], list[str]()
    for name, value in found.items():
        if name == "set":
            own = _with_assignments(own, value)
        elif name in positional:
            first += [str(value)] if positional.index(name) == len(first) else []
        else:
            words += words_of({name: value})
    return [*first, *words, *own[given:]]


def _with_assignments(own: list[str], assignments: Sequence[str]) -> list[str]:
    """One's own words with the file's assignments in front of those of `--set`: of a name the last one counts."""
    for place, _ in _given(own, "--set"):
        head, equals, first = own[place].partition("=")
        return [*own[:place], head, *assignments, *([first] if equals else []), *own[place + 1 :]]
    return [*own, "--set", *assignments] if assignments else own


def _given(words: Sequence[str], flag: str) -> Iterator[tuple[int, list[str]]]:
    """Where a flag stands, and the word after it."""
    for place, word in enumerate(words):
        if word == flag:
            yield place, [*words[place + 1 : place + 2], ""]
        elif word.startswith(f"{flag}="):
            yield place, [word.partition("=")[2]]


def _is_positional(flag: Flag) -> bool:
    return tyro.conf.Positional in getattr(flag.hint, "__metadata__", ())

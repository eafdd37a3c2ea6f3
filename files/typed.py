"""JSON and TOML with a type: what stands in a file is a value of that type, or one error in words, and nothing else.

Types are msgspec.Structs or frozen dataclasses. Ranges and lengths stand on their fields, as Annotated[float, Meta(ge=0)],
and hold wherever the value comes from: a file, a study, the command line. msgspec judges; what is here says which key of
which file, what it is, and what it may be. Numbers are finite everywhere, and a key that is there twice is refused. A key
that is not known is refused in dataclasses and in Structs that forbid unknown fields: those that a person writes.
"""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .opening import SMALL, read_bytes
from .wording import Key, advice, arms, bare, dotted, fields_of, inner, nearest, noun, sentence, shown

T = TypeVar("T")
DEEPEST = 64  # levels: of the ten that our own files have, far more than any needs
MOST = 2**64
TABLES = 1 << 20  # bytes of a TOML file, which a person has written
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")


class Misfit(ValueError):
    """Data that is not what it has to be; the message names file, key and value, and the range or type that is right."""


def read_json(path: Path, kind: type[T], *, limit: int = SMALL) -> T:
    """What stands in the JSON file `path`; raises Misfit, and OSError where it cannot be read or is no regular file."""
    return of_json(read_bytes(path, limit=limit), kind, where=str(path))


def read_toml(path: Path, kind: type[T], *, limit: int = TABLES) -> T:
    """The same of a TOML file."""
    return of_toml(read_bytes(path, limit=limit), kind, where=str(path))


def of_json(data: bytes, kind: type[T], *, where: str) -> T:
    """What stands in a JSON text, such as a line of a log; `where` names it in the message of a Misfit."""
    return fitted(_parsed(data, "JSON", _from_json, where), kind, where=where)


def of_toml(data: bytes, kind: type[T], *, where: str) -> T:
    """The same of a TOML text."""
    return fitted(_parsed(data, "TOML", tomllib.loads, where), kind, where=where)


def fitted(value: Any, kind: type[T], *, where: str = "", at: Sequence[Key] = ()) -> T:
    """`value`, as a parser has made it, as one of type `kind`; raises Misfit.

    `where` is the file's name, `at` the keys that lead to the value in it.
    """

    def named(keys: Sequence[Key]) -> str:
        return f"{where}: {dotted([*at, *keys])}" if where else dotted([*at, *keys])

    return _fit(value, kind, named)


def check_fields(made: Any, *, named: Callable[[str], str] = str) -> None:
    """Raise Misfit for the first field of a dataclass's instance that is out of its range; `named` says what it is called.

    Fields that are dataclasses themselves have been checked as they were made.
    """
    for name, hint in fields_of(type(made)).items():
        if not any(fields_of(arm) for arm in arms(hint)):
            _fit(getattr(made, name), hint, lambda keys, name=name: named(dotted([name, *keys])))


def check_settings(settings: Any) -> None:
    """The same of a command's settings, those in its parts too, which are named as its flags are."""
    check_fields(settings, named=lambda name: f"--{name.partition('[')[0].replace('_', '-')}")
    for name in fields_of(type(settings)):
        if dataclasses.is_dataclass(part := getattr(settings, name)):
            check_settings(part)


def _parsed(data: bytes, language: str, parse: Callable[[str], Any], where: str) -> Any:
    """What a parser makes of a text, whatever the text is."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise Misfit(
            f"{where} is no {language}: it is no UTF-8 text (byte {error.start:,} is {data[error.start]:#x})"
        ) from None
    try:
        return parse(text)
    except RecursionError:
        raise Misfit(f"{where} is nested more than {DEEPEST} levels deep, which no such file is") from None
    except ValueError as error:  # json's, tomllib's, and int's of more than 4,300 digits
        why = "it is empty" if not text.strip() else str(error)
        why = "it has a number of more than 4,300 digits" if "integer string conversion" in why else why
        raise Misfit(f"{where} is no {language}: {why}") from None


def _from_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _fit(value: Any, kind: Any, named: Callable[[Sequence[Key]], str]) -> Any:
    try:
        if (keys := _strange(value)) is not None:
            _, there, asked = _place(value, kind, keys)
            if isinstance(there, int):
                raise Misfit(f"{named(keys)} has more than 64 bits, which no number here has: {shown(there)}")
            raise Misfit(f"{named(keys)} {sentence(asked, there)}, got {shown(there)}")
        _check_known(value, kind, (), named)
    except RecursionError:
        raise Misfit(f"{named(())} is nested more than {DEEPEST} levels deep, which nothing here is") from None
    try:
        return msgspec.convert(value, kind, dec_hook=_made)
    except (msgspec.ValidationError, OverflowError) as error:
        raise Misfit(_in_words(str(error), value, kind, named)) from None


def _made(kind: type, value: Any) -> Any:
    """A value of a type that msgspec does not know: of a path."""
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _strange(value: Any, depth: int = 0) -> list[Key] | None:
    """The keys of the first number that is not finite, or of too many bits; raises RecursionError beyond DEEPEST."""
    if isinstance(value, int | float):
        fits = math.isfinite(value) if isinstance(value, float) else abs(value) < MOST
        return None if fits else []
    if not isinstance(value, dict | list | tuple):
        return None
    if depth == DEEPEST:
        raise RecursionError
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if (keys := _strange(item, depth + 1)) is not None:
            return [key, *keys]
    return None


def _check_known(value: Any, kind: Any, keys: tuple[Key, ...], named: Callable[[Sequence[Key]], str]) -> None:
    """Raise Misfit for the first key that `kind` does not have and would not pass over."""
    kind = bare(kind, value)
    fields = fields_of(kind)
    if isinstance(value, dict):
        forbidden = dataclasses.is_dataclass(kind) or (fields and kind.__struct_config__.forbid_unknown_fields)
        for key, item in value.items():
            if fields and key not in fields and forbidden:
                raise Misfit(f"{named(keys)} has no setting {shown(key)}: {nearest(str(key), list(fields))}")
            _check_known(item, inner(kind, key), (*keys, key), named)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check_known(item, inner(kind, place), (*keys, place), named)


def _place(value: Any, kind: Any, steps: Sequence[Key | None]) -> tuple[list[Key], Any, Any]:
    """Where `steps` lead: their keys, the value, and its type; None stands for whichever value of a table does not fit."""
    keys: list[Key] = []
    for step in steps:
        kind = bare(kind, value)
        if step is None:
            step = next((key for key, item in value.items() if not _fits(item, inner(kind, key))), "")
        try:
            value = value[step]
        except (LookupError, TypeError):
            value = getattr(value, str(step), None)
        kind = inner(kind, step)
        keys.append(step)
    return keys, value, kind


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=_made)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True


def _in_words(text: str, value: Any, kind: Any, named: Callable[[Sequence[Key]], str]) -> str:
    """What msgspec says of `value` with the key, the value there, and what it may be."""
    said, _, path = text.partition(" - at ")
    steps = [name or (int(place) if place else None) for name, place in _STEP.findall(path.partition("$")[2])]
    keys, there, asked = _place(value, kind, steps)
    if missing := re.match(r"Object missing required field `(\w+)`", said):
        return f"{named([*keys, missing[1]])} is missing: it {sentence(inner(bare(asked, there), missing[1]), None)}"
    if path.startswith("`key`"):
        return f"{named(keys)} has a key that is no text: {shown(there)}"
    if said.startswith(("Expected", "Invalid enum", "Number out of range", "int too large")):
        return f"{named(keys)} {sentence(asked, there)}, got {shown(there)}{advice(asked, there)}"
    return f"{named(keys).removesuffix(': it')}: {said}"  # what a dataclass says of its own fields


__all__ = [
    "Misfit",
    "check_fields",
    "check_settings",
    "fitted",
    "nearest",
    "noun",
    "of_json",
    "of_toml",
    "read_json",
    "read_toml",
]

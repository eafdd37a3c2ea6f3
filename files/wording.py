"""Types in words: what a setting may be, for the message that says so of one that is not."""

import dataclasses
import difflib
import math
import reprlib
import types
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

Key = str | int
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path", dict: "a table"}
SEVERAL = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths", dict: "tables"}


def nearest(word: str, names: Sequence[str]) -> str:
    """Which of `names` may have been meant, or all of them."""
    found = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(map(str, names))}"


def advice(kind: Any, value: Any) -> str:
    """Which of the words that a value may be was probably meant; "" where none is near."""
    words = [str(word) for arm in arms(kind) if _base(arm) is Literal for word in get_args(_split(arm)[0])]
    found = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f": did you mean {found[0]}?" if found else ""


def dotted(keys: Sequence[Key]) -> str:
    """views[0].blur.sigma[1]; "it" for none."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{_short(key)}" for key in keys)
    return text.removeprefix(".") or "it"


def shown(value: Any) -> str:
    """A value as it stands in a file, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, Path):
        return _short(str(value))
    try:
        return _short(_REPR.repr(value))
    except ValueError:  # of a number of more than 4,300 digits
        return "a number of more than 4,300 digits"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def fields_of(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a Struct or a dataclass, in their order; nothing for any other type."""
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return _hints(kind) if is_struct or dataclasses.is_dataclass(kind) else {}


@cache
def _hints(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if get_origin(hint) is not type}


def _split(kind: Any) -> tuple[Any, dict[str, Any]]:
    """A type without its annotations, and the limits that they set."""
    limits: dict[str, Any] = {}
    while get_origin(kind) is Annotated:
        for meta in kind.__metadata__:
            if isinstance(meta, Meta):
                names = ("ge", "gt", "le", "lt", "min_length", "max_length")
                limits |= {name: getattr(meta, name) for name in names if getattr(meta, name) is not None}
        kind = kind.__origin__
    return kind, limits


def arms(kind: Any) -> list[Any]:
    """The types of a union but for None; a type that is none is its own."""
    kind = _split(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return [arm for arm in get_args(kind) if arm is not types.NoneType]
    return [kind]


def _base(kind: Any) -> Any:
    """Which of WORDS, Literal or tuple a type is; the type itself where it is none of them."""
    kind = _split(kind)[0]
    origin = get_origin(kind) or kind
    if fields_of(kind) or origin is dict:
        return dict
    return tuple if origin in (list, tuple, frozenset, set) else origin


def bare(kind: Any, value: Any) -> Any:
    """`kind` without annotations; of a union the type that a value such as `value` is meant to be."""
    found = arms(kind)
    wanted = dict if isinstance(value, dict) else tuple if isinstance(value, list | tuple) else None
    chosen = next((arm for arm in found if _base(arm) is wanted), found[0])
    return _split(chosen)[0]


def inner(kind: Any, key: Key) -> Any:
    """The type of what stands at `key` in a value of type `kind`; Any where that is not known."""
    if fields := fields_of(kind):
        return fields.get(str(key), Any)
    origin, args = get_origin(kind), get_args(kind)
    if origin is dict:
        return args[1]
    if origin is tuple and isinstance(key, int) and Ellipsis not in args:
        return args[key] if key < len(args) else Any
    return args[0] if args and origin in (tuple, list, set, frozenset) else Any


def sentence(kind: Any, value: Any) -> str:
    """What `value`, which is none of type `kind`, must be: "must lie in 0 to 1", "must be a whole number of 1 or more"."""
    for arm in arms(kind) if get_origin(_split(kind)[0]) in (Union, types.UnionType) else [kind]:
        limits, base = _split(arm)[1], _base(arm)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (base is float or (base is int and isinstance(value, int))):
            if isinstance(value, float) and not math.isfinite(value) and not _closed(limits):
                return f"must be a finite number{_range(limits, noun=True)}"
            return f"must {_range(limits, noun=False)}" if limits else f"must be {noun(arm)}"
    if kind is Any and isinstance(value, float):
        return "must be a finite number"
    return f"must be {noun(kind)}"


def noun(kind: Any) -> str:
    """What a value of type `kind` is: "a number in 0 to 1", "a list of 3 numbers", "one of local, shuffled"."""
    found = arms(kind)
    if len(found) > 1:
        return " or ".join(dict.fromkeys(map(noun, found)))
    limits = _split(kind)[1] | _split(found[0])[1]
    base, args = _base(found[0]), get_args(_split(found[0])[0])
    if base is Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(map(str, args))}"
    if base is tuple:
        return _list(args, limits)
    if base is str and limits.get("min_length"):
        return "a text that is not empty"
    return WORDS.get(base, "another value") + (_range(limits, noun=True) if base in (int, float) else "")


def _list(args: Sequence[Any], limits: dict[str, Any]) -> str:
    if not args:
        return "a list"
    fixed = Ellipsis not in args and len(args) > 1
    least, most = limits.get("min_length"), limits.get("max_length")
    count = f"{len(args)} " if fixed else ""
    if least is not None or most is not None:
        count = f"{least} " if least == most else f"{least or 0} to {most} " if most is not None else f"{least} or more "
    what = SEVERAL.get(_base(args[0]))
    of = _split(args[0])[1] if what and _base(args[0]) in (int, float) else {}
    if what is None and _base(args[0]) is Literal:
        what = f"values, each {noun(args[0])}"
    return f"a list of {count}{what or 'values'}{_range(of, noun=True)}"


def _closed(limits: dict[str, Any]) -> bool:
    return bool(limits.keys() & {"ge", "gt"}) and bool(limits.keys() & {"le", "lt"})


def _range(limits: dict[str, Any], *, noun: bool) -> str:
    """Limits after a noun (" in 0 to 1", " of 2 or more") or after "must" ("lie in 0 to 1", "be 2 or more")."""
    found = {name: _figure(limit) for name, limit in limits.items() if name in ("ge", "gt", "le", "lt")}
    if not found:
        return ""
    if found.keys() == {"ge", "le"}:
        return f"{' ' if noun else 'lie '}in {found['ge']} to {found['le']}"
    if found.keys() == {"ge", "lt"}:
        return f"{' ' if noun else 'lie '}in {found['ge']} to {found['lt']}, {found['lt']} excluded"
    if found.keys() == {"ge"}:
        return f"{' of' if noun else 'be'} {found['ge']} or more"
    low = f"above {found['gt']}" if "gt" in found else f"at least {found['ge']}" if "ge" in found else ""
    high = f"below {found['lt']}" if "lt" in found else f"at most {found['le']}" if "le" in found else ""
    return f"{' ' if noun else 'be '}{' and '.join(part for part in (low, high) if part)}"


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) and abs(value) < 1e15 else f"{value:g}"

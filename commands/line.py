"""The words of a command line before they are parsed: a mistyped command, addresses of other machines, and their order.

tyro takes positional words where they stand in one piece before or after the flags, and a flag of several values takes all
that follows it. People write `convert PHOTOS --workers 0 out.beton` and `evaluate --k 20 RUN`: here positional words are
told from values by the types of the fields, and put in front.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tyro

from ..errors import Refused
from ..settings.parts import flags_of

ADDRESS = re.compile(r"(?:^|=)([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def in_order(words: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """`words` with the positional ones of their command in front of its flags; `commands` are settings by command.

    Raises Refused for a command that there is not, naming the nearest, and for a path that is an address.
    """
    for word in words:
        if found := ADDRESS.search(word):
            raise Refused(
                f"{word} is an address ({found[1]}), and viewmill reads files of this machine: copy it here, or mount it"
            )
    if not words or words[0].startswith("-"):
        return list(words)
    name, *rest = words
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
        raise Refused(f"no command is called {name!r}: {advice} (viewmill --help)")
    if "--" in rest or "--help" in rest or "-h" in rest:
        return list(words)
    positional, flags = list[str](), list[str]()
    for kind, group in _groups(rest, commands[name]):
        (positional if kind == "positional" else flags).extend(group)
    return [name, *positional, *flags]


def _groups(words: Sequence[str], settings: type) -> Iterator[tuple[str, list[str]]]:
    """The words in pieces: each flag with its values, each positional word by itself."""
    takes = _takes(settings)
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not is_flag(word):
            yield "positional", [word]
            continue
        flag, equals, _ = word.partition("=")
        most, fits = takes.get(flag.replace("_", "-"), (0, _anything))
        end = place
        while not equals and end < len(words) and end - place < most and not is_flag(words[end]):
            if end > place and not fits(words[end]):  # the first is the flag's, be it right or wrong
                break
            end += 1
        yield "flag", [word, *words[place:end]]
        place = end


def is_flag(word: str) -> bool:
    """Whether a word begins with a dash and is no negative number."""
    return word.startswith("-") and not re.fullmatch(r"-(\d.*|\.\d.*|inf|nan)?", word)


def _takes(settings: type) -> dict[str, tuple[float, Callable[[str], bool]]]:
    """By flag, how many values it takes at most and which words can be one."""
    takes = {}
    for name, hint, *_ in flags_of(settings).values():
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
            if tyro.conf.Positional in marks:
                continue
        flag = f"--{name.replace('_', '-')}"
        takes[flag] = takes[f"--no-{name.replace('_', '-')}"] = _arity(hint, name)
    return takes


def _arity(hint: Any, name: str) -> tuple[float, Callable[[str], bool]]:
    """How many values a field of this type takes, and what tells them from other words."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        return _arity(hint, name)
    if hint is bool:
        return 0, _anything
    if typing.get_origin(hint) is not tuple:
        return 1, _anything
    return float("inf"), _fitting(typing.get_args(hint)[0], name)


def _fitting(hint: Any, name: str) -> Callable[[str], bool]:
    """Which words can be one of several values of this type."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return lambda word: word in typing.get_args(hint)
    if hint in (int, float):
        return lambda word: _is_number(word, hint)
    if name == "set":
        return lambda word: "=" in word
    return _anything


def _anything(word: str) -> bool:
    return True


def _is_number(word: str, kind: type) -> bool:
    try:
        kind(word)
    except ValueError:
        return False
    return True


def by_name(settings: Sequence[type]) -> dict[str, type]:
    """The commands as they are called: the name of each one's settings in lower case."""
    return {kind.__name__.lower(): kind for kind in settings if dataclasses.is_dataclass(kind)}

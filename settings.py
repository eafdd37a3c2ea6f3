"""Settings of a method by name: `--set region.outer=0.2`, for every value that its row of the table holds. No torch here."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from .objectives.method import Method
from .objectives.methods import METHODS
from .objectives.parts import (
    NCE,
    Bank,
    Batch,
    Clusters,
    Decoupled,
    Everything,
    HardNegatives,
    InfoNCE,
    Nearest,
    Neighbours,
    Own,
    Queue,
    Ring,
    SameCluster,
)
from .objectives.schedules import Schedule
from .objectives.terms import BoundedGaussian, FixedGaussian, Momentum, VonMisesFisher

FIXED = ("recipe", "learning_rate", "source", "network")  # two have flags of their own, two are what the method is
KINDS: dict[str, dict[str, Any]] = {  # parts that may be put in another's place, by name: `--set region=ring`
    "region": {"everything": Everything(), "ring": Ring(), "nearest": Nearest(), "same-cluster": SameCluster()},
    "positives": {"own": Own(), "neighbours": Neighbours(), "clusters": Clusters()},
    "bound": {"info-nce": InfoNCE(), "nce": NCE(), "decoupled": Decoupled(), "hard-negatives": HardNegatives()},
    "head": {"none": None, "fixed": FixedGaussian(), "bounded": BoundedGaussian(), "von-mises-fisher": VonMisesFisher()},
}
ABSENT = {
    "anneal": Schedule("linear"),
    "head": FixedGaussian(),
    "target": Momentum(),
}  # what None stands for, once it is set


def method_named(name: str) -> Method:
    """The row of the table; raises ValueError with the nearest name for one that is not there."""
    if name in METHODS:
        return METHODS[name]
    nearest = difflib.get_close_matches(name, METHODS, n=3)
    advice = f"did you mean {' or '.join(nearest)}?" if nearest else "`viewmill methods` lists them"
    raise ValueError(f"no method is called {name!r}: {advice}")


def values(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a method or of a part of it, by its dotted name."""
    if dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            if prefix or field.name not in FIXED:
                yield from values(getattr(part, field.name), f"{prefix}{field.name}.")
    elif isinstance(part, tuple):
        for place, item in enumerate(part):
            yield from values(item, f"{prefix}{place}.")
    else:
        yield prefix[:-1], part


def changed(method: Method, assignments: Sequence[str]) -> Method:
    """The method with "dotted.name=value" in it; raises ValueError for a name or a value that it does not take."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {assignment!r}")
        method = _put(method, name.split("."), text, name, method)
    return method


def _put(part: Any, path: list[str], text: str, name: str, method: Method) -> Any:
    head, *rest = path
    if isinstance(part, tuple) and head.isdecimal() and int(head) < len(part):
        place = int(head)
        new = _put(part[place], rest, text, name, method) if rest else _unknown(name, method)
        return (*part[:place], new, *part[place + 1 :])
    if not dataclasses.is_dataclass(part) or not hasattr(part, head) or (part is method and head in FIXED):
        _unknown(name, method)
    if part is method and not rest and head in KINDS:
        return dataclasses.replace(part, **{head: _kind(head, text)})
    value = getattr(part, head)
    if value is None:
        value = ABSENT.get(head, value)
    if not rest and (dataclasses.is_dataclass(value) or isinstance(value, tuple)):
        _unknown(name, method)
    new = _put(value, rest, text, name, method) if rest else _parsed(value, text, name)
    return dataclasses.replace(part, **{head: new})


def _kind(name: str, text: str) -> Any:
    if text not in KINDS[name]:
        raise ValueError(f"--set {name} takes {', '.join(KINDS[name])}, or a setting of it as {name}.NAME, got {text!r}")
    return KINDS[name][text]


def _parsed(value: Any, text: str, name: str) -> Any:
    """`text` as a value of the same type as `value`."""
    try:
        if isinstance(value, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(value)(text)
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(value, bool) else f"a value like {value}"
        raise ValueError(f"--set {name} takes {kind}, got {text!r}") from None


def _unknown(name: str, method: Method) -> Any:
    known = [key for key, _ in values(method)]
    nearest = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(known)}"
    raise ValueError(f"the method has no setting {name!r}: {advice}")


def summary(method: Method) -> tuple[str, str, str, str, str, str]:
    """Views, positive, negatives, memory, loss and source of a row, in a word or two each."""
    region = {
        Everything: lambda r: "all" if r.shared else "all, drawn for each",
        Ring: lambda r: (
            f"{r.inner * (r.outer if r.relative else 1):.0%} to {r.outer:.0%}" if r.inner else f"nearest {r.outer:.0%}"
        ),
        Nearest: lambda r: f"nearest {r.count:,}",
        SameCluster: lambda r: "own cluster",
    }[type(method.region)](method.region)
    positive = {Own: "own", Neighbours: "own + neighbours", Clusters: "own + clusters"}[type(method.positives)]
    memory = {Batch: "batch", Bank: f"{method.banks} bank" + "s" * (method.banks > 1), Queue: "queue"}[type(method.memory)]
    losses = [type(method.bound).__name__] if method.contrast else []
    losses += [getattr(term, "estimator", type(term).__name__) for term in method.terms]
    if not method.contrast:
        region, positive, memory = "none", "other view", "none"
    return method.recipe, positive, region, memory, " + ".join(losses), method.source

"""Settings of a method by name: `--set region.outer=0.2`, for every value that its row of the table holds. No torch here."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ..files.wording import shown
from .method import Method
from .pairing import Graph, Listed
from .parts import (
    NCE,
    Anneal,
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
from .synthetic import MixedQueue
from .table import METHODS
from .terms import HEADS, FixedGaussian, Momentum

FIXED = ("recipe", "learning_rate", "source", "network")  # two have flags of their own, two are what the method is
CONTRASTED = ("region", "positives", "memory", "bound", "warm_start", "ranked_share", "latest")  # what only a contrast has
WITHIN = ("anchor", "key")  # of a pair: which views they are is what the method is
KINDS: dict[str, dict[str, Any]] = {  # parts that may be put in another's place, by name: `--set region=ring`
    "contrast": {"graph": Graph(), "list": Listed()},
    "region": {"everything": Everything(), "ring": Ring(), "nearest": Nearest(), "same-cluster": SameCluster()},
    "positives": {"own": Own(), "neighbours": Neighbours(), "clusters": Clusters()},
    "bound": {"info-nce": InfoNCE(), "nce": NCE(), "decoupled": Decoupled(), "hard-negatives": HardNegatives()},
    "head": {"none": None, **{name: head() for name, head in HEADS.items()}},
}
MOST = 1e9  # of any number of a method, far more than any of them has
IN_A_BANK = ("same-cluster", "clusters", "nce")
ABSENT: dict[str, Any] = {
    "anneal": Anneal(),
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
            if field.name not in _kept(part, prefix):
                yield from values(getattr(part, field.name), f"{prefix}{field.name}.")
    elif isinstance(part, tuple):
        for place, item in enumerate(part):
            yield from values(item, f"{prefix}{place}.")
    else:
        yield prefix[:-1], part


def _kept(part: Any, prefix: str) -> tuple[str, ...]:
    """Fields that no setting changes: what a part is, and what has no effect on a method without a contrast."""
    if prefix:
        return WITHIN
    return FIXED if part.contrast else (*FIXED, *CONTRASTED)


def choices(method: Method) -> Iterator[tuple[str, str]]:
    """What else can be set of a method: parts that another can replace, and settings of parts that it does not have yet."""
    bank = isinstance(method.memory, Bank)
    for name, kinds in KINDS.items():
        if name == "contrast":
            fitting = list(kinds) if method.contrast and method.network != "jigsaw" else []
        elif name == "head":
            fitting = [] if method.network == "jigsaw" else list(kinds)
        else:
            fitting = [kind for kind in kinds if bank or kind not in IN_A_BANK] if method.contrast else []
        if fitting:
            yield name, " or ".join(fitting)
    if method.head is None and method.network != "jigsaw":
        yield from ((key, f"({value})") for key, value in values(ABSENT["head"], "head."))
    if isinstance(method.region, Ring) and method.region.anneal is None:
        yield from ((key, f"({value})") for key, value in values(ABSENT["anneal"], "region.anneal."))


Tree = dict[str, Any]  # settings by the parts that they are in; a text where nothing follows
TEXT = ""  # the key of a part's own text in its tree


def changed(method: Method, assignments: Sequence[str]) -> Method:
    """The method with "dotted.name=value" in it, all of them at once: their order does not matter, but the last of a name.

    Raises ValueError for a name or a value that it does not take.
    """
    tree: Tree = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {assignment!r}")
        node, parts = tree, name.split(".")
        if "" in parts:
            _unknown(name, method)
        for part in parts:
            node = node.setdefault(part, {})
        node[TEXT] = text
    return _put(method, tree, "", method) if tree else method


def assignments_of(method: Method, recorded: Mapping[str, Any]) -> list[str]:
    """What `changed` has to be given for a method to have the `recorded` settings, as `values` told them.

    Raises ValueError where no assignments lead there: the settings are of another row, or of another version.
    """
    kinds = [f"{name}={kind}" for name in KINDS if (kind := _kind_of(name, method, recorded))]
    now = dict(values(changed(method, kinds)))
    numbers = [f"{name}={value}" for name, value in recorded.items() if name not in now or now[name] != value]
    found = [*kinds, *numbers]
    if dict(values(changed(method, found))) != dict(recorded):
        raise ValueError(f"no --set makes a method of that row with {', '.join(numbers) or 'these settings'}")
    return found


def _kind_of(name: str, method: Method, recorded: Mapping[str, Any]) -> str:
    """Which of KINDS[name] has the settings that are recorded there; "" where that is what stands in the method's row."""
    there, own = (
        {key.split(".")[1] if "." in key else "" for key in settings if key.split(".")[0] == name}
        for settings in (recorded, dict(values(method)))
    )
    if there == own:
        return ""
    for kind, part in KINDS[name].items():
        if there == ({""} if part is None else {field.name for field in dataclasses.fields(part)}):
            return kind
    return ""


def _put(part: Any, tree: Tree, prefix: str, method: Method) -> Any:
    """`part` with the settings of a tree in it; `prefix` is its own name with a dot."""
    if isinstance(part, tuple):
        for key in tree:
            if not (key.isdecimal() and int(key) < len(part)):
                _unknown(f"{prefix}{key}", method)
        return tuple(
            _value(item, tree[str(place)], f"{prefix}{place}", method) if str(place) in tree else item
            for place, item in enumerate(part)
        )
    changes: dict[str, Any] = {}
    for key, node in tree.items():
        if key not in _names(part) - set(_kept(part, prefix)):
            _unknown(f"{prefix}{key}", method)
        changes[key] = _value(getattr(part, key), node, f"{prefix}{key}", method)
    return dataclasses.replace(part, **changes)


def _names(part: Any) -> set[str]:
    """Names of a part's fields; none where it is a plain value."""
    return {field.name for field in dataclasses.fields(part)} if dataclasses.is_dataclass(part) else set()


def _value(old: Any, node: Tree, name: str, method: Method) -> Any:
    """What stands at `name` after its tree: another kind of part, settings within it, or a number in its place."""
    inside = {key: child for key, child in node.items() if key != TEXT}
    if TEXT in node and name in KINDS:
        if node[TEXT] not in KINDS[name]:
            kinds = ", ".join(KINDS[name])
            raise ValueError(f"--set {name} takes {kinds}, or a setting of it as {name}.NAME, got {node[TEXT]!r}")
        old = KINDS[name][node[TEXT]]
    elif TEXT in node:
        if inside or dataclasses.is_dataclass(old) or isinstance(old, tuple | None):
            _unknown(name, method)
        return _parsed(old, node[TEXT], name)
    if inside and old is None:
        old = ABSENT.get(name.rpartition(".")[2])
    return _put(old, inside, f"{name}.", method) if inside else old


def _parsed(value: Any, text: str, name: str) -> Any:
    """`text` as a value of the same type as `value`."""
    try:
        if isinstance(value, bool):
            return {"true": True, "false": False}[text.lower()]
        found = type(value)(text)
        if isinstance(found, int | float) and abs(found) > MOST:  # what is no number is for the part itself to refuse
            raise ValueError(f"--set {name} must lie in -{MOST:g} to {MOST:g}, got {shown(found)}")
        return found
    except (ValueError, KeyError) as error:
        if str(error).startswith("--set"):
            raise
        kind = "true or false" if isinstance(value, bool) else f"a value like {value}"
        raise ValueError(f"--set {name} takes {kind}, got {text!r}") from None


def _unknown(name: str, method: Method) -> NoReturn:
    own = [key for key, _ in values(method)]
    known = [*own, *(key for key, _ in choices(method))]
    nearest = difflib.get_close_matches(name, own, n=1) or difflib.get_close_matches(name, known, n=1)
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
    memory = {
        Batch: "batch",
        Bank: f"{method.banks} bank" + "s" * (method.banks > 1),
        Queue: "queue",
        MixedQueue: "queue + synthetic",
    }[type(method.memory)]
    losses = [type(method.bound).__name__] if method.contrast else []
    losses += [getattr(term, "estimator", type(term).__name__) for term in method.terms]
    if not method.contrast:
        region, positive, memory = "none", "other view", "none"
    views = method.recipe if isinstance(method.contrast, tuple) else f"{method.recipe}, {method.views}"
    return views, positive, region, memory, " + ".join(losses), method.source

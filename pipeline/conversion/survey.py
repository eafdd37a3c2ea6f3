"""The first pass over the sources: how many images, which classes, how large. No pixel is decoded, no list is kept."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..sources.candidate import Candidate, Label, Rejected, Source
from ..sources.opened import columns_of, items_of
from ..sources.readings import ambiguous

SPREAD = 32  # at least so many candidates are kept for the estimate, if there are as many


class Survey(NamedTuple):
    """What the sources hold."""

    images: int
    """Candidates: the most rows there can be."""
    lost: int
    """Files that are listed as images and cannot be any: the first of those that will be rejected."""
    unlabelled: int
    """Candidates without a label."""
    classes: list[str]
    """Class names by label; empty where labels are numbers or there are none."""
    number: dict[Label, int]
    """The label of each named class, and -1 for none."""
    columns: list[str]
    fingerprint: str
    """sha256 over names, labels and sizes in order: names the content without reading it."""
    spread: list[Candidate]
    """Some candidates, evenly spread."""
    size_bytes: int
    """That all candidates take in the sources, as far as is known."""


def survey(sources: Sequence[Source], case: str = "ask") -> Survey:
    """List `sources` once. Raises ValueError where they hold nothing, or classes by name beside classes by number.

    `case` says what classes are whose names differ only in capitals: "keep" for two, "fold" for one; else that is Ambiguous.
    """
    count = lost = unlabelled = size = 0
    labels: set[Label] = set()
    spread, stride = [], 1
    digest = hashlib.sha256()
    rejected: Rejected | None = None
    for item in items_of(sources):
        if not isinstance(item, Candidate):
            if isinstance(item, Rejected):
                rejected = rejected or item
                lost += 1
            continue
        if count % stride == 0:
            spread.append(item)
            if len(spread) == 2 * SPREAD:
                spread, stride = spread[::2], stride * 2
        labels.add(item.label)
        unlabelled += item.label is None
        digest.update(f"{item.name}\0{item.label}\0{item.size}\0".encode())
        size += item.size
        count += 1
    if not count:
        shown = ", ".join(str(source.path) for source in sources)
        why = f": {rejected.path}: {rejected.reason}" if rejected else ""
        raise ValueError(f"{shown} holds no file that could be an image{why}")
    names = {label for label in labels if isinstance(label, str)}
    spelled = _spelled(names, case, ", ".join(str(source.path) for source in sources))
    classes = _classes(sources, spelled)
    numbers = [label for label in labels if isinstance(label, int)]
    if classes and numbers:
        where = ", ".join(str(source.path) for source in sources)
        told = f"some images have a class by name ({classes[0][:40]!r}), others by number ({numbers[0]})"
        raise ValueError(f"{where}: {told}: convert them apart")
    place = {name: index for index, name in enumerate(classes)}
    number: dict[Label, int] = {None: -1} | {name: place[spelled[name]] for name in names} | {n: n for n in numbers}
    return Survey(count, lost, unlabelled, classes, number, columns_of(sources), digest.hexdigest(), spread, size)


def _spelled(names: Iterable[str], case: str, where: str) -> dict[str, str]:
    """Each class's name as it is kept; raises Ambiguous for names that differ only in capitals."""
    if case == "fold":
        return {name: name.casefold() for name in names}
    met: dict[str, str] = {}
    for name in sorted(names):
        twin = met.setdefault(name.casefold(), name)
        if twin != name and case != "keep":
            raise ambiguous(
                f"{where}: the classes {twin!r} and {name!r} differ only in capitals",
                "they are two classes: add --case keep",
                "they are one, and so are all such: add --case fold",
            )
    return {name: name for name in names}


def _classes(sources: Sequence[Source], spelled: dict[str, str]) -> list[str]:
    """The order that a source fixes, if it holds for all of them; else sorted."""
    first = next((source for source in sources if source.classes), None)
    fixed = [spelled.get(name, name) for name in (first.classes or [])] if first else []
    if first and (twice := [name for index, name in enumerate(fixed) if name in fixed[:index]]):
        raise ValueError(f"{first.path}: two classes are called {twice[0]!r}: give one another name")
    found = set(spelled.values())
    return fixed if found and found <= set(fixed) else sorted(found)

"""Which column of a table holds what, by the names that are usual."""

from collections.abc import Sequence
from pathlib import Path

from .readings import ambiguous

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")


def pick(
    names: Sequence[str], asked: str, known: Sequence[str], where: str, what: str, flag: str, *, needed: bool = True
) -> str:
    """The column that was asked for, or the one with a usual name; "" where there is none and none is needed.

    Raises Ambiguous where several have usual names.
    """
    if asked:
        if asked not in names:
            raise ValueError(f"{where} has no column {asked!r}; it has {', '.join(names)}")
        return asked
    found = [name for name in known if name in names]
    if len(found) > 1:
        raise ambiguous(
            f"{where} has {len(found)} columns that could hold {what}", *(f"{name!r} does: {flag} {name}" for name in found)
        )
    if needed and not found:
        raise ValueError(
            f"{where} has no column of {what} called {', '.join(known)}: name it with {flag}; it has {', '.join(names)}"
        )
    return found[0] if found else ""


def refuse_twice(names: Sequence[str], path: Path) -> None:
    """Raise ValueError where two columns have one name."""
    seen = [name for index, name in enumerate(names) if name in names[:index]]
    if seen:
        raise ValueError(f"{path} has two columns called {seen[0]!r}: rename one")

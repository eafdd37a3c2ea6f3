"""How a source is to be read where its layout leaves it open, and the refusal where two readings are possible."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

SPLITS = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
    "eval": ("eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
FILLING = ("", "set", "images", "image", "imgs", "img", "data", "split", "folder")


class Ambiguous(ValueError):
    """A source that can be read in more ways than one: the message tells them, and the flag for each."""


class Reading(NamedTuple):
    """How sources are read where their own layout leaves it open."""

    path_column: str = ""
    """Column of paths of a list; "" for the usual names."""
    image_column: str = ""
    """Column of image bytes; "" to find it."""
    label_column: str = ""
    """Column of labels; "" for the usual names, and none where there is none."""
    root: Path | None = None
    """Folder below which a list's paths lie; None for the list's own."""
    only: Literal["any", "images", "shards", "tables"] = "any"
    """What to take of a folder that holds several kinds; "any" for the only one."""
    split: str = ""
    """Which part to take where there are several (train, test, ...); "all" for all of them as one."""
    classes: Literal["auto", "folder", "shard", "none"] = "auto"
    """Where classes come from; auto is each source's own convention."""
    image_key: str = ""
    """Which member of a shard's key is the image: jpg, input.jpg; "" for the only one."""
    key_dot: Literal["first", "last"] = "first"
    """At which dot of a member's name its key ends; the first is WebDataset's rule."""
    case: Literal["ask", "keep", "fold"] = "ask"
    """What classes are whose names differ only in capitals: refused, two, or one in small letters."""
    follow_links: bool = False
    """Whether links that lead out of a folder are followed."""
    encoding: str = ""
    """Of lists that are text; "" for UTF-8, and for UTF-16 where they say so."""


def flag(field: str) -> str:
    """The flag of the command line that sets `field`."""
    return "--" + field.replace("_", "-")


def ambiguous(found: str, *readings: str) -> Ambiguous:
    """The refusal: what was found, and each reading with its flag."""
    numbered = "; ".join(f"({number}) {reading}" for number, reading in enumerate(readings, start=1))
    return Ambiguous(f"{found}. That can be read in {len(readings)} ways: {numbered}")


def some(names: Iterable[str], limit: int = 2) -> str:
    """The first of `names`, and how it goes on."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def split_of(name: str) -> str:
    """The split that a folder's name is, and nothing else: train2017, val_images; "" for any other name."""
    words = re.split("[^a-z]+", name.lower())
    splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
    whole = all(word in SPLIT_OF or word in FILLING for word in words)
    return splits[0] if whole and len(splits) == 1 else ""


def split_in(path: Path) -> str:
    """The split that the name of a file tells (train-00000-of-00002, imagenet-val-0001), or the folder that it lies in."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        found = [SPLIT_OF[word] for word in re.split("[^a-z]+", part.lower()) if word in SPLIT_OF]
        if found:
            return found[0]
    return ""


def chosen_splits(asked: str, found: Sequence[str], where: Path) -> set[str]:
    """The splits that `asked` names among those that were found; raises ValueError where it names none of them."""
    if asked == "all":
        return set(found)
    split = SPLIT_OF.get(asked.lower(), asked)
    if split not in found:
        held = ", ".join(dict.fromkeys(name for name in found if name)) or "none"
        raise ValueError(f"{where} has no split called {asked!r} (--split); found were: {held}")
    return {split}

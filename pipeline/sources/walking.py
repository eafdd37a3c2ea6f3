"""A folder, one of its folders after another: names in order, no file opened, nothing kept but the way to where we are."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from .candidate import Rejected, Remark, outside, unprintable

OURS = re.compile(
    r"\.beton(\.json|\.columns\.csv|\.quarantine\.jsonl|\.remarks\.jsonl)?(\.partial)?$"
)  # manifest.sidecars, and a writing in work
OF_SYSTEMS = frozenset(
    (
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
        "thumbs.db",
        "desktop.ini",
    )
)  # what systems and file servers leave in folders; @eaDir holds small copies of every image

HIDDEN = "hidden, passed over"
OF_A_SYSTEM = "left there by a system, passed over"
REENTERED = "a link to a folder that is listed at its own place"
LEADS_OUT = "a link that leads out of the folder"


class Visited(NamedTuple):
    """One folder."""

    parts: tuple[str, ...]
    """The way to it from the root."""
    files: list[os.DirEntry[str]]
    """Every entry that is no folder, sorted by name."""
    aside: list[Rejected | Remark]
    """What of it is not entered or used, and why."""


def walk(root: str, *, follow_links: bool = False) -> Iterator[Visited]:
    """Visit `root` and every folder in it, sorted, a folder's files before its folders.

    Hidden entries are passed over, and .beton files with what stands beside them, since people write into the folder that
    they convert. Links to folders are entered only where `follow_links` says so and they lead out; a folder once, so no loop
    goes on. Raises ValueError where `root` itself cannot be read; below it, that is a Rejected.
    """
    todo: list[tuple[str, tuple[str, ...]]] = [(root, ())]
    entered = {os.path.realpath(root)} if follow_links else set[str]()
    while todo:
        folder, parts = todo.pop()
        aside = list[Rejected | Remark]()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            why = f"the folder cannot be read: {error.strerror or error}"
            if not parts:
                raise ValueError(f"{root}: {why}") from None
            yield Visited(parts, [], [Rejected(folder, why)])
            continue
        files, below = list[os.DirEntry[str]](), list[tuple[str, tuple[str, ...]]]()
        for entry in listed:
            name = entry.name
            if name[0] == "." or (".beton" in name and OURS.search(name)) or name.lower() in OF_SYSTEMS:
                if not (".beton" in name and OURS.search(name)):
                    aside.append(Remark(entry.path, HIDDEN if name[0] == "." else OF_A_SYSTEM))
            elif entry.is_dir(follow_symlinks=False):
                below.append((entry.path, (*parts, name)))
            elif follow_links and entry.is_symlink() and os.path.isdir(entry.path):
                if (remark := _entered(entry.path, root, entered)) is None:
                    below.append((entry.path, (*parts, name)))
                else:
                    aside.append(remark)
            else:
                files.append(entry)
        todo.extend(reversed(below))
        yield Visited(parts, files, aside)


def _entered(path: str, root: str, entered: set[str]) -> Remark | None:
    """None where the folder behind a link is to be listed here; what to say of it where it is listed elsewhere."""
    place = os.path.realpath(path)
    if not outside(path, os.path.realpath(root)) or any(
        place == seen or place.startswith(f"{seen}/") or seen.startswith(f"{place}/") for seen in entered
    ):
        return Remark(path, REENTERED)
    entered.add(place)
    return None


def refusal(entry: os.DirEntry[str], inside: str, *, follow_links: bool) -> Rejected | None:
    """Why a file of a folder cannot be used, whatever it holds; None where it can. `inside` is the folder's real place."""
    if unprintable(entry.name):
        return Rejected(entry.path, "its name is no UTF-8, or holds control characters: rename it")
    if entry.is_symlink() and not follow_links and outside(entry.path, inside):
        return Rejected(entry.path, f"{LEADS_OUT}; --follow-links follows it")
    return None if is_file(entry) else Rejected(entry.path, "no regular file")


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False

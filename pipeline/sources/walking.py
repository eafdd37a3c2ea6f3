"""A folder, one of its folders after another: names in order, no file opened, nothing kept but the way to where we are."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .candidate import Rejected, Remark, outside, unprintable

OURS = re.compile(
    r"\.beton(\.json|\.columns\.csv|\.quarantine\.jsonl|\.remarks\.jsonl)?(\.partial)?$"
)  # manifest.sidecars, and a writing in work
NAMES_OF_SYSTEMS = """__MACOSX/@eaDir/$RECYCLE.BIN/System Volume Information/lost+found/__pycache__/Thumbs.db/thumbs.db
Desktop.ini/desktop.ini"""
OF_SYSTEMS = frozenset(
    NAMES_OF_SYSTEMS.replace("\n", "/").split("/")
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
    entered = _Entered(root)
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
            if ".beton" in name and OURS.search(name):
                continue
            if name[0] == "." or name in OF_SYSTEMS:
                aside.append(Remark(entry.path, HIDDEN if name[0] == "." else OF_A_SYSTEM))
            elif entry.is_dir(follow_symlinks=False):
                below.append((entry.path, (*parts, name)))
            elif follow_links and entry.is_symlink() and os.path.isdir(entry.path):
                if entered.is_new(entry.path):
                    below.append((entry.path, (*parts, name)))
                else:
                    aside.append(Remark(entry.path, REENTERED))
            else:
                files.append(entry)
        todo.extend(reversed(below))
        yield Visited(parts, files, aside)


class _Entered:
    """The real places of the folders that are listed, so that no link leads into one of them again, or around them."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._places = {self._root}
        self._above = _above(self._root)

    def is_new(self, path: str) -> bool:
        """Whether the folder behind a link is listed nowhere else; it counts as listed from now on."""
        place = os.path.realpath(path)
        above = _above(place)
        if place in self._places or place in self._above or above & self._places:
            return False
        self._places.add(place)
        self._above |= above
        return True


def _above(place: str) -> set[str]:
    """All folders that a folder lies in."""
    return {str(parent) for parent in Path(place).parents}


def refusal(entry: os.DirEntry[str], inside: str, *, follow_links: bool) -> Rejected | None:
    """Why a file of a folder cannot be used, whatever it holds; None where it can. `inside` is the folder's real place."""
    if not entry.name.isprintable() and unprintable(entry.name):  # the first is quick and true of nearly all
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

"""A WebDataset shard: a tar of consecutive files that share a key, the image being one of them.

Read where it lies: members are found by their headers and read by offset. Nothing is extracted, nothing is unpickled, and
only images, labels and texts are ever looked at.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .candidate import Candidate, Item, Label, Rejected, Remark, Span
from .holdings import Holdings, folders_of
from .kinds import ENDINGS, HEAD, looks_like_image, told
from .labels import as_label
from .readings import Reading, chosen_splits, split_of
from .tars import Member, members_of, read, refuse_packed

CLASS, FACTS, TEXT = "cls", "json", "txt"
SIDES = (CLASS, FACTS, TEXT)


class Group(NamedTuple):
    """The members of one key."""

    key: str
    members: dict[str, Span]
    """By extension."""
    inner: str
    """The tar in the tar that they lie in."""
    fault: str
    """What is wrong with one of them."""


class Shard:
    """One tar file. `.cls` holds the label, a number or a name; `.txt` and the plain values of `.json` become columns."""

    classes: Sequence[str] | None = None

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        self.path, self._reading = path, reading
        refuse_packed(path)
        self.heeds: Set[str] = {"classes", "image_key", "key_dot", "label_column", "split"}
        holdings, columns, hashes = Holdings(path), dict[str, None](), array("q")
        for group in self._groups():
            facts = self._facts(group.members)
            columns |= dict.fromkeys(facts)
            hashes.append(hash((group.inner, group.key)))
            images = self._images(group.members)
            holdings.note(group.key, group.inner, images, classed=CLASS in group.members, facts=facts)
        self._apart = _repeated(hashes)
        holdings.check(reading, apart=len(self._apart))
        self._source = holdings.classes(reading)
        self._label_column = reading.label_column
        if self._label_column and self._label_column not in columns:
            held = ", ".join(columns) or "none"
            raise ValueError(f"{path} has no {self._label_column!r} in its .json files; it has {held}")
        self._splits = (
            chosen_splits(reading.split, holdings.splits, path) if reading.split and any(holdings.splits) else None
        )
        self._common = holdings.common
        self._inner: Set[str] = {Path(name).stem for name in holdings.inner}
        self.columns: Sequence[str] = [name for name in columns if name != self._label_column]

    def items(self) -> Iterator[Item]:
        """See Source."""
        unused = Counter[str]()
        for group in self._groups():
            key, members = group.key, group.members
            path = f"{self.path}/{group.inner}/{key}" if group.inner else f"{self.path}/{key}"
            if group.fault:
                yield Rejected(path, group.fault)
                continue
            if hash((group.inner, key)) in self._apart:
                yield Rejected(
                    path, "its key comes again later in the shard: sort the shard by name, so that it stands together"
                )
                continue
            if self._splits is not None and split_of(self._top(key)) not in self._splits:
                yield Remark(path, "of another split, passed over")
                continue
            images = self._images(members)
            kind = self._reading.image_key or (images[0] if images else "")
            if kind not in members:
                yield self._without_image(path, members)
                continue
            facts = self._facts(members)
            label = self._label(group, facts)
            values = tuple(facts.get(name, "") for name in self.columns)
            yield Candidate(
                path, f"{group.inner}/{key}" if group.inner else key, members[kind], label, members[kind].size, values
            )
            for other in members:
                if other in images and other != kind:
                    yield Remark(f"{path}.{other}", f"another image of its key (.{other}), passed over")
                elif other not in (kind, *SIDES):
                    unused[other] += 1
        for kind, count in unused.items():
            yield Remark(str(self.path), f"members that are not kept (.{kind})", f"{count} of them")

    def _without_image(self, path: str, members: dict[str, Span]) -> Item:
        held = ", ".join(f".{kind}" for kind in members)
        if wanted := self._reading.image_key:
            return Rejected(path, f"no .{wanted} among its files ({held})")
        if CLASS in members:
            return Rejected(path, f"no image among its files ({', '.join(members)}); it has a label")
        return Remark(path, told(f"{path}.{next(iter(members))}") if len(members) == 1 else "a key without an image", held)

    def _groups(self) -> Iterator[Group]:
        """Each key with its members by extension, and what is wrong with one of them."""
        group: Group | None = None
        for member in members_of(self.path):
            stem, kind = self._split(member)
            if group is None or (stem, member.inner) != (group.key, group.inner):
                if group is not None:
                    yield group
                group = Group(stem, {}, member.inner, "")
            if member.fault:
                group = group._replace(fault=member.fault)
            elif kind in group.members:
                group = group._replace(
                    fault=f"two of its files are called {member.name}: which one counts is not known; rename one"
                )
            else:
                group.members[kind] = member.place
        if group is not None:
            yield group

    def _split(self, member: Member) -> tuple[str, str]:
        """Key and extension: WebDataset cuts a name at the first dot after its last slash."""
        folder, slash, base = member.name.rpartition("/")
        if self._reading.key_dot == "last" and "." in base:
            stem, _, kind = base.rpartition(".")
        else:
            stem, _, kind = base.partition(".")
        return folder + slash + stem, kind.lower()

    def _images(self, members: dict[str, Span]) -> list[str]:
        """The extensions of those that are images by name; where none is, of those that begin like one."""
        named = [kind for kind in members if kind.rpartition(".")[2] in ENDINGS]
        if named:
            return named
        return [k for k in members if k.rpartition(".")[2] not in SIDES and looks_like_image(read(members[k], HEAD))]

    def _top(self, key: str, *, below_splits: bool = False) -> str:
        """The first folder on the way to a member, but for the one that all lie in."""
        folders = folders_of(key)[bool(self._common) :]
        if below_splits and folders and split_of(folders[0]):
            folders = folders[1:]
        return folders[0] if folders else ""

    def _label(self, group: Group, facts: dict[str, str]) -> Label:
        if self._source == "none":
            return None
        if self._source == "folder":
            return self._top(group.key, below_splits=self._splits is not None) or None
        if self._source == "shard":
            return Path(group.inner or self.path.name).stem
        if self._label_column:
            return as_label(facts.get(self._label_column, ""))
        return as_label(read(group.members[CLASS]).decode(errors="replace")) if CLASS in group.members else None

    @property
    def named_classes(self) -> Set[str]:
        """The classes that are named by this tar, or by the tars in it."""
        return self._inner or {self.path.stem} if self._source == "shard" else set()

    def _facts(self, members: dict[str, Span]) -> dict[str, str]:
        facts = {}
        if TEXT in members:
            facts[TEXT] = read(members[TEXT]).decode(errors="replace").strip()
        if FACTS in members:
            try:
                content = json.loads(read(members[FACTS]))
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                plain = {name: value for name, value in content.items() if isinstance(value, str | int | float | bool)}
                facts |= {name: str(value) for name, value in plain.items() if name not in ("row", "file_name")}
        return facts


def _repeated(hashes: "array[int]") -> set[int]:
    """Those that come more than once."""
    ordered = sorted(hashes)
    return {one for one, next_one in pairwise(ordered) if one == next_one}

"""What the keys of a shard hold, noted on the way through it: which member is the image, and where classes come from."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal

from .columns import LABEL_COLUMNS
from .readings import Reading, ambiguous, some, split_of

WNID = re.compile("n[0-9]{8}")  # ImageNet's own names of classes, one tar each
Source = Literal["label", "folder", "shard", "none"]


def folders_of(key: str) -> list[str]:
    """The folders on the way to a member."""
    return [part for part in key.split("/")[:-1] if part != "."]


class Holdings:
    """Counts over the keys of one shard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = self._images = 0
        self._several = Counter[tuple[str, ...]]()
        self._classed = False
        self._usual: dict[str, None] = {}
        self._tops = Counter[tuple[str, ...]]()
        self.inner: dict[str, None] = {}
        self._named_after = True

    def note(self, key: str, inner: str, images: list[str], *, classed: bool, facts: dict[str, str]) -> None:
        """One key: the extensions of its images, whether it has a .cls, and what its .json and .txt tell."""
        self._keys += 1
        self._classed = self._classed or classed
        if inner:
            self.inner[inner] = None
        if not images:
            return
        self._images += 1
        if len(images) > 1:
            self._several[tuple(images)] += 1
        self._usual |= dict.fromkeys(name for name in LABEL_COLUMNS if name in facts)
        folders = folders_of(key)
        self._tops[tuple(folders[:2])] += 1
        self._named_after = self._named_after and key.rpartition("/")[2].startswith(self._path.stem)

    @property
    def common(self) -> str:
        """The one folder that all else lies in folders of, as tar leaves it before the names of a whole folder; or ""."""
        firsts = {folders[0] if folders else "" for folders in self._tops}
        return firsts.pop() if len(firsts) == 1 and all(len(folders) > 1 for folders in self._tops) else ""

    @property
    def tops(self) -> "Counter[str]":
        """Images by the first folder on their way, but for the common one."""
        counted = Counter[str]()
        for folders, count in self._tops.items():
            left = folders[1:] if self.common else folders
            counted[left[0] if left else ""] += count
        return counted

    @property
    def splits(self) -> list[str]:
        """The parts of a data set that those folders are called after."""
        return list(dict.fromkeys(split_of(top) for top in self.tops))

    def check(self, reading: Reading, *, apart: int) -> None:
        """Raise where the shard can be read in several ways and no flag decides, or cannot be read as one at all."""
        if apart and 2 * apart >= self._keys:
            raise ValueError(
                f"{self._path}: the files of {apart} keys do not stand together, so labels would be lost: write it again"
                " with its files sorted by name (tar --sort=name)"
            )
        if self._several and not reading.image_key:
            self._refuse_several(reading)
        splits = [split for split in self.splits if split]
        if len(splits) > 1 and not reading.split and reading.classes != "folder":
            raise ambiguous(
                f"{self._path} holds images in the folders {some(top or '(none)' for top in self.tops)}",
                f"these are parts of a data set: take one with --split {splits[0]}, or all as one with --split all",
                "they are classes: add --classes folder",
            )

    def _refuse_several(self, reading: Reading) -> None:
        kinds = list(dict.fromkeys(kind for kinds in self._several for kind in kinds))
        takes = [f"the image is .{kind}: add --image-key {kind}" for kind in kinds[:3]]
        if any("." in kind for kind in kinds) and reading.key_dot == "first":
            takes.append(
                "each file is an image of its own, and its key ends at the last dot of its name: add --key-dot last"
            )
        raise ambiguous(
            f"{self._path} has {self._several.total()} of {self._keys} keys with several images"
            f" ({', '.join('.' + kind for kind in kinds[:3])}{', ...' if len(kinds) > 3 else ''})",
            *takes,
        )

    def classes(self, reading: Reading) -> Source:
        """Where the labels of this shard come from; raises Ambiguous where that is not known."""
        if reading.classes in ("none", "shard"):
            return reading.classes
        folders = [top for top in self.tops if top]
        if reading.classes == "folder":
            if not folders:
                raise ValueError(f"{self._path} has no folders that could be classes (--classes folder)")
            return "folder"
        if self._classed or reading.label_column or not self._images:
            return "label"
        if reading.split and any(self.splits):
            return "folder"
        if all(WNID.fullmatch(Path(name).stem) for name in self.inner) and (self.inner or self._is_a_class()):
            return "shard"
        takes = [f"the class is {name!r} of the .json: add --label-column {name}" for name in self._usual]
        if len(folders) > 1:
            takes.append(f"the class is the folder ({some(folders)}): add --classes folder")
        if len(self.inner) > 1 and not all(Path(name).stem.isdigit() for name in self.inner):
            takes.append(f"the class is the tar in it ({some(self.inner)}): add --classes shard")
        if takes:
            raise ambiguous(
                f"{self._path} has {self._images} images and no .cls", *takes, "there are no classes: add --classes none"
            )
        return "label"

    def _is_a_class(self) -> bool:
        return self._named_after and WNID.fullmatch(self._path.stem) is not None

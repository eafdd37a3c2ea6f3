"""What the folders of a folder hold, noted on the way through it: whether they are classes, splits, or images and masks."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .candidate import Remark
from .kinds import ARCHIVES, ending
from .readings import Reading, ambiguous, some, split_of

IMAGES = frozenset(
    ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "frames", "input", "inputs")
)
NAMES_OF_MASKS = """
mask masks segmentation segmentations segmentationclass segmentationobject annotation annotations label labels gt
groundtruth trimap trimaps depth depths seg segs labelmap labelmaps
"""
MASKS = frozenset(NAMES_OF_MASKS.split())
HOLDERS = IMAGES | {"data", "dataset"}
SAMPLE = 32  # names of a folder that are compared with those of another


class Layout:
    """Images by the first folder on their way, and by the first two."""

    def __init__(self) -> None:
        self.tops = Counter[str]()
        self._seconds = Counter[tuple[str, str]]()
        self._directly = Counter[str]()
        self._stems: dict[str, dict[str, str]] = {}
        self._seen: dict[str, None] = {}
        self._flat = 0
        self.archives = list[str]()

    @property
    def images(self) -> int:
        """How many there are."""
        return self._flat + self.tops.total()

    def note_archive(self, path: str) -> bool:
        """Whether a file is one that may hold images of its own; it is kept in mind."""
        if ending(path) not in ARCHIVES:
            return False
        self.archives.append(path)
        return True

    def note(self, parts: tuple[str, ...], files: list[os.DirEntry[str]], count: int) -> None:
        """A folder with `count` images among `files`."""
        top, *deeper = parts or ("",)
        if top and not deeper:
            self._seen[top] = None
        if not count:
            return
        if not top:
            self._flat += count
            return
        self.tops[top] += count
        if deeper:
            self._seconds[top, deeper[0]] += count
        else:
            self._directly[top] += count
        stems = self._stems.setdefault(top, {})
        for entry in files[: max(0, SAMPLE - len(stems))]:
            stems[os.path.splitext(entry.name)[0]] = ending(entry.name)

    def without_images(self, root: Path) -> Iterator[Remark]:
        """The folders at the top that hold none."""
        for name in self._seen:
            if not self.tops[name]:
                yield Remark(str(root / name), "a folder without an image, which is no class")

    def check(self, root: Path, reading: Reading) -> None:
        """Raise Ambiguous where the folders may be something else than classes, and no flag says what they are."""
        if reading.classes == "folder" or not self.tops:
            return
        self._check_splits(root, "", self.tops, self._flat)
        if len(self.tops) == 1 and not self._flat:
            (top,) = self.tops
            seconds = Counter({second: count for (_, second), count in self._seconds.items()})
            if seconds and not self._directly[top]:
                self._check_splits(root, f"{top}/", seconds, 0)
                self._check_holder(root, top, seconds, reading)
        if reading.classes == "auto":
            self._check_masks(root)

    def _check_splits(self, root: Path, above: str, found: Counter[str], beside: int) -> None:
        splits = {name: split_of(name) for name in found if split_of(name)}
        if not splits or (len(set(splits.values())) < 2 and (len(splits) < len(found) or beside)):
            return
        held = ", ".join(f"{above}{name} ({found[name]})" for name in splits)
        first = next((name for name in splits if splits[name] == "train"), next(iter(splits)))
        raise ambiguous(
            f"{root} holds images in {held}",
            f"these are parts of a data set: take one with --split {first}, or all as one with --split all",
            f"{'they are classes' if above == '' else f'all are of one class, {above[:-1]}'}: add --classes folder",
        )

    def _check_holder(self, root: Path, top: str, seconds: Counter[str], reading: Reading) -> None:
        if top.lower() not in HOLDERS or len(seconds) < 2 or reading.classes != "auto":
            return
        raise ambiguous(
            f"all images of {root} lie in {top}, in {len(seconds)} folders ({some(seconds)})",
            f"those are the classes: name {root / top} instead",
            f"all are of one class, {top}: add --classes folder",
            "there are no classes: add --classes none",
        )

    def _check_masks(self, root: Path) -> None:
        masks = [name for name in self.tops if set(re.split("[^a-z]+", name.lower())) & MASKS]
        others = [name for name in self.tops if name not in masks]
        for mask in masks:
            for other in others:
                if other.lower() in IMAGES or self._pair(mask, other):
                    raise ambiguous(
                        f"{root} holds images in {other} ({self.tops[other]}) and {mask} ({self.tops[mask]})",
                        f"{mask} belongs to the images in {other}: name {root / other} instead",
                        "both are classes of images: add --classes folder",
                    )

    def _pair(self, mask: str, other: str) -> bool:
        """Whether the names of the one are those of the other, and their endings are not."""
        mine, theirs = self._stems[mask], self._stems[other]
        both = [stem for stem in mine if stem in theirs]
        return 2 * len(both) >= len(mine) and any(mine[stem] != theirs[stem] for stem in both)

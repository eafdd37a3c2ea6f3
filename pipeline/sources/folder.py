"""A folder of images, flat or with one subfolder per class."""

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from .archives import beside_images
from .beside import TABLES, Beside, one_spelling, read_beside, remarks_of
from .candidate import Candidate, Item, Rejected, Remark, Span, unprintable
from .kinds import ENDINGS, begins_like_image, ending, told
from .layout import Layout
from .readings import Reading, ambiguous, some
from .walking import Visited, refusal, walk

__all__ = ["Folder"]

HINT = "name a folder of images, flat or with one subfolder per class"


class Folder:
    """Sorted, folder by folder: a file's class is the first subfolder on its way; files at the top have none.

    A file is an image where its name or its beginning says so; others are remarked upon and number no class. What leads out
    of the folder, is no regular file or has an undecodable name is rejected, a folder that cannot be read too.
    """

    classes: Sequence[str] | None = None

    def __init__(self, root: Path, reading: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        if not root.is_dir():
            raise ValueError(f"{root} {'is a file' if root.exists() else 'does not exist'}: {HINT}")
        self.path, self._reading = root, reading
        self._beside = read_beside(root, label_column=reading.label_column, encoding=reading.encoding)
        self.columns: Sequence[str] = self._beside.columns
        table = ("label_column", "encoding") if self._beside.path else ()
        self.heeds: Set[str] = {"only", "classes", "follow_links", *table}

    def items(self) -> Iterator[Item]:
        """See Source. Raises Ambiguous at the end where the whole can be read in two ways."""
        layout, met = Layout(), _Met(self._beside)
        for visited in walk(str(self.path), follow_links=self._reading.follow_links):
            yield from visited.aside
            if not visited.files and any(isinstance(item, Rejected) for item in visited.aside):
                continue  # it cannot be read: nothing is known of it
            images = self._images(visited, layout)
            yield from map(met.told, images) if self._beside.path else images
        yield from layout.without_images(self.path)
        yield from met.left()
        yield from beside_images(self.path, layout, self._reading)
        layout.check(self.path, self._reading)
        self._check_labels(layout)

    def _images(self, visited: Visited, layout: Layout) -> Iterator[Item]:
        """The files of one folder, without what the table beside them tells; they are noted in `layout`."""
        reading, above = self._reading, "".join(f"{part}/" for part in visited.parts)
        label = visited.parts[0] if visited.parts and reading.classes in ("auto", "folder") else None
        nothing, inside = ("",) * len(self.columns), os.path.realpath(self.path)
        bad, count = unprintable(above), 0
        for entry in visited.files:
            name = entry.name
            if refused := refusal(entry, inside, follow_links=reading.follow_links):
                yield refused
            elif bad:
                yield Rejected(
                    entry.path, "it lies in a folder whose name is no UTF-8, or holds control characters: rename it"
                )
            elif ending(name) not in ENDINGS and not begins_like_image(entry.path):
                if (above or name not in TABLES) and not layout.note_archive(entry.path):
                    yield Remark(entry.path, told(name))
            else:
                try:
                    size = entry.stat().st_size
                except OSError as error:
                    yield Rejected(entry.path, error.strerror or str(error))
                    continue
                count += 1
                yield Candidate(entry.path, above + name, Span(entry.path), label, size, nothing)
        layout.note(visited.parts, visited.files, count)

    def _check_labels(self, layout: Layout) -> None:
        usual, table = self._beside.usual_labels, self._beside.path
        if not usual or table is None or self._reading.label_column or self._reading.classes != "auto":
            return
        keep = (
            "its subfolders are the classes: add --classes folder" if layout.tops else "there are none: add --classes none"
        )
        takes = [f"the classes stand in column {name!r}: add --label-column {name}" for name in usual]
        raise ambiguous(f"{table} has {some(usual)}, and {self.path} holds images", *takes, keep)


class _Met:
    """Which rows of the table beside a folder's images name one of them."""

    def __init__(self, beside: Beside) -> None:
        self._beside, self._unmet, self._named = beside, set(beside.values), 0
        self._unnamed = list[str]()

    def told(self, item: Item) -> Item:
        """An item with what the table tells of it."""
        if not isinstance(item, Candidate):
            return item
        key, beside = one_spelling(item.name), self._beside
        if key not in beside.values:
            self._unnamed.append(item.path)
            return item if beside.labels is None else item._replace(label=None)
        self._unmet.discard(key)
        self._named += 1
        label = item.label if beside.labels is None else beside.labels[key]
        return item._replace(label=label, facts=beside.values[key])

    def left(self) -> Iterator[Remark]:
        """Rows without an image, and images without a row."""
        yield from remarks_of(self._beside, self._unmet, self._named)
        for path in self._unnamed:
            yield Remark(path, f"an image that no row of {self._beside.path and self._beside.path.name} names")

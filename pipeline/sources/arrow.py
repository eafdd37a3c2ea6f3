"""Parquet and Arrow files with the images' bytes in a column: the layout of Hugging Face datasets, read from local files."""

import json
import os
from array import array
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from .arrow_files import (
    SUFFIXES,
    Cell,
    first_bytes,
    holds_no_bytes,
    listing,
    pyarrow,
    reading,
    refuse_several,
    row_count,
    schema_of,
)
from .candidate import Candidate, Item, Label, Place, Rejected, Remark, Span, Stamp, outside, stamp_of, unprintable
from .columns import LABEL_COLUMNS, refuse_twice
from .kinds import looks_like_image
from .labels import are_numbers, label_of_value
from .readings import Reading, ambiguous

__all__ = ["SUFFIXES", "ArrowImages", "image_column_of", "pyarrow"]

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes", "bytes")


class ArrowImages:
    """One file of image bytes. Class names come from the datasets library's own description of the label column."""

    def __init__(self, path: Path, asked: Reading = Reading()) -> None:  # noqa: B008 (frozen)
        self.path, self._asked = path, asked
        self._root = asked.root or path.parent
        with reading(path):
            schema = schema_of(path)
            refuse_twice(schema.names, path)
            self._image = asked.image_column or image_column_of(path)
            if self._image not in schema.names:
                raise ValueError(f"{path} has no column {self._image!r}; it has {', '.join(schema.names)}")
            types = pyarrow().types
            self._nested = types.is_struct(schema.field(self._image).type)
            self._by_path = self._nested and holds_no_bytes(path, self._image)
            self._label = "" if asked.classes == "none" else _label_column(path, schema, asked.label_column)
            plain = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
            self.columns: Sequence[str] = [
                name for name in plain if name not in (self._image, self._label, "row", "file_name")
            ]
            self._lost = [name for name in schema.names if name not in (self._image, self._label, *self.columns)]
            self.classes: Sequence[str] | None = _class_names(schema, self._label)
            self._where = f"{path}: column {self._label!r}"
            self._numbers = self._label_numbers(schema)
        self.heeds: Set[str] = {
            "image_column",
            "label_column",
            "classes",
            *(("root", "follow_links") if self._by_path else ()),
        }

    def _label_numbers(self, schema: Any) -> bool:
        """Whether labels that are texts are whole numbers throughout."""
        if not self._label or not _is_text(schema.field(self._label).type):
            return True
        return are_numbers((str(facts[0] or "") for _, _, facts, _ in listing(self.path, [self._label], "")), self._where)

    def items(self) -> Iterator[Item]:
        """See Source."""
        wanted = [*([self._label] if self._label else []), *self.columns]
        with reading(self.path):
            status = self.path.stat()
            share, stamp = status.st_size // max(1, row_count(self.path)), stamp_of(status)
        named = self._nested and not self._by_path and self._names_differ()
        if self._nested and not self._by_path and not named:
            yield Remark(str(self.path), "rows that share a name: each is called by its number")
        for row, (group, index, facts, name) in enumerate(listing(self.path, wanted, self._image if self._nested else "")):
            label, values = (facts[0], facts[1:]) if self._label else (None, facts)
            path = f"{self.path}/{row:08d}"
            texts = tuple("" if value is None else str(value) for value in values)
            place = self._place(path, name, stamp, group, index)
            labelled = self._label_of(label, path)
            if isinstance(place, Rejected):
                yield place
            elif isinstance(labelled, Rejected):
                yield labelled
            else:
                usable = name and not unprintable(name) and (named or self._by_path)
                size = os.stat(place.path).st_size if isinstance(place, Span) else share
                yield Candidate(path, name if usable else f"{row:08d}", place, labelled, size, texts)
        if self._asked.classes == "auto" and not self._label and self.columns:
            told = "a table without a column of labels: --label-column makes one of its others that"
            yield Remark(str(self.path), told, ", ".join(self.columns))
        if self._lost:
            kind = "columns that are not kept: lists, structures, bytes, and names that the .beton's own have"
            yield Remark(str(self.path), kind, ", ".join(self._lost))

    def _place(self, path: str, name: str, stamp: Stamp, group: int, index: int) -> Place | Rejected:
        if not self._by_path:
            return Cell(str(self.path), stamp, self._image, group, index)
        file = os.path.join(self._root, name)
        if not name or unprintable(name):
            return Rejected(path, "the cell holds neither bytes nor a path")
        if not self._asked.follow_links and outside(file, os.path.realpath(self._root)):
            return Rejected(path, f"{file} leads out of {self._root}: name the folder that holds the images with --root")
        if not os.path.isfile(file):
            return Rejected(
                path, f"the cell holds no bytes but the path {file}, where no file is: name its folder with --root"
            )
        return Span(file)

    def _names_differ(self) -> bool:
        """Whether the paths that the column tells are names: no two the same."""
        hashes = array("q", (hash(name) for *_, name in listing(self.path, [], self._image) if name))
        return len(set(hashes)) == len(hashes)

    def _label_of(self, value: Any, path: str) -> Label | Rejected:
        if self.classes is not None and isinstance(value, int) and value >= 0:
            if value < len(self.classes):
                return self.classes[value]
            return Rejected(path, f"label {value}; the data set's description names {len(self.classes)} classes")
        return label_of_value(value, self._where, numbers=self._numbers)


def image_column_of(path: Path) -> str:
    """The column of image bytes: a struct with `bytes`, or binary under a usual name; "" where there is none.

    Raises Ambiguous where several hold images.
    """
    with reading(path):
        schema, types = schema_of(path), pyarrow().types
        found = [f.name for f in schema if types.is_struct(f.type) and any(part.name == "bytes" for part in f.type)]
        binary = [field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)]
        usual = [name for name in binary if name in IMAGE_COLUMNS]
        found += usual or (binary if len(binary) == 1 else [])
    if len(found) > 1:
        images = [name for name in found if looks_like_image(first_bytes(path, name))]
        if len(images) == 1:
            return images[0]
        raise ambiguous(
            f"{path} has {len(images or found)} columns that could hold the images",
            *(f"{name!r} does: --image-column {name}" for name in images or found),
        )
    return found[0] if found else ""


def _features(schema: Any) -> dict[str, Any]:
    """The datasets library's own description of the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(schema: Any, label: str) -> list[str] | None:
    try:
        return [str(name) for name in _features(schema)[label]["names"]]
    except (KeyError, TypeError):
        return None


def _label_column(path: Path, schema: Any, asked: str) -> str:
    """The column that was asked for, has a usual name or is described as classes; raises where there are several."""
    if asked and asked not in schema.names:
        raise ValueError(f"{path} has no column {asked!r}; it has {', '.join(schema.names)}")
    usual = [name for name in LABEL_COLUMNS if name in schema.names]
    described = [name for name in schema.names if name not in usual and _class_names(schema, name) is not None]
    found = [asked] if asked else usual + described
    if usual == ["fine_label"]:
        found = usual if not asked else found  # CIFAR-100, where coarse_label is described too
    if len(found) > 1:
        raise ambiguous(
            f"{path} has {len(found)} columns that could hold the labels",
            *(f"{name!r} does: --label-column {name}" for name in found),
        )
    if found:
        refuse_several(path, schema, found[0])
    return found[0] if found else ""


def _is_text(kind: Any) -> bool:
    types = pyarrow().types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

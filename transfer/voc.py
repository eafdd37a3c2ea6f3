"""Annotations of Pascal VOC: one XML file an image, lists of images, one or several years in a folder."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ..files.opening import open_to_read, read_bytes, read_text
from .cleaning import Notes, Raw, instances, lines
from .encodings import of_mask
from .scene import Category, Scene, SceneSet, Task, check_task, coco_masks

NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # of images; VOC's own are the first
LISTS = {"detection": "Main", "segmentation": "Segmentation"}


class Thing(NamedTuple):
    """An object of an XML file."""

    name: str
    box_4: tuple[float, float, float, float] | tuple[()]
    difficult: bool


class Page(NamedTuple):
    """An XML file."""

    height: int
    width: int
    things: tuple[Thing, ...]


def open_voc(root: Path, split: str, *, task: Task = "detection") -> SceneSet:
    """The images of ImageSets/Main/SPLIT.txt (Segmentation for masks), with ids 1, 2, ... in that order.

    `root` is the folder of a year, or one that holds several: these are joined in the order of their names, as the
    papers train on trainval of VOC2007 and VOC2012. What is difficult is a crowd: ignored when precision is counted.
    Boxes say their first and last pixel, counted from 1, and become left - 1, top - 1, right, bottom. Categories are
    the 20 of VOC where all objects are of these, else those that occur, by name. Masks are read from SegmentationObject,
    whose value n is the n-th object of the XML file.

    Raises:
        ValueError: where there is no such list, a file is missing or damaged or declares entities, or for keypoints.
    """
    check_task(task)
    if task == "keypoints":
        raise ValueError(f"{root} is a set of Pascal VOC, which has no keypoints: give annotations in COCO's format")
    if task == "segmentation":
        coco_masks()
    notes: Notes = {}
    digest = hashlib.sha256()
    read: list[tuple[Path, Path, Page]] = []
    for year, names in _years(root, split, LISTS[task]):
        pictures = _check_files(year, names, task)
        for name in names:
            raw = read_bytes(year / "Annotations" / f"{name}.xml")
            digest.update(f"{year.name} {name}\n".encode() + raw)
            file = pictures[name]
            read.append((year, file, page(raw, year / "Annotations" / f"{name}.xml", file)))
    found = {thing.name for *_, one in read for thing in one.things}
    names = NAMES if found <= set(NAMES) else tuple(sorted(found))
    label = {name: number for number, name in enumerate(names, start=1)}
    scenes = []
    for image_id, (year, file, one) in enumerate(read, start=1):
        png = year / "SegmentationObject" / f"{file.stem}.png"
        encodings = _masks(png, one) if task == "segmentation" else [None] * len(one.things)
        raws = [
            Raw(f"object {n} of {file.stem}", thing.box_4, label[thing.name], thing.difficult, None, rle)
            for n, (thing, rle) in enumerate(zip(one.things, encodings, strict=True), start=1)
        ]
        within = instances(raws, one.height, one.width, task=task, keypoints=0, notes=notes)
        scenes.append(Scene(file, image_id, one.height, one.width, within))
    categories = tuple(Category(number, name) for name, number in label.items())
    return SceneSet(tuple(scenes), categories, (), (), digest.hexdigest(), lines(notes))


def is_voc(root: Path) -> bool:
    """Whether a folder is that of a year, or holds some."""
    return any((folder / "Annotations").is_dir() for folder in _folders(root))


def _folders(root: Path) -> list[Path]:
    if (root / "ImageSets").is_dir() or not root.is_dir():
        return [root]
    inside = sorted(root.iterdir())
    if [each.name for each in inside if each.is_dir()] == ["VOCdevkit"]:
        return _folders(root / "VOCdevkit")
    return [each for each in inside if (each / "ImageSets").is_dir()]


def _years(root: Path, split: str, kind: str) -> Iterator[tuple[Path, Sequence[str]]]:
    """Folders of years that have the list, and the images on it."""
    folders = _folders(root)
    held = [folder for folder in folders if (folder / "ImageSets" / kind / f"{split}.txt").is_file()]
    if not held:
        lists = sorted(
            {path.stem for folder in folders for path in (folder / "ImageSets" / kind).glob("*.txt") if "_" not in path.stem}
        )
        there = f"there are {', '.join(lists)}" if lists else "there are none: is it a folder of Pascal VOC?"
        raise ValueError(f"{root} has no list ImageSets/{kind}/{split}.txt; {there}")
    for folder in held:
        rows = [row.split() for row in read_text(folder / "ImageSets" / kind / f"{split}.txt").splitlines() if row.strip()]
        names = list(
            dict.fromkeys(row[0] for row in rows if row[1:] != ["-1"])
        )  # lists of one class say -1 where it is absent
        if not names:
            raise ValueError(f"{folder}/ImageSets/{kind}/{split}.txt lists no images")
        yield folder, names


def _check_files(year: Path, names: Sequence[str], task: Task) -> dict[str, Path]:
    """The image of each name; raises ValueError where files are missing."""
    pictures = {
        path.stem: path
        for ending in reversed(ENDINGS)  # so that the first of them wins
        for path in (year / "JPEGImages").glob("*")
        if path.suffix.lower() == ending
    }
    parts = [("Annotations", ".xml")] + ([("SegmentationObject", ".png")] if task == "segmentation" else [])
    held = {part: {path.name for path in (year / part).glob(f"*{ending}")} for part, ending in parts}
    lacking = {part: [name + ending for name in names if name + ending not in held[part]] for part, ending in parts}
    lacking["JPEGImages"] = [f"{name}.jpg" for name in names if name not in pictures]
    for part, missing in lacking.items():
        if missing:
            first = f"{part}/{missing[0]}" + (f" (or {', '.join(ENDINGS[1:])})" if part == "JPEGImages" else "")
            raise ValueError(
                f"{year} lacks {len(missing)} of {len(names)} files of {part}, the first is {first}: unpack it whole"
            )
    return pictures


def page(raw: bytes, path: Path, image: Path) -> Page:
    """What an XML file says.

    Raises:
        ValueError: where it is no XML, declares a document type or entities (which may grow without bound), or is
            of another kind.
    """
    # expat reads UTF-16 as well; what other encodings it knows have these letters as ASCII has them
    if b"<!DOCTYPE" in (flat := raw.replace(b"\0", b"")) or b"<!ENTITY" in flat:
        raise ValueError(f"{path} declares a document type or entities, which annotations never need: remove that")
    try:
        tree = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is damaged, it is no XML ({error}): fetch it again") from None
    if tree.tag != "annotation":
        raise ValueError(f"{path} is no annotation of Pascal VOC: it holds <{tree.tag}>")
    things = tuple(_thing(found, path) for found in tree.findall("object"))
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if all(side.isdecimal() and int(side) > 0 for side in sides):
        return Page(int(sides[0]), int(sides[1]), things)
    try:
        with open_to_read(image) as file, Image.open(file) as opened:
            return Page(opened.height, opened.width, things)
    except Exception as error:
        raise ValueError(f"{path} does not say its image's size, and {image} cannot be opened ({error})") from None


def _thing(found: ElementTree.Element, path: Path) -> Thing:
    name = found.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{path} has an object without a name: correct it")
    try:
        left, top, right, bottom = (float(found.findtext(f"bndbox/{end}", "")) for end in ("xmin", "ymin", "xmax", "ymax"))
        box = (left - 1, top - 1, right, bottom)
    except ValueError:
        box = ()
    return Thing(name, box, found.findtext("difficult", "0").strip().lower() in ("1", "true"))


def _masks(path: Path, one: Page) -> list[dict[str, Any] | None]:
    """The mask of each object; None where no pixel is of it."""
    try:
        with open_to_read(path) as file, Image.open(file) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"its mode is {image.mode}, not a palette")
            number_HW = np.asarray(image)
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again") from None
    if number_HW.shape != (one.height, one.width):
        size = f"{number_HW.shape[1]} x {number_HW.shape[0]}"
        raise ValueError(f"{path} is {size} pixels, its annotation is for {one.width} x {one.height}")
    masks = [number_HW == n for n in range(1, len(one.things) + 1)]
    return [of_mask(mask) if mask.any() else None for mask in masks]

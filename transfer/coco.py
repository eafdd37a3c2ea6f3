"""Annotations in COCO's JSON: instances and keypoints, read with every object checked.

What cannot be used is mended or left out, and counted in the set's notes, one line a kind; what says that this is not
the file that was meant (other annotations, missing images, contradicting ids) is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files.opening import LARGE, open_to_read, read_bytes, replacing
from .cleaning import Notes, Raw, instances, is_number, lines, mirrored, note
from .encodings import encoded, is_polygon
from .lenient import cleaned_, one_each
from .scene import Category, Scene, SceneSet, Task, check_task, coco_masks

Row = dict[str, Any]
LONGEST = 1_000_000
"""Pixels that no side of an image has: numbers beyond are mistakes."""


def open_coco(annotations: Path, images: Path | Sequence[Path], *, task: Task) -> SceneSet:
    """The annotated images of a COCO file, in its order, images without objects too.

    Of several folders of `images` it is the first that holds the first image.

    Masks are read for the task "segmentation" alone, and an object without one is left out there; keypoints for the task
    "keypoints", which keeps the categories that have them: all of these must have the same ones.

    Raises:
        ValueError: where the file is damaged or of another kind, ids contradict each other, images are missing, nothing of
            it can be used, or pycocotools is not installed and masks are asked for.
    """
    check_task(task)
    if task == "segmentation":
        coco_masks()
    raw, content = _read(annotations)
    notes: Notes = {}
    cleaned_(content, annotations, notes)
    rows = _unique(content["categories"], annotations, "a category", "name", notes)
    rows = one_each(rows, content["annotations"], annotations, notes)
    keypoints, sigmas = _skeleton(rows, annotations) if task == "keypoints" else ((), ())
    chosen = [row for row in rows if not keypoints or row.get("keypoints")]
    categories = tuple(Category(row["id"], row["name"]) for row in sorted(chosen, key=lambda row: row["id"]))
    listed = _unique(content["images"], annotations, "an image", "file_name", notes)
    folders = (images,) if isinstance(images, Path) else images
    images = next((folder for folder in folders if (folder / listed[0]["file_name"]).is_file()), folders[0])
    _check_files(listed, images, annotations)
    known = {row["id"] for row in rows}
    objects = _by_image(content["annotations"], {row["id"] for row in listed}, known, annotations, notes)
    labels = {category.id: number for number, category in enumerate(categories, start=1)}
    scenes, digest = [], hashlib.sha256(raw)
    for row in listed:
        height, width = _size(row, images / row["file_name"])
        raws = []
        for found in objects.get(row["id"], ()):
            if found["category_id"] in labels:
                label = labels[found["category_id"]]
                raws.append(_object(found, height, width, label, task, len(keypoints), annotations, notes))
            else:
                note(notes, "objects left out since their category has no keypoints", found["where"])
        within = instances(raws, height, width, task=task, keypoints=len(keypoints), notes=notes)
        scenes.append(Scene(images / row["file_name"], row["id"], height, width, within))
        digest.update(f"{row['id']} {row['file_name']}\n".encode())
    return SceneSet(tuple(scenes), categories, keypoints, mirrored(keypoints), digest.hexdigest(), lines(notes), sigmas)


def write_annotations(path: Path, content: Mapping[str, Any]) -> None:
    """Write a COCO file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _read(path: Path) -> tuple[bytes, Row]:
    """The bytes of a file of instances or keypoints, and what they say."""
    try:
        raw = read_bytes(path, limit=LARGE)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a COCO file of annotations") from None
    try:
        content = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is damaged or cut off, it is no JSON ({error}): fetch it again") from None
    if isinstance(content, list):
        raise ValueError(f"{path} holds a list, as results of a detector do: name the file of annotations")
    wanted = ("images", "annotations", "categories")
    held = [key for key in wanted if isinstance(content, dict) and isinstance(content.get(key), list)]
    entries = [entry for key in held for entry in content[key]]
    if any(not isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is no COCO file of annotations: its lists hold something that is no object")
    for key, kind in (("caption", "captions"), ("segments_info", "panoptic segments"), ("question", "questions")):
        if "annotations" in held and content["annotations"] and key in content["annotations"][0]:
            raise ValueError(f"{path} holds {kind}: name a file of instances or keypoints (instances_*.json)")
    if len(held) < len(wanted):
        missing = ", ".join(f'"{key}"' for key in wanted if key not in held)
        raise ValueError(f"{path} is no COCO file of annotations: it has no list {missing}")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{path} lists no {'images' if not content['images'] else 'categories'}: name another file")
    return raw, content


def _unique(rows: Iterable[Row], path: Path, what: str, key: str, notes: Notes) -> list[Row]:
    """Rows with an id each; the same row again is left out, another one with its id is refused."""
    found: dict[int, Row] = {}
    for row in rows:
        number, name = row.get("id"), row.get(key)
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str) or not name:
            raise ValueError(f"{path} has {what} whose id is no whole number or that has no {key}: id {number!r}, {name!r}")
        if number not in found:
            found[number] = row
        elif found[number][key] == name:
            note(notes, f"rows that list {what} again", f"id {number}")
        else:
            both = f"{found[number][key]!r} and {name!r}"
            raise ValueError(f"{path} gives the id {number} to two: {both}; give {what} a number of its own")
    return list(found.values())


def _skeleton(rows: list[Row], path: Path) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and sigmas of the keypoints of the categories that have them."""
    with_points = [row for row in rows if row.get("keypoints")]
    if not with_points:
        raise ValueError(f"{path} has no keypoints: no category lists their names (person_keypoints_*.json does)")
    first, *others = with_points
    for row in others:
        if row["keypoints"] != first["keypoints"] or row.get("sigmas") != first.get("sigmas"):
            names = f"{first['name']!r} and {row['name']!r}"
            raise ValueError(f"{path}: the categories {names} have different keypoints, one network finds one kind")
    names, sigmas = first["keypoints"], first.get("sigmas", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: the keypoints of {first['name']!r} are no list of names")
    if not isinstance(sigmas, list) or not all(is_number(sigma) for sigma in sigmas):
        raise ValueError(f"{path}: the sigmas of {first['name']!r} are no list of numbers")
    return tuple(names), tuple(map(float, sigmas))


def _check_files(listed: list[Row], images: Path, path: Path) -> None:
    """Raise ValueError where images are missing; one listing a folder, not one question a file."""
    held: dict[Path, set[str]] = {}
    missing = []
    for row in listed:
        file = images / row["file_name"]
        if file.parent not in held:
            held[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        if file.name not in held[file.parent]:
            missing.append(row["file_name"])
    if missing:
        count = f"{len(missing)} of {len(listed)} images of {path} are"
        raise ValueError(f"{count} not in {images}, the first is {missing[0]}: name the folder that holds them")


def _size(row: Row, file: Path) -> tuple[int, int]:
    """Height and width, from the file itself where the annotations do not say."""
    height, width = row.get("height"), row.get("width")
    if height is None and width is None:
        with open_to_read(file) as opened, Image.open(opened) as image:
            return image.height, image.width
    if not (isinstance(height, int) and isinstance(width, int) and 0 < min(height, width) <= max(height, width) < LONGEST):
        raise ValueError(f"image {row['id']} ({row['file_name']}) has the size {width!r} x {height!r}: correct it")
    return height, width


def _by_image(rows: list[Row], images: set[int], categories: set[int], path: Path, notes: Notes) -> dict[int, list[Row]]:
    """Annotations by image, in their order, without those of no image or no category."""
    objects: dict[int, list[Row]] = {}
    numbers: set[Any] = set()
    for place, row in enumerate(rows):
        where = row["where"] = f"annotation {row.get('id', f'at place {place}')}"
        image, category = row.get("image_id"), row.get("category_id")
        if not isinstance(image, int) or image not in images:
            note(notes, "annotations left out since their image is not listed", where)
        elif not isinstance(category, int) or category not in categories:
            note(notes, "annotations left out since their category is not listed", where)
        else:
            objects.setdefault(image, []).append(row)
        if isinstance(row.get("id"), int) and row["id"] in numbers:
            note(notes, "annotations whose id was given before", where)
        numbers.add(row["id"] if isinstance(row.get("id"), int) else None)
    if rows and not objects:
        raise ValueError(f"none of the {len(rows)} annotations of {path} belongs to its images and categories")
    if not rows:
        note(notes, "files without annotations, all images count as empty", path.name)
    return objects


def _object(row: Row, height: int, width: int, label: int, task: Task, keypoints: int, path: Path, notes: Notes) -> Raw:
    """An annotation as an object."""
    segmentation, box = row.get("segmentation"), row.get("bbox")
    rle = encoded(segmentation, height, width) if segmentation and (task == "segmentation" or box is None) else None
    if (
        task == "segmentation"
        and isinstance(segmentation, list)
        and not all(is_polygon(part, height, width) for part in segmentation)
    ):
        note(notes, "objects with polygons left out (under 3 points, not finite or far outside the image)", row["where"])
    if box is not None:
        whole = isinstance(box, list) and len(box) == 4 and all(is_number(number) for number in box)
        box = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if whole else ()
    points = row.get("keypoints") if task == "keypoints" else None
    if points is not None and (not isinstance(points, list) or len(points) != 3 * keypoints):
        count = len(points) if isinstance(points, list) else points
        raise ValueError(f"{row['where']} of {path} has {count} numbers for keypoints, its category {keypoints} x 3")
    if points is not None and not all(is_number(number) or isinstance(number, float) for number in points):
        raise ValueError(f"{row['where']} of {path} has a keypoint that is no number")
    return Raw(row["where"], box, label, bool(row.get("iscrowd", 0)), row.get("area"), rle, points)

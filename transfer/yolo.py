"""Labels in YOLO's text format (a line an object: class, then a box or a polygon in shares of the image) -> a COCO file."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..files.opening import open_to_read, read_text
from .cleaning import Notes, lines, note
from .coco import write_annotations

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class Converted(NamedTuple):
    """What a COCO file was made of."""

    images: int
    objects: int
    notes: tuple[str, ...]
    """What was left out, a line a kind."""


def write_coco(images: Path, labels: Path, target: Path, *, names: Mapping[int, str], unlabelled: bool = False) -> Converted:
    """Write the COCO file `target` for the images of a folder, from the `.txt` files of the same names in `labels`.

    Classes keep their numbers. Images are numbered as their names where all of these are numbers, as COCO's are, else from
    1 in the order of their names. An image without a label file is left out, or with `unlabelled` kept as one without
    objects; one whose file is empty is kept.

    Raises:
        ValueError: where there are no images, an image cannot be opened, or a class has no name.
    """
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES) if images.is_dir() else []
    if not files:
        raise ValueError(f"{images} holds no images: name the folder in which they lie, not one above")
    held = set(os.listdir(labels)) if labels.is_dir() else set()
    chosen = [file for file in files if unlabelled or f"{file.stem}.txt" in held]
    if not chosen or not held:
        raise ValueError(
            f"{labels} holds no labels of the {len(files)} images in {images}: name the folder of their .txt files"
        )
    notes: Notes = {}
    for file in files if not unlabelled else ():
        if f"{file.stem}.txt" not in held:
            note(notes, "images left out since they have no label file", file.name)
    numbers = [int(file.stem) for file in chosen if file.stem.isdecimal()]
    numbered = len(set(numbers)) == len(chosen)
    rows: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for place, file in enumerate(chosen):
        height, width = _size(file)
        image_id = numbers[place] if numbered else place + 1
        rows.append({"id": image_id, "file_name": file.name, "height": height, "width": width})
        text = read_text(labels / f"{file.stem}.txt") if f"{file.stem}.txt" in held else ""
        for count, line in enumerate(text.splitlines(), start=1):
            made, where = _object(line.split(), height, width), f"line {count} of {file.stem}.txt"
            if made is None:
                if line.strip():
                    note(notes, "lines left out since they are neither a box nor a polygon", where)
            elif made["category_id"] not in names:
                raise ValueError(f"{where} has class {made['category_id']}, which has no name: complete the names")
            else:
                objects.append({"id": len(objects) + 1, "image_id": image_id, **made})
    categories = [{"id": number, "name": name} for number, name in sorted(names.items())]
    write_annotations(target, {"images": rows, "annotations": objects, "categories": categories})
    return Converted(len(rows), len(objects), lines(notes))


def _size(file: Path) -> tuple[int, int]:
    try:
        with open_to_read(file) as opened, Image.open(opened) as image:
            return image.height, image.width
    except Exception as error:
        raise ValueError(f"{file} cannot be opened ({error}): replace it, or remove it") from None


def class_names(config: Path) -> dict[int, str]:
    """The classes of a YOLO data set's YAML file: `names`, a list or a table by number.

    Raises:
        ValueError: where the file has none.
    """
    import yaml  # comes with accelerate

    try:
        names = yaml.safe_load(read_text(config))["names"]
        return {int(number): str(name) for number, name in (names.items() if isinstance(names, dict) else enumerate(names))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{config} has no table of class names ({error}): name the data set's YAML file") from None


def _object(words: Sequence[str], height: int, width: int) -> dict[str, Any] | None:
    """A line as an annotation; None where it is neither class and box nor class and polygon."""
    if not words:
        return None
    try:
        number, shares = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return None
    if not all(math.isfinite(share) for share in shares) or (len(shares) != 4 and (len(shares) < 6 or len(shares) % 2)):
        return None
    if len(shares) == 4:
        x, y, across, down = shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height
        box = [round(value, 2) for value in (x - across / 2, y - down / 2, across, down)]
        return {"category_id": number, "bbox": box, "area": round(across * down, 2), "iscrowd": 0}
    x_P, y_P = [round(x * width, 2) for x in shares[::2]], [round(y * height, 2) for y in shares[1::2]]
    box = [min(x_P), min(y_P), round(max(x_P) - min(x_P), 2), round(max(y_P) - min(y_P), 2)]
    # the shoelace formula, as COCO's own `area` is of the polygon and not of its pixels
    turned = sum(x * y_P[p - 1] - x_P[p - 1] * y for p, (x, y) in enumerate(zip(x_P, y_P, strict=True)))
    polygon = [value for point in zip(x_P, y_P, strict=True) for value in point]
    area = round(abs(turned) / 2, 2)
    return {"category_id": number, "bbox": box, "area": area, "iscrowd": 0, "segmentation": [polygon]}

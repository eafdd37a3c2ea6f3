"""Images and what is in them: the values that annotations are read into and detections are handed over in.

Shape suffixes: N = objects of one image, K = keypoints of an object, H, W = height and width in pixels; 4 = left, top,
right, bottom; 3 = x, y, visibility. Coordinates are those of COCO: the first pixel reaches from 0 to 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ..files.opening import open_to_read
from .encodings import coco_masks as coco_masks
from .encodings import decoded

Task = Literal["detection", "segmentation", "keypoints"]
TASKS: tuple[Task, ...] = ("detection", "segmentation", "keypoints")


class Instances(NamedTuple):
    """The N objects of one image."""

    box_N4: np.ndarray
    """float32, left top right bottom in pixels, inside the image."""
    label_N: np.ndarray
    """int64, 1..C in the order of the set's `categories`; 0 is the background."""
    crowd_N: np.ndarray
    """bool: regions that are ignored (COCO's iscrowd, VOC's difficult)."""
    area_N: np.ndarray
    """float32, square pixels: as the file says, else of the mask where there is one, else of the box."""
    rle_N: tuple[dict[str, Any], ...] | None
    """Masks as compressed run-length encodings of pycocotools; None where there are no masks."""
    keypoint_NK3: np.ndarray | None
    """float32 x, y, visibility: 0 none, 1 hidden, 2 visible."""


class Scene(NamedTuple):
    """One image and what is in it."""

    path: Path
    image_id: int
    height: int
    width: int
    instances: Instances


class Category(NamedTuple):
    """A class of objects."""

    id: int
    """As in the file."""
    name: str


class SceneSet(NamedTuple):
    """Annotated images."""

    scenes: tuple[Scene, ...]
    categories: tuple[Category, ...]
    """Label l is categories[l - 1]."""
    keypoints: tuple[str, ...]
    """Names, empty where there are none."""
    flip_K: tuple[int, ...]
    """Where each keypoint goes when the image is mirrored (left_eye <-> right_eye)."""
    fingerprint: str
    """sha256 of the annotations and the list of images, for configurations and caches."""
    notes: tuple[str, ...] = ()
    """What was mended or left out, one line a kind with its count, to be said once."""
    sigma_K: tuple[float, ...] = ()
    """How exactly each keypoint can be placed, in COCO's measure; empty where the file does not say."""
    own: tuple[Category, ...] = ()
    """The categories as this set's file numbers them, where `categories` are another's: results are written in these."""


class Found(NamedTuple):
    """Detections of one image, sorted by score."""

    image_id: int
    box_N4: np.ndarray
    score_N: np.ndarray
    label_N: np.ndarray
    rle_N: tuple[dict[str, Any], ...] | None
    keypoint_NK3: np.ndarray | None


def check_task(task: str) -> None:
    """Raise ValueError where a task is none of TASKS."""
    if task not in TASKS:
        raise ValueError(f"the task must be one of {', '.join(TASKS)}, got {task!r}")


def pixels(scene: Scene) -> np.ndarray:
    """The image, uint8 [H, W, 3] in RGB.

    An orientation in the EXIF data is not applied: COCO's and VOC's annotations refer to the pixels as they are stored.

    Raises:
        ValueError: where the file is missing or damaged, or its size is not the annotation's.
    """
    try:
        with open_to_read(scene.path) as file, Image.open(file) as image:
            _check_size(scene, image)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{scene.path} is missing: its annotations are there, so name the folder that holds it") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, DecompressionBombError, TypeError on damaged files
        raise ValueError(f"{scene.path} cannot be read ({error}): replace it, or remove it from the annotations") from None


def check_sizes(scenes: Sequence[Scene]) -> None:
    """Read the header of every image (about 0.1 ms each): a size that differs is found before a training, not in it.

    Raises:
        ValueError: naming the first image whose size is not its annotation's, or that cannot be opened.
    """
    for scene in scenes:
        try:
            with open_to_read(scene.path) as file, Image.open(file) as image:
                _check_size(scene, image)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"{scene.path} cannot be opened ({error}): replace it, or remove it from the annotations"
            ) from None


def _check_size(scene: Scene, image: Image.Image) -> None:
    if image.size != (scene.width, scene.height):
        size = f"{image.size[0]} x {image.size[1]}"
        turned = ": it was turned after it was annotated" if image.size == (scene.height, scene.width) else ""
        raise ValueError(
            f"{scene.path} is {size} pixels, its annotations are for {scene.width} x {scene.height}{turned}; "
            "use the images that were annotated"
        )


def masks(scene: Scene) -> np.ndarray:
    """The masks of a scene's objects, bool [N, H, W].

    Raises:
        ValueError: where the set was opened without masks.
    """
    encodings = scene.instances.rle_N
    if encodings is None:
        raise ValueError(f"{scene.path.name} was opened without masks: open the set with the task 'segmentation'")
    # encodings run down the columns, and so do these masks in memory: to turn them would take longer than to read them
    found = np.array([decoded(encoding).T for encoding in encodings], bool).reshape(-1, scene.width, scene.height)
    return found.transpose(0, 2, 1)

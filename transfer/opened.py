"""Which kind of annotations a path is, and the labels of a test set made those of its training set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .coco import open_coco
from .scene import Category, Scene, SceneSet, Task
from .voc import is_voc, open_voc

KINDS = (
    "a COCO file (its images beside it, or named), a folder that holds instances.json, or a list of Pascal VOC as "
    "FOLDER/SPLIT (VOCdevkit/trainval joins its years, VOCdevkit/VOC2007/test is one)"
)


def open_scenes(
    path: Path, images: Path | None = None, *, task: Task, categories: Sequence[Category] | None = None
) -> SceneSet:
    """Annotated images of any kind.

    `images` is the folder of a COCO file's images; without it, it is looked for beside the file. `categories`, those
    of the training set, fix the labels by name, whatever numbers this set's file gives.

    Raises:
        ValueError: where the path is of no kind known here, or as the set's own reader does; where objects are of classes
            that `categories` does not have.
    """
    opened = _opened(path, images, task)
    return opened if categories is None else relabelled(opened, categories, path)


def _opened(path: Path, images: Path | None, task: Task) -> SceneSet:
    if path.is_dir() and (path / "instances.json").is_file():
        return open_coco(path / "instances.json", images or _around(path / "instances.json"), task=task)
    if path.is_file() and path.suffix == ".json":
        return open_coco(path, images or _around(path), task=task)
    if path.is_file() and path.suffix == ".txt" and path.parent.parent.name == "ImageSets":
        return open_voc(path.parents[2], path.stem, task=task)
    if not path.exists() and is_voc(path.parent):
        return open_voc(path.parent, path.name, task=task)
    if is_voc(path):
        raise ValueError(f"{path} is a folder of Pascal VOC: name a list with it, as {path}/trainval or {path}/test")
    there = "is none" if path.exists() else "does not exist, and is none"
    raise ValueError(f"{path} {there} of the annotations that can be opened: {KINDS}")


def _around(annotations: Path) -> list[Path]:
    """Where a COCO file's images may lie: images/ beside it, COCO's own layout (annotations/instances_X.json, X), with it.

    And in the folder above, whose subfolders a file in annotations/ may name.
    """
    split, beside = annotations.stem.rsplit("_", 1)[-1], annotations.parent
    around = beside.parent
    guesses = (beside / "images", around / split, around / "images" / split, around / "images")
    return [*(guess for guess in guesses if guess.is_dir()), beside, around]


def check_objects(scenes: SceneSet, path: Path, *, task: Task, use: str) -> None:
    """Raise ValueError where a set has nothing to learn from or to be measured on, with what it has by reason."""
    crowds = [crowd for scene in scenes.scenes for crowd in scene.instances.crowd_N.tolist()]
    hidden = 0
    if task == "keypoints":
        found = [scene.instances for scene in scenes.scenes if scene.instances.keypoint_NK3 is not None]
        hidden = sum(int((~one.crowd_N & (one.keypoint_NK3[..., 2] == 0).all(axis=1)).sum()) for one in found)  # pyright: ignore[reportOptionalSubscript]
    if len(crowds) - sum(crowds) - hidden > 0:
        return
    reasons = [f"{len(crowds)} objects in {len(scenes.scenes)} images"] if crowds else ["no object that can be used"]
    reasons += [f"{sum(crowds)} of them crowds or difficult (iscrowd, difficult)"] if any(crowds) else []
    reasons += [f"{hidden} of them without a keypoint that is labelled"] if hidden else []
    raise ValueError(f"{path} has nothing to {use}: {', '.join(reasons)}{''.join(f'; {text}' for text in scenes.notes)}")


def relabelled(scenes: SceneSet, categories: Sequence[Category], path: Path) -> SceneSet:
    """The set with the labels of `categories`, by name.

    Raises:
        ValueError: where objects are of a class that is not among them; a class without objects does no harm.
    """
    label = {category.name: number for number, category in enumerate(categories, start=1)}
    used = {int(number) for scene in scenes.scenes for number in np.unique(scene.instances.label_N)}
    unknown = [
        scenes.categories[number - 1].name for number in sorted(used) if scenes.categories[number - 1].name not in label
    ]
    if unknown:
        raise ValueError(
            f"{path} has objects of {len(unknown)} classes that the training set does not have ({', '.join(unknown[:5])}); "
            f"it has {', '.join(list(label)[:5])}{', ...' if len(label) > 5 else ''}: name sets of the same classes"
        )
    listed = {category.name for category in scenes.categories}
    strange = [name for name in label if name not in listed]
    notes = list(scenes.notes)
    if strange:
        named = f"{', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}"
        told = "how well they are found is not measured, and detections.json leaves them out, since they have no id there"
        notes.append(f"{path} does not list {len(strange)} classes of the training set ({named}): {told}")
    new_label = np.array([0, *(label.get(category.name, 0) for category in scenes.categories)])
    return scenes._replace(
        scenes=tuple(_with_labels(scene, new_label) for scene in scenes.scenes),
        categories=tuple(categories),
        own=scenes.categories,
        notes=tuple(notes),
    )


def _with_labels(scene: Scene, new_label: np.ndarray) -> Scene:
    return scene._replace(instances=scene.instances._replace(label_N=new_label[scene.instances.label_N]))

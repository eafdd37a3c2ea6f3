"""Detections as they are written: in the ids of the file that they are compared with, whatever the training set's are."""

import json
from contextlib import redirect_stdout

import numpy as np
import pytest

from viewmill.transfer import figures
from viewmill.transfer.detection import write_detections
from viewmill.transfer.opened import open_scenes
from viewmill.transfer.scene import Category, Found

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"detection": "bbox", "segmentation": "segm", "keypoints": "keypoints"}


@pytest.fixture
def annotated(tmp_path):
    """Rendered scenes, and what their file says, to be written anew with other ids."""
    figures.write_scenes(tmp_path / "a", 6, seed=0, size=64)
    return tmp_path / "a", json.loads((tmp_path / "a" / "instances.json").read_text())


def found_in(scene):
    """The truth, as a detector that makes no mistake finds it."""
    items = scene.instances
    score_N = np.linspace(0.9, 0.5, len(items.label_N))
    return Found(scene.image_id, items.box_N4, score_N, items.label_N, items.rle_N, items.keypoint_NK3)


def renumbered(content, category, image):
    """The same annotations with other ids, and with the categories the other way round in their list."""

    def row_of(row):
        return {**row, "category_id": category[row["category_id"]], "image_id": image(row["image_id"])}

    return content | {
        "categories": [{**row, "id": category[row["id"]]} for row in reversed(content["categories"])],
        "images": [{**row, "id": image(row["id"])} for row in content["images"]],
        "annotations": [row_of(row) for row in content["annotations"]],
    }


@pytest.mark.parametrize("task", KINDS)
def test_ids_are_those_of_the_test_file_so_pycocotools_finds_what_was_found(task, annotated, tmp_path):
    folder, content = annotated
    training = open_scenes(folder, task=task).categories
    ids = [row["id"] for row in content["categories"]]
    category = dict(zip(ids, [*ids[1:], ids[0]], strict=True)) if len(ids) > 1 else {ids[0]: 77}
    (folder / "instances.json").write_text(json.dumps(renumbered(content, category, lambda number: 1000 - number)))
    truth = open_scenes(folder, task=task, categories=training)
    assert truth.categories == training
    write_detections(tmp_path / "detections.json", truth, [found_in(scene) for scene in truth.scenes])
    rows = json.loads((tmp_path / "detections.json").read_text())
    given = json.loads((folder / "instances.json").read_text())
    assert {row["image_id"] for row in rows} <= {row["id"] for row in given["images"]}
    assert {row["category_id"] for row in rows} <= {row["id"] for row in given["categories"]}
    with redirect_stdout(None):
        judged = COCO(str(folder / "instances.json"))
        judge = COCOeval(judged, judged.loadRes(str(tmp_path / "detections.json")), KINDS[task])
        if task == "keypoints":
            judge.params.kpt_oks_sigmas = np.array(truth.sigma_K)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] > 0.99


def test_a_class_that_the_test_file_does_not_list_is_said_and_not_written(annotated, tmp_path):
    folder, content = annotated
    training = open_scenes(folder, task="detection").categories
    lost = content["categories"][0]
    kept = {
        "categories": content["categories"][1:],
        "annotations": [row for row in content["annotations"] if row["category_id"] != lost["id"]],
    }
    (folder / "instances.json").write_text(json.dumps(content | kept))
    truth = open_scenes(folder, task="detection", categories=training)
    assert any(f"does not list 1 classes of the training set ({lost['name']})" in note for note in truth.notes)
    label = [category.name for category in training].index(lost["name"]) + 1
    scene = truth.scenes[0]
    found = Found(
        scene.image_id, np.array([[1.0, 2, 11, 12]] * 2), np.array([0.9, 0.8]), np.array([label, 1 + label % 2]), None, None
    )
    write_detections(tmp_path / "detections.json", truth, [found])
    (row,) = json.loads((tmp_path / "detections.json").read_text())
    assert row["category_id"] in {each["id"] for each in kept["categories"]}
    assert row["score"] == 0.8


def test_a_set_that_is_its_own_is_written_in_its_own_ids(annotated, tmp_path):
    folder, _ = annotated
    alone = open_scenes(folder, task="detection")
    training = [Category(number, category.name) for number, category in enumerate(alone.categories, 500)]
    truth = open_scenes(folder, task="detection", categories=training)
    own = {category.name: category.id for category in truth.own}
    assert own == {row["name"]: row["id"] for row in json.loads((folder / "instances.json").read_text())["categories"]}
    assert truth.notes == alone.notes

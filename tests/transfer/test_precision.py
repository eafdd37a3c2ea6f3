"""Average precision: pycocotools' own numbers bit for bit, and VOC's rules worked out by hand."""

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from viewmill.transfer import figures, yolo
from viewmill.transfer.coco import open_coco
from viewmill.transfer.encodings import coco_masks, decoded, of_mask
from viewmill.transfer.opened import open_scenes
from viewmill.transfer.precision import COCO_PERSON, KINDS, average_precision
from viewmill.transfer.scene import Category, Found, Instances, Scene, SceneSet
from viewmill.transfer.voc_precision import voc_precision

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
COUNT = {"bbox": 12, "segm": 12, "keypoints": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes of two sizes, with small, medium and large objects, and a crowd in every third."""
    target = tmp_path_factory.mktemp("rendered")
    small, large = (
        json.loads(figures.write_scenes(target / name, count, seed=5, size=size).read_text())
        for name, count, size in (("small", 30, 96), ("large", 12, 448))
    )
    for name, part, past in (("small", small, 0), ("large", large, 100)):
        for image in part["images"]:
            image |= {"id": image["id"] + past, "file_name": f"{name}/images/{image['file_name']}"}
        for annotation in part["annotations"]:
            annotation |= {"id": annotation["id"] + 10 * past, "image_id": annotation["image_id"] + past}
            annotation["iscrowd"] = int(annotation["image_id"] % 3 == 0 and annotation["id"] % 2 == 0)
    joined = {key: small[key] + large[key] for key in ("images", "annotations")} | {"categories": small["categories"]}
    (target / "instances.json").write_text(json.dumps(joined))
    return target


def results(folder, kind, seed=0):
    """A file of a detector's results: truths moved, some missed, some doubled, some of another class."""
    content, rng = json.loads((folder / "instances.json").read_text()), np.random.default_rng(seed)
    rows = []
    for annotation in content["annotations"]:
        for _ in range(rng.integers(0, 3)):
            category = annotation["category_id"] if rng.random() < 0.9 else int(rng.integers(1, 9))
            row = {"image_id": annotation["image_id"], "category_id": category, "score": round(float(rng.random()), 2)}
            spread = float(rng.choice([0.5, 2, 6]))
            if kind == "bbox":
                row["bbox"] = (np.array(annotation["bbox"]) + rng.normal(0, spread, 4)).tolist()
            elif kind == "segm":
                mask_HW = decoded(annotation["segmentation"])
                mask_HW = np.roll(mask_HW, rng.integers(-2, 3, 2) * (1 + mask_HW.shape[0] // 150), axis=(0, 1))
                encoding = of_mask(mask_HW)
                row["segmentation"] = {"size": encoding["size"], "counts": encoding["counts"].decode()}
            else:
                points = np.array(annotation["keypoints"]).reshape(-1, 3)
                points[:, :2] += rng.normal(0, spread, (5, 2))
                row["keypoints"] = points.ravel().tolist()
            rows.append(row)
    return rows


def found_of(rows, kind):
    """The same results as a detector of ours hands them over: in single precision, sorted by score."""
    by_image = {}
    for row in sorted(rows, key=lambda row: -row["score"]):
        by_image.setdefault(row["image_id"], []).append(row)
    for image_id, found in by_image.items():
        box_N4 = np.array([row.get("bbox", (0, 0, 1, 1)) for row in found])
        box_N4[:, 2:] += box_N4[:, :2]
        points = [row["keypoints"] for row in found] if kind == "keypoints" else None
        yield Found(
            image_id,
            box_N4.astype(np.float32),
            np.array([row["score"] for row in found], np.float32),
            np.array([row["category_id"] for row in found], np.int64),
            tuple(row["segmentation"] for row in found) if kind == "segm" else None,
            None if points is None else np.array(points, np.float32).reshape(len(found), -1, 3),
        )


def directly(annotations, rows, kind, tmp_path, sigmas=None):
    """COCOeval.stats and precision as anyone would get them, from files."""
    path = tmp_path / f"{kind}.json"
    path.write_text(json.dumps(rows))
    truth = COCO(str(annotations))
    judge = COCOeval(truth, truth.loadRes(str(path)), kind)
    if sigmas is not None:
        judge.params.kpt_oks_sigmas = np.array(sigmas)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("task", "kind"), KINDS.items())
def test_all_numbers_are_those_of_pycocotools_called_directly_bit_for_bit(task, kind, seed, folder, tmp_path, capsys):
    rows = results(folder, kind, seed)
    sigmas = [figures.SIGMA] * 5 if kind == "keypoints" else None
    judge = directly(folder / "instances.json", rows, kind, tmp_path, sigmas)
    capsys.readouterr()
    truth = open_scenes(folder, task=task)
    ours = average_precision(truth, list(found_of(rows, kind)), kind=kind)
    assert capsys.readouterr().out == ""
    assert len(ours.stats) == COUNT[kind]
    assert np.array(ours.stats).tobytes() == np.asarray(judge.stats, np.float64).tobytes()
    assert 0.05 < ours.ap < 0.95
    assert 0.05 < ours.ap75 < ours.ap50 < 1
    assert -1 < ours.ap_medium != ours.ap_large > -1
    for k, category in enumerate(truth.categories):
        precision = judge.eval["precision"][:, :, k, 0, -1]
        assert ours.by_category[category.name] == np.mean(precision[precision > -1])
    named = (ours.ap, ours.ap50, ours.ap75)
    assert named == ours.stats[:3]
    if kind == "keypoints":
        assert (ours.ap_small, ours.ap_medium, ours.ap_large, ours.ar) == (-1, *ours.stats[3:6])
    else:
        assert (ours.ap_small, ours.ap_medium, ours.ap_large, ours.ar) == (*ours.stats[3:6], ours.stats[8])


def test_the_person_of_coco_is_judged_with_its_own_sigmas(folder, tmp_path):
    content, rng = json.loads((folder / "instances.json").read_text()), np.random.default_rng(0)
    for annotation in content["annotations"]:
        left, top, across, down = annotation["bbox"]
        points = np.stack([left + across * rng.random(17), top + down * rng.random(17), rng.integers(0, 3, 17)], axis=1)
        annotation |= {
            "keypoints": points.ravel().tolist(),
            "num_keypoints": int((points[:, 2] > 0).sum()),
            "category_id": 1,
        }
    content["categories"] = [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON), "skeleton": []}]
    (tmp_path / "person.json").write_text(json.dumps(content))
    rows = []
    for annotation in content["annotations"]:
        points = np.array(annotation["keypoints"]).reshape(-1, 3) + rng.normal(0, 4, (17, 3)) * [1, 1, 0]
        rows.append(
            {
                "image_id": annotation["image_id"],
                "category_id": 1,
                "score": rng.random(),
                "keypoints": points.ravel().tolist(),
            }
        )
    truth = open_coco(tmp_path / "person.json", folder, task="keypoints")
    ours = average_precision(truth, list(found_of(rows, "keypoints")), kind="keypoints")
    judge = directly(tmp_path / "person.json", rows, "keypoints", tmp_path)
    assert ours.stats == tuple(judge.stats)
    assert 0.05 < ours.ap < 0.95
    assert truth.flip_K[COCO_PERSON.index("left_eye")] == COCO_PERSON.index("right_eye")
    assert average_precision(truth, list(found_of(rows, "keypoints")), kind="keypoints", sigmas=[0.3] * 17).ap > ours.ap


def test_other_keypoints_need_sigmas(folder):
    truth = open_scenes(folder, task="keypoints")._replace(sigma_K=())
    with pytest.raises(ValueError, match="5 keypoints are not COCO's 17: give a sigma"):
        average_precision(truth, [], kind="keypoints")
    for wrong in ([0.1] * 4, [0.1, 0.1, 0.1, 0.1, 0.0], [float("nan")] * 5):
        with pytest.raises(ValueError, match="5 keypoints need as many sigmas above 0"):
            average_precision(truth, [], kind="keypoints", sigmas=wrong)


@pytest.mark.parametrize(("task", "kind"), KINDS.items())
def test_no_detections_are_worth_nothing(task, kind, folder):
    truth = open_scenes(folder, task=task)
    nothing = Found(1, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), (), np.zeros((0, 5, 3)))
    for found in ([], [nothing]):
        ours = average_precision(truth, found, kind=kind)
        assert (ours.ap, ours.ap50, ours.ap75, ours.ar) == (0, 0, 0, 0)
        assert set(ours.by_category.values()) == {0}


@pytest.mark.parametrize(("task", "kind"), KINDS.items())
def test_the_truth_itself_is_found_exactly(task, kind, folder):
    truth = open_scenes(folder, task=task)
    ours = average_precision(truth, [as_found(scene) for scene in truth.scenes], kind=kind)
    assert (ours.ap, ours.ap50, ours.ap75, ours.ar) == pytest.approx((1, 1, 1, 1), abs=1e-12)


def as_found(scene, score=1.0):
    items = scene.instances
    keep = ~items.crowd_N
    return Found(
        scene.image_id,
        items.box_N4[keep],
        np.full(keep.sum(), score, np.float32),
        items.label_N[keep],
        None if items.rle_N is None else tuple(rle for rle, kept in zip(items.rle_N, keep, strict=True) if kept),
        None if items.keypoint_NK3 is None else items.keypoint_NK3[keep],
    )


def test_a_truth_without_objects_says_so_as_pycocotools_does(folder):
    truth = open_scenes(folder, task="detection")
    empty = [scene._replace(instances=_instances([])) for scene in truth.scenes]
    ours = average_precision(truth._replace(scenes=tuple(empty)), [], kind="bbox")
    assert set(ours.stats) == {-1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_id": 10**6}, "another set"),
        ({"label_N": np.array([9])}, "labels outside 1..8"),
        ({"label_N": np.array([0])}, "labels outside 1..8"),
        ({"score_N": np.array([np.nan])}, "not finite"),
        ({"box_N4": np.array([[0, 0, np.inf, 1.0]])}, "not finite"),
    ],
)
def test_detections_that_cannot_be_of_this_set_are_refused(change, named, folder):
    truth = open_scenes(folder, task="detection")
    found = Found(1, np.array([[0.0, 0, 5, 5]]), np.array([0.5]), np.array([1]), None, None)
    assert average_precision(truth, [found], kind="bbox").ap == 0
    with pytest.raises(ValueError, match=named):
        average_precision(truth, [found._replace(**change)], kind="bbox")
    with pytest.raises(ValueError, match="twice"):
        average_precision(truth, [found, found], kind="bbox")


def test_masks_and_keypoints_that_are_not_there_are_missed_by_name(folder):
    boxes, masked = (open_scenes(folder, task=task) for task in ("detection", "segmentation"))
    found = Found(1, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), None, None)
    with pytest.raises(ValueError, match="truth was opened without masks"):
        average_precision(boxes, [], kind="segm")
    with pytest.raises(ValueError, match="image 1 have no masks"):
        average_precision(masked, [found], kind="segm")
    with pytest.raises(ValueError, match="truth was opened without keypoints"):
        average_precision(masked, [], kind="keypoints")
    with pytest.raises(ValueError, match="kind must be one of bbox, segm, keypoints"):
        average_precision(boxes, [], kind="boxes")


def test_without_pycocotools_the_line_that_installs_it_is_named(folder, monkeypatch):
    truth = open_scenes(folder, task="detection")
    for module in ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r'pip install "viewmill\[transfer\]"'):
        average_precision(truth, [], kind="bbox")
    with pytest.raises(ValueError, match=r'pip install "viewmill\[transfer\]"'):
        open_scenes(folder, task="segmentation")


def _instances(rows):
    """(left, top, right, bottom, label, difficult)"""
    table = np.array(rows, float).reshape(-1, 6)
    box_N4 = table[:, :4].astype(np.float32)
    area_N = (box_N4[:, 2:] - box_N4[:, :2]).prod(axis=1)
    return Instances(box_N4, table[:, 4].astype(np.int64), table[:, 5] > 0, area_N, None, None)


def small_set(*images):
    scenes = [Scene(None, number, 100, 100, _instances(rows)) for number, rows in enumerate(images, start=1)]
    return SceneSet(tuple(scenes), (Category(1, "cat"), Category(2, "dog")), (), (), "")


def detections(image_id, *rows):
    """(left, top, right, bottom, score, label)"""
    table = np.array(rows, float).reshape(-1, 6)
    table = table[np.argsort(-table[:, 4], kind="stable")]
    return Found(image_id, table[:, :4].astype(np.float32), table[:, 4], table[:, 5].astype(int), None, None)


def test_the_metric_of_voc_worked_out_by_hand():
    """Two cats; found: one, then a wrong box, then the other. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    truth = small_set([(0, 0, 10, 10, 1, 0), (50, 50, 60, 60, 1, 0)])
    found = [detections(1, (0, 0, 10, 10, 0.9, 1), (30, 30, 40, 40, 0.8, 1), (50, 50, 60, 60, 0.7, 1))]
    area, points = (voc_precision(truth, found, eleven=eleven) for eleven in (False, True))
    assert area.ap50 == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert points.ap50 == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)  # recall 0, .1 ... .5 and .6 ... 1
    assert area.ap == area.ap75 == pytest.approx(area.ap50)
    assert area.by_category == {"cat": pytest.approx(area.ap50), "dog": -1}


def test_a_difficult_object_counts_neither_for_nor_against_and_a_second_detection_counts_against():
    truth = small_set([(0, 0, 10, 10, 1, 0), (50, 50, 60, 60, 1, 1)])
    good, of_difficult, again = (0, 0, 10, 10, 0.7, 1), (50, 50, 60, 60, 0.9, 1), (0, 0, 10, 10, 0.8, 1)
    assert voc_precision(truth, [detections(1, good, of_difficult)], eleven=False).ap50 == 1
    twice = voc_precision(truth, [detections(1, good, again)], eleven=False)
    assert twice.ap50 == 1  # the surest is right, the other comes after all was found
    missed = voc_precision(truth, [detections(1, good, (30, 30, 40, 40, 0.8, 1))], eleven=False)
    assert missed.ap50 == 0.5


def test_an_overlap_of_exactly_the_threshold_is_a_match_in_voc_as_the_kit_has_it():
    truth = small_set([(0, 0, 10, 10, 1, 0)])
    assert voc_precision(truth, [detections(1, (0, 0, 10, 4.99, 0.9, 1))], eleven=False).ap50 == 0
    assert voc_precision(truth, [detections(1, (0, 0, 10, 5, 0.9, 1))], eleven=False).ap50 == 1  # ovmax >= MINOVERLAP
    assert voc_precision(truth, [], eleven=True).ap50 == 0


def test_both_metrics_agree_nearly_where_nothing_is_difficult(folder):
    truth = open_scenes(folder, task="detection")
    plain = [
        scene._replace(instances=scene.instances._replace(crowd_N=scene.instances.crowd_N & False)) for scene in truth.scenes
    ]
    truth = truth._replace(scenes=tuple(plain))
    found = list(found_of(results(folder, "bbox"), "bbox"))
    coco, voc = average_precision(truth, found, kind="bbox"), voc_precision(truth, found, eleven=False)
    assert voc.ap50 == pytest.approx(coco.ap50, abs=0.02)
    assert voc.ap == pytest.approx(coco.ap, abs=0.02)


@pytest.mark.parametrize(("task", "kind"), [("detection", "bbox"), ("segmentation", "segm")])
def test_numbers_of_real_photographs_are_those_of_pycocotools_too(task, kind, tmp_path):
    """Polygons, boxes of fractions, 80 categories with gaps: where single precision might have moved a match."""
    if not (DATA / "coco128.tar").exists():
        pytest.skip("needs coco128.tar beside the checkout, in ../shared/data")
    with tarfile.open(DATA / "coco128.tar") as file:
        file.extractall(tmp_path, filter="data")
    labels, images = tmp_path / "coco128" / "instance_segmentation", tmp_path / "coco128" / "images" / "val2017"
    names = yolo.class_names(labels / "config.yaml")
    yolo.write_coco(images, labels / "labels" / "val2017", tmp_path / "a.json", names=names)
    content, rng, rows = json.loads((tmp_path / "a.json").read_text()), np.random.default_rng(0), []
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        row = {"image_id": annotation["image_id"], "category_id": annotation["category_id"], "score": float(rng.random())}
        if kind == "bbox":
            row["bbox"] = (np.array(annotation["bbox"]) * (1 + rng.normal(0, 0.1, 4))).tolist()
        else:
            moved = np.array(annotation["segmentation"][0]) + rng.normal(0, 4, len(annotation["segmentation"][0]))
            encoding = coco_masks().frPyObjects([moved.tolist()], *sizes[annotation["image_id"]])[0]
            row["segmentation"] = {"size": encoding["size"], "counts": encoding["counts"].decode()}
        rows.append(row)
    judge = directly(tmp_path / "a.json", rows, kind, tmp_path)
    truth = open_coco(tmp_path / "a.json", images, task=task)
    labels = {category.id: label for label, category in enumerate(truth.categories, start=1)}
    found = found_of([row | {"category_id": labels[row["category_id"]]} for row in rows], kind)
    ours = average_precision(truth, list(found), kind=kind)
    assert truth.notes == ()
    assert ours.stats == tuple(judge.stats)
    assert min(ours.ap_small, ours.ap_medium, ours.ap_large) > 0.02

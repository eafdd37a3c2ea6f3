"""Annotations as they come: COCO's and VOC's files are read, mended where they can be, and refused by name where not."""

import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from viewmill.transfer import drawing, figures, yolo
from viewmill.transfer.cleaning import mirrored
from viewmill.transfer.coco import open_coco
from viewmill.transfer.encodings import decoded, encoded, of_mask, unpacked
from viewmill.transfer.opened import check_objects, open_scenes
from viewmill.transfer.scene import Category, Found, check_sizes, masks, pixels
from viewmill.transfer.voc import NAMES, open_voc

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HEIGHT, WIDTH = 40, 60


def photo(path, height=HEIGHT, width=WIDTH, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path, **options)


def box(*numbers, **more):
    return {"image_id": 7, "category_id": 3, "bbox": list(numbers), "iscrowd": 0, **more}


def content_of(*annotations, **changes):
    rows = [{"id": number, **row} for number, row in enumerate(annotations, start=1)]
    images = [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}, {"id": 9, "file_name": "b.jpg"}]
    categories = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
    return {"images": images, "annotations": rows, "categories": categories} | changes


@pytest.fixture
def opening(tmp_path):
    """`opening(content, task)`: open a file of this content beside two images of 60 x 40."""
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "images" / name)

    def run(content, task="detection"):
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (tmp_path / "instances.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_coco(tmp_path / "instances.json", tmp_path / "images", task=task)

    return run


# What is as it should be


def test_boxes_labels_and_images_without_objects_are_read(opening):
    scenes = opening(content_of(box(1, 2, 10, 20, area=123.5), box(0, 0, 60, 40, category_id=90)))
    first, second = scenes.scenes
    assert (first.image_id, first.height, first.width, first.path.name) == (7, HEIGHT, WIDTH, "a.jpg")
    np.testing.assert_array_equal(first.instances.box_N4, [[1, 2, 11, 22], [0, 0, 60, 40]])
    assert first.instances.box_N4.dtype == np.float32
    assert first.instances.label_N.tolist() == [1, 2]  # ids that begin at 3 and have gaps
    assert scenes.categories == (Category(3, "cat"), Category(90, "dog"))
    assert first.instances.area_N.tolist() == [123.5, 2400]
    assert (first.instances.rle_N, first.instances.keypoint_NK3, scenes.notes) == (None, None, ())
    assert (second.height, second.width) == (HEIGHT, WIDTH)  # the file's own, where the annotations do not say
    assert second.instances.box_N4.shape == (0, 4)
    assert second.instances.label_N.dtype == np.int64


def test_pixels_are_rgb_as_they_are_stored(tmp_path, opening):
    scenes = opening(content_of(box(1, 2, 10, 20)))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(tmp_path / "images" / "a.jpg", exif=turned)
    assert pixels(scenes.scenes[0]).shape == (HEIGHT, WIDTH, 3)
    Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(tmp_path / "images" / "a.jpg")
    np.testing.assert_array_equal(pixels(scenes.scenes[0]), np.full((HEIGHT, WIDTH, 3), 90))
    check_sizes(scenes.scenes)


def test_polygons_and_both_kinds_of_run_lengths_become_the_masks_of_pycocotools(opening):
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[5:20, 10:30] = True
    packed = of_mask(square)
    plain = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT + 5, *([15, 25] * 19), 15, 20 + 30 * HEIGHT]}
    written = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    polygons = [[10, 5, 30, 5, 30, 20, 10, 20], [40.5, 10.25, 50, 10, 45, 30]]
    content = content_of(
        box(10, 5, 20, 15, segmentation=polygons[:1]),
        box(10, 5, 20, 15, segmentation=plain, iscrowd=1),
        box(10, 5, 20, 15, segmentation=written, iscrowd=1, area=7),
        box(10, 5, 40, 25, segmentation=polygons),
    )
    scene = opening(content, "segmentation").scenes[0]
    mask_NHW = masks(scene)
    assert (mask_NHW.dtype, mask_NHW.shape) == (bool, (4, HEIGHT, WIDTH))
    for n in range(3):
        np.testing.assert_array_equal(mask_NHW[n], square)
    assert scene.instances.crowd_N.tolist() == [False, True, True, False]
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH))
    assert scene.instances.rle_N[3] == merged
    assert scene.instances.area_N.tolist() == [300, 300, 7, coco_mask.area(merged)]
    assert masks(opening(content, "segmentation").scenes[1]).shape == (0, HEIGHT, WIDTH)
    assert opening(content).scenes[0].instances.rle_N is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_run_lengths_are_unpacked_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.3, 0.7, 1):
        for height, width in ((1, 1), (3, 70), (200, 131)):
            mask = rng.random((height, width)) < density
            if density == 0.3:
                mask[: height // 2] = True  # runs that grow and shrink
            encoding = of_mask(mask)
            np.testing.assert_array_equal(decoded(encoding), coco_mask.decode(encoding))
            assert unpacked(encoding["counts"]).sum() == height * width


def test_keypoints_names_and_partners_are_read(opening):
    names = ["nose", "left_eye", "right_eye", "tail"]
    categories = [{"id": 3, "name": "cat", "keypoints": names, "sigmas": [0.1] * 4}, {"id": 90, "name": "dog"}]
    points = [1, 2, 2, 3, 4, 1, 5, 6, 2, 0, 0, 0]
    content = content_of(
        box(1, 2, 10, 20, keypoints=points), box(0, 0, 60, 40), box(0, 0, 9, 9, category_id=90), categories=categories
    )
    scenes = opening(content, "keypoints")
    assert (scenes.keypoints, scenes.flip_K, scenes.sigma_K) == (tuple(names), (0, 2, 1, 3), (0.1,) * 4)
    assert scenes.categories == (Category(3, "cat"),)
    items = scenes.scenes[0].instances
    np.testing.assert_array_equal(items.keypoint_NK3, [np.reshape(points, (4, 3)), np.zeros((4, 3))])
    assert items.label_N.tolist() == [1, 1]
    assert scenes.notes == ("objects left out since their category has no keypoints: 1, the first is annotation 3",)
    assert scenes.scenes[1].instances.keypoint_NK3.shape == (0, 4, 3)
    assert len(opening(content).scenes[0].instances.label_N) == 3


def test_a_name_without_a_partner_stays_where_it_is():
    assert mirrored(("leftHand", "rightHand", "LEFT", "left_ear", "nose")) == (1, 0, 2, 3, 4)


def test_the_fingerprint_tells_annotations_apart(opening):
    one, other = content_of(box(1, 2, 10, 20)), content_of(box(1, 2, 10, 21))
    assert opening(one).fingerprint == opening(one).fingerprint != opening(other).fingerprint
    assert len(opening(one).fingerprint) == 64


# What is mended or left out, and counted

NAN = float("nan")
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
MENDED = {  # task, bad annotations, how many objects remain, the note
    "outside": (
        "detection",
        [box(-5, -5, 20, 20), box(50, 30, 20, 20)],
        2,
        "cut at the edge of their image: 2, the first is",
    ),
    "nothing left": ("detection", [box(61, 0, 5, 5), box(-9, 0, 5, 5), box(0, 41, 5, 5)], 0, "outside the image: 3"),
    "zero": ("detection", [box(5, 5, 0, 5), box(5, 5, 5, 0)], 0, "no area: 2, the first is annotation 2"),
    "negative": ("detection", [box(5, 5, -3, 5), box(9, 9, -9, -9)], 0, "no area: 2"),
    "sliver": ("detection", [box(50, 5, 1e-7, 5)], 0, "lies outside the image: 1"),
    "NaN": ("detection", [box(NAN, 5, 5, 5), box(5, 5, float("inf"), 5)], 0, "not four finite numbers: 2"),
    "not numbers": ("detection", [box("5", 5, 5, 5), box(5, 5, 5), box(), box(True, 5, 5, 5)], 0, "finite numbers: 4"),
    "no box": ("detection", [{"image_id": 7, "category_id": 3}], 0, "not four finite numbers: 1"),
    "unknown image": (
        "detection",
        [box(5, 5, 5, 5, image_id=8), box(5, 5, 5, 5, image_id="7")],
        0,
        "image is not listed: 2",
    ),
    "unknown category": ("detection", [box(5, 5, 5, 5, category_id=1)], 0, "category is not listed: 1"),
    "line": ("segmentation", [box(5, 5, 9, 9, segmentation=[[1, 1, 5, 5]])], 0, "polygons left out .*: 1"),
    "a line and a square": (
        "segmentation",
        [box(5, 5, 9, 9, segmentation=[[1, 1, 5, 5], SQUARE])],
        1,
        "polygons left out .*: 1",
    ),
    "odd": ("segmentation", [box(5, 5, 9, 9, segmentation=[[*SQUARE, 4]])], 0, "no mask: 1"),
    "far": ("segmentation", [box(5, 5, 9, 9, segmentation=[[0, 0, 1e9, 0, 0, 1e9]])], 0, "no mask: 1"),
    "NaN point": ("segmentation", [box(5, 5, 9, 9, segmentation=[[0, 0, NAN, 0, 0, 9]])], 0, "no mask: 1"),
    "no mask": ("segmentation", [box(5, 5, 9, 9), box(5, 5, 9, 9, segmentation=[])], 0, "no mask: 2"),
    "empty mask": ("segmentation", [box(5, 5, 9, 9, segmentation=[[5, 5, 5, 5, 5, 5]])], 0, "no mask: 1"),
}
for _name, _counts in {
    "short": [5, 5],
    "negative run": [-5, HEIGHT * WIDTH + 5],
    "text": "~~~~",
    "cut off": "PPPPP",
    "too long": "oooooooooooooooo0",
    "nothing": [HEIGHT * WIDTH],
    "null": None,
    "fractions": [0.5, HEIGHT * WIDTH - 0.5],
}.items():
    _rle = {"size": [HEIGHT, WIDTH], "counts": _counts}
    MENDED[f"run lengths: {_name}"] = ("segmentation", [box(5, 5, 9, 9, iscrowd=1, segmentation=_rle)], 0, "no mask: 1")
_other = {"size": [WIDTH, HEIGHT], "counts": [5, HEIGHT * WIDTH - 5]}
MENDED["run lengths: other size"] = ("segmentation", [box(5, 5, 9, 9, segmentation=_other)], 0, "no mask: 1")


@pytest.mark.parametrize("name", MENDED)
def test_what_cannot_be_used_is_left_out_and_counted_in_one_line(name, opening):
    task, bad, remain, note = MENDED[name]
    good = box(1, 2, 10, 20, segmentation=[SQUARE])
    scenes = opening(content_of(good, *bad, good), task)
    items = scenes.scenes[0].instances
    assert len(items.label_N) == 2 + remain
    assert any(re.search(note, line) for line in scenes.notes), scenes.notes
    assert len(scenes.notes) <= 2
    assert (items.box_N4[:, 2:] > items.box_N4[:, :2]).all()
    assert (items.box_N4 >= 0).all()
    assert (items.box_N4 <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    if task == "segmentation":
        assert masks(scenes.scenes[0]).any(axis=(1, 2)).all()


def test_a_pixel_past_the_edge_is_cut_without_a_word(opening):
    scenes = opening(content_of(box(-0.5, 0, 61, 40.8)))
    assert scenes.notes == ()
    np.testing.assert_array_equal(scenes.scenes[0].instances.box_N4, [[0, 0, WIDTH, HEIGHT]])


def test_a_box_that_is_not_given_is_that_of_the_polygon(opening):
    row = {"image_id": 7, "category_id": 3, "segmentation": [SQUARE]}
    for task in ("detection", "segmentation"):
        items = opening(content_of(row), task).scenes[0].instances
        np.testing.assert_array_equal(items.box_N4, [[10, 10, 20, 20]])


def test_a_file_without_annotations_is_a_set_of_empty_images(opening):
    scenes = opening(content_of())
    assert [len(scene.instances.label_N) for scene in scenes.scenes] == [0, 0]
    assert "all images count as empty" in scenes.notes[0]


def test_rows_that_are_listed_again_are_taken_once(opening):
    content = content_of(box(1, 2, 10, 20))
    content["images"].append(content["images"][0])
    content["categories"].append(content["categories"][1])
    content["annotations"].append(content["annotations"][0])
    scenes = opening(content)
    assert (len(scenes.scenes), len(scenes.categories)) == (2, 2)
    assert [line.split(":")[0] for line in scenes.notes] == [
        "rows that list a category again",
        "rows that list an image again",
        "annotations whose id was given before",
    ]


def test_keypoints_that_are_not_finite_are_not_there(opening):
    categories = [{"id": 3, "name": "cat", "keypoints": ["a", "b"]}]
    scenes = opening(content_of(box(1, 2, 9, 9, keypoints=[NAN, 2, 2, 3, 4, 5]), categories=categories), "keypoints")
    np.testing.assert_array_equal(scenes.scenes[0].instances.keypoint_NK3, [[[0, 0, 0], [3, 4, 2]]])
    assert "keypoint that is not finite" in scenes.notes[0]


# What is refused

CAPTIONS = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
PANOPTIC = content_of({"image_id": 7, "segments_info": [], "file_name": "a.png"})
POINTS = [{"id": 3, "name": "cat", "keypoints": ["a", "b"]}]
TWO = [*POINTS, {"id": 4, "name": "dog", "keypoints": ["a", "c"]}]
TWIN = [{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]
SAME_ID = content_of(categories=[{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}])
SAME_NAME = content_of(categories=[{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}])
NOT_THERE = content_of(images=[{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "c/d.jpg"}])
TEXT_SIZE = content_of(images=[{"id": 7, "file_name": "a.jpg", "height": "40", "width": 9}])
FEW_POINTS = content_of(box(1, 2, 3, 4, keypoints=[1, 2, 2]), categories=POINTS)
TEXT_POINTS = content_of(box(1, 2, 3, 4, keypoints=["1"] * 6), categories=POINTS)
REFUSED = {
    "truncated": (json.dumps(content_of(box(1, 2, 3, 4)))[:-40], "detection", "damaged or cut off"),
    "empty": ("", "detection", "damaged or cut off"),
    "binary": (b"\xff\xd8\xff\xe0", "detection", "damaged or cut off"),
    "nested": ("[" * 100_000, "detection", "damaged or cut off"),
    "captions": (CAPTIONS, "detection", "holds captions: name a file of instances"),
    "panoptic": (PANOPTIC, "detection", "holds panoptic segments"),
    "results": ([box(1, 2, 3, 4)], "detection", "as results of a detector do"),
    "a number": ("5", "detection", 'no list "images", "annotations", "categories"'),
    "no categories": ({"images": [], "annotations": []}, "detection", 'no list "categories"'),
    "lists of numbers": (content_of(images=[5]), "detection", "something that is no object"),
    "no images": (content_of(images=[]), "detection", "lists no images"),
    "an empty list of categories": (content_of(categories=[]), "detection", "lists no categories"),
    "two images of an id": (content_of(images=TWIN), "detection", "gives the id 7 to two: 'a.jpg' and 'b.jpg'"),
    "two categories of an id": (SAME_ID, "detection", "id 3 to two: 'cat' and 'dog'"),
    "two categories of a name": (SAME_NAME, "detection", "two categories of one name"),
    "an id that is text": (content_of(images=[{"id": "7", "file_name": "a.jpg"}]), "detection", "no whole number"),
    "no name": (content_of(categories=[{"id": 3}]), "detection", "has no name"),
    "missing images": (NOT_THERE, "detection", "1 of 2 images of .* are not in .*the first is c/d.jpg"),
    "a size of text": (TEXT_SIZE, "detection", "size 9 x '40'"),
    "other images' annotations": (content_of(box(1, 2, 3, 4, image_id=1)), "detection", "none of the 1 annotations"),
    "keypoints that do not match": (FEW_POINTS, "keypoints", "annotation 1 of .* has 3 numbers .* 2 x 3"),
    "keypoints of text": (TEXT_POINTS, "keypoints", "keypoint that is no number"),
    "two skeletons": (content_of(categories=TWO), "keypoints", "'cat' and 'dog' have different keypoints"),
    "no keypoints": (content_of(box(1, 2, 3, 4)), "keypoints", "has no keypoints"),
    "no such task": (content_of(box(1, 2, 3, 4)), "boxes", "task must be one of detection, segmentation, keypoints"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_meant_is_refused_by_what_it_is(name, opening):
    content, task, named = REFUSED[name]
    with pytest.raises(ValueError, match=named):
        opening(content, task)


def test_an_image_that_is_not_the_annotated_one_is_refused(tmp_path, opening):
    scene = opening(content_of(box(1, 2, 10, 20))).scenes[0]
    photo(tmp_path / "images" / "a.jpg", height=WIDTH, width=HEIGHT)
    for read in (pixels, lambda scene: check_sizes([scene])):
        with pytest.raises(ValueError, match=r"a\.jpg is 40 x 60 pixels, its annotations are for 60 x 40: it was turned"):
            read(scene)
        assert (tmp_path / "images" / "a.jpg").exists()
    whole = (tmp_path / "images" / "b.jpg").read_bytes()
    (tmp_path / "images" / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        pixels(scene)
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be opened"):
        check_sizes([scene])
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(ValueError, match="is missing"):
        pixels(scene)


def test_masks_of_a_set_that_was_opened_without_are_missed_by_name(opening):
    with pytest.raises(ValueError, match="opened without masks: open the set with the task 'segmentation'"):
        masks(opening(content_of(box(1, 2, 10, 20))).scenes[0])


def test_a_damaged_encoding_never_reaches_compiled_code():
    square = {"size": [4, 4], "counts": b"44"}
    assert encoded(square, 4, 4) is None
    with pytest.raises(ValueError, match="run lengths do not fill it"):
        decoded(square)


def test_boxes_need_no_pycocotools(opening, monkeypatch):
    for module in ("pycocotools", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(opening(content_of(box(1, 2, 10, 20))).scenes) == 2
    with pytest.raises(ValueError, match=r'pip install "viewmill\[transfer\]"'):
        opening(content_of(box(1, 2, 10, 20)), "segmentation")


ODD = [None, True, -1, 10**400, 1.5, NAN, "a", [], {"id": 7}]


@pytest.mark.parametrize("task", ["detection", "segmentation", "keypoints"])
def test_whatever_stands_anywhere_in_a_file_is_opened_or_refused(task, opening):
    """Every value of a file, replaced by every odd one: nothing but a set or a ValueError comes of it."""
    run_lengths = {"size": [HEIGHT, WIDTH], "counts": [5, 5, HEIGHT * WIDTH - 10]}
    good = content_of(
        box(1, 2, 10, 20, area=5, segmentation=[SQUARE], keypoints=[1, 2, 2, 3, 4, 1]),
        box(5, 5, 10, 20, area=5, segmentation=run_lengths, iscrowd=1),
        categories=[{"id": 3, "name": "cat", "keypoints": ["a", "b"], "sigmas": [0.1, 0.1]}],
    )
    opened = 0
    for place in _places(good):
        for odd in ODD:
            changed = json.loads(json.dumps(good))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            try:
                scenes = opening(changed, task)
            except ValueError:
                continue
            opened += 1
            for scene in scenes.scenes:
                items = scene.instances
                count = len(items.label_N)
                assert items.box_N4.shape == (count, 4)
                assert np.isfinite(items.box_N4).all()
                assert np.isfinite(items.area_N).all()
                assert items.rle_N is None or len(items.rle_N) == count
                assert items.keypoint_NK3 is None or np.isfinite(items.keypoint_NK3).all()
                assert (items.label_N >= 1).all()
    assert opened > 50


def _places(value, place=()):
    """The way to every value within lists and tables."""
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in within:
        yield (*place, key)
        yield from _places(inner, (*place, key))


# Pascal VOC

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name><bndbox><xmin>1</xmin>
<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>
<ymax>{3}</ymax></bndbox></object>"""
SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"


def thing(*ends, name="cat", difficult=0):
    return OBJECT.format(*ends, name=name, difficult=difficult)


def year_of(folder, split="trainval", kind="Main", **pages):
    """A folder of a year with one image a page."""
    for name, page in pages.items():
        photo(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations").mkdir(exist_ok=True)
        text = (
            page if page.startswith(("<annotation", "<?xml", "<!", "broken")) else f"<annotation>{SIZE}{page}</annotation>"
        )
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    (folder / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / kind / f"{split}.txt").write_text("".join(f"{name}\n" for name in pages))
    return folder


def test_boxes_of_voc_begin_at_pixel_1_and_end_with_their_last(tmp_path):
    root = year_of(tmp_path, a=thing(1, 1, 60, 40) + thing(11, 21.5, 30, 40, name="dog", difficult=1), b="")
    scenes = open_voc(root, "trainval")
    first, second = scenes.scenes
    np.testing.assert_array_equal(first.instances.box_N4, [[0, 0, 60, 40], [10, 20.5, 30, 40]])
    assert first.instances.crowd_N.tolist() == [False, True]
    assert [category.name for category in scenes.categories] == list(NAMES)
    assert [NAMES[label - 1] for label in first.instances.label_N] == ["cat", "dog"]
    assert (first.image_id, second.image_id, len(second.instances.label_N), scenes.notes) == (1, 2, 0, ())
    assert pixels(first).shape == (HEIGHT, WIDTH, 3)


def test_years_are_joined_and_one_can_be_named(tmp_path):
    year_of(tmp_path / "VOCdevkit" / "VOC2012", c_2012=thing(1, 1, 9, 9))
    year_of(tmp_path / "VOCdevkit" / "VOC2007", a=thing(1, 1, 9, 9), b=thing(1, 1, 9, 9))
    year_of(tmp_path / "VOCdevkit" / "VOC2007", split="test", t=thing(1, 1, 9, 9))
    for root in (tmp_path, tmp_path / "VOCdevkit"):
        joined = open_scenes(root / "trainval", task="detection")
        assert [scene.path.stem for scene in joined.scenes] == ["a", "b", "c_2012"]
        assert [scene.image_id for scene in joined.scenes] == [1, 2, 3]
    year = tmp_path / "VOCdevkit" / "VOC2007"
    for path in (year / "test", tmp_path / "VOCdevkit" / "test", year / "ImageSets" / "Main" / "test.txt"):
        assert [scene.path.stem for scene in open_scenes(path, task="detection").scenes] == ["t"]
    assert len(open_scenes(year / "trainval", task="detection").scenes) == 2
    with pytest.raises(ValueError, match="name a list with it"):
        open_scenes(year, task="detection")
    with pytest.raises(ValueError, match=r"no list ImageSets/Main/val\.txt; there are test, trainval"):
        open_scenes(year / "val", task="detection")


def test_a_list_of_one_class_leaves_out_images_that_lack_it(tmp_path):
    root = year_of(tmp_path, a=thing(1, 1, 9, 9), b=thing(1, 1, 9, 9))
    (root / "ImageSets" / "Main" / "cat_trainval.txt").write_text("a  1\nb -1\n")
    assert [scene.path.stem for scene in open_voc(root, "cat_trainval").scenes] == ["a"]


def test_masks_of_voc_are_the_numbers_of_its_objects(tmp_path):
    root = year_of(tmp_path, kind="Segmentation", a=thing(1, 1, 20, 20) + thing(31, 1, 40, 20) + thing(50, 1, 55, 9))
    number_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    number_HW[:20, :20], number_HW[:20, 30:40], number_HW[20, :20] = 1, 2, 255
    picture = Image.frombytes("P", (WIDTH, HEIGHT), number_HW.tobytes())
    picture.putpalette(bytes(range(256)) * 3)
    (root / "SegmentationObject").mkdir()
    picture.save(root / "SegmentationObject" / "a.png")
    scenes = open_scenes(root / "trainval", task="segmentation")
    mask_NHW = masks(scenes.scenes[0])
    np.testing.assert_array_equal(mask_NHW, [number_HW == 1, number_HW == 2])
    assert scenes.scenes[0].instances.area_N.tolist() == [400, 200]
    assert scenes.notes == ("objects left out since they have no mask: 1, the first is object 3 of a",)
    Image.fromarray(number_HW.T.copy()).save(root / "SegmentationObject" / "a.png")
    with pytest.raises(ValueError, match="is 40 x 60 pixels, its annotation is for 60 x 40"):
        open_scenes(root / "trainval", task="segmentation")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / "SegmentationObject" / "a.png")
    with pytest.raises(ValueError, match="not a palette"):
        open_scenes(root / "trainval", task="segmentation")
    (root / "SegmentationObject" / "a.png").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 1 files of SegmentationObject"):
        open_scenes(root / "trainval", task="segmentation")


def test_classes_that_voc_does_not_have_are_those_that_occur(tmp_path):
    root = year_of(tmp_path, a=thing(1, 1, 9, 9, name="robot") + thing(1, 1, 9, 9))
    scenes = open_voc(root, "trainval")
    assert scenes.categories == (Category(1, "cat"), Category(2, "robot"))
    assert scenes.scenes[0].instances.label_N.tolist() == [2, 1]


def test_boxes_of_voc_that_cannot_be_used_are_counted(tmp_path):
    root = year_of(tmp_path, a=thing(1, 1, 70, 50) + thing(9, 9, 3, 3) + thing("nan", 1, 2, 3) + thing("x", 1, 2, 3))
    scenes = open_voc(root, "trainval")
    np.testing.assert_array_equal(scenes.scenes[0].instances.box_N4, [[0, 0, 60, 40]])
    assert [line.rsplit(":", 1)[1].split(",")[0] for line in scenes.notes] == [" 1", " 1", " 2"]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (BOMB, "declares a document type or entities"),
        ('<?xml version="1.0"?>' + BOMB, "declares a document type or entities"),
        ("<annotation><object>", "is no XML"),
        ("broken", "is no XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is no XML"),
        ("<!-- no --><html/>", "holds <html>"),
        ("<object></object>", "an object without a name"),
    ],
)
def test_xml_that_is_damaged_or_dangerous_is_refused(page, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        open_voc(year_of(tmp_path, a=page), "trainval")


def test_whatever_befalls_the_bytes_of_an_xml_file_it_is_opened_or_refused(tmp_path):
    root, rng = year_of(tmp_path, a=thing(1, 1, 9, 9)), np.random.default_rng(0)
    path, opened = root / "Annotations" / "a.xml", 0
    whole = path.read_bytes()
    for _ in range(300):
        raw = bytearray(whole)
        digits = [place for place, byte in enumerate(raw) if 48 <= byte < 58]
        for place in rng.choice(digits if rng.random() < 0.7 else len(raw), 2):
            raw[place] = rng.choice([*range(45, 58), 101, rng.integers(0, 256)])
        path.write_bytes(raw[: rng.integers(1, len(raw))] if rng.random() < 0.2 else raw)
        try:
            scenes = open_voc(root, "trainval")
        except ValueError:
            continue
        opened += 1
        assert np.isfinite(scenes.scenes[0].instances.box_N4).all()
    assert 20 < opened < 290


def test_entities_in_utf_16_are_seen_too(tmp_path):
    root = year_of(tmp_path, a="")
    (root / "Annotations" / "a.xml").write_bytes(BOMB.encode("utf-16"))
    with pytest.raises(ValueError, match="declares a document type"):
        open_voc(root, "trainval")


def test_a_size_that_xml_does_not_say_is_the_images_own(tmp_path):
    root = year_of(tmp_path, a=f"<annotation>{thing(1, 1, 9, 9)}</annotation>")
    assert (open_voc(root, "trainval").scenes[0].height, open_voc(root, "trainval").scenes[0].width) == (HEIGHT, WIDTH)
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="does not say its image's size"):
        open_voc(root, "trainval")


def test_files_of_voc_that_are_missing_are_counted_and_named(tmp_path):
    root = year_of(tmp_path, a=thing(1, 1, 9, 9), b=thing(1, 1, 9, 9))
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 files of JPEGImages, the first is JPEGImages/b\.jpg"):
        open_voc(root, "trainval")
    with pytest.raises(ValueError, match="has no keypoints"):
        open_voc(root, "trainval", task="keypoints")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(ValueError, match="lists no images"):
        open_voc(root, "trainval")


# Any kind


def test_a_test_set_takes_the_labels_of_its_training_set_by_name(tmp_path, opening):
    scenes = opening(content_of(box(1, 2, 10, 20), box(1, 2, 10, 20, category_id=90)))
    path = tmp_path / "instances.json"
    training = (Category(1, "dog"), Category(2, "owl"), Category(5, "cat"))
    relabelled = open_scenes(path, task="detection", categories=training)
    assert relabelled.categories == training
    assert scenes.scenes[0].instances.label_N.tolist() == [1, 2]
    assert relabelled.scenes[0].instances.label_N.tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"1 classes that the training set does not have \(cat\); it has dog"):
        open_scenes(path, task="detection", categories=(Category(1, "dog"),))


@pytest.mark.parametrize("images", ["images", "set", "images/set", "."])
def test_images_are_found_where_sets_have_them(images, tmp_path):
    photo(tmp_path / images / "a.jpg")
    content = content_of(box(1, 2, 10, 20), images=[{"id": 7, "file_name": "a.jpg"}])
    file = tmp_path / "instances_set.json" if images in ("images", ".") else tmp_path / "annotations" / "instances_set.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    assert open_scenes(file, task="detection").scenes[0].path == tmp_path / images / "a.jpg"
    assert len(open_scenes(file, tmp_path / images, task="detection").scenes) == 1


def test_a_path_of_no_kind_is_told_what_can_be_opened(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    for path, named in ((tmp_path, "is none"), (tmp_path / "notes.txt", "is none"), (tmp_path / "x", "does not exist")):
        with pytest.raises(ValueError, match=f"{named}.*a COCO file"):
            open_scenes(path, task="detection")
    with pytest.raises(ValueError, match="does not exist: name a COCO file"):
        open_coco(tmp_path / "x.json", tmp_path, task="detection")


# Pictures


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "a"
    figures.write_scenes(folder, 6, seed=0, size=64)
    return folder


@pytest.mark.parametrize("task", ["detection", "segmentation", "keypoints"])
def test_a_picture_shows_the_truth_and_what_is_sure_enough(task, rendered):
    scenes = open_scenes(rendered, task=task)
    found = [as_found(scene, score=0.9) for scene in scenes.scenes]
    unsure = [as_found(scene, score=0.1) for scene in scenes.scenes]
    sure, nothing = (drawing.prediction_grid(scenes, each, images=4, columns=2, side=128) for each in (found, unsure))
    assert sure.dtype == np.uint8
    assert sure.shape == nothing.shape
    assert sure.shape[1] <= 2 * (2 * 128 + drawing.PAIR) + drawing.GAP
    assert sure.shape[1] > 2 * 128
    assert not np.array_equal(sure, nothing)
    several = next(number for number, scene in enumerate(scenes.scenes) if len(scene.instances.label_N) > 1)
    scene = scenes.scenes[several]
    left, right = _halves(drawing.pair(scene, found[several], scenes.categories, least=0.5, side=200))
    bare = np.asarray(Image.fromarray(pixels(scene)).resize(left.shape[1::-1], Image.Resampling.NEAREST))
    above = slice(0, int(left.shape[0] * 0.85))  # the titles differ
    marked_left, marked_right = ((half[above] != bare[above]).any(axis=2).mean() for half in (left, right))
    assert 0.02 < marked_left < 0.6
    assert marked_right == pytest.approx(marked_left, abs=0.1)
    _, empty = _halves(drawing.pair(scene, unsure[several], scenes.categories, least=0.5, side=200))
    np.testing.assert_array_equal(empty[above], bare[above])


def _halves(picture):
    side = (picture.shape[1] - drawing.PAIR) // 2
    return picture[:, :side], picture[:, -side:]


def as_found(scene, score):
    items = scene.instances
    return Found(
        scene.image_id, items.box_N4, np.full(len(items.label_N), score), items.label_N, items.rle_N, items.keypoint_NK3
    )


def test_neighbouring_labels_have_different_colours():
    colours = np.array([drawing.colour(label) for label in range(1, 91)], int)
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=1) > 100).all()


def test_a_picture_of_nothing_is_refused(rendered):
    scenes = open_scenes(rendered, task="detection")
    with pytest.raises(ValueError, match="needs detections of this set's images, got 0"):
        drawing.prediction_grid(scenes, [])


# YOLO's text files


def labelled(tmp_path, **lines):
    for name, text in lines.items():
        photo(tmp_path / "images" / f"{name}.jpg")
        if text is not None:
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / f"{name}.txt").write_text(text)
    return tmp_path / "images", tmp_path / "labels", tmp_path / "instances.json"


def test_yolo_boxes_and_polygons_become_those_of_coco(tmp_path):
    square = "5 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"
    paths = labelled(tmp_path, a=f"0 0.5 0.5 0.5 0.5\n\n{square}\n", b="", c=None)
    done = yolo.write_coco(*paths, names={0: "cat", 5: "dog"})
    assert (done.images, done.objects) == (2, 2)
    assert done.notes == ("images left out since they have no label file: 1, the first is c.jpg",)
    scenes = open_scenes(paths[2], task="detection")
    np.testing.assert_array_equal(scenes.scenes[0].instances.box_N4, [[15, 10, 45, 30], [15, 10, 30, 20]])
    assert scenes.scenes[0].instances.area_N.tolist() == [600, 150]
    assert scenes.scenes[0].instances.label_N.tolist() == [1, 2]  # class 0 is the first, not the background
    assert [scene.image_id for scene in scenes.scenes] == [1, 2]
    masked = open_scenes(paths[2], task="segmentation")
    assert masks(masked.scenes[0]).sum() == 150
    assert masked.notes == ("objects left out since they have no mask: 1, the first is annotation 1",)
    assert yolo.write_coco(*paths, names={0: "cat", 5: "dog"}, unlabelled=True).images == 3
    assert not list(tmp_path.glob("*.partial"))


def test_names_that_are_numbers_number_the_images(tmp_path):
    paths = labelled(tmp_path, **{"000009": "", "000025": ""})
    yolo.write_coco(*paths, names={0: "cat"})
    assert [scene.image_id for scene in open_scenes(paths[2], task="detection").scenes] == [9, 25]


def test_yolo_lines_that_are_no_objects_are_counted(tmp_path):
    bad = "0 0.5 0.5 0.5\n0 a b c d\n0 0.1 0.2 0.3 0.4 0.5\n0 nan 0.5 0.5 0.5\ncat 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n"
    done = yolo.write_coco(*labelled(tmp_path, a=bad), names={0: "cat"})
    assert done.objects == 1
    assert done.notes == ("lines left out since they are neither a box nor a polygon: 5, the first is line 1 of a.txt",)


def test_yolo_folders_that_cannot_be_meant_are_refused(tmp_path):
    images, labels, target = labelled(tmp_path, a="3 0.5 0.5 0.5 0.5")
    with pytest.raises(ValueError, match=r"line 1 of a\.txt has class 3, which has no name"):
        yolo.write_coco(images, labels, target, names={0: "cat"})
    with pytest.raises(ValueError, match="holds no images"):
        yolo.write_coco(tmp_path, labels, target, names={3: "cat"})
    with pytest.raises(ValueError, match="holds no labels of the 1 images"):
        yolo.write_coco(images, images, target, names={3: "cat"})
    (images / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be opened"):
        yolo.write_coco(images, labels, target, names={3: "cat"})
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [cat, dog]", {0: "cat", 1: "dog"}),
        ("names:\n  1: person\n  90: toothbrush\n", {1: "person", 90: "toothbrush"}),
    ],
)
def test_class_names_are_a_list_or_a_table(text, names, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    assert yolo.class_names(tmp_path / "a.yaml") == names
    for wrong in ("path: .", "names: 5", "- a", "names: [", "names: {a: b}"):
        (tmp_path / "a.yaml").write_text(wrong)
        with pytest.raises(ValueError, match="no table of class names"):
            yolo.class_names(tmp_path / "a.yaml")


@pytest.fixture(scope="module")
def coco128(tmp_path_factory):
    if not (DATA / "coco128.tar").exists():
        pytest.skip("needs coco128.tar beside the checkout, in ../shared/data")
    folder = tmp_path_factory.mktemp("coco128")
    with tarfile.open(DATA / "coco128.tar") as file:
        file.extractall(folder, filter="data")
    return folder / "coco128"


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_photographs_with_polygons_are_converted_and_opened(split, coco128, tmp_path):
    labels = coco128 / "instance_segmentation"
    objects = sum(len(path.read_text().splitlines()) for path in (labels / "labels" / split).glob("*.txt"))
    names = yolo.class_names(labels / "config.yaml")
    done = yolo.write_coco(coco128 / "images" / split, labels / "labels" / split, tmp_path / "a.json", names=names)
    assert (done.images, done.objects, objects > 700) == (100, objects, True)
    scenes = open_scenes(tmp_path / "a.json", coco128 / "images" / split, task="segmentation")
    check_sizes(scenes.scenes)
    assert (len(scenes.categories), scenes.categories[0], scenes.categories[-1]) == (80, (1, "person"), (90, "toothbrush"))
    assert sum(len(scene.instances.label_N) for scene in scenes.scenes) == objects
    apart = []
    for scene in scenes.scenes:
        for mask_HW, ends in zip(masks(scene), scene.instances.box_N4, strict=True):
            rows, columns = np.nonzero(mask_HW)
            apart.append(np.abs(ends - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max())
    assert np.quantile(apart, 0.95) <= 2  # polygons run through the middle of pixels


def test_real_photographs_with_boxes_are_converted_and_agree_with_their_polygons(coco128, tmp_path):
    sets = []
    for kind in ("object_detection", "instance_segmentation"):
        names = yolo.class_names(coco128 / kind / "config.yaml")
        paths = (coco128 / "images" / "val2017", coco128 / kind / "labels" / "val2017", tmp_path / f"{kind}.json")
        yolo.write_coco(*paths, names=names)
        sets.append(open_scenes(paths[2], paths[0], task="detection"))
    boxes, polygons = sets
    assert [category.id for category in boxes.categories] == list(range(80))
    assert [category.name for category in boxes.categories] == [category.name for category in polygons.categories]
    same = {scene.image_id: scene for scene in polygons.scenes}
    overlaps = []
    for scene in boxes.scenes:
        other = same.get(scene.image_id)
        for label, ends in zip(scene.instances.label_N, scene.instances.box_N4, strict=True):
            near = other.instances.box_N4[other.instances.label_N == label] if other else np.zeros((0, 4))
            if len(near):
                overlaps.append(max(_overlap(ends, each) for each in near))
    assert np.median(overlaps) > 0.9  # two people drew them


def _overlap(one, other):
    inside = np.prod(np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None))
    return inside / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - inside)


# What tools write otherwise


def test_the_text_0_is_no_crowd_and_a_set_of_crowds_alone_has_nothing_to_learn(opening, tmp_path):
    for value, crowd in (("0", False), (0.0, False), (None, False), ("1", True), (True, True), ("false", False)):
        scenes = opening(content_of(box(1, 2, 10, 20, iscrowd=value)), "detection")
        assert scenes.scenes[0].instances.crowd_N.tolist() == [crowd]
        if crowd:
            with pytest.raises(
                ValueError, match="has nothing to learn: 1 objects in 2 images, 1 of them crowds or difficult"
            ):
                check_objects(scenes, tmp_path, task="detection", use="learn")
        else:
            check_objects(scenes, tmp_path, task="detection", use="learn")
    with pytest.raises(ValueError, match="iscrowd 'some': it must be 0 or 1"):
        opening(content_of(box(1, 2, 10, 20, iscrowd="some")), "detection")
    with pytest.raises(
        ValueError, match=r"nothing to be measured on: no object that can be used; objects left out since .* 1"
    ):
        check_objects(opening(content_of(box(1, 2, 0, 20)), "detection"), tmp_path, task="detection", use="be measured on")


@pytest.mark.parametrize("number", ["3", "3.0", 3.0])
def test_a_category_is_known_by_its_number_however_it_is_written(opening, number):
    scenes = opening(content_of(box(1, 2, 10, 20, category_id=number)), "detection")
    assert scenes.scenes[0].instances.label_N.tolist() == [1]
    assert "ids or sizes that are text or have a point, taken as what they say: 1" in scenes.notes[0]


def test_of_two_categories_of_a_name_the_one_without_objects_is_left_out(opening):
    twins = [{"id": 0, "name": "cat"}, {"id": 3, "name": "cat"}]
    scenes = opening(content_of(box(1, 2, 10, 20), categories=twins), "detection")
    assert [category.id for category in scenes.categories] == [3]
    with pytest.raises(ValueError, match="two categories of one name"):
        opening(content_of(box(1, 2, 10, 20), box(1, 2, 10, 20, category_id=0), categories=twins), "detection")


def test_images_may_lie_in_a_folder_that_the_file_names_and_a_byte_order_mark_may_stand_before_it(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    content = content_of(box(1, 2, 10, 20), images=[{"id": 7, "file_name": "images/a.jpg"}])
    for folder in (tmp_path, tmp_path / "annotations"):
        folder.mkdir(exist_ok=True)
        (folder / "instances.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
        (scene,) = open_scenes(folder / "instances.json", task="detection").scenes
        assert scene.path.resolve() == (tmp_path / "images" / "a.jpg").resolve()

"""Rendered scenes: the same for the same seed, with boxes, masks and keypoints that are those of the pixels."""

import hashlib
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from viewmill.pipeline.factors import SHAPES
from viewmill.transfer import figures
from viewmill.transfer.opened import open_scenes
from viewmill.transfer.scene import check_sizes, masks, pixels

ROWS = 60


@pytest.fixture(scope="module")
def scenes():
    return [figures.rendered(row, seed=3, size=96) for row in range(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("rendered") / "a"
    figures.write_scenes(target, 24, seed=3, size=96)
    return target


def test_a_scene_depends_on_its_seed_and_row_alone(scenes):
    again = figures.rendered(7, seed=3, size=96)
    for one, other in zip(scenes[7], again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(figures.rendered(0, seed=4, size=96).image_HW3, scenes[0].image_HW3)
    assert len({hashlib.sha256(scene.image_HW3.tobytes()).hexdigest() for scene in scenes}) == ROWS


def test_a_scene_of_a_seed_never_changes():
    made = figures.rendered(2, seed=0, size=96)
    assert [SHAPES[shape] for shape in made.shape_N] == ["disc", "disc"]
    assert made.box_N4.tolist() == [[13, 37, 36, 58], [15, 17, 40, 42]]


def test_scenes_have_every_number_of_figures_every_shape_and_several_sizes(scenes):
    assert {len(scene.shape_N) for scene in scenes} == {0, 1, 2, 3, 4}
    assert {shape for scene in scenes for shape in scene.shape_N} == set(range(len(SHAPES)))
    sizes = {scene.image_HW3.shape[:2] for scene in scenes}
    assert max(max(size) for size in sizes) == 96
    assert len(sizes) > 10
    assert any(height > width for height, width in sizes)
    assert any(height < width for height, width in sizes)


def test_boxes_are_those_of_the_masks_and_lie_in_the_image(scenes):
    for scene in scenes:
        height, width = scene.image_HW3.shape[:2]
        for mask_HW, (left, top, right, bottom) in zip(scene.mask_NHW, scene.box_N4, strict=True):
            rows, columns = np.nonzero(mask_HW)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert left >= 0
            assert top >= 0
            assert right <= width
            assert bottom <= height


def test_no_pixel_is_of_two_figures_and_each_stays_visible(scenes):
    for scene in scenes:
        assert scene.mask_NHW.sum(axis=0).max(initial=0) <= 1
        for n in range(len(scene.shape_N)):
            assert scene.mask_NHW[n].sum() > 100


def test_masks_are_the_figures_in_the_picture(scenes):
    """Inside a mask, and away from its edge, no pixel is the background's, whose luma is on the other side of a half."""
    for scene in scenes:
        luma_HW = scene.image_HW3 @ np.array([0.299, 0.587, 0.114]) / 255
        any_HW = scene.mask_NHW.any(axis=0)
        if not any_HW.any():
            continue
        outside, inside = luma_HW[~_grown(_grown(any_HW))], luma_HW[~_grown(~any_HW)]
        light = inside.mean() > 0.5
        # thin tips (of a crescent) have soft ends of several pixels
        assert ((outside < 0.5) == light).mean() > 0.999
        assert ((inside > 0.5) == light).mean() > 0.999


def _grown(mask_HW):
    padded = np.pad(mask_HW, 1)
    height, width = mask_HW.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def test_keypoints_are_at_the_ends_of_figures_that_nothing_hides(scenes):
    looked = 0
    for scene in scenes:
        if len(scene.shape_N) != 1:
            continue
        points_K3, (left, top, right, bottom) = scene.keypoint_NK3[0], scene.box_N4[0]
        named = dict(zip(figures.KEYPOINTS, points_K3.tolist(), strict=True))
        assert (points_K3[:, 2] == 2).all()
        across, down = 0.1 * (right - left) + 0.5, 0.1 * (bottom - top) + 0.5
        assert top < named["top"][1] < top + down
        assert bottom - down < named["bottom"][1] < bottom
        assert left < named["left"][0] < left + across
        assert right - across < named["right"][0] < right
        looked += 1
    assert looked > 5


def test_a_keypoint_is_hidden_where_another_figure_lies_in_front(scenes):
    hidden = [
        (scene, n, x, y)
        for scene in scenes
        for n, points_K3 in enumerate(scene.keypoint_NK3)
        for x, y, visibility in points_K3
        if visibility == 1
    ]
    assert hidden
    for scene, n, x, y in hidden:
        assert scene.mask_NHW[n + 1 :, int(y), int(x)].any()


def test_a_written_folder_is_read_back_with_the_same_boxes_masks_and_keypoints(folder):
    check_sizes(open_scenes(folder, task="detection").scenes)
    with_masks, with_points = (open_scenes(folder, task=task) for task in ("segmentation", "keypoints"))
    assert [category.name for category in with_masks.categories] == list(SHAPES)
    assert (with_points.keypoints, with_points.flip_K) == (figures.KEYPOINTS, (0, 1, 4, 3, 2))
    assert with_masks.notes == with_points.notes == ()
    for row, (masked, pointed) in enumerate(zip(with_masks.scenes, with_points.scenes, strict=True)):
        made = figures.rendered(row, seed=3, size=96)
        np.testing.assert_array_equal(masked.instances.box_N4, made.box_N4)
        np.testing.assert_array_equal(masked.instances.label_N, np.array(made.shape_N, int) + 1)
        np.testing.assert_array_equal(masks(masked), made.mask_NHW)
        np.testing.assert_array_equal(masked.instances.area_N, made.mask_NHW.sum(axis=(1, 2)))
        np.testing.assert_allclose(pointed.instances.keypoint_NK3, made.keypoint_NK3, atol=0.0051)
        difference = np.abs(pixels(masked).astype(int) - made.image_HW3)
        assert difference.mean() < 6  # what JPEG changes


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_pycocotools_reads_the_file_by_itself(folder, capsys):
    coco = COCO(str(folder / "instances.json"))
    assert len(coco.getImgIds()) == 24
    assert "Done" in capsys.readouterr().out
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]


def test_the_same_arguments_write_the_same_bytes(folder, tmp_path):
    figures.write_scenes(tmp_path / "b", 24, seed=3, size=96)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(folder)).read_bytes()
    figures.write_scenes(tmp_path / "c", 5, seed=3, size=96)
    for row in range(5):
        assert (tmp_path / "c" / f"images/{row:05d}.jpg").read_bytes() == (folder / f"images/{row:05d}.jpg").read_bytes()
    whole, part = (json.loads((path / "instances.json").read_text()) for path in (folder, tmp_path / "c"))
    assert whole["images"][:5] == part["images"]
    assert whole["annotations"][: len(part["annotations"])] == part["annotations"]


@pytest.mark.parametrize(
    ("arguments", "named"), [({"row": -1, "seed": 0, "size": 64}, "-1"), ({"row": 0, "seed": 0, "size": 31}, "at least 32")]
)
def test_numbers_that_make_no_scene_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        figures.rendered(**arguments)


def test_a_folder_that_holds_something_is_not_written_into(folder, tmp_path):
    with pytest.raises(FileExistsError, match="empty"):
        figures.write_scenes(folder, 2, seed=0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        figures.write_scenes(tmp_path / "none", 0, seed=0)
    assert not (tmp_path / "none").exists()

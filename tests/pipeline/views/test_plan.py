import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from viewmill.pipeline import counter, order
from viewmill.pipeline.views import plan
from viewmill.pipeline.views.recipe import (
    RECIPES,
    Blur,
    CentreCrop,
    Jitter,
    RandomCrop,
    Recipe,
    View,
    instance,
    multicrop,
    pirl,
    simclr,
    weak,
)

HEIGHT, WIDTH = 375, 500


def drawn(recipe: Recipe, rows: np.ndarray, *, seed: int = 0, epoch: int = 0, height=HEIGHT, width=WIDTH) -> plan.ViewPlan:
    sizes = {"height_B": np.full(len(rows), height), "width_B": np.full(len(rows), width)}
    return plan.draw(recipe, seed=seed, epoch=epoch, row_B=rows, **sizes)


@pytest.mark.parametrize(
    ("count", "key", "expected"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, 0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(count, key, expected):
    assert counter.philox(count, count, count, count, key, key) == expected


def test_philox_gives_the_known_answer_for_the_digits_of_pi():
    digits = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert counter.philox(*digits, 0xA4093822, 0x299F31D0) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_seed_purpose_epoch_row_view_and_block_each_change_the_numbers():
    rows = np.arange(64)
    base = counter.uniform(counter.Key(1, 0, 3), rows, 0, 0)
    others = [
        counter.uniform(counter.Key(2, 0, 3), rows, 0, 0),
        counter.uniform(counter.Key(1 + (1 << 32), 0, 3), rows, 0, 0),
        counter.uniform(counter.Key(1, 1, 3), rows, 0, 0),
        counter.uniform(counter.Key(1, 0, 4), rows, 0, 0),
        counter.uniform(counter.Key(1, 0, 3), rows + 64, 0, 0),
        counter.uniform(counter.Key(1, 0, 3), rows, 1, 0),
        counter.uniform(counter.Key(1, 0, 3), rows, 0, 1),
    ]
    assert all(not np.isin(base, other).any() for other in others)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_what_a_row_draws_does_not_depend_on_the_batch_it_falls_in(rows, seed, epoch):
    together = drawn(simclr(64), np.array(rows), seed=seed, epoch=epoch)
    for b, row in enumerate(rows):
        alone = drawn(simclr(64), np.array([row]), seed=seed, epoch=epoch)
        for whole, single in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_array_equal(whole[:, b], single[:, 0])


@settings(deadline=None)  # the first example compiles
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.01, 1), st.floats(1, 4))
def test_boxes_always_lie_inside_the_image(height, width, low, stretch):
    recipe = Recipe((View(size=8, crop=RandomCrop((low, 1.0), (1 / stretch, stretch))), View(size=8, crop=CentreCrop())))
    top, left, h, w = np.moveaxis(drawn(recipe, np.arange(50), height=height, width=width).box_VB4, -1, 0)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def ks(ours: np.ndarray, theirs: np.ndarray) -> float:
    edges = np.sort(np.concatenate((ours, theirs)))
    shares = [np.searchsorted(np.sort(x), edges, side="right") / len(x) for x in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_boxes_follow_the_distribution_of_torchvision():
    n = 4000
    boxes = drawn(instance(224), np.arange(n)).box_VB4[0]
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(224, scale=(0.2, 1.0))
    image = torch.empty(3, HEIGHT, WIDTH)
    theirs = np.array([list(crop.make_params([image]).values()) for _ in range(n)])
    limit = 1.95 * np.sqrt(2 / n)  # a two-sided Kolmogorov-Smirnov test at .001
    for column in range(4):
        assert ks(boxes[:, column], theirs[:, column]) < limit
    assert ks(boxes[:, 2] * boxes[:, 3], theirs[:, 2] * theirs[:, 3]) < limit
    assert ks(boxes[:, 3] / boxes[:, 2], theirs[:, 3] / theirs[:, 2]) < limit


def test_an_image_too_long_for_any_try_gets_the_central_crop_of_the_nearest_aspect():
    box = drawn(instance(32), np.arange(200), height=10, width=1000).box_VB4[0]
    # of 1,000 x 10 pixels no box of aspect 3/4 to 4/3 holds a fifth
    np.testing.assert_array_equal(box, np.tile((0, 493, 10, 13), (200, 1)))


def test_colour_draws_have_the_stated_ranges_and_shares():
    recipe = Recipe((View(size=96, jitter=Jitter(0.4, 0.4, 0.4, 0.1, 0.8), grey=0.2, blur=Blur(), solarise=0.3),))
    n = 20_000
    made = drawn(recipe, np.arange(n))
    jittered = made.hue_VB[0] != 0
    assert abs(jittered.mean() - 0.8) < 0.015
    assert made.brightness_VB[0][~jittered].tolist() == [1.0] * int((~jittered).sum())
    for factor in (made.brightness_VB, made.contrast_VB, made.saturation_VB):
        values = factor[0][jittered]
        assert ks(values, np.linspace(0.6, 1.4, 20_001)) < 0.02
    assert ks(made.hue_VB[0][jittered], np.linspace(-0.1, 0.1, 20_001)) < 0.02
    assert abs(made.grey_VB.mean() - 0.2) < 0.015
    assert abs(made.solarise_VB.mean() - 0.3) < 0.015
    assert abs(made.flip_VB.mean() - 0.5) < 0.015
    assert abs((made.sigma_VB > 0).mean() - 0.5) < 0.015
    assert ks(made.sigma_VB[made.sigma_VB > 0], np.linspace(0.1, 2.0, 20_001)) < 0.02
    assert np.bincount(made.order_VB[0], minlength=24).min() > 0.8 * n / 24


def test_the_weak_recipe_takes_small_images_whole_and_of_large_ones_the_centre():
    assert drawn(weak(32), np.arange(1), height=32, width=32).box_VB4[0, 0].tolist() == [0, 0, 32, 32]
    assert drawn(weak(224), np.arange(1), height=256, width=341).box_VB4[0, 0].tolist() == [16, 58, 224, 224]


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandomCrop((0.0, 1.0)),
        lambda: RandomCrop((0.5, 0.2)),
        lambda: RandomCrop(ratio=(2.0, 1.0)),
        lambda: CentreCrop(1.5),
        lambda: Jitter(0.4, 0.4, 0.4, 0.6),
        lambda: View(size=0),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(build):
    with pytest.raises(ValueError, match="must"):
        build()


def test_views_of_one_size_share_a_group():
    views = tuple(View(size=size) for size in (224, 96, 224, 96, 96))
    assert Recipe(views).groups == ((0, 2), (1, 3, 4))


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_an_epoch_is_a_permutation(rows, seed, epoch):
    assert np.array_equal(np.sort(order.permutation(rows, seed=seed, epoch=epoch)), np.arange(rows))


def test_another_epoch_or_seed_is_another_permutation():
    base = order.permutation(1000, seed=0, epoch=0)
    assert (base == order.permutation(1000, seed=0, epoch=0)).all()
    assert (base == order.permutation(1000, seed=0, epoch=1)).mean() < 0.05
    assert (base == order.permutation(1000, seed=1, epoch=0)).mean() < 0.05


def test_the_ranks_share_out_a_batch_without_gap_or_overlap():
    whole = np.arange(48)
    for world in (1, 2, 3, 4, 6, 8):
        parts = [whole[order.share(48, rank=rank, world=world)] for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(ValueError, match="48 does not divide over 5"):
        order.share(48, rank=0, world=5)


def test_a_batch_larger_than_the_data_set_is_refused():
    assert order.steps_per_epoch(100, 33) == 3
    with pytest.raises(ValueError, match="101 is larger than the data set of 100"):
        order.steps_per_epoch(100, 101)


def test_the_nine_patches_of_a_jigsaw_lie_in_nine_cells_of_one_box_in_an_order_of_their_own():
    made = drawn(pirl(224), np.arange(300))
    box_PB4 = made.box_VB4[1:]
    height, width = box_PB4[0, :, 2], box_PB4[0, :, 3]
    np.testing.assert_array_equal(box_PB4[..., 2], np.broadcast_to(height, (9, 300)))
    np.testing.assert_array_equal(made.flip_VB[1:], np.broadcast_to(made.flip_VB[1], (9, 300)))
    orders = []
    for b in range(300):
        # patches of a cell's 64 of 85 parts: sorted along an edge, they fall into three thirds that do not touch
        rows, columns = ((np.sort(box_PB4[:, b, axis]).reshape(3, 3)) for axis in (0, 1))
        for edges, length in ((rows, height[b]), (columns, width[b])):
            assert (edges[1:].min(axis=1) >= edges[:-1].max(axis=1) + length).all()
        rank = np.lexsort((box_PB4[:, b, 1], np.digitize(box_PB4[:, b, 0], rows[1:].min(axis=1))))
        orders.append(tuple(rank))
        spread = rows[2].max() + height[b] - rows[0].min()
        assert spread <= HEIGHT
        assert spread >= 0.6**0.5 * 0.7 * HEIGHT * 0.75
    assert len(set(orders)) > 250
    firsts = np.bincount([order_[0] for order_ in orders], minlength=9)
    assert firsts.min() > 10  # 33 of 300 each, if every slot is as likely


def test_small_crops_of_multicrop_are_small():
    made = drawn(multicrop(224), np.arange(400))
    share_VB = made.box_VB4[..., 2] * made.box_VB4[..., 3] / (HEIGHT * WIDTH)
    assert 0.13 < share_VB[:2].min() < share_VB[:2].max() <= 1
    assert 0.045 < share_VB[2:].min() < share_VB[2:].max() < 0.15
    assert multicrop(224).groups == ((0, 1), (2, 3, 4, 5, 6, 7))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [8, 32, 224])
def test_every_recipe_can_be_drawn_for_images_of_any_shape(name, size):
    for height, width in ((1, 1), (3, 500), (500, 3), (375, 500)):
        top, left, h, w = np.moveaxis(drawn(RECIPES[name](size), np.arange(40), height=height, width=width).box_VB4, -1, 0)
        assert (np.minimum(top, left) >= 0).all()
        assert (np.minimum(h, w) >= 1).all()
        assert (top + h <= height).all()
        assert (left + w <= width).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": (1, 1)}, "split must share out 3 channels"),
        ({"flip": 1.5}, "flip must lie in 0 to 1"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\] must be above 0"),
        ({"size": 0}, "size must lie in 1 to 4096"),
    ],
)
def test_a_view_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        View(**({"size": 8} | change))

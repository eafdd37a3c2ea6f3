"""recipe + (seed, epoch, row, view) -> every random number of every view, before any pixel is touched.

Engines and photometric stages only execute a plan. So the same views come from any engine, on any device, with any number
of threads or ranks, and a run resumed in mid-epoch sees what it would have seen.

Shape suffixes: V = views of an image, B = images of the batch.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np

from .. import counter
from ..compiled import compiled
from .recipe import CentreCrop, Patch, RandomCrop, Recipe, View

CROP_TRIES = 10  # as torchvision; then the central crop of the nearest allowed aspect
# Blocks of four numbers in a view's stream: one per crop try, then these.
CHANCES, FACTORS, REST, PLACE = CROP_TRIES, CROP_TRIES + 1, CROP_TRIES + 2, CROP_TRIES + 3
SHUFFLE = PLACE + 1  # and the blocks after it
PARENT = 1 << 20  # the view whose stream holds what the patches of an image share
ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)  # of brightness, contrast, saturation, hue
RANDOM, CENTRE, PATCH = range(3)


class ViewPlan(NamedTuple):
    """What is done to each view. A factor of 1, a hue of 0 and a sigma of 0 leave the view as it is."""

    recipe: Recipe
    box_VB4: np.ndarray
    """int32: top, left, height, width of the crop, in pixels of the stored image."""
    flip_VB: np.ndarray
    order_VB: np.ndarray
    """int8: row of ORDERS, the order of the four colour operations."""
    brightness_VB: np.ndarray
    contrast_VB: np.ndarray
    saturation_VB: np.ndarray
    hue_VB: np.ndarray
    """float32 in turns, -0.5 to 0.5, as torchvision."""
    grey_VB: np.ndarray
    sigma_VB: np.ndarray
    """float32: blur in pixels of the view; 0 for none."""
    solarise_VB: np.ndarray


class _Rules(NamedTuple):
    """A View in numbers, for the compiled code. Pairs are lowest and highest."""

    kind: int
    scale: tuple[float, float]
    log_ratio: tuple[float, float]
    share: float
    cells: int
    slot: int
    flip: float
    jitter: float
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    hue: tuple[float, float]
    grey: float
    blur: float
    sigma: tuple[float, float]
    solarise: float


def draw(recipe: Recipe, *, seed: int, epoch: int, row_B: np.ndarray, height_B: np.ndarray, width_B: np.ndarray) -> ViewPlan:
    """The plan of a batch: rows `row_B`, stored as `height_B` x `width_B` pixels."""
    shape = len(recipe.views), len(row_B)
    kinds = (bool, np.int8, *[np.float32] * 4, bool, np.float32, bool)
    plan = ViewPlan(recipe, np.empty((*shape, 4), np.int32), *(np.empty(shape, kind) for kind in kinds))
    for v, view in enumerate(recipe.views):
        _draw_view(_rules(view), np.uint64(seed), epoch, v, row_B, height_B, width_B, *(part[v] for part in plan[1:]))
    return plan


def _rules(view: View) -> _Rules:
    kind, share, cells, slot, random = CENTRE, 1.0, 1, 0, RandomCrop()
    if isinstance(view.crop, RandomCrop):
        kind, random = RANDOM, view.crop
    elif isinstance(view.crop, Patch):
        kind, share, cells, slot, random = PATCH, view.crop.share, view.crop.cells, view.crop.slot, view.crop.within
    elif isinstance(view.crop, CentreCrop):
        share = view.crop.share
    jitter, blur = view.jitter, view.blur
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation) if jitter else (0.0, 0.0, 0.0)
    brightness, contrast, saturation = ((max(0.0, 1.0 - strength), 1.0 + strength) for strength in strengths)
    hue = float(jitter.hue) if jitter else 0.0
    return _Rules(
        kind=kind,
        scale=(float(random.scale[0]), float(random.scale[1])),
        log_ratio=(float(np.log(random.ratio[0])), float(np.log(random.ratio[1]))),
        share=float(share),
        cells=cells,
        slot=slot,
        flip=float(view.flip),
        jitter=float(jitter.probability) if jitter else 0.0,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=(-hue, hue),
        grey=float(view.grey),
        blur=float(blur.probability) if blur else 0.0,
        sigma=(float(blur.sigma[0]), float(blur.sigma[1])) if blur else (0.0, 0.0),
        solarise=float(view.solarise),
    )


@compiled()
def _draw_view(
    rules,
    seed,
    epoch,
    v,
    rows,
    heights,
    widths,
    box,
    flip,
    order,
    brightness,
    contrast,
    saturation,
    hue,
    grey,
    sigma,
    solarise,
):
    key = seed, counter.VIEWS, epoch
    for b in range(len(rows)):
        row = rows[b]
        lane = PARENT if rules.kind == PATCH else v
        if rules.kind == CENTRE:
            side = max(np.rint(min(heights[b], widths[b]) * rules.share), 1)
            top, left, h, w = _centred(side, side, heights[b], widths[b])
        else:
            top, left, h, w = _random_box(rules, key, row, lane, heights[b], widths[b])
        box[b, 0], box[b, 1], box[b, 2], box[b, 3] = top, left, h, w
        if rules.kind == PATCH:
            _take_patch(rules, key, row, v, box[b])
        flip[b] = counter.block_uniform(key, row, lane, CHANCES)[0] < rules.flip
        _, jitter, greyed, solarised = counter.block_uniform(key, row, v, CHANCES)
        f0, f1, f2, f3 = counter.block_uniform(key, row, v, FACTORS)
        blur, width, place, _ = counter.block_uniform(key, row, v, REST)
        jittered = jitter < rules.jitter
        order[b] = np.int8(place * len(ORDERS))
        brightness[b] = _between(rules.brightness, f0) if jittered else 1
        contrast[b] = _between(rules.contrast, f1) if jittered else 1
        saturation[b] = _between(rules.saturation, f2) if jittered else 1
        hue[b] = _between(rules.hue, f3) if jittered else 0
        grey[b] = greyed < rules.grey
        sigma[b] = _between(rules.sigma, width) if blur < rules.blur else 0
        solarise[b] = solarised < rules.solarise


@compiled(inline=True)
def _between(bounds, x):
    return bounds[0] + x * (bounds[1] - bounds[0])


@compiled()
def _random_box(rules, key, row, lane, height, width):
    """torchvision.transforms.RandomResizedCrop.get_params: top, left, height, width."""
    for attempt in range(CROP_TRIES):
        area, aspect, y, x = counter.block_uniform(key, row, lane, attempt)
        target = height * width * _between(rules.scale, area)
        ratio = np.exp(_between(rules.log_ratio, aspect))
        w, h = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), int(h), int(w)
    shape = width / height
    ratio = min(max(shape, np.exp(rules.log_ratio[0])), np.exp(rules.log_ratio[1]))
    return _centred(
        np.rint(width / ratio) if shape < ratio else height,
        np.rint(height * ratio) if shape > ratio else width,
        height,
        width,
    )


@compiled()
def _centred(h, w, height, width):
    h, w = int(min(max(h, 1), height)), int(min(max(w, 1), width))
    return (int(height) - h) // 2, (int(width) - w) // 2, h, w


@compiled()
def _take_patch(rules, key, row, v, box):
    """Shrink `box` to the patch of its slot: a cell by the image's own permutation, and a place drawn within the cell."""
    count = rules.cells * rules.cells
    cell = np.arange(count)
    for i in range(count - 1, 0, -1):  # Fisher and Yates
        j = int(counter.block_uniform(key, row, PARENT, SHUFFLE + i // 4)[i % 4] * (i + 1))
        cell[i], cell[j] = cell[j], cell[i]
    chosen = cell[rules.slot]
    y, x, _, _ = counter.block_uniform(key, row, v, PLACE)
    top, left, height, width = box[0], box[1], box[2] / rules.cells, box[3] / rules.cells
    h, w = max(int(height * rules.share), 1), max(int(width * rules.share), 1)
    box[0] = min(top + int((chosen // rules.cells) * height + y * (height - h)), top + box[2] - h)
    box[1] = min(left + int((chosen % rules.cells) * width + x * (width - w)), left + box[3] - w)
    box[2], box[3] = h, w

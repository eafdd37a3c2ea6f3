"""recipe + (seed, epoch, row, view) -> every random number of every view, before any pixel is touched.

Engines and photometric stages only execute a plan. So the same views come from any engine, on any device, with any number
of threads or ranks, and a run resumed in mid-epoch sees what it would have seen.

Shape suffixes: V = views of an image, B = images of the batch.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np

from . import counter
from .recipe import CentreCrop, RandomCrop, Recipe, View

CROP_TRIES = 10  # as torchvision; then the central crop of the nearest allowed aspect
# Blocks of four numbers in a view's stream: one per crop try, then these.
CHANCES, FACTORS, REST = CROP_TRIES, CROP_TRIES + 1, CROP_TRIES + 2
ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)  # of brightness, contrast, saturation, hue


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


def draw(recipe: Recipe, *, seed: int, epoch: int, row_B: np.ndarray, height_B: np.ndarray, width_B: np.ndarray) -> ViewPlan:
    """The plan of a batch: rows `row_B`, stored as `height_B` x `width_B` pixels."""
    key = counter.Key(seed, counter.VIEWS, epoch)
    views = [_draw_view(view, v, key, row_B, height_B, width_B) for v, view in enumerate(recipe.views)]
    return ViewPlan(recipe, *(np.stack(parts) for parts in zip(*views, strict=True)))


def _draw_view(
    view: View, v: int, key: counter.Key, row_B: np.ndarray, height_B: np.ndarray, width_B: np.ndarray
) -> tuple[np.ndarray, ...]:
    if isinstance(view.crop, RandomCrop):
        box_B4 = _random_boxes(view.crop, v, key, row_B, height_B, width_B)
    else:
        box_B4 = _centre_boxes(view.crop, height_B, width_B)
    flip, jitter, grey, solarise = counter.uniform(key, row_B, v, CHANCES)
    factors = counter.uniform(key, row_B, v, FACTORS)
    blur, sigma, order, _ = counter.uniform(key, row_B, v, REST)
    return (
        box_B4,
        flip < view.flip,
        (order * len(ORDERS)).astype(np.int8),
        *_colour_factors(view, jitter, factors),
        grey < view.grey,
        _sigma(view, blur, sigma),
        solarise < view.solarise,
    )


def _random_boxes(
    crop: RandomCrop, v: int, key: counter.Key, row_B: np.ndarray, height_B: np.ndarray, width_B: np.ndarray
) -> np.ndarray:
    """torchvision.transforms.RandomResizedCrop.get_params, all images at once: later tries only for those that failed."""
    box_B4 = _fallback_boxes(crop, height_B, width_B)
    open_ = np.arange(len(row_B))
    for attempt in range(CROP_TRIES):
        area, aspect, y, x = counter.uniform(key, row_B[open_], v, attempt)
        height, width = height_B[open_], width_B[open_]
        target = height * width * (crop.scale[0] + area * (crop.scale[1] - crop.scale[0]))
        low, high = np.log(crop.ratio)
        ratio = np.exp(low + aspect * (high - low))
        w, h = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        box = np.stack((np.floor(y * (height - h + 1)), np.floor(x * (width - w + 1)), h, w), axis=-1)
        box_B4[open_[fits]] = box[fits]
        open_ = open_[~fits]
        if not open_.size:
            break
    return box_B4


def _fallback_boxes(crop: RandomCrop, height_B: np.ndarray, width_B: np.ndarray) -> np.ndarray:
    ratio_B = np.clip(width_B / height_B, *crop.ratio)
    w = np.where(width_B / height_B > crop.ratio[1], np.rint(height_B * ratio_B), width_B)
    h = np.where(width_B / height_B < crop.ratio[0], np.rint(width_B / ratio_B), height_B)
    return _centred(h, w, height_B, width_B)


def _centre_boxes(crop: CentreCrop, height_B: np.ndarray, width_B: np.ndarray) -> np.ndarray:
    side_B = np.maximum(np.rint(np.minimum(height_B, width_B) * crop.share), 1)
    return _centred(side_B, side_B, height_B, width_B)


def _centred(h: np.ndarray, w: np.ndarray, height_B: np.ndarray, width_B: np.ndarray) -> np.ndarray:
    h, w = np.clip(h, 1, height_B).astype(np.int32), np.clip(w, 1, width_B).astype(np.int32)
    return np.stack(((height_B - h) // 2, (width_B - w) // 2, h, w), axis=-1).astype(np.int32)


def _colour_factors(view: View, chance_B: np.ndarray, uniform_4B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Brightness, contrast, saturation and hue, as torchvision.transforms.ColorJitter draws them."""
    if view.jitter is None:
        return (*np.ones((3, len(chance_B)), np.float32), np.zeros(len(chance_B), np.float32))
    strengths = view.jitter.brightness, view.jitter.contrast, view.jitter.saturation
    bounds = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths] + [(-view.jitter.hue, view.jitter.hue)]
    applied_B = chance_B < view.jitter.probability
    return tuple(
        np.where(applied_B, low + uniform * (high - low), neutral).astype(np.float32)
        for (low, high), uniform, neutral in zip(bounds, uniform_4B, (1, 1, 1, 0), strict=True)
    )


def _sigma(view: View, chance_B: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
    if view.blur is None:
        return np.zeros(len(chance_B), np.float32)
    low, high = view.blur.sigma
    return np.where(chance_B < view.blur.probability, low + uniform_B * (high - low), 0).astype(np.float32)

"""Rendered scenes: several figures of the embedded data on one background, with exact boxes, masks and keypoints.

The figures, their colours and their textures are those of `pipeline.factors`; a figure in front hides what lies behind
it. Boxes and masks are of what is seen. The keypoints are the centre and the four ends of the whole figure: the middle of
its outermost tenth to the top, right, bottom and left, which moves steadily as a figure turns (a corner would jump).

Shape suffixes: N = objects of one scene, K = keypoints, S = the longer side, H, W = height and width, 4 = left, top,
right, bottom, 3 = x, y, visibility or colour.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..pipeline.factors import DARK, DISTANCES, LIGHT, RANGES, SHAPES, TEXTURES, Factors, render
from .coco import write_annotations
from .encodings import of_mask

KEYPOINTS = ("centre", "top", "right", "bottom", "left")
SKELETON = ((1, 2), (1, 3), (1, 4), (1, 5))
SIGMA = 0.05
"""Of every keypoint; COCO's reach from .025 (eyes) to .107 (hips)."""
MOST = 4
EMPTY = 0.1
"""Share of scenes without a figure."""
PLACES = 12
"""Places that are tried for a figure; where others would be hidden in all of them it is left out."""
SEEN = 0.75
"""Share of a figure that is seen, at least."""
SCALE = (0.09, 0.17)
"""A unit of a figure in longer sides: boxes of about .15 to .4 sides."""
REACH = 1.25
"""Units from a figure's centre to its farthest point."""
SHORT = (0.7, 1.0)
"""The shorter side of a scene in longer ones."""
END = 0.1
OF_FIGURE = ("hue", "chroma", "rotation")
OF_BACKGROUND = ("background_hue", "background_chroma", "gradient_angle", "gradient")
BLOCKS = 34
"""Blocks of 4 words that a scene has of a Philox stream; it uses at most 9 + MOST x (7 + 2 x PLACES) = 133 words."""


class Rendered(NamedTuple):
    """A scene and what is in it, from back to front."""

    image_HW3: np.ndarray
    """uint8."""
    shape_N: tuple[int, ...]
    """Index into SHAPES."""
    mask_NHW: np.ndarray
    """bool: what is seen."""
    box_N4: np.ndarray
    """int64, of the mask."""
    keypoint_NK3: np.ndarray
    """float64, of the whole figure; hidden (1) where another figure lies in front."""


def rendered(row: int, *, seed: int, size: int) -> Rendered:
    """Scene `row` of `seed`, its longer side `size` pixels: the same for the same numbers, whatever else is rendered."""
    if row < 0 or not 0 <= seed < 2**64 or size < 32:
        raise ValueError(f"row and seed must be at least 0 and size at least 32, got {row}, {seed} and {size}")
    uniform = _uniform(seed, row)
    share, upright, light = next(uniform), next(uniform) < 0.5, next(uniform) < 0.5
    wanted = 0 if share < EMPTY else 1 + int((share - EMPTY) / (1 - EMPTY) * MOST)
    short = round(size * _between(SHORT, next(uniform)))
    height, width = (size, short) if upright else (short, size)
    behind = {name: _between(RANGES[name], next(uniform)) for name in OF_BACKGROUND}
    behind["background_luma"] = _between(DARK if light else LIGHT, next(uniform))

    figures: list[Factors] = []
    whole_N: list[np.ndarray] = []
    for _ in range(wanted):
        figure, places = _figure(uniform, behind, light)
        for x, y in places:
            margin = REACH * figure["scale"]
            place = {"x": margin + x * (width / size - 2 * margin), "y": margin + y * (height / size - 2 * margin)}
            placed = Factors(**figure, **place)
            mask_HW = _distance(placed, size)[:height, :width] <= 0
            if _all_seen([*whole_N, mask_HW]):
                figures.append(placed)
                whole_N.append(mask_HW)
                break
    image_SS3 = _picture(figures, Factors(**_no_figure(), **behind), size)
    whole_NHW = np.array(whole_N, bool).reshape(-1, height, width)
    seen_NHW = _seen(whole_NHW)
    points = [_keypoints(n, figures[n], whole_NHW, size) for n in range(len(figures))]
    return Rendered(
        image_SS3[:height, :width],
        tuple(int(figure.shape) for figure in figures),
        seen_NHW,
        np.array([_box(mask) for mask in seen_NHW], np.int64).reshape(-1, 4),
        np.array(points).reshape(-1, len(KEYPOINTS), 3),
    )


def write_scenes(folder: Path, count: int, *, seed: int, size: int = 128, quality: int = 92) -> Path:
    """Write `folder/images/<row>.jpg` and `folder/instances.json` in COCO's format: the same for the same arguments.

    Returns the path of the annotations. Images have 0 to 4 objects of 8 classes, all with the same 5 keypoints.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: name a new one or empty it first")
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in range(count):
        made = rendered(row, seed=seed, size=size)
        name, (height, width) = f"{row:05d}.jpg", made.image_HW3.shape[:2]
        Image.fromarray(made.image_HW3).save(folder / "images" / name, quality=quality)
        images.append({"id": row + 1, "file_name": name, "height": height, "width": width})
        for n, shape in enumerate(made.shape_N):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": row + 1, "category_id": shape + 1, **_annotation(made, n)}
            )
    skeleton = {"keypoints": KEYPOINTS, "skeleton": SKELETON, "sigmas": [SIGMA] * len(KEYPOINTS)}
    categories = [{"id": number, "name": name, **skeleton} for number, name in enumerate(SHAPES, start=1)]
    info = {"description": "viewmill rendered scenes", "seed": seed, "size": size}
    target = folder / "instances.json"
    write_annotations(target, {"info": info, "images": images, "annotations": annotations, "categories": categories})
    return target


def _annotation(made: Rendered, n: int) -> dict[str, Any]:
    left, top, right, bottom = made.box_N4[n].tolist()
    encoding, points_K3 = of_mask(made.mask_NHW[n]), made.keypoint_NK3[n]
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": int(made.mask_NHW[n].sum()),
        "iscrowd": 0,
        "segmentation": {"size": encoding["size"], "counts": encoding["counts"].decode("ascii")},
        "keypoints": np.round(points_K3, 2).ravel().tolist(),
        "num_keypoints": len(points_K3),
    }


def _uniform(seed: int, row: int) -> Iterator[float]:
    """Numbers in 0..1 of a scene; as in factors.draw of raw words, which no version of numpy changes."""
    # keys from 2**64 on: the streams of factors.draw, whose keys are seeds, stay apart
    stream = np.random.Philox(key=2**64 + seed).advance(row * BLOCKS)
    return iter(((stream.random_raw(4 * BLOCKS) >> np.uint64(11)) * 2.0**-53).tolist())


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def _figure(
    uniform: Iterator[float], behind: dict[str, float], light: bool
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """The factors of a figure without its place, and places to try, in shares of what is free."""
    figure: dict[str, Any] = {name: _between(RANGES[name], next(uniform)) for name in OF_FIGURE}
    figure |= {
        "shape": int(next(uniform) * len(SHAPES)),
        "texture": int(next(uniform) * len(TEXTURES)),
        "luma": _between(LIGHT if light else DARK, next(uniform)),
        "scale": _between(SCALE, next(uniform)),
    }
    return figure | behind, [(next(uniform), next(uniform)) for _ in range(PLACES)]


def _no_figure() -> dict[str, Any]:
    return {
        "shape": 0,
        "texture": 0,
        "hue": 0.0,
        "chroma": 0.0,
        "luma": 0.5,
        "x": -9.0,
        "y": -9.0,
        "scale": 0.1,
        "rotation": 0.0,
    }


def _distance(figure: Factors, size: int) -> np.ndarray:
    """Signed distances to a figure's outline in its units [S, S], at the centres of pixels, as `render` takes them.

    Infinite where the figure cannot reach, which is most of the picture.
    """
    centres = (np.arange(size) + 0.5) / size
    (top, bottom), (left, right) = (
        np.searchsorted(centres, (place - 1.5 * REACH * figure.scale, place + 1.5 * REACH * figure.scale))
        for place in (figure.y, figure.x)
    )
    across, down = centres[None, left:right] - figure.x, centres[top:bottom, None] - figure.y
    turn = np.deg2rad(figure.rotation)
    u = (across * np.cos(turn) + down * np.sin(turn)) / figure.scale
    v = (down * np.cos(turn) - across * np.sin(turn)) / figure.scale
    distance = np.full((size, size), np.inf)
    distance[top:bottom, left:right] = DISTANCES[SHAPES[figure.shape]](u, v)
    return distance


def _picture(figures: list[Factors], ground: Factors, size: int) -> np.ndarray:
    """uint8 [S, S, 3]: each figure laid over those before it."""
    ground_SS3 = render(ground, size).astype(np.float64)
    picture = ground_SS3
    for figure in figures:
        cover = np.clip(0.5 - _distance(figure, size) * size * figure.scale, 0, 1)[..., None]
        # render lays the figure over the bare ground; what else shows through its soft edge is laid beneath
        picture = render(figure, size) + (1 - cover) * (picture - ground_SS3)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _seen(whole_NHW: np.ndarray) -> np.ndarray:
    """What is seen of figures that lie one on another, the last in front."""
    seen = [mask & ~whole_NHW[n + 1 :].any(axis=0) for n, mask in enumerate(whole_NHW)]
    return np.array(seen, bool).reshape(whole_NHW.shape)


def _all_seen(whole_N: list[np.ndarray]) -> bool:
    whole_NHW = np.array(whole_N)
    return bool((_seen(whole_NHW).sum(axis=(1, 2)) >= SEEN * whole_NHW.sum(axis=(1, 2))).all())


def _box(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _keypoints(n: int, figure: Factors, whole_NHW: np.ndarray, size: int) -> np.ndarray:
    """float64 [K, 3] of the n-th figure, in the order of KEYPOINTS."""
    left, top, right, bottom = _box(whole_NHW[n])
    y, x = (places + 0.5 for places in np.nonzero(whole_NHW[n]))
    ends = (y < top + END * (bottom - top), x > right - END * (right - left))
    ends += (y > bottom - END * (bottom - top), x < left + END * (right - left))
    points = [(figure.x * size, figure.y * size), *((x[end].mean(), y[end].mean()) for end in ends)]
    return np.array([(x, y, 1 if whole_NHW[n + 1 :, int(y), int(x)].any() else 2) for x, y in points])

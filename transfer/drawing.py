"""Pictures of predictions: what is there beside what was found, boxes, masks, keypoints, labels and scores.

Shape suffixes: N = objects, K = keypoints, H, W = height and width, 3 = x, y, visibility or colour.
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..console import in_line
from .encodings import decoded
from .scene import Category, Found, Scene, SceneSet, pixels

GAP, PAIR = 12, 4  # pixels between pairs, and within one
VEIL = 0.45  # how much of a mask's colour lies over its pixels
TURN = 0.61803399  # of the circle of hues from label to label (golden ratio): neighbours always differ


def prediction_grid(
    scenes: SceneSet, found: Sequence[Found], *, images: int = 8, columns: int = 2, least: float = 0.5, side: int = 400
) -> np.ndarray:
    """uint8 [H, W, 3]: pairs of truth and detections, for `images` images evenly taken from those that were looked at.

    Of the detections those with a score of `least` or more are drawn, the surest on top, as a detector's users see them.
    Images are scaled until their longer side is `side` pixels. Crowds and difficult objects are drawn in grey.

    Raises:
        ValueError: where there are no detections of images of this set, or an image cannot be read.
    """
    known = {scene.image_id: scene for scene in scenes.scenes}
    looked = [each for each in found if each.image_id in known]
    if not looked or images < 1 or columns < 1 or side < 32:
        raise ValueError(
            f"a picture needs detections of this set's images, got {len(looked)}, and numbers of images and columns above 0 "
            f"and a side of 32 or more, got {images}, {columns} and {side}"
        )
    count = min(images, len(looked))
    chosen = [looked[len(looked) * place // count] for place in range(count)]
    pairs = [pair(known[each.image_id], each, scenes.categories, least=least, side=side) for each in chosen]
    return _laid_out(pairs, columns)


def pair(scene: Scene, found: Found, categories: Sequence[Category], *, least: float, side: int) -> np.ndarray:
    """uint8 [H, W, 3]: an image with its truth, and again with its detections, scaled until its longer side is `side`."""
    image_HW3, truth = pixels(scene), scene.instances
    names = [category.name for category in categories]
    order = np.flatnonzero(found.score_N >= least)
    order = order[np.argsort(found.score_N[order], kind="stable")]
    there = [
        (label, names[label - 1] + (" (ignored)" if crowd else ""), crowd)
        for label, crowd in zip(truth.label_N.tolist(), truth.crowd_N.tolist(), strict=True)
    ]
    scored = zip(found.label_N[order].tolist(), found.score_N[order].tolist(), strict=True)
    seen = [(label, f"{names[label - 1]} {score:.2f}", False) for label, score in scored]
    left = drawn(image_HW3, there, truth.box_N4, truth.rle_N, truth.keypoint_NK3, side=side, title=f"truth: {len(there)}")
    right = drawn(
        image_HW3,
        seen,
        found.box_N4[order],
        None if found.rle_N is None else [found.rle_N[n] for n in order],
        None if found.keypoint_NK3 is None else found.keypoint_NK3[order],
        side=side,
        title=f"found: {len(seen)} of score {least:g} and more",
    )
    return np.concatenate([left, np.full((left.shape[0], PAIR, 3), 255, np.uint8), right], axis=1)


def drawn(
    image_HW3: np.ndarray,
    labels: Sequence[tuple[int, str, bool]],
    box_N4: np.ndarray,
    rle_N: Sequence[dict[str, Any]] | None,
    keypoint_NK3: np.ndarray | None,
    *,
    side: int,
    title: str = "",
) -> np.ndarray:
    """uint8 [H, W, 3]: objects over an image, the last on top; `labels` are (label, words, whether in grey)."""
    scale = side / max(image_HW3.shape[:2])
    size = (max(1, round(image_HW3.shape[1] * scale)), max(1, round(image_HW3.shape[0] * scale)))
    colours = [(150, 150, 150) if grey else colour(label) for label, _, grey in labels]
    canvas = Image.fromarray(image_HW3).resize(size, Image.Resampling.BICUBIC if scale < 2 else Image.Resampling.NEAREST)
    if rle_N is not None:
        for encoding, tint in zip(rle_N, colours, strict=True):
            veil = Image.fromarray(np.uint8(decoded(encoding) * round(255 * VEIL))).resize(size, Image.Resampling.NEAREST)
            canvas.paste(tint, (0, 0), veil)
    tall = max(11, round(side / 32))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=tall)
    width = max(1, round(side / 200))
    for box_4, tint in zip(box_N4 * scale, colours, strict=True):
        pen.rectangle([float(end) for end in box_4], outline=tint, width=width)
    for points_K3, tint in zip(keypoint_NK3 if keypoint_NK3 is not None else (), colours, strict=False):
        _dots(pen, points_K3, tint, scale, 2 * width)
    taken = [_plate(pen, title, [(0, size[1])], (0, 0, 0), font, size, [])] if title else []
    for box_4, tint, (_, words, _) in reversed(list(zip((box_N4 * scale).tolist(), colours, labels, strict=True))):
        corners = [(box_4[0], box_4[1]), (box_4[0], box_4[1] + 1.5 * tall), (box_4[0], box_4[3] + 1.5 * tall)]
        taken.append(_plate(pen, words, corners, tint, font, size, taken))
    return np.asarray(canvas)


def _dots(pen: ImageDraw.ImageDraw, points_K3: np.ndarray, tint: tuple[int, ...], scale: float, radius: int) -> None:
    """Keypoints: filled where they are visible, hollow where they are hidden."""
    for x, y, visibility in points_K3.tolist():
        ends = [x * scale - radius, y * scale - radius, x * scale + radius, y * scale + radius]
        if visibility > 0:
            pen.ellipse(ends, fill=tint if visibility > 1 else None, outline="white" if visibility > 1 else tint, width=1)


def _plate(
    pen: ImageDraw.ImageDraw,
    words: str,
    corners: Sequence[tuple[float, float]],
    tint: tuple[int, ...],
    font: Any,
    size: tuple[int, int],
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, ...]:
    """Words on a plate that stands on the first of `corners` where it hides none of those `taken`; returns its place.

    Where all are taken it is left out: the colour still tells the class, and words on words tell nothing.
    """
    words = in_line(words)
    left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
    across, down = right - left + 4, bottom - top + 4
    for corner in corners:
        x = min(max(0.0, corner[0]), max(0.0, size[0] - across))
        y = min(max(0.0, corner[1] - down), max(0.0, size[1] - down))
        place = (x, y, x + across, y + down)
        if not any(x < other[2] and other[0] < place[2] and y < other[3] and other[1] < place[3] for other in taken):
            pen.rectangle(list(place), fill=tint)
            light = np.dot(tint, (0.299, 0.587, 0.114)) > 140  # black is read on light plates, white on dark ones
            pen.text((x + 2 - left, y + 2 - top), words, fill="black" if light else "white", font=font)
            return place
    return (0.0, 0.0, 0.0, 0.0)


def colour(label: int) -> tuple[int, int, int]:
    """A colour for a label, the same everywhere."""
    red, green, blue = colorsys.hsv_to_rgb((label * TURN) % 1, 0.8, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _laid_out(pairs: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of several sizes on white, `columns` in a line."""
    lines = [pairs[begin : begin + columns] for begin in range(0, len(pairs), columns)]
    across = [max(line[c].shape[1] for line in lines if c < len(line)) for c in range(min(columns, len(pairs)))]
    down = [max(picture.shape[0] for picture in line) for line in lines]
    canvas = np.full((sum(down) + GAP * (len(down) - 1), sum(across) + GAP * (len(across) - 1), 3), 255, np.uint8)
    for i, line in enumerate(lines):
        for c, picture in enumerate(line):
            top, left = sum(down[:i]) + GAP * i, sum(across[:c]) + GAP * c
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas

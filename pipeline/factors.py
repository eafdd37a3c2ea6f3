"""The embedded default data: rendered pictures whose factors of variation are known.

A photograph's superfluous information (what two views share that the task does not need) can only be estimated. Here it
is known exactly: the task is `shape`, and everything else in the table (colours, texture, place, size, rotation,
background) was drawn independently of it. The nuisances own most of the pixels, so neighbours in raw pixels share
colours rather than shapes; an encoder earns its accuracy by learning to ignore them.

Colours are drawn as (hue, chroma, luma) rather than HSV: equal steps of luma are equal steps of grey, so a figure stands
out from its background by a known contrast and greyscale views never hide it.
"""

import csv
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files.opening import make_text

SHAPES = ("disc", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
TEXTURES = ("solid", "stripes", "checker", "dots")

# Lengths in fractions of the picture's side, angles in degrees. Chosen by short pretrainings: wide enough that raw
# pixels say little about shape, yet a figure's outline (at most 1.25 units about its centre) always lies in the picture.
RANGES = {
    "hue": (0.0, 1.0),
    "chroma": (0.05, 0.25),
    "x": (0.30, 0.70),
    "y": (0.30, 0.70),
    "scale": (0.16, 0.24),
    "rotation": (-30.0, 30.0),
    "background_hue": (0.0, 1.0),
    "background_chroma": (0.05, 0.25),
    "gradient_angle": (0.0, 360.0),
    "gradient": (0.0, 0.4),
}
DARK, LIGHT = (0.15, 0.40), (0.60, 0.85)  # luma of the one and the other of figure and background
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 weights, what greyscale views use


@dataclass(frozen=True)
class Factors:
    """The factors of N pictures, one array [N] each; indexed by an integer, those of one picture."""

    shape: Any  # index into SHAPES: the class
    texture: Any  # index into TEXTURES
    hue: Any  # of the figure, in turns
    chroma: Any  # distance from grey, in fractions of full scale
    luma: Any  # 0 black .. 1 white
    x: Any  # centre, in fractions of the side from the left
    y: Any  # from the top
    scale: Any  # one unit of the figure, in fractions of the side
    rotation: Any  # degrees
    background_hue: Any
    background_chroma: Any
    background_luma: Any
    gradient_angle: Any  # direction in which the background's hue turns, degrees
    gradient: Any  # by how much it turns from end to end, in turns

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index) -> "Factors":
        return Factors(*(getattr(self, field.name)[index] for field in fields(self)))


def draw(count: int, seed: int) -> Factors:
    """The factors of `count` pictures [N]; row i depends on (seed, i) alone and has shape i % 8."""
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must be at least 0, got count {count}, seed {seed}")
    width = len(RANGES) + 4
    # Row i reads words i*width .. of one Philox stream, so no row depends on the count. Raw words, since numpy keeps a
    # bit generator's stream for ever but not what a Generator makes of it.
    words = np.random.Philox(key=seed).random_raw(count * width).reshape(count, width)
    uniform = iter((words >> np.uint64(11)).T * 2.0**-53)
    # Six decimals, so that a table written as text is exactly what was rendered.
    drawn = {name: np.round(low + (high - low) * next(uniform), 6) for name, (low, high) in RANGES.items()}
    dark, light = (np.round(low + (high - low) * next(uniform), 6) for low, high in (DARK, LIGHT))
    figure_is_light = next(uniform) < 0.5
    return Factors(
        shape=np.arange(count) % len(SHAPES),
        texture=(next(uniform) * len(TEXTURES)).astype(np.int64),
        luma=np.where(figure_is_light, light, dark),
        background_luma=np.where(figure_is_light, dark, light),
        **drawn,
    )


def _disc(u, v):
    return np.hypot(u, v) - 0.8


def _star(points: int, outer: float, inner: float):
    """The distance to a star; a regular polygon is one whose notches lie on the line between two tips."""
    sector = np.pi / points
    # The outward normal of the edge from the tip (outer, 0) to the notch at angle `sector`.
    edge = np.array([inner * np.sin(sector), outer - inner * np.cos(sector)])
    normal = edge / np.hypot(*edge)

    def distance(u, v):
        angle = np.arctan2(u, -v)  # 0 at the top of the picture
        folded = np.abs((angle + sector) % (2 * sector) - sector)
        return np.hypot(u, v) * np.cos(folded - np.arctan2(normal[1], normal[0])) - outer * normal[0]

    return distance


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.71


def _cross(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 0.97, np.minimum(u, v) - 0.32)


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.75) - 0.21


def _heart(u, v):
    u, v = np.abs(u), v + 0.15
    diamond = np.maximum(u + v, u - v) * np.sqrt(0.5) - 0.53  # a square on its tip, and a disc on each upper side
    return np.minimum(diamond, np.hypot(u - 0.375, v + 0.375) - 0.53)


def _crescent(u, v):
    u = u - 0.18  # about the middle of its box
    return np.maximum(np.hypot(u, v) - 1.1, 0.8 - np.hypot(u - 0.5, v))


# Signed distances, in units of the figure, at (u right, v down). Areas are equal within 5 %, so that the share of the
# picture that is figure does not tell the shape.
DISTANCES: dict[str, Callable] = {
    "disc": _disc,
    "square": _square,
    "triangle": _star(3, 1.24, 0.62),
    "star": _star(5, 1.25, 0.55),
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
}


def _pattern(texture: str, u, v, softness):
    """How much of the second colour, 0..1, a texture shows at (u, v)."""
    if texture == "solid":
        return np.zeros_like(u)
    wave_u, wave_v = np.sin(2.2 * np.pi * u), np.sin(2.2 * np.pi * v)
    wave = {"stripes": wave_v, "checker": wave_u * wave_v, "dots": wave_u + wave_v - 0.6}[texture]
    return np.clip(0.5 + wave / softness, 0, 1)


def _rgb(hue, chroma, luma):
    """Colours [..., 3] in 0..1 of exactly this luma where they lie in the cube."""
    direction = np.cos(2 * np.pi * (np.asarray(hue)[..., None] - np.array([0, 1, 2]) / 3))
    return luma + chroma * (direction - (direction @ GREY)[..., None])


def render(row: Factors, size: int) -> np.ndarray:
    """The picture uint8 [size, size, 3] of one row's factors."""
    centres = (np.arange(size) + 0.5) / size
    across, down = centres[None, :] - row.x, centres[:, None] - row.y
    turn = np.deg2rad(row.rotation)
    u = (across * np.cos(turn) + down * np.sin(turn)) / row.scale
    v = (down * np.cos(turn) - across * np.sin(turn)) / row.scale
    pixel = 1 / (size * row.scale)  # a pixel's width in units of the figure: the width of a soft edge
    cover = np.clip(0.5 - DISTANCES[SHAPES[row.shape]](u, v) / pixel, 0, 1)[..., None]

    away = 0.15 if row.luma > row.background_luma else -0.15  # the second colour never nears the background
    pattern = _pattern(TEXTURES[row.texture], u, v, 7 * pixel)[..., None]
    figure = _rgb(row.hue, row.chroma, row.luma) + away * pattern

    turn = np.deg2rad(row.gradient_angle)
    along = (centres[None, :] - 0.5) * np.cos(turn) + (centres[:, None] - 0.5) * np.sin(turn)
    background = _rgb(row.background_hue + row.gradient * along, row.background_chroma, row.background_luma)
    picture = background + cover * (figure - background)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def write_folder(folder: Path, count: int, *, seed: int, size: int = 48, quality: int = 92) -> Path:
    """Write `folder/<shape>/<row>.jpg` and `folder/metadata.csv`, the same bytes for the same arguments.

    The table's first column is `file_name`, so Hugging Face `imagefolder` reads the folder as it is; then one column per
    factor, shape and texture by name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: name a new one or empty it first")
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
    table = draw(count, seed)
    with make_text(folder / "metadata.csv", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", *(field.name for field in fields(Factors))])
        for i in range(count):
            row = table[i]
            shape, texture, *rest = astuple(row)
            name = f"{SHAPES[shape]}/{i:05d}.jpg"
            Image.fromarray(render(row, size)).save(folder / name, quality=quality)
            writer.writerow([name, SHAPES[shape], TEXTURES[texture], *(float(value) for value in rest)])
    return folder

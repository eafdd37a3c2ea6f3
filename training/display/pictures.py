"""Pictures of a training, as arrays: the views that a network saw, who is near to whom, the curves so far.

Shape suffixes: B = images of a batch, N = those that are shown, Q = queries, K = their neighbours, F = features, S = side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...files.opening import open_text
from ...files.typed import Misfit, of_json
from ...pipeline.loader import ViewBatch
from ...pipeline.views.colour_spaces import BT601, BT601_OFFSET, KNEE, LIFT, SLOPE, XYZ_OF_WHITE, Matrix
from ...pipeline.views.picture import mosaic
from ...pipeline.views.recipe import Recipe, View

SHOWN = 64  # pixels: smaller views are enlarged to about that
# What stands in for the channels that a half of a view does not hold: L without ab is grey, ab without L of one lightness.
NEUTRAL = {"rgb": (0.0, 0.0, 0.0), "lab": (60.0, 0.0, 0.0), "ycbcr": (126.0, 128.0, 128.0)}
POINTS = 4000  # of a curve: of a longer one every second is dropped, again and again
PANELS = (("loss",), ("bound", "ceiling"), ("learning_rate",), ("probe", "neighbours"))


def view_grid(batch: ViewBatch, recipe: Recipe, *, images: int = 8) -> np.ndarray:
    """uint8 [height, width, 3]: a line for each of `images` images of the batch, with all its views, as seen."""
    count = len(batch.row_B)
    columns = view_columns(batch, recipe, [count * index // min(images, count) for index in range(min(images, count))])
    return np.asarray(mosaic(columns, gaps_after=(), scale=_scale(columns)))


def view_columns(batch: ViewBatch, recipe: Recipe, images: Sequence[int]) -> list[np.ndarray]:
    """uint8 [N, S, S, 3] of each view, and of each half where views are split: those of `images`, places in the batch.

    The normalisation is undone and the colours are changed back to RGB. Waits for the device.
    """
    found: list[tuple[int, int, np.ndarray]] = []
    for pixels, (group, first, channels) in zip(batch.views, recipe.tensors, strict=True):
        members = recipe.groups[group]
        chosen = pixels.unflatten(0, (len(members), -1))[:, list(images)].to("cpu", torch.float32)
        for v, view_NCSS in zip(members, chosen, strict=True):
            found.append((v, first, _rgb(view_NCSS, recipe.views[v], first, channels)))
    return [column for _, _, column in sorted(found, key=lambda each: each[:2])]


def neighbour_grid(
    batch: ViewBatch, recipe: Recipe, feature_BF: Tensor, *, queries: int = 8, nearest: int = 6
) -> np.ndarray:
    """uint8 [height, width, 3]: a line for each query, with the other images of the batch that are nearest to it by cosine.

    Of each image the first view is shown, and `feature_BF` are its features; what is not finite there counts as 0.

    Raises:
        ValueError: where there are fewer than two images, or not as many features.
    """
    count = len(batch.row_B)
    if count < 2 or len(feature_BF) != count:
        raise ValueError(f"neighbours need two images or more and a feature of each, got {count} and {len(feature_BF)}")
    feature_BF = torch.nn.functional.normalize(feature_BF.detach().to("cpu", torch.float32).nan_to_num(0, 0, 0), dim=1)
    asked_Q = torch.arange(min(queries, count)) * count // min(queries, count)
    cosine_QB = feature_BF[asked_Q] @ feature_BF.T
    cosine_QB.scatter_(1, asked_Q[:, None], -2.0)
    found_QK = cosine_QB.topk(min(nearest, count - 1), dim=1).indices
    shown_KQ = torch.cat([asked_Q[:, None], found_QK], dim=1).T
    pixels = view_columns(batch, recipe, shown_KQ.flatten().tolist())[0]
    columns = np.split(pixels, len(shown_KQ))
    return np.asarray(mosaic(columns, gaps_after=(0,), scale=_scale(columns)))


def curves(log: Path) -> np.ndarray:
    """uint8 [height, width, 3]: loss, bound and its ceiling, learning rate and online accuracies over the steps of a log.

    Raises:
        ValueError: where the log holds no step yet, or matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # no pyplot: it keeps every figure, and asks for a screen
    except ModuleNotFoundError:
        raise ValueError('no matplotlib, so no curves are drawn: pip install "viewmill[track]"') from None
    points = _points(log)
    panels = [names for names in PANELS if any(points[name] for name in names)]
    if not panels:
        raise ValueError(f"{log} holds no step yet")
    figure = Figure(figsize=(10, 3 * -(-len(panels) // 2)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for place, names in enumerate(panels, start=1):
        axes = figure.add_subplot(-(-len(panels) // 2), min(2, len(panels)), place)
        for name in names:
            if points[name]:
                axes.plot(*zip(*points[name], strict=True), label=name.replace("_", " "), linewidth=1.2)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(loc="best", frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _points(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each curve, of as many lines of the log as can be read."""
    points: dict[str, list[tuple[int, float]]] = {name: [] for names in PANELS for name in names}
    with open_text(log, errors="replace") as file:
        for line in file:
            record = _record(line)
            for name, found in points.items():
                if isinstance(value := record.get(name), int | float):
                    found.append((record["step"], value))
                    if len(found) > POINTS:
                        del found[1::2]
    return points


def _record(line: str) -> Mapping[str, Any]:
    """A reading of the log; empty where the line is another record, or not whole yet."""
    try:
        record = of_json(line.encode(), dict[str, Any], where="log.jsonl")
    except Misfit:
        return {}
    return record if record.get("event") == "step" and isinstance(record.get("step"), int) else {}


def _scale(columns: Sequence[np.ndarray]) -> int:
    return max(1, SHOWN // max(column.shape[1] for column in columns))


def _rgb(x_NCSS: Tensor, view: View, first: int, channels: int) -> np.ndarray:
    """uint8 [N, S, S, 3] of channels `first` and on of a view, as it was before normalisation and change of space."""
    place = slice(first, first + channels)
    whole = torch.tensor(NEUTRAL[view.space])[None, :, None, None].expand(len(x_NCSS), 3, *x_NCSS.shape[2:]).clone()
    mean, std = (torch.tensor(values[place])[:, None, None] for values in (view.mean, view.std))
    whole[:, place] = x_NCSS * std + mean
    rgb = from_space(whole, view.space)
    return (rgb * 255).round().nan_to_num(0).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def from_space(x_N3SS: Tensor, space: str) -> Tensor:
    """RGB, 0..1 but for rounding, of what `pipeline.spaces.to_space` made in `space`."""
    if space == "rgb":
        return x_N3SS
    if space == "ycbcr":
        return _mixed(BT601, x_N3SS - torch.tensor(BT601_OFFSET)[:, None, None])
    lightness, a, b = x_N3SS.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    share = torch.where(root > KNEE ** (1 / 3), root**3, (root - LIFT) / SLOPE)
    linear = _mixed(XYZ_OF_WHITE, share).clamp(min=0)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def _mixed(matrix: Matrix, x_N3SS: Tensor) -> Tensor:
    """What `matrix` made `x_N3SS` of."""
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(torch.tensor(matrix, dtype=torch.float64)).float(), x_N3SS)

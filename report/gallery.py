"""What can be shown while the images and the encoder are still there: views, neighbours, a map of the embeddings.

Shape suffixes: N = sampled images, Q = queries, K = their neighbours, S = side.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..console import counting
from ..pipeline.beton.reader import Beton
from ..pipeline.views.picture import originals
from .charts import COLOURS, svg
from .flat import flat
from .markup import Html, folded, section, share, table, tag
from .read import Run
from .seen import Gone, Sample, classes_of, images_of, recipe_of_run, sample_of, views_of

NEAREST = 6
TILE = 64  # pixels of a tile of photographs; smaller images stay what they are
VIEW = 112
PLANE, MARGIN = 400, 8
COLOURED = 2 * COLOURS  # classes that have a colour and a shape of their own
MOST_NAMED = 2000  # classes in a legend, which scrolls by itself


class Shown(NamedTuple):
    """What there is to show of a run."""

    run: Run
    beton: Beton | None
    sample: Sample | None
    reason: str = ""
    """Why there is none, or no sample."""
    unfit: str = ""
    """Why the images that were named are not the run's."""


def gather(run: Run, given: Path | None, *, images: int) -> Shown:
    """Open a run's images, those in `given` or else where they were, and take features of a sample."""
    unfit = ""
    try:
        try:
            beton = images_of(run, given)
        except Gone as error:
            if given is None:
                raise
            unfit = str(error)
            beton = images_of(run, None)
    except Gone as error:
        return Shown(run, None, None, unfit or str(error), unfit)
    try:
        with counting(f"features of {run.name}") as progress:
            return Shown(run, beton, sample_of(run, beton, images=images, progress=progress), "", unfit)
    except Gone as error:
        return Shown(run, beton, None, str(error), unfit)


def tile(pixels: np.ndarray, text: str, *, most: int = TILE, kind: str = "") -> Html:
    """An image of uint8 [S, S, 3] in the page itself: a JPEG where it is a photograph, a PNG where it has few pixels."""
    picture, side = Image.fromarray(pixels), pixels.shape[0]
    if side > most:
        picture = picture.resize((most, most), Image.Resampling.LANCZOS)
    file, small = io.BytesIO(), side < TILE
    picture.save(file, "PNG", optimize=True) if small else picture.save(file, "JPEG", quality=82)
    source = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
    classes = f"tile{' small' if small else ''}{f' {kind}' if kind else ''}"
    return tag("img", src=source, alt=text, title=text, class_=classes, loading="lazy")


def views(shown: Sequence[Shown], recipes: Mapping[str, str]) -> Html:
    """A line for each of some images: the whole, and its views as the network saw them."""
    note = (
        "What the network saw, made again from the run's plan: left the whole image, then its views in the last epochs, "
        "before normalisation and change of colour space. Could a person still tell that they are one image?"
    )
    return section("views", "Views", note, _each(shown, lambda one: _views(one, recipes)))


def _views(shown: Shown, recipes: Mapping[str, str]) -> tuple[str, Html]:
    run, beton, *_ = shown
    if beton is None:
        raise Gone(shown.reason)
    made = views_of(run, beton, recipe_of_run(run, recipes))
    tiles = _heads("whole image", *(which for which, _ in made.views))
    for place, row in enumerate(made.row_B.tolist()):
        tiles.append(tile(made.originals[place], f"image {row}", most=VIEW))
        tiles += [tile(pixels[place], f"image {row}, {which}", most=VIEW) for which, pixels in made.views]
    first, last = made.epochs[0], made.epochs[-1]
    told = f"epoch {last}" if first == last else f"epochs {first} to {last}"
    return told, tag("div", *tiles, class_="tiles", style=f"--columns:{len(made.views) + 1}")


def _heads(*words: str) -> list[Html]:
    """What stands in each column of tiles, above it."""
    return [tag("span", word, class_="head") for word in words]


def neighbours(shown: Sequence[Shown]) -> Html:
    """Queries of every class and the images that the encoder finds nearest."""
    note = (
        f"Left an image, then the {NEAREST} that are nearest to it by cosine of the frozen features, among a sample of the "
        "training images. ✓ and ✗ say whether their class is the same; the encoder never saw a class."
    )

    def told(one: Shown) -> tuple[str, Html]:
        beton, sample = _sampled(one)
        return f"{len(sample.row_N):,} images", _neighbours(beton, sample, len(shown))

    return section("neighbours", "Nearest neighbours", note, _each(shown, told))


def _neighbours(beton: Beton, sample: Sample, runs: int) -> Html:
    cosine_NN = sample.feature_NF @ sample.feature_NF.T
    cosine_NN.fill_diagonal_(-2)
    near_NK = cosine_NN.topk(min(NEAREST, len(sample.row_N) - 1), dim=1).indices.numpy()
    names, label_N = classes_of(beton), sample.label_N
    right_N = (label_N[near_NK] == label_N[:, None]).mean(axis=1)
    asked = _queries(label_N, classes=10 if runs <= 3 else 4, each=2 if runs <= 3 else 1)
    wanted = np.unique(np.concatenate([asked, near_NK[asked].ravel()]))
    side = min(TILE, _side(beton))
    pixels = dict(zip(wanted.tolist(), originals(beton, sample.row_N[wanted], size=side), strict=True))
    blocks: dict[int, list[Html]] = {}
    for query in asked.tolist():
        own = int(label_N[query])
        tiles = blocks.setdefault(own, [])
        tiles.append(tile(pixels[query], f"query: {_class(own, names)}, row {sample.row_N[query]}"))
        for near in near_NK[query].tolist():
            other = int(label_N[near])
            kind = "" if own < 0 else "right" if other == own else "wrong"
            told = f"{_class(other, names)}, row {sample.row_N[near]}, cosine {cosine_NN[query, near]:.3f}"
            mark = tag("span", {"right": "✓", "wrong": "✗", "": ""}[kind], class_=f"mark {kind}")
            tiles.append(tag("span", tile(pixels[near], told, kind=kind), mark, class_="marked"))
    heads = _heads("image", "nearest", *(f"{rank}." for rank in range(2, near_NK.shape[1] + 1)))
    strips = [
        tag(
            "div",
            tag("p", _class(own, names), class_="of") if names else None,
            tag("div", *heads, *tiles, class_="tiles", style=f"--columns:{near_NK.shape[1] + 1}"),
        )
        for own, tiles in blocks.items()
    ]
    strip = tag("div", *strips, class_="classes")
    if not names:
        return strip
    labels = [label for label in np.unique(label_N).tolist() if label >= 0]
    rows = [(names[label], f"{(label_N == label).sum():,}", share(right_N[label_N == label].mean())) for label in labels]
    chance = sum(((label_N == label).mean()) ** 2 for label in labels)
    rows.append(("all", f"{(label_N >= 0).sum():,}", f"{share(right_N[label_N >= 0].mean())} (chance {share(chance)})"))
    numbers = table(("class", "images", f"of its {near_NK.shape[1]} nearest, same class"), rows)
    return tag("div", strip, folded("The same in numbers, class by class", numbers))


def _queries(label_N: np.ndarray, *, classes: int, each: int) -> np.ndarray:
    """Places of `each` images of at most so many classes, both spread evenly; without classes a dozen images."""
    labels = np.unique(label_N[label_N >= 0])
    if not len(labels):
        return np.unique(np.linspace(0, len(label_N) - 1, 12).round().astype(np.int64))
    chosen = labels[np.unique(np.linspace(0, len(labels) - 1, classes).round().astype(np.int64))]
    found = []
    for label in chosen:
        own = np.flatnonzero(label_N == label)
        found.append(own[np.unique(np.linspace(0, len(own) - 1, each + 2).round().astype(np.int64))[:each]])
    return np.concatenate(found)


def _class(label: int, names: Mapping[int, str]) -> str:
    return names.get(label, "no class")


def _side(beton: Beton) -> int:
    return int(max(8, np.median(np.minimum(beton.height_N, beton.width_N))))


def atlas(shown: Sequence[Shown]) -> Html:
    """Embeddings on a plane, coloured by class."""
    note = (
        "Each dot is an image; near ones have similar features. An island of one colour is a class that the encoder tells "
        "apart; distances between far islands mean little. Point at a dot for its class; names switch classes on and off."
    )
    return section("map", "Map of the embeddings", note, _each(shown, _atlas))


def _atlas(shown: Shown) -> tuple[str, Html]:
    beton, sample = _sampled(shown)
    place_N2, how = flat(sample.feature_NF)
    return f"{len(sample.row_N):,} images, {how}", _scatter(place_N2, sample.label_N, classes_of(beton))


def _scatter(place_N2: np.ndarray, label_N: np.ndarray, names: Mapping[int, str]) -> Html:
    at_N2 = MARGIN + place_N2 * (PLANE - 2 * MARGIN)
    groups, legend = [], []
    for order, label in enumerate(np.unique(label_N).tolist()):
        own_N = label_N == label
        name = _class(label, names)
        dots = "".join(f"M{x:.1f} {y:.1f}h.01" for x, y in at_N2[own_N])
        kind = "none" if label < 0 or order >= COLOURED else f"s{order % COLOURS}" + (" square" if order >= COLOURS else "")
        groups.append(tag("path", d=dots, class_=f"dots {kind}", data_name=name))
        if order < MOST_NAMED:
            swatch = tag("i", class_=f"swatch {kind}")
            legend.append(tag("button", swatch, name, type="button", aria_pressed="true", data_name=name, class_="toggle"))
    told = f"{len(at_N2)} images of {len(groups)} classes"
    picture = svg("Map of the embeddings", told, *groups, height=PLANE, class_="atlas")
    if len(groups) > MOST_NAMED:
        legend.append(tag("span", f"and {len(groups) - MOST_NAMED:,} more classes"))
    keys = [tag("div", *legend, class_="legend classes-of-map")] if len(legend) > 1 else []
    return tag("figure", picture, tag("output", class_="under"), *keys, class_="map")


def _sampled(shown: Shown) -> tuple[Beton, Sample]:
    if shown.beton is None or shown.sample is None:
        raise Gone(shown.reason)
    return shown.beton, shown.sample


def _each(shown: Sequence[Shown], picture: Callable[[Shown], tuple[str, Html]]) -> Html:
    """What `picture` makes of each run, below its words, or why it made nothing; each run is named where there are more."""
    parts = []
    for one in shown:
        name = tag("b", one.run.name) if len(shown) > 1 else None
        try:
            told, part = picture(one)
        except Gone as error:
            parts.append(tag("div", tag("p", name, ": " if name else "", f"Not shown: {error}.", class_="absent")))
        else:
            parts.append(tag("div", tag("p", name, " " if name else "", told, class_="whose"), part))
    return tag("div", *parts, class_="grid wide")

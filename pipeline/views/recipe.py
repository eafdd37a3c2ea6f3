"""What a view is: frozen dataclasses that a plan is drawn from. No torch here, so that `--help` is instant."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from ...files.typed import check_fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# As the authors of CMC (arXiv 1906.05849) normalise: the middle and half the range of each channel.
LAB_MEAN, LAB_STD = (50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)
VIEWS = 64  # of an image, at most
SCALES = {"rgb": (0, 1), "lab": (-128, 128), "ycbcr": (0, 255)}  # what a channel's value may be
YCBCR_MEAN, YCBCR_STD = (116.151, 121.080, 132.342), (109.500, 111.855, 111.964)

Probability = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Strength = Annotated[float, Meta(ge=0, le=10)]
Side = Annotated[int, Meta(ge=1, le=4096)]
Sigma = Annotated[float, Meta(gt=0, le=1000)]
Positive = Annotated[float, Meta(gt=0)]
Channels = Annotated[int, Meta(ge=1, le=3)]
Ratio = Annotated[float, Meta(ge=0.01, le=100)]


@dataclass(frozen=True)
class RandomCrop:
    """torchvision's RandomResizedCrop: an area share and an aspect ratio (log-uniform), placed uniformly."""

    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must rise within (0, 1], got {self.scale}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must rise above 0, got {self.ratio}")


@dataclass(frozen=True)
class CentreCrop:
    """The centred square whose side is `share` of the shorter side: 0.875 is resize 256 and crop 224."""

    share: Share = 0.875

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Patch:
    """One of `cells` x `cells` patches of a crop that all patches of an image share, as PIRL's jigsaw (arXiv 1912.01991).

    Slot `slot` holds the patch of a cell by a permutation drawn for each image; the patch covers `share` of the cell's
    height and width, at a place of its own. 64 of 85 px are the paper's.
    """

    slot: Annotated[int, Meta(ge=0)]
    within: RandomCrop = RandomCrop((0.6, 1.0))
    cells: Annotated[int, Meta(ge=1, le=16)] = 3
    share: Share = 64 / 85

    def __post_init__(self) -> None:
        check_fields(self)
        if self.slot >= self.cells**2:
            raise ValueError(f"a slot must lie in 0 to {self.cells**2 - 1}, got {self.slot}")


@dataclass(frozen=True)
class Jitter:
    """torchvision's ColorJitter, applied with `probability`; factors are drawn from 1 +- the strength, hue from +- hue."""

    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue: Annotated[float, Meta(ge=0, le=0.5)]
    probability: Probability = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with `probability`; `sigma` in pixels of the view, drawn uniformly."""

    probability: Probability = 0.5
    sigma: tuple[Sigma, Sigma] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma must rise above 0, got {self.sigma}")


@dataclass(frozen=True)
class View:
    """One view of an image: `size` in pixels, then what may happen to it, in the order of the fields.

    `split` cuts its channels into tensors of their own: (1, 2) is L and ab, two halves of one draw.
    """

    size: Side
    crop: RandomCrop | CentreCrop | Patch = RandomCrop()
    flip: Probability = 0.5
    jitter: Jitter | None = None
    grey: Probability = 0.0
    blur: Blur | None = None
    solarise: Probability = 0.0
    space: Literal["rgb", "lab", "ycbcr"] = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    split: tuple[Channels, ...] = (3,)

    def __post_init__(self) -> None:
        check_fields(self)
        if sum(self.split) != 3:
            raise ValueError(f"split must share out 3 channels, got {self.split}")
        low, high = SCALES[self.space]
        if not all(low <= middle <= high for middle in self.mean):
            advice = ": divide by 255" if self.space == "rgb" else ""
            raise ValueError(f"mean of {self.space} must lie in {low} to {high}, got {self.mean}{advice}")
        if max(self.std) > high:
            advice = ": divide by 255" if self.space == "rgb" else ""
            raise ValueError(f"std of {self.space} must be above 0 and at most {high}, got {self.std}{advice}")

    @property
    def has_colour(self) -> bool:
        """Whether colours may change."""
        return self.jitter is not None or self.grey > 0


@dataclass(frozen=True)
class Recipe:
    """The views of one image. Views of equal size, space and split travel together: a group."""

    views: tuple[View, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.views) <= VIEWS:
            raise ValueError(f"a recipe has 1 to {VIEWS} views, got {len(self.views):,}")

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Which views travel together: positions in `views`, in the order of first appearance."""
        kinds = [(view.size, view.space, view.split) for view in self.views]
        return tuple(tuple(v for v, kind in enumerate(kinds) if kind == found) for found in dict.fromkeys(kinds))

    @property
    def tensors(self) -> tuple[tuple[int, int, int], ...]:
        """Group, first channel and number of channels of each tensor of a batch: a group that is split makes several."""
        found: list[tuple[int, int, int]] = []
        for group, members in enumerate(self.groups):
            first = 0
            for channels in self.views[members[0]].split:
                found.append((group, first, channels))
                first += channels
        return tuple(found)


def with_views(recipe: Recipe, count: int) -> Recipe:
    """The recipe with `count` views: of fewer the first are left, further ones are as its last."""
    views = recipe.views
    return Recipe((*views[:count], *[views[-1]] * (count - len(views))))


def in_parts(recipe: Recipe, parts: int) -> Recipe:
    """The recipe whose views are cut into so many parts: the first channel, and the other two together or alone."""
    split = (1, 2) if parts == 2 else (1,) * parts
    return Recipe(tuple(replace(view, split=split) for view in recipe.views))


def _strong(size: int) -> View:
    """SimCLR's view in MoCo v2's strengths; no blur up to 64 px, as SimCLR does for CIFAR-10."""
    jitter, blur = Jitter(0.4, 0.4, 0.4, 0.1, probability=0.8), Blur() if size > 64 else None
    return View(size=size, jitter=jitter, grey=0.2, blur=blur)


def simclr(size: int) -> Recipe:
    """Two strong views (arXiv 2002.05709, appendix A, in the strengths of MoCo v2, arXiv 2003.04297)."""
    return Recipe((_strong(size), _strong(size)))


def _instance(size: int) -> View:
    return View(size=size, jitter=Jitter(0.4, 0.4, 0.4, 0.4), grey=0.2)


def instance(size: int) -> Recipe:
    """The one view of instance discrimination (arXiv 1805.01978): crop, greyscale, jitter .4 in all four, flip."""
    return Recipe((_instance(size),))


def moco_v1(size: int) -> Recipe:
    """Two views of instance discrimination's kind (arXiv 1911.05722)."""
    return Recipe((_instance(size), _instance(size)))


def multicrop(size: int) -> Recipe:
    """Two large views and six small ones (SwAV, arXiv 2006.09882: 224 and 96 px, 14 to 100 % and 5 to 14 % of the area)."""
    large = replace(_strong(size), crop=RandomCrop((0.14, 1.0)))
    small = replace(_strong(max(1, round(size * 96 / 224))), crop=RandomCrop((0.05, 0.14)), blur=large.blur)
    return Recipe((large, large, *[small] * 6))


def asymmetric(size: int) -> Recipe:
    """Two views of different strength: one always blurred, one seldom, and solarised (BYOL, arXiv 2006.07733, table 6)."""
    view = View(
        size=size, crop=RandomCrop((0.08, 1.0)), jitter=Jitter(0.4, 0.4, 0.2, 0.1, probability=0.8), grey=0.2, blur=Blur(1.0)
    )
    return Recipe((view, replace(view, blur=Blur(0.1), solarise=0.2)))


def lab(size: int) -> Recipe:
    """One view as L and as ab, for CMC (arXiv 1906.05849): crop and flip only, since greyscale would leave ab empty."""
    return Recipe((View(size=size, space="lab", mean=LAB_MEAN, std=LAB_STD, split=(1, 2)),))


def ycbcr(size: int) -> Recipe:
    """One view as Y and as CbCr, for CMC."""
    return Recipe((View(size=size, space="ycbcr", mean=YCBCR_MEAN, std=YCBCR_STD, split=(1, 2)),))


def pirl(size: int) -> Recipe:
    """An image and its nine jigsaw patches in random order (PIRL, arXiv 1912.01991: 224 and 64 px)."""
    patch = _instance(max(1, round(size * 64 / 224)))
    return Recipe((_instance(size), *(replace(patch, crop=Patch(slot)) for slot in range(9))))


def weak(size: int, colours: View | None = None) -> Recipe:
    """The evaluation view: the centre, resized. Small images are taken whole, others as resize 256 and crop 224.

    Its colour space and normalisation are those of `colours`, a view that was trained on.
    """
    like = colours or View(size=size)
    crop = CentreCrop(1.0 if size <= 64 else 0.875)
    return Recipe((View(size=size, crop=crop, flip=0.0, space=like.space, mean=like.mean, std=like.std),))


RECIPES: dict[str, Callable[[int], Recipe]] = {
    "simclr": simclr,
    "instance": instance,
    "moco-v1": moco_v1,
    "moco-v2": simclr,
    "multicrop": multicrop,
    "asymmetric": asymmetric,
    "lab": lab,
    "ycbcr": ycbcr,
    "pirl": pirl,
    "weak": weak,
}


def contrasted(name: str, size: int, *, views: int, network: Literal["shared", "colour", "jigsaw"]) -> Recipe:
    """The recipe `name` at `size` px with so many views for one encoder, or parts for one encoder each."""
    own = RECIPES[name](size)
    if network == "shared" and views != len(own.views):
        return with_views(own, views)
    if network == "colour" and views != len(own.tensors):
        return in_parts(own, views)
    return own

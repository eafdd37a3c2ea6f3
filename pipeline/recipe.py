"""What a view is: frozen dataclasses that a plan is drawn from. No torch here, so that `--help` is instant."""

from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RandomCrop:
    """torchvision's RandomResizedCrop: an area share and an aspect ratio (log-uniform), placed uniformly."""

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must rise within (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must rise above 0, got {self.ratio}")


@dataclass(frozen=True)
class CentreCrop:
    """The centred square whose side is `share` of the shorter side: 0.875 is resize 256 and crop 224."""

    share: float = 0.875

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")


@dataclass(frozen=True)
class Jitter:
    """torchvision's ColorJitter, applied with `probability`; factors are drawn from 1 +- the strength, hue from +- hue."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float = 1.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ValueError(f"strengths must be 0 or more and hue at most 0.5, got {self}")


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with `probability`; `sigma` in pixels of the view, drawn uniformly."""

    probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True)
class View:
    """One view of an image: `size` in pixels, then what may happen to it, in the order of the fields."""

    size: int
    crop: RandomCrop | CentreCrop = RandomCrop()
    flip: float = 0.5
    jitter: Jitter | None = None
    grey: float = 0.0
    blur: Blur | None = None
    solarise: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a view's size must be at least 1 pixel, got {self.size}")


@dataclass(frozen=True)
class Recipe:
    """The views of one image. Views of equal size travel in one tensor: a group."""

    views: tuple[View, ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Which views share a tensor: positions in `views`, in the order of first appearance of their size."""
        sizes = list(dict.fromkeys(view.size for view in self.views))
        return tuple(tuple(i for i, view in enumerate(self.views) if view.size == size) for size in sizes)


def simclr(size: int) -> Recipe:
    """SimCLR's two views (arXiv 2002.05709, appendix A, in MoCo v2's strengths); no blur up to 64 px, as for CIFAR-10."""
    view = View(
        size=size,
        jitter=Jitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        grey=0.2,
        blur=Blur() if size > 64 else None,
    )
    return Recipe((view, view))


def instance(size: int) -> Recipe:
    """The one view of instance discrimination (arXiv 1805.01978): crop, greyscale, jitter .4 in all four, flip."""
    return Recipe((View(size=size, jitter=Jitter(0.4, 0.4, 0.4, 0.4), grey=0.2),))


def weak(size: int) -> Recipe:
    """The evaluation view: the centre, resized. Small images are taken whole, others as resize 256 and crop 224."""
    return Recipe((View(size=size, crop=CentreCrop(1.0 if size <= 64 else 0.875), flip=0.0),))


RECIPES = {"simclr": simclr, "instance": instance, "weak": weak}

"""Negatives that no image has: made of the hardest ones of a queue. A frozen value; no torch here."""

from dataclasses import dataclass

from .parts import Queue


@dataclass(frozen=True)
class MixedQueue(Queue):
    """A queue, and negatives made of the `hardest` of its region for each anchor.

    MoCHi (arXiv 2010.01028) has the first two kinds, SynCo (arXiv 2410.02401) all of them.

    Args:
        hardest: how many of the nearest rows of the region they are made of; fewer where it holds fewer.
        mixed: how many between two of these (MoCHi's first kind).
        interpolated: between one and the anchor, of which it has at most half (MoCHi's second kind).
        extrapolated: beyond one, away from the anchor, by at most half their distance.
        noisy: one and Gaussian noise of standard deviation `sigma` in each dimension.
        perturbed: one moved by `delta` along the gradient of its similarity to the anchor.
        adversarial: one moved by `eta` along the signs of that gradient.
        since: epochs of the queue alone before any are made.
    """

    hardest: int = 1024
    mixed: int = 0
    interpolated: int = 0
    extrapolated: int = 0
    noisy: int = 0
    perturbed: int = 0
    adversarial: int = 0
    sigma: float = 0.01
    delta: float = 0.01
    eta: float = 0.01
    since: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = (self.mixed, self.interpolated, self.extrapolated, self.noisy, self.perturbed, self.adversarial)
        if self.hardest < 1 or min(counts) < 0:
            raise ValueError(f"synthetic negatives are counted from 0, of 1 hardest or more, got {counts} of {self.hardest}")
        if not all(0 <= x < float("inf") for x in (self.sigma, self.delta, self.eta, self.since)):
            raise ValueError("sigma, delta, eta and since of synthetic negatives must be finite and 0 or more")

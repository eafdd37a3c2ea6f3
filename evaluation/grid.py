"""Which linear probes are trained, and how: the grid of settings, and all that is the same for each of them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Schedule = Literal["cosine", "step"]
Scaling = Literal["raw", "standardised"]


class Setting(NamedTuple):
    """Learning rate, and weight decay of the weights (not of the bias), as in torch.optim.SGD."""

    rate: float
    decay: float

    @property
    def words(self) -> str:
        """As it stands in a protocol."""
        return f"lr {self.rate:g} wd {self.decay:g}"


# On 512 unlearnt features of CIFAR-10 (10,000 images, length 6) the best rate is .01 standardised and 1 raw; a factor of 3
# from it costs up to 2.4 points, one of 10 up to 4.2. A low rate is also an early stop: a third, larger decay gains nothing.
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
GRID = tuple(Setting(rate, decay) for decay in (0.0, 1e-4) for rate in RATES)


@dataclass(frozen=True)
class Training:
    """How probes are trained: all that is the same for each setting."""

    epochs: int = 100
    batch: int = 256
    """At most; the batches of an epoch are as equal as can be, so that no small last one is a step of its own noise."""
    schedule: Schedule = "cosine"
    """To 0 by half a cosine, or to a tenth after 60 % and again after 80 % of the steps (arXiv 2408.10292)."""
    features: Scaling = "standardised"
    """As they come, or less their mean over their deviation among the training images (what a BatchNorm without weights
    tends to, arXiv 2111.06377, A.1), of the first epoch where epochs differ."""
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1 or self.batch < 1 or not 0 <= self.momentum < 1:
            found = f"{self.epochs}, {self.batch} and {self.momentum}"
            raise ValueError(f"epochs and batch must be at least 1 and momentum in [0, 1), got {found}")
        for name, kind in (("schedule", Schedule), ("features", Scaling)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be {' or '.join(get_args(kind))}, got {getattr(self, name)!r}")

    def words(self, *, augmented: bool) -> str:
        """As it stands in a protocol."""
        copies = ", another augmented copy each epoch" if augmented else ""
        rule = f"SGD, {self.epochs} epochs, last epoch, {self.schedule} schedule, batch {self.batch}"
        return f"linear probe, {rule}, {self.features} features{copies}"

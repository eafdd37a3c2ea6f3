"""What a person should be told of a run's numbers, in words. No torch here.

What chance is. The bound that is logged is InfoNCE's, whatever loss is made of the critic: log K + s+ - log sum e^s. Of an
encoder that tells nothing the positive is one of the K terms by chance, and the mean over which one it is lies at or below
0: the mean of K numbers is no larger than the log of the mean of their e^s. Where the negatives are the nearest rows, of a
ball or a ring, it lies lower still. Information is never below 0, so a lower bound there says nothing, for NCE, decoupled,
debiased and hard negatives as for InfoNCE. It is CHANCE or less that is told.

What a cosine of .99 is. Unit vectors of spread S have a mean cosine of 1 - S^2 between images. Their critic values differ by
S^2 / temperature on average, and so many nats are about what a softmax over them can tell: at a cosine of .99 and a
temperature of .07, .14 of them. Less than ROOM is near collapse; methods without a temperature are watched at .2.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COLLAPSED_RANK, COLLAPSED_SPREAD = 2.0, 0.05
LEARNED_SHARE, INVALID_SHARE, FALSE_SHARE = 0.5, 0.5, 0.5
CHANCE = 0.02  # nats that a bound stands above 0 at least, once an encoder tells images apart
ROOM = 0.5  # nats by which critic values of images differ at least, on average
SEEN_APART = 0.4  # share of other images nearer than the positive, one half by chance, below which images are told apart
AFTER_STEPS = 50  # before, embeddings are those of a random network
AFTER_EPOCHS = 2  # before, rows of a bank are those of a random network, or have never been written
AFTER_SHARE = 0.1  # of the steps
PATIENCE = 3  # readings in a row that look so, before it is said of a number that moves
OBSERVER_TEMPERATURE = 0.2  # of the bound that is logged for methods which have none of their own
AT_ONCE = ("collapse", "dead", "no bound", "false negatives", "superinfo collapse")  # what one reading shows


class Watched(NamedTuple):
    """What alarms have to know of a run: when readings count, and what they are measured by."""

    begin: int
    """Step of the first reading that counts."""
    quiet: tuple[int, int]
    """Steps in between that do not count: the first epochs after a warm start."""
    most_rank: int
    """What an effective rank can be at most: the smaller of batch and embedding."""
    temperature: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Watched":
        """Those of a training by its configuration: not before the rate has risen, nor in the first of several epochs."""
        objective, steps, batch = settings.get("objective") or {}, settings.get("steps") or 0, settings.get("batch") or 1
        per_epoch = max(1, (settings.get("rows") or 1) // batch)
        epochs, risen = AFTER_EPOCHS * per_epoch, round((settings.get("warmup") or 0) * steps)
        begin = max(AFTER_STEPS, risen, math.ceil(AFTER_SHARE * steps), min(epochs, steps // 2))
        first = math.ceil((objective.get("warm_start") or 0) * per_epoch)
        quiet = (first, first + epochs) if first else (0, 0)
        most_rank = min(batch, settings.get("embedding") or batch)
        return cls(begin, quiet, most_rank, objective.get("bound.temperature") or OBSERVER_TEMPERATURE)

    def counts(self, step: int) -> bool:
        """Whether a reading at `step` does."""
        return step >= self.begin and not self.quiet[0] <= step < self.quiet[1]


class Watch:
    """The readings of a run, one after the other, and what is wrong in the latest of them."""

    def __init__(self, watched: Watched) -> None:
        self._watched, self._counted = watched, 0
        self._lasted: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def heard(self, values: Mapping[str, Any], *, step: int) -> dict[str, str]:
        """What is to be said after a reading: a sentence by its short name for each thing that looks wrong."""
        if not self._watched.counts(step):
            return {}
        self._counted += 1
        about = self._watched
        self._texts = alarms(values, step=step, most_rank=about.most_rank, temperature=about.temperature)
        self._lasted = {kind: self._lasted.get(kind, 0) + 1 for kind in self._texts}
        return self.standing(PATIENCE)

    def standing(self, patience: int | None = None) -> dict[str, str]:
        """What looks wrong at the end, where a run of few readings has none to wait for."""
        wanted = min(PATIENCE, self._counted) if patience is None else patience
        return {kind: text for kind, text in self._texts.items() if kind in AT_ONCE or self._lasted[kind] >= wanted}


def judged(settings: Mapping[str, Any], readings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What looks wrong in the last readings of a log, of a run by its configuration."""
    watch = Watch(Watched.of(settings))
    for values in readings[-PATIENCE:]:
        watch.heard(values, step=values.get("step") or 0)
    return watch.standing()


def tells_nothing(bound: float | None) -> bool:
    """Whether a lower bound on information is so low that any encoder has it."""
    return bound is not None and bound < CHANCE


def alarms(
    values: Mapping[str, Any], *, step: int, most_rank: int, temperature: float = OBSERVER_TEMPERATURE
) -> dict[str, str]:
    """By its short name, a sentence for each thing that looks wrong in a reading; empty where all looks well.

    `most_rank` is what an effective rank can be at most: the smaller of batch and embedding.
    """
    if step < AFTER_STEPS:
        return {}
    found = _of_embeddings(values, most_rank, temperature) | _of_the_bound(values)
    if (values.get("learned") or 0) > LEARNED_SHARE:
        found["dead"] = (
            f"{values['learned']:.0%} of the anchors tell their positive from every negative and no longer learn: take "
            "harder negatives (a narrower ring) or a higher temperature"
        )
    if (values.get("false_negatives") or 0) > FALSE_SHARE:
        found["false negatives"] = (
            f"{values['false_negatives']:.0%} of the negatives are images of the anchor's own class: a larger inner edge "
            "would leave more of them out"
        )
    return found


def _of_embeddings(values: Mapping[str, Any], most_rank: int, temperature: float) -> dict[str, str]:
    """Collapse, and what comes near it."""
    rank, spread = values.get("effective_rank"), values.get("spread")
    low = spread is not None and spread < COLLAPSED_SPREAD
    if rank is not None and (low or rank < min(COLLAPSED_RANK, most_rank / 2)):
        return {
            "collapse": (
                f"all images come to lie on one point or line (effective rank {rank:.1f}, spread {spread or 0:.2f} of 1): "
                "the representation has collapsed; lower the learning rate, or the weight of what pulls views together"
            )
        }
    if spread is None or spread**2 >= ROOM * temperature:
        return {}
    return {
        "near collapse": (
            f"images have embeddings of a mean cosine of {1 - spread**2:.3f} (spread {spread:.2f} of 1), which at a "
            f"temperature of {temperature:g} leaves {spread**2 / temperature:.2f} nats to tell them by: it is "
            "near collapse; lower the learning rate, or take negatives from farther away (a region that reaches further)"
        )
    }


def _of_the_bound(values: Mapping[str, Any]) -> dict[str, str]:
    """A bound that is none, or that says nothing."""
    found, bound, nearer = {}, values.get("bound"), values.get("nearer")
    valid = values.get("bound_valid")
    if valid is not None and valid < INVALID_SHARE:
        found["no bound"] = (
            f"for {1 - valid:.0%} of the anchors the logged value is no lower bound on mutual information: "
            "the region leaves out too many near rows, or reaches too far; do not compare it with other methods' bounds"
        )
    if not tells_nothing(bound):
        return found
    if "superfluous_first" in values:
        found["superinfo collapse"] = (
            f"the bound is {bound:.3f} nats: the penalty on superfluous information has won before the views were "
            "told apart; lower its weight or lengthen its warm-up"
        )
        return found
    share = (
        "" if nearer is None else f"; {nearer:.0%} of other images lie nearer to an anchor than its positive (50% is chance)"
    )
    helps = "train longer, lower the learning rate or raise the temperature"
    if nearer is not None and nearer < SEEN_APART:
        helps = "images are told apart, but not from the negatives of this region: let it reach further (region.outer)"
    found["chance"] = (
        f"the bound is {bound:.3f} nats and tells nothing, for information is never below 0, and an encoder that knows "
        f"nothing has as much{share}: {helps}"
    )
    return found

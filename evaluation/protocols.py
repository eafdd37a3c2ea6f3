"""The protocols of a frozen encoder: from features and a task to scores whose protocol says how they came about.

Nothing is chosen by the test images: they are told once, by what the training images have chosen.

Shape suffixes: N = training images, I = some of them, Q = test images, F = features, C = classes.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from . import knn, linear, lowshot, ridge
from .features import Features, Pair
from .scores import Interval, Score, added, score
from .tasks import NOBODY, Task

SHARES = (0.01, 0.1)
"""Of the training images, for low-shot: what the field calls 1 % and 10 %."""


class Options(NamedTuple):
    """Which protocols, and what each of them needs."""

    protocols: tuple[str, ...]
    k: tuple[int, ...] = (200,)
    temperature: tuple[float, ...] = (0.1,)
    epochs: int = 100
    shots: tuple[int, ...] = (1, 5, 20)
    draws: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError for what no protocol can do."""
        if not self.protocols:
            raise ValueError(f"--protocols needs one at least: {', '.join(PROTOCOLS)}")
        for name, value in (("--k", self.k), ("--temperature", self.temperature)):
            if not value:
                raise ValueError(f"{name} needs one value at least")


class Told(NamedTuple):
    """A score, and its protocol in a word or two: the same for every encoder, so that they can be compared."""

    name: str
    score: Score


class Asked(NamedTuple):
    """Features and labels of both sides."""

    known_NF: Tensor
    label_N: Tensor
    asked_QF: Tensor
    truth_Q: Tensor
    classes: int
    copies: Sequence[Tensor]
    """Features of augmented training images, a copy an epoch in turn."""
    progress: Callable[[int, int], None] = lambda done, total: None


def measure(
    pair: Pair,
    task: Task,
    options: Options,
    *,
    copies: Sequence[Tensor] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Told]:
    """The scores of every protocol that `options` name; `progress` counts the parts of each, from the first again."""
    (known, asked), copies = _labelled(pair, task, copies)
    given = Asked(
        known.feature_NF,
        task.train_label_N[known.row_N],
        asked.feature_NF,
        task.test_label_N[asked.row_N],
        len(task.classes),
        copies,
        progress,
    )
    return [told for name in options.protocols for told in PROTOCOLS[name].run(given, options)]


def _labelled(pair: Pair, task: Task, copies: Sequence[Tensor]) -> tuple[Pair, Sequence[Tensor]]:
    """The rows that the task does not leave out, of both sides."""
    sides = [
        (side, label_N[side.row_N] != NOBODY)
        for side, label_N in zip(pair, (task.train_label_N, task.test_label_N), strict=True)
    ]
    if all(bool(there_N.all()) for _, there_N in sides):
        return pair, copies
    known, asked = (Features(*(part[there_N.to(part.device)] for part in side)) for side, there_N in sides)
    if not len(known.row_N) or not len(asked.row_N):
        raise ValueError(f"{task.name}: no image that could be decoded has a value")
    return Pair(known, asked), [copy[sides[0][1].to(copy.device)] for copy in copies]


def _knn(given: Asked, options: Options) -> Iterator[Told]:
    settings = [knn.Vote(k, temperature) for k in options.k for temperature in options.temperature]
    vote, words = settings[0]._replace(k=min(settings[0].k, len(given.label_N))), ""
    if len(settings) > 1:
        chosen = knn.chosen(given.known_NF, given.label_N, classes=given.classes, settings=settings, seed=options.seed)
        vote, words = chosen.setting, chosen.words
    found = knn.nearest(given.known_NF, given.asked_QF, vote.k, progress=given.progress)
    votes = knn.parts(found, given.label_N, vote, classes=given.classes)
    told = score(votes, given.truth_Q, protocol=words or vote.words, seed=options.seed)
    yield Told("kNN, swept" if len(settings) > 1 else vote.words, told)


def _linear(given: Asked, options: Options) -> Iterator[Told]:
    training = linear.Training(epochs=options.epochs, seed=options.seed)
    augmented = (lambda epoch: given.copies[epoch % len(given.copies)]) if given.copies else None
    found = linear.chosen(
        given.known_NF,
        given.label_N,
        training=training,
        classes=given.classes,
        augmented=augmented,
        seed=options.seed,
        progress=given.progress,
    )
    asked = given.asked_QF.split(linear.rows_at_once(found.model))
    told = score(
        (linear.logits(found.model, part_BF)[0] for part_BF in asked), given.truth_Q, protocol=found.words, seed=options.seed
    )
    yield Told("linear probe, augmented" if given.copies else "linear probe", told)


def _ridge(given: Asked, options: Options) -> Iterator[Told]:
    yield Told("ridge", _ridge_score(given, torch.arange(len(given.label_N)), options, words=""))


def _low_shot(given: Asked, options: Options) -> Iterator[Told]:
    """Ridge regression on few images, chosen by leave-one-out: with one image a class nothing could be held out."""
    drawn = {"draws": options.draws, "seed": options.seed}
    subsets_of = [lowshot.of_share(given.label_N, share, **drawn) for share in SHARES]
    least = int(given.label_N.bincount()[given.label_N.unique()].min())
    subsets_of += [lowshot.per_class(given.label_N, count, **drawn) for count in options.shots if count <= least]
    for subsets in subsets_of:
        parts = [_ridge_score(given, subset.row_I, options, words=subset.words) for subset in subsets]
        words = subsets[0].words.split(", draw")[0]
        yield Told(f"low-shot, {words.split(',')[0]}", _joined(parts, f"low-shot, {words}"))


def _ridge_score(given: Asked, row_I: Tensor, options: Options, *, words: str) -> Score:
    model = ridge.fit(given.known_NF[row_I], given.label_N[row_I], classes=given.classes, progress=given.progress)
    best = ridge.best(model)
    protocol = ridge.words(model, best) + (f", {words}" if words else "")
    return score(ridge.parts(model, given.asked_QF, best), given.truth_Q, protocol=protocol, seed=options.seed)


def _joined(parts: Sequence[Score], words: str) -> Score:
    """One score of several draws: means, the range of top-1 in place of the bootstrap's interval, confusions added up."""
    values = [part.top1.value for part in parts]
    top5 = [part.top5 for part in parts if part.top5 is not None]
    rule = "ridge regression, penalty chosen by leave-one-out"
    return Score(
        top1=Interval(fmean(values), min(values), max(values)),
        top5=fmean(top5) if top5 else None,
        per_class=fmean(part.per_class for part in parts),
        confusion_P3=added(part.confusion_P3 for part in parts),
        classes=parts[0].classes,
        images=parts[0].images,
        protocol=f"{words}, {rule}, mean and range of {len(parts)} draws",
    )


class Size(NamedTuple):
    """Of what a protocol learns from."""

    rows: int
    features: int
    classes: int


def _low_shot_work(size: Size, options: Options) -> float:
    shares = sum(ridge.work(max(size.classes, int(share * size.rows)), size.features, size.classes) for share in SHARES)
    counts = [min(size.rows, shots * size.classes) for shots in options.shots]
    return options.draws * (shares + sum(ridge.work(count, size.features, size.classes) for count in counts))


class Kind(NamedTuple):
    """A protocol: its scores, the options that it reads, and what it costs."""

    run: Callable[[Asked, Options], Iterator[Told]]
    depends: tuple[str, ...]
    """Names of Options: a score that is kept is kept for their values."""
    work: Callable[[Size, Options], float] = lambda size, options: 0.0
    """About how many products and sums; 0 for what takes seconds."""


PROTOCOLS: dict[str, Kind] = {
    "knn": Kind(_knn, ("k", "temperature", "seed")),
    "linear": Kind(_linear, ("epochs", "seed"), lambda size, options: linear.work(*size, epochs=options.epochs)),
    "ridge": Kind(_ridge, ("seed",), lambda size, options: ridge.work(*size)),
    "low-shot": Kind(_low_shot, ("shots", "draws", "seed"), _low_shot_work),
}

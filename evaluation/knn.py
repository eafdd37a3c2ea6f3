"""Weighted k-nearest-neighbour classification of frozen features (arXiv 1805.01978, section 3.4).

Shape suffixes: N = known images, Q = asked images, F = features, C = classes, K = neighbours, M = some of the known.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .selection import SHARE, Chosen, choose

CHUNK = 512  # images asked at a time, and
ROWS = 65_536  # known ones: together they bound the matrix of cosines to 134 MB
VOTES_HELD = 2**23  # sums of votes at a time: 67 MB
SHORTEST = 1e-12  # length below which a vector has no direction: its cosines are near 0


class Neighbours(NamedTuple):
    """The nearest known images of each asked one, nearest first; of equal cosines the lower row first."""

    cosine_QK: Tensor
    index_QK: Tensor


class Vote(NamedTuple):
    """How many neighbours vote, and with which temperature; None gives every neighbour one vote."""

    k: int
    temperature: float | None = 0.1

    @property
    def words(self) -> str:
        """As it stands in a protocol."""
        return f"kNN k={self.k} " + ("majority" if self.temperature is None else f"T={self.temperature:g}")


VOTES = tuple(Vote(k, temperature) for k in (1, 5, 10, 20, 50, 100, 200) for temperature in (0.02, 0.07, 0.1, 0.3, None))


def predict(
    train_NF: Tensor, train_label_N: Tensor, query_QF: Tensor, *, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """int64 [Q]: the class with the largest sum of exp(cosine / temperature) over the `k` nearest training images.

    `k` larger than the training set means all of it. Ties go to the lower class.
    """
    _check((Vote(k, temperature),))
    return told(nearest(train_NF, query_QF, k), train_label_N, Vote(k, temperature), classes=classes)


@torch.no_grad()
def nearest(
    known_NF: Tensor,
    asked_QF: Tensor,
    k: int,
    *,
    rows: int = ROWS,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Neighbours:
    """The `k` known images with the largest cosine to each asked one, by comparing all with all.

    float32, or float64 where one of the inputs is. `k` larger than N means all of them. Besides copies of `asked_QF` and of
    `rows` of `known_NF` it takes `rows` x `chunk` cosines. 50,000 x 10,000 x 512 at k = 200: 3 s of products and .8 s of
    selection on two cores; selecting by maxima of blocks first would take .5 s.

    Raises ValueError for a `k` below 1, for no known images, and for features that are not finite or too long to be squared.
    """
    if k < 1 or not len(known_NF):
        raise ValueError(f"a search needs k of at least 1 and a known image, got k = {k} and {len(known_NF)} images")
    wide = torch.promote_types(torch.promote_types(known_NF.dtype, asked_QF.dtype), torch.float32)
    asked_QF = _unit(asked_QF.to(wide), "asked")
    k = min(k, len(known_NF))
    found: list[Neighbours | None] = [None] * len(range(0, len(asked_QF), chunk))
    for first in range(0, len(known_NF), rows):
        known_MF = _unit(known_NF[first : first + rows].to(wide), "known")
        for i, asked_CF in enumerate(asked_QF.split(chunk) if len(asked_QF) else ()):
            cosine_CK, place_CK = _best(asked_CF @ known_MF.T, min(k, len(known_MF)))
            found[i] = _merged(found[i], Neighbours(cosine_CK, place_CK + first), k)
            progress(first // rows * len(found) + i + 1, len(found) * len(range(0, len(known_NF), rows)))
    empty = Neighbours(asked_QF.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=asked_QF.device))
    return Neighbours(*(torch.cat(parts) for parts in zip(empty, *(part for part in found if part), strict=True)))


def _unit(feature_MF: Tensor, which: str) -> Tensor:
    length_M1 = feature_MF.norm(dim=1, keepdim=True)
    if not length_M1.isfinite().all():
        count = int((~length_M1.isfinite()).sum())
        raise ValueError(
            f"{count} of the {which} features are not finite (or longer than 1e19): look at the encoder's output"
        )
    return feature_MF / length_M1.clamp(min=SHORTEST)


def _best(cosine_CM: Tensor, k: int) -> Neighbours:
    """The `k` largest of each row, in order; which of several equal ones topk takes is left open, here it is the first."""
    if k < cosine_CM.shape[1]:
        value_CK, place_CK = cosine_CM.topk(k + 1, dim=1)
        place_CK = place_CK[:, :k]
        open_C = value_CK[:, k - 1] == value_CK[:, k]
        if open_C.any():
            place_CK[open_C] = _first_of_equals(cosine_CM[open_C], value_CK[open_C, k - 1 : k], k)
    else:
        place_CK = torch.arange(k, device=cosine_CM.device).expand(len(cosine_CM), k)
    place_CK = place_CK.sort(dim=1).values
    value_CK, order_CK = cosine_CM.gather(1, place_CK).sort(dim=1, descending=True, stable=True)
    return Neighbours(value_CK, place_CK.gather(1, order_CK))


def _first_of_equals(cosine_CM: Tensor, least_C1: Tensor, k: int) -> Tensor:
    """int64 [C, K]: where all above `least_C1` stand, and the first of those equal to it, `k` in all."""
    count = cosine_CM.shape[1]
    place_M = torch.arange(count, dtype=torch.int32, device=cosine_CM.device)
    rank_CM = torch.where(cosine_CM > least_C1, place_M - count, torch.where(cosine_CM == least_C1, place_M, count))
    return rank_CM.topk(k, dim=1, largest=False).indices


def _merged(older: Neighbours | None, newer: Neighbours, k: int) -> Neighbours:
    """The best `k` of both; the rows of `older` are the lower ones, and stay first among equals."""
    if older is None:
        return newer
    cosine_CK, order_CK = torch.cat((older.cosine_QK, newer.cosine_QK), dim=1).sort(dim=1, descending=True, stable=True)
    index_CK = torch.cat((older.index_QK, newer.index_QK), dim=1).gather(1, order_CK[:, :k])
    return Neighbours(cosine_CK[:, :k].contiguous(), index_CK)


def votes(
    cosine_QK: Tensor, label_QK: Tensor, *, classes: int, k: int | None = None, temperature: float | None = 0.1
) -> Tensor:
    """float64 [Q, C]: what the first `k` neighbours of each image give to each class; -inf where none is of that class.

    A vote is exp((cosine - largest) / temperature), or 1 where `temperature` is None: less the nearest's, which ranks the
    same, is never above 1, and not all 0 at a low temperature. -inf, so that no class without a neighbour is among the first
    five. Raises ValueError for labels outside 0..C-1.
    """
    label_QK = label_QK[:, :k]
    if label_QK.numel() and (label_QK.min() < 0 or label_QK.max() >= classes):
        found = f"{int(label_QK.min())} to {int(label_QK.max())}"
        raise ValueError(f"neighbours need labels of 0 to {classes - 1}, got {found}: leave images without a label out")
    cosine_QK = cosine_QK[:, :k].double()
    weight_QK = torch.ones_like(cosine_QK)
    if temperature is not None:
        weight_QK = ((cosine_QK - cosine_QK[:, :1]) / temperature).exp()
    vote_QC = weight_QK.new_zeros(len(weight_QK), classes).scatter_add_(1, label_QK, weight_QK)
    voted_QC = torch.zeros_like(vote_QC, dtype=torch.bool).scatter_(1, label_QK, True)
    return vote_QC.masked_fill_(~voted_QC, -torch.inf)


def parts(found: Neighbours, label_N: Tensor, vote: Vote, *, classes: int) -> Iterator[Tensor]:
    """The votes of `votes` for one setting, some images at a time: of 20,000 classes those of all would be gigabytes."""
    rows = max(1, min(CHUNK, VOTES_HELD // classes))
    for cosine_CK, index_CK in zip(*(part.split(rows) for part in found), strict=True):
        yield votes(cosine_CK, label_N[index_CK], classes=classes, k=vote.k, temperature=vote.temperature)


def told(found: Neighbours, label_N: Tensor, vote: Vote, *, classes: int) -> Tensor:
    """int64 [Q]: the class with the most votes."""
    return torch.cat([vote_CC.argmax(dim=1) for vote_CC in parts(found, label_N, vote, classes=classes)])


def sweep(
    found: Neighbours, label_N: Tensor, *, classes: int, settings: Sequence[Vote] = VOTES
) -> Iterator[tuple[Vote, Tensor]]:
    """Each of `settings` with its class scores [Q, C], all from one search, which must have had the largest k among them.

    A k above the number of known images means all of them. Scores are made one setting at a time: 8 * Q * C bytes.
    """
    _check(settings)
    most = max(setting.k for setting in settings)
    if found.index_QK.shape[1] < min(most, len(label_N)):
        raise ValueError(
            f"{found.index_QK.shape[1]} neighbours were searched for, and {most} are to vote: search for {most}"
        )
    label_QK = label_N[found.index_QK]
    for setting in settings:
        yield setting, votes(found.cosine_QK, label_QK, classes=classes, k=setting.k, temperature=setting.temperature)


def chosen(
    feature_NF: Tensor,
    label_N: Tensor,
    *,
    classes: int,
    settings: Sequence[Vote] = VOTES,
    share: float = SHARE,
    seed: int = 0,
) -> Chosen[Vote, Tensor]:
    """The setting that tells held-out training images best; its `model` is the rows that vote: all of them.

    Of equal accuracy the larger k wins, then the higher temperature.
    """

    def accuracy(row_I: Tensor, held_J: Tensor) -> Tensor:
        most = max(setting.k for setting in settings)
        found = nearest(feature_NF[row_I], feature_NF[held_J], most)
        guesses = [told(found, label_N[row_I], vote, classes=classes) for vote in settings]
        return torch.stack([(guess_J == label_N[held_J]).double().mean() for guess_J in guesses])

    def strength(setting: Vote) -> tuple[float, ...]:
        return setting.k, torch.inf if setting.temperature is None else setting.temperature

    _check(settings)
    return choose(
        label_N,
        settings,
        fit=lambda row_I, _: row_I,
        accuracy=accuracy,
        strength=strength,
        name=lambda setting: setting.words,
        share=share,
        seed=seed,
    )


def _check(settings: Sequence[Vote]) -> None:
    for k, temperature in settings:
        if k < 1 or (temperature is not None and not temperature > 0):
            raise ValueError(f"k must be at least 1 and temperature above 0, got {k} and {temperature}")
    if not settings:
        raise ValueError("a sweep needs at least one k and one temperature")

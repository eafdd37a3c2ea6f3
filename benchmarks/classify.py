"""How fast kept features are classified, and whether nearest neighbours and linear probes are those of scikit-learn.

    python benchmarks/classify.py TRAIN.safetensors TEST.safetensors --repeats 3

The files are features as `viewmill evaluate` keeps them in its cache, or any others with `feature_NF` and `label_N`. Without
them: 50,000 and 10,000 made-up features of 512 values in 10 classes that overlap. Measured are

    search       the 200 nearest of all training features, for every test feature
    votes        the class scores of 35 settings (k and temperature) from that one search
    neighbours   how many of them scikit-learn's exact search in float64 finds at the same place, of the first `--peers` test
                 features, and (told alike) how many of these features are told the same class by its neighbours
    probe        training 20 settings of a linear probe, choosing one, and training that again on all
    ridge        19 penalties of ridge regression with their leave-one-out errors
    difference   top-1 of the chosen probe less that of scikit-learn's logistic regression, in points, chosen over C on the
                 same held-out features; `--probe-rows` limits the training features of both

Prints one JSON line a measurement.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from viewmill.benchmarks.measured import Measured
from viewmill.console import answer
from viewmill.evaluation import knn, linear, ridge, selection
from viewmill.evaluation.scores import difference
from viewmill.files.opening import regular
from viewmill.training.log import hardware, versions

K = 200
STRENGTHS = {"standardised": (1e-3, 1e-2, 1e-1, 1.0), "raw": (0.1, 1.0, 10.0, 100.0)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which features, and how often."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Training and test features."""
    repeats: int = 3
    """How often the search, the votes and the ridge regression are timed."""
    peers: int = 500
    """Test features that scikit-learn searches neighbours of."""
    probe_rows: int = 50_000
    """Training features of the probes, at most."""
    features: linear.Scaling = "standardised"
    """What the probes see."""
    fits: bool = True
    """Fit scikit-learn's logistic regressions: minutes."""


def given(files: tuple[Path, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels, training and test."""
    if len(files) == 2:
        train, test = (load_file(regular(path)) for path in files)
        return train["feature_NF"].float(), train["label_N"], test["feature_NF"].float(), test["label_N"]
    if files:
        raise ValueError(f"two files are needed, training and test features, got {len(files)}")
    generator = torch.Generator().manual_seed(0)
    centre_CF = torch.randn(10, 512, generator=generator)
    sides = []
    for count in (50_000, 10_000):
        label_N = torch.randint(10, (count,), generator=generator)
        sides += [(centre_CF[label_N] / 8 + torch.randn(count, 512, generator=generator)).relu(), label_N]
    return sides[0], sides[1], sides[2], sides[3]


def timed(work: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each run, and what the last gave."""
    seconds, found = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return seconds, found


def same_neighbours(known_NF: Tensor, label_N: Tensor, asked_QF: Tensor, found: knn.Neighbours) -> list[Measured]:
    """At how many places the same image stands (elsewhere two cosines differ by float32's rounding); who is told alike."""
    found = knn.Neighbours(*(part[: len(asked_QF)] for part in found))
    search = NearestNeighbors(n_neighbors=found.index_QK.shape[1], algorithm="brute", metric="cosine")
    distance_QK, index_QK = search.fit(known_NF.double().numpy()).kneighbors(asked_QF.double().numpy())
    exact = knn.Neighbours(1 - torch.from_numpy(distance_QK), torch.from_numpy(index_QK))
    off = (exact.cosine_QK - found.cosine_QK).abs().max().item()
    note = f"the cosines at the same places differ by {off:.1e} at most"
    same = (found.index_QK == exact.index_QK).double().mean().item()
    classes = int(label_N.max()) + 1
    guesses = [knn.votes(each.cosine_QK, label_N[each.index_QK], classes=classes).argmax(dim=1) for each in (found, exact)]
    told = (guesses[0] == guesses[1]).double().mean().item()
    return [
        Measured("neighbours", "%", [100 * same], least=99.0, note=note),
        Measured("told alike", "%", [100 * told], least=100.0, note=f"{len(asked_QF)} test features, T 0.1"),
    ]


def peer(known_NF: Tensor, label_N: Tensor, asked_QF: Tensor, features: str) -> tuple[Tensor, str]:
    """What a logistic regression says whose C was chosen on the same held-out features."""
    if features == "standardised":
        centre_F, scale_F = known_NF.mean(dim=0), (known_NF.var(dim=0) + linear.SMALLEST).rsqrt()
        known_NF, asked_QF = (known_NF - centre_F) * scale_F, (asked_QF - centre_F) * scale_F
    rows, held = selection.split(label_N), {}
    for strength in STRENGTHS[features]:
        model = LogisticRegression(C=strength, max_iter=2000).fit(known_NF[rows.fit_I], label_N[rows.fit_I])
        held[strength] = model.score(known_NF[rows.held_J], label_N[rows.held_J])
    best = max(held, key=lambda strength: held[strength])
    model = LogisticRegression(C=best, max_iter=2000).fit(known_NF, label_N)
    return torch.from_numpy(model.predict(asked_QF)), f"C {best:g}"


def main() -> None:
    """Measure, and print."""
    settings = tyro.cli(Settings, description=__doc__)
    known_NF, label_N, asked_QF, label_Q = given(settings.files)
    classes = int(label_N.max()) + 1
    size = f"{len(known_NF)} x {len(asked_QF)} x {known_NF.shape[1]}, {torch.get_num_threads()} threads"

    def told(measured: Measured) -> None:
        answer(json.dumps(measured.line()))

    answer(json.dumps({"hardware": hardware(), "versions": versions()}))
    seconds, found = timed(lambda: knn.nearest(known_NF, asked_QF, K), settings.repeats)
    told(Measured("search", "s", seconds, note=f"{size}, k {K}"))
    votes, _ = timed(lambda: [vote for vote, _ in knn.sweep(found, label_N, classes=classes)], settings.repeats)
    told(Measured("votes", "s", votes, note=f"{len(knn.VOTES)} settings"))
    told(Measured("search and votes", "s", [sum(pair) for pair in zip(seconds, votes, strict=True)], most=10.0, note=size))
    for measured in same_neighbours(known_NF, label_N, asked_QF[: settings.peers], found):
        told(measured)
    seconds, _ = timed(lambda: ridge.fit(known_NF, label_N, classes=classes), settings.repeats)
    told(Measured("ridge", "s", seconds, note=f"{len(ridge.EXPONENTS)} penalties, {size}"))

    known_NF, label_N = known_NF[: settings.probe_rows], label_N[: settings.probe_rows]
    training = linear.Training(features=settings.features)
    seconds, probe = timed(lambda: linear.chosen(known_NF, label_N, training=training, classes=classes), 1)
    told(Measured("probe", "s", seconds, most=60.0, note=f"{len(known_NF)} features: {probe.words}"))
    if settings.fits:
        guess_Q = linear.logits(probe.model, asked_QF)[0].argmax(dim=1)
        (seconds,), (peer_Q, words) = timed(lambda: peer(known_NF, label_N, asked_QF, settings.features), 1)
        gain = difference(guess_Q, peer_Q, label_Q)
        note = (
            f"{gain.low:+.4f} to {gain.high:+.4f}; {words} in {seconds:.0f} s has {(peer_Q == label_Q).double().mean():.4f}"
        )
        told(Measured("difference", "points", [100 * gain.value], least=-0.3, note=note))


if __name__ == "__main__":
    main()

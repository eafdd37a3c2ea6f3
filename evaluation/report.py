"""What an encoder is worth on one task: weighted kNN of its features, beside the floors it has to beat."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..pipeline.beton import Beton
from .features import Features, Pair
from .knn import predict


class Score(NamedTuple):
    """One line of the table. `accuracy` is top-1, a share of 1; `protocol` says how it was measured."""

    name: str
    accuracy: float
    protocol: str


class Task(NamedTuple):
    """What is to be told from the features: one label per row of each file."""

    name: str
    train_label_N: Tensor
    test_label_N: Tensor
    classes: int


def class_task(train: Beton, test: Beton) -> Task:
    """The classes of the files themselves; raises ValueError where they have none."""
    for beton in (train, test):
        if beton.label_N.min() < 0:
            raise ValueError(f"{beton.path} holds images without a label: convert a folder with one subfolder per class")
    labels = torch.from_numpy(train.label_N), torch.from_numpy(test.label_N)
    return Task("class", *labels, int(max(label.max() for label in labels)) + 1)


def column_task(name: str, train: Sequence[str], test: Sequence[str]) -> Task:
    """A column of the sidecar tables as a task; numbers are cut into four bands at the training quartiles."""
    try:
        numbers = [torch.tensor([float(text) for text in column]) for column in (train, test)]
    except ValueError:
        words = sorted(set(train) | set(test))
        labels = [torch.tensor([words.index(text) for text in column]) for column in (train, test)]
        return Task(name, labels[0], labels[1], len(words))
    edges = torch.quantile(numbers[0], torch.tensor([0.25, 0.5, 0.75]))
    bands = [torch.bucketize(number, edges) for number in numbers]
    return Task(name, bands[0], bands[1], 4)


def knn_scores(
    pairs: dict[str, Pair], tasks: Sequence[Task], *, size: int, k: int = 200, temperature: float = 0.1
) -> dict[str, list[Score]]:
    """Per task, the accuracy of each encoder's features; `size` is what they were extracted at."""
    scores: dict[str, list[Score]] = {task.name: [] for task in tasks}
    for name, (known, asked) in pairs.items():
        counts = f"{len(known.row_N)} train, {len(asked.row_N)} test"
        protocol = f"kNN k={min(k, len(known.row_N))} T={temperature:g}, {size} px, {counts}"
        for task in tasks:
            accuracy = _accuracy(known, asked, task, k=k, temperature=temperature)
            scores[task.name].append(Score(name, accuracy, protocol))
    return scores


def _accuracy(known: Features, asked: Features, task: Task, *, k: int, temperature: float) -> float:
    truth = task.test_label_N[asked.row_N]
    labels = task.train_label_N[known.row_N]
    guess = predict(known.feature_NF, labels, asked.feature_NF, classes=task.classes, k=k, temperature=temperature)
    return (guess == truth).float().mean().item()

"""Classification as a task of the loop: encoder and classifier learn together, and are judged on images they have not seen.

Shape suffixes: B = images of a batch, N = rows, C = classes, S = side in pixels.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn import functional

from ..console import counting
from ..evaluation.features import Features, Shown, batches
from ..evaluation.scores import score
from ..evaluation.tasks import NOBODY, Task
from ..pipeline.beton.reader import Beton
from ..pipeline.loader import BetonLoader, ViewBatch
from ..pipeline.loader import batches as loader_batches
from ..pipeline.views.recipe import Recipe

CONFUSION = 200  # classes: the matrix of more is left out of results.json


class Classifier(nn.Module):
    """[B, 3, S, S] -> class scores [B, C]: an encoder and one linear layer, whose weights begin at 0."""

    def __init__(self, encoder: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image_B3SS: Tensor) -> Tensor:
        """Class scores [B, C]."""
        return self.head(self.encoder(image_B3SS))


@dataclass(frozen=True)
class Classification:
    """The task of `tuning.py`: `loader` is learnt from, `test` is judged by, in the `shown` way."""

    module: Classifier
    loader: BetonLoader
    test: Beton
    shown: Recipe
    labels: Task
    smoothing: float
    accelerator: Accelerator
    protocol: str

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.loader)

    def batches(self, start: int, stop: int) -> Generator[ViewBatch]:
        """What steps `start` to `stop` learn from."""
        return loader_batches(self.loader, start=start, stop=stop)

    def loss(self, model: nn.Module, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy, a mean over the images that could be decoded and have a label, and their accuracy."""
        logit_BC = model(batch.views[0]).float()
        label_B = self.labels.train_label_N.to(batch.row_B.device)[batch.row_B]
        options = {"reduction": "none", "label_smoothing": self.smoothing, "ignore_index": NOBODY}
        loss_B = functional.cross_entropy(logit_BC, label_B, **options)
        counts_B = batch.valid_B & (label_B != NOBODY)
        count = counts_B.sum().clamp(min=1)
        right = ((logit_BC.argmax(dim=1) == label_B) & counts_B).sum() / count
        return torch.where(counts_B, loss_B, 0).sum() / count, {"accuracy": right.detach()}

    def evaluate(self, asked: Callable[[], int]) -> dict[str, Any] | None:
        """The scores of the test images, by the main process; None where a signal came in between."""
        told: list[Any] = [None]
        if self.accelerator.is_main_process:
            told = [self._judged(asked)]
        return broadcast_object_list(told)[0]

    def _judged(self, asked: Callable[[], int]) -> dict[str, Any] | None:
        parts, done = list[Features](), 0
        with counting("telling") as progress:
            for part in batches(Shown(self.module, self.shown), self.test, device=self.accelerator.device):
                parts.append(part)
                done += len(part.row_N)
                progress(done, len(self.test))
                if asked():
                    return None
        found = Features(*(torch.cat(part) for part in zip(*parts, strict=True)))
        label_N = self.labels.test_label_N[found.row_N]
        judged = score(found.feature_NF[label_N != NOBODY], label_N[label_N != NOBODY], protocol=self.protocol)
        return {
            "top1": judged.top1.value,
            "interval": [judged.top1.low, judged.top1.high],
            "top5": judged.top5,
            "mean_per_class": judged.per_class,
            "images": judged.images,
            "classes": list(self.labels.classes),
            "confusion": judged.confusion_CC.tolist() if judged.classes <= CONFUSION else None,
        }

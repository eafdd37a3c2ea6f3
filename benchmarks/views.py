"""What a step of many views costs: `python -m viewmill.benchmarks.views` prints its processor time by the number of views.

Forward, loss and backward of SimCLR over all pairs, views of one size; warm, the contenders in turns, medians of the rounds.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from ..console import answer
from ..methods.architecture import Architecture
from ..methods.method import Method
from ..methods.pairing import Graph
from ..methods.schedules import Moment
from ..methods.table import METHODS
from ..models.network import Batch, Network
from ..objectives.images import Images
from ..objectives.objective import loss

IMAGES, SIZE, ROUNDS = 32, 24, 9
VIEWS = (2, 4, 8)


def main() -> int:
    """Print a line for each number of views, and the row of the table with two beside them."""
    torch.set_num_threads(1)
    network = Network(Architecture("resnet18", width=8, size=SIZE, hidden=64, out=32))
    contenders = {"simclr as it stands in the table": METHODS["simclr"]}
    contenders |= {f"{views} views": replace(METHODS["simclr"], contrast=Graph(views=views)) for views in VIEWS}
    pixels = torch.randn(max(VIEWS) * IMAGES, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    steps = {name: _step(network, method, pixels) for name, method in contenders.items()}
    for step in steps.values():
        step()
    taken = {name: list[float]() for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.thread_time()
            step()
            taken[name].append(1e3 * (time.thread_time() - began))
    base = median(taken["2 views"])
    for name, found in taken.items():
        low, high = min(found), max(found)
        answer(
            f"{name}: {median(found):.1f} ms ({low:.1f} to {high:.1f}, n {ROUNDS}), {median(found) / base:.2f} of 2 views"
        )
    return 0


def _step(network: Network, method: Method, pixels: torch.Tensor) -> Callable[[], None]:
    """One step of a method, ready to be taken."""
    row_B = torch.arange(IMAGES)
    images = Images(row_B, torch.ones(IMAGES, dtype=torch.bool), torch.empty(0, dtype=torch.int64))
    batch = Batch((pixels[: method.views * IMAGES],), row_B, 0, range(method.views))

    def step() -> None:
        loss(method, network(batch), {}, images, Moment(1, 10, 5), observe=False).loss.backward()

    return step


if __name__ == "__main__":
    sys.exit(main())

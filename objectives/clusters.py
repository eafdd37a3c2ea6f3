"""k-means of the bank, on its device: which rows belong together, for local aggregation (LA, arXiv 1903.12355).

LA's positives of an image are the rows that share its cluster in any of several clusterings of the whole bank, found anew
once an epoch by 20 iterations each, with seeds 1234, 1235, ... (the released code, neuroailab/LocalAggregation).

Shape suffixes: N = rows, C = clusters, D = embedding, H = clusterings, B = anchors, K = rows asked about,
R = rows of a block, W = clusters of a block.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Values of a block of scores, the most that is held at a time: what the last cache of a CPU core keeps, and on an
# accelerator enough work for one kernel.
CPU_BLOCK = 2**20
DEVICE_BLOCK = 2**24
# Columns whose lowest is found without its place, see `_lowest`: the fastest of 32, 40, 50 and 64 at 1,000 clusters.
GROUP = 64


class Clustering(NamedTuple):
    """Rows in clusters: each row's label is that of its nearest centroid."""

    label_N: Tensor
    """int64."""
    centroid_CD: Tensor
    inertia: Tensor
    """Sum of squared Euclidean distances to the nearest centroid, 0-dimensional."""


def kmeans(row_ND: Tensor, clusters: int, *, iterations: int = 20, seed: int) -> Clustering:
    """`iterations` of Lloyd's algorithm from `clusters` distinct random rows, by Euclidean distance.

    The rows to start from are drawn on the CPU, so that every device and every rank starts alike; drawing and the copy of
    their numbers is all that the host does. See `lloyd` for the rest. Raises ValueError where `clusters` is below 1 or
    above the number of rows, or `iterations` is below 1.
    """
    rows = len(row_ND)
    if not 1 <= clusters <= rows:
        raise ValueError(
            f"k-means of {rows} rows needs 1 to {rows} clusters, got {clusters}: choose fewer clusters or more rows"
        )
    if iterations < 1:
        raise ValueError(f"k-means needs at least 1 iteration, got {iterations}: raise `iterations` (20 is usual)")
    first_C = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:clusters].to(row_ND.device)
    return lloyd(row_ND, row_ND[first_C], iterations)


def cluster_labels(row_ND: Tensor, clusters: int, seeds: Sequence[int], iterations: int = 20) -> Tensor:
    """[H, N] int32: labels of one clustering per seed. Labels of different clusterings have nothing to do with one another.

    Raises ValueError as `kmeans` does, and where there are no seeds.
    """
    if not seeds:
        raise ValueError("cluster labels need at least 1 seed, got none: give one for each clustering")
    label_HN = row_ND.new_empty(len(seeds), len(row_ND), dtype=torch.int32)
    for label_N, seed in zip(label_HN, seeds, strict=True):
        label_N.copy_(kmeans(row_ND, clusters, iterations=iterations, seed=seed).label_N)
    return label_HN


@torch.no_grad()
def same_cluster(label_HN: Tensor, own_B: Tensor, index_BK: Tensor) -> Tensor:
    """[B, K] bool: whether row `index_BK` shares the cluster of row `own_B` in any of the H clusterings."""
    shared_BK = torch.zeros_like(index_BK, dtype=torch.bool)
    for label_N in label_HN:
        shared_BK |= label_N[index_BK] == label_N[own_B][:, None]
    return shared_BK


@torch.no_grad()
def lloyd(row_ND: Tensor, centroid_CD: Tensor, iterations: int) -> Clustering:
    """Move centroids to the mean of their rows, `iterations` times, then label the rows by the centroids so found.

    Inertia never rises, rounding apart. A cluster without rows moves to one of the rows farthest from their centroids,
    a different one for each. On ties the lower label wins. Works in max(float32, input dtype) on finite rows, keeps a
    block of scores and some numbers per row besides the centroids (never N x C values; N x D only to widen half precision
    rows), and never waits for the device. Equal inputs give equal results on the CPU, and on a GPU no atomics are used.
    """
    with torch.autocast(row_ND.device.type, enabled=False):
        dtype = torch.promote_types(row_ND.dtype, torch.float32)
        row_ND, centroid_CD = row_ND.detach().to(dtype), centroid_CD.detach().to(dtype)
        centre_1D = row_ND.mean(dim=0, keepdim=True)
        square_N = _squared_distance(row_ND, centre_1D, torch.zeros_like(row_ND[:, 0], dtype=torch.int64))
        for _ in range(iterations):
            label_N, score_N = _nearest(row_ND, centroid_CD, centre_1D)
            centroid_CD = _means(row_ND, label_N, torch.add(square_N, score_N, alpha=2), len(centroid_CD))
        label_N, _ = _nearest(row_ND, centroid_CD, centre_1D)
        return Clustering(label_N, centroid_CD, _squared_distance(row_ND, centroid_CD, label_N).sum())


def _nearest(row_ND: Tensor, centroid_CD: Tensor, centre_1D: Tensor) -> tuple[Tensor, Tensor]:
    """[N] label of the nearest centroid, and its score: half its squared distance less half the row's from the centre.

    |x - c|^2 / 2 - |x - m|^2 / 2 = |c - m|^2 / 2 + (c - m).m - (c - m).x: one matrix product. The centre m costs nothing
    here, and keeps the digits where rows differ little from their mean: without it, float32 resolves squared distances of
    unit rows to 1e-7, the whole distance in a bank that is near collapse.
    """
    clusters, highest = len(centroid_CD), torch.finfo(row_ND.dtype).max
    moved_CD = centroid_CD - centre_1D
    bias_C = moved_CD.square().sum(dim=1) / 2 + (moved_CD * centre_1D).sum(dim=1)
    # blocks are square where there are clusters enough: wide, flat ones run a matrix product at under half its speed. They
    # are equally wide, of whole groups: a narrower last one may round otherwise, and equal clusters would differ
    group = min(GROUP, clusters)
    groups = -(-clusters // group)
    blocks = -(-groups // max(1, min(groups, math.isqrt(_block(row_ND)) // group)))
    width = -(-groups // blocks) * group
    more = blocks * width - clusters  # clusters that nothing is near to
    moved_CD = F.pad(moved_CD, (0, 0, 0, more))
    bias_C = F.pad(bias_C, (0, more), value=highest)
    label_N = torch.zeros_like(row_ND[:, 0], dtype=torch.int64)
    score_N = torch.full_like(row_ND[:, 0], highest)
    height = max(1, _block(row_ND) // width)
    # one block for all: fresh memory for each took 4 % of the time
    block = row_ND.new_empty(min(height, len(row_ND)) * width)
    for row_RD, label_R, score_R in zip(*(whole.split(height) for whole in (row_ND, label_N, score_N)), strict=True):
        for first in range(0, clusters, width):
            to_WD, bias_W = moved_CD[first : first + width], bias_C[first : first + width]
            score_RW = block[: len(row_RD) * len(to_WD)].view(len(row_RD), len(to_WD))
            torch.addmm(bias_W, row_RD, to_WD.T, alpha=-1, out=score_RW)
            low_R, column_R = _lowest(score_RW, group)
            nearer_R = low_R < score_R
            torch.where(nearer_R, column_R + first, label_R, out=label_R)
            torch.where(nearer_R, low_R, score_R, out=score_R)
    return label_N, score_N


def _lowest(score_RW: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """`score_RW.min(dim=1)` by way of groups of columns.

    A minimum that tells its place reads one value at a time, which took a quarter of k-means on a CPU; one that does not
    reads a vector at a time. So the plain one finds each group's lowest, and only W / group + group values are searched.
    """
    low_RG = score_RW.unflatten(1, (-1, group)).amin(dim=2)
    low_R, group_R = low_RG.min(dim=1)
    row_R = torch.arange(len(score_RW), device=score_RW.device)
    near_RW = score_RW.view(-1, group)[row_R * low_RG.shape[1] + group_R]
    return low_R, near_RW.argmin(dim=1) + group_R * group


def _means(row_ND: Tensor, label_N: Tensor, cost_N: Tensor, clusters: int) -> Tensor:
    """[C, D] mean row of each cluster; where it has none, a row of high cost.

    Rows are added up in sorted order, as bags: unlike index_add this is the same on every run of a GPU, and nothing of
    size N x D is written. bincount would wait for the device to learn its length.
    """
    sorted_N, order_N = label_N.sort(stable=True)
    edge_C1 = torch.searchsorted(sorted_N, torch.arange(clusters + 1, device=row_ND.device))
    sum_CD = F.embedding_bag(order_N, row_ND, edge_C1[:-1], mode="sum")
    count_C = edge_C1.diff()
    empty_C = count_C == 0
    far_C = cost_N.topk(clusters).indices
    spare_CD = row_ND[far_C[(empty_C.cumsum(dim=0) - 1).clamp(min=0)]]
    return torch.where(empty_C[:, None], spare_CD, sum_CD / count_C.clamp(min=1)[:, None])


def _squared_distance(row_ND: Tensor, centroid_CD: Tensor, label_N: Tensor) -> Tensor:
    """[N] |x - c|^2 of each row and the centroid of its label, by subtraction: exact to the last digits."""
    height = max(1, _block(row_ND) // row_ND.shape[1])
    parts = zip(row_ND.split(height), label_N.split(height), strict=True)
    return torch.cat([(row_RD - centroid_CD[label_R]).square().sum(dim=1) for row_RD, label_R in parts])


def _block(row_ND: Tensor) -> int:
    return CPU_BLOCK if row_ND.device.type == "cpu" else DEVICE_BLOCK

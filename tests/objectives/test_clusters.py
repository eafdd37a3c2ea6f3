"""k-means: scikit-learn's labels from the same start, steps worked out by hand, inertia that only falls, no waiting.

Shape suffixes: N = rows, C = clusters, D = embedding, H = clusterings, B = anchors, K = rows asked about.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewmill.objectives import clusters
from viewmill.objectives.clusters import cluster_labels, kmeans, lloyd, same_cluster


def sphere(rows, dimension, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=dtype), dim=1)


def blobs(rows, dimension, centres, seed):
    """Rows .05 from one of `centres` unit vectors, in turn."""
    centre_ND = sphere(centres, dimension, seed).repeat(-(-rows // centres), 1)[:rows]
    return centre_ND + 0.05 * sphere(rows, dimension, seed + 1)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def start(row_ND, count, seed):
    return row_ND[torch.randperm(len(row_ND), generator=torch.Generator().manual_seed(seed))[:count]]


def squared_distances(row_ND, centroid_CD):
    return (row_ND[:, None] - centroid_CD).square().sum(dim=2)


@st.composite
def problems(draw):
    """Rows on a small grid, so that many are equal, and a number of clusters."""
    rows, dimension = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    value = st.lists(st.integers(-3, 3), min_size=dimension, max_size=dimension)
    row_ND = torch.tensor(draw(st.lists(value, min_size=rows, max_size=rows)), dtype=torch.float64)
    return row_ND, draw(st.integers(1, rows))


class Watch(TorchDispatchMode):
    """Raises where an operation has a tensor off the device; keeps the size of the largest result."""

    def __init__(self, device):
        super().__init__()
        self.device, self.largest = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if devices - {self.device}:
            raise RuntimeError(f"{func} works on {sorted(devices)}")
        self.largest = max([self.largest, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


@pytest.mark.parametrize(
    ("row_ND", "count"),
    [
        (blobs(600, 8, 12, 0), 12),
        (sphere(500, 3, 0), 7),
        (sphere(2000, 16, 1), 90),
        (sphere(1000, 32, 2), 300),
        (5 + 3 * sphere(700, 4, 3), 65),
        (sphere(400, 6, 4), 1),
    ],
    ids=["blobs", "sphere", "two groups", "few rows each", "away from the origin", "one cluster"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_and_inertia_are_those_of_scikit_learn(row_ND, count, seed):
    first_CD = start(row_ND, count, seed)
    theirs = pytest.importorskip("sklearn.cluster").KMeans(
        count, init=first_CD.numpy(), n_init=1, algorithm="lloyd", max_iter=20, tol=0
    )
    theirs.fit(row_ND.numpy())
    ours = kmeans(row_ND, count, iterations=20, seed=seed)
    assert ours.label_N.dtype == torch.int64
    assert ours.label_N.tolist() == theirs.labels_.tolist()
    torch.testing.assert_close(ours.centroid_CD, torch.from_numpy(theirs.cluster_centers_), rtol=1e-10, atol=1e-12)
    assert ours.inertia.item() == pytest.approx(theirs.inertia_, rel=1e-10)


def test_single_precision_reaches_the_inertia_of_double():
    row_ND = sphere(4000, 128, 0)
    double, single = kmeans(row_ND, 100, seed=3), kmeans(row_ND.float(), 100, seed=3)
    assert single.centroid_CD.dtype == single.inertia.dtype == torch.float32
    assert single.inertia.item() == pytest.approx(double.inertia.item(), rel=1e-3)


def test_two_steps_on_a_line_are_those_worked_out_by_hand():
    row_ND = column(0, 1, 10, 11)
    once, twice = (lloyd(row_ND, row_ND[:2], steps) for steps in (1, 2))
    torch.testing.assert_close(once.centroid_CD, column(0, 22 / 3), rtol=0, atol=1e-12)
    assert once.label_N.tolist() == [0, 0, 1, 1]
    assert once.inertia.item() == pytest.approx(1 + (8 / 3) ** 2 + (11 / 3) ** 2, rel=1e-12)
    torch.testing.assert_close(twice.centroid_CD, column(0.5, 10.5), rtol=0, atol=1e-12)
    assert twice.inertia.item() == pytest.approx(1, rel=1e-12)


def test_clusters_without_rows_move_to_distinct_farthest_rows():
    row_ND = column(0, 5, 0, 9, 0)
    found = lloyd(row_ND, column(0, 0, 0), 1)
    torch.testing.assert_close(found.centroid_CD, column(2.8, 9, 5), rtol=0, atol=1e-12)
    assert found.label_N.tolist() == [0, 2, 0, 1, 0]


@pytest.mark.parametrize("block", [1, 6, 2**20])
@pytest.mark.parametrize("group", [1, 2, 64])
def test_the_lower_of_equal_labels_wins(monkeypatch, block, group):
    monkeypatch.setattr(clusters, "CPU_BLOCK", block)
    monkeypatch.setattr(clusters, "GROUP", group)
    found = lloyd(column(1, 3, 1), column(3, 1, 1, 3, 1, 3, 3), 0)
    assert found.label_N.tolist() == [1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_every_distinct_row_gets_a_cluster_where_there_are_enough(seed):
    row_ND = sphere(12, 5, seed).repeat(20, 1)
    found = kmeans(row_ND, 12, seed=seed)
    assert len(found.label_N.unique()) == 12
    assert found.inertia.item() < 1e-24


def test_as_many_clusters_as_rows_leave_each_alone():
    found = kmeans(sphere(50, 4, 0), 50, seed=0)
    assert sorted(found.label_N.tolist()) == list(range(50))
    assert found.inertia.item() == 0


@settings(max_examples=150, deadline=None)
@given(problem=problems(), seed=st.integers(0, 5))
def test_inertia_never_rises_and_labels_are_those_of_the_nearest_centroid(problem, seed):
    row_ND, count = problem
    centroid_CD, last = start(row_ND, count, seed), torch.inf
    for _ in range(8):
        found = lloyd(row_ND, centroid_CD, 1)
        distance_NC = squared_distances(row_ND, found.centroid_CD)
        own_N = distance_NC.gather(1, found.label_N[:, None])[:, 0]
        torch.testing.assert_close(own_N, distance_NC.amin(dim=1), rtol=0, atol=1e-12)
        assert found.inertia.item() == pytest.approx(own_N.sum().item(), rel=1e-12, abs=1e-12)
        assert found.inertia.item() <= last * (1 + 1e-12) + 1e-12
        centroid_CD, last = found.centroid_CD, found.inertia.item()


@settings(max_examples=100, deadline=None)
@given(problem=problems(), seed=st.integers(0, 5))
def test_equal_rows_and_too_many_clusters_give_finite_numbers(problem, seed):
    row_ND, count = problem
    found = kmeans(row_ND, count, seed=seed)
    assert torch.isfinite(found.centroid_CD).all()
    assert ((found.label_N >= 0) & (found.label_N < count)).all()
    # an empty cluster moves where it lowers the cost, so none is left while rows differ from their centroids
    assert len(found.label_N.unique()) == count or found.inertia.item() < 1e-20


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_of_rows_does_not_matter(seed):
    row_ND = sphere(900, 6, seed)
    order_N = torch.randperm(900, generator=torch.Generator().manual_seed(seed))
    one, other = lloyd(row_ND, row_ND[:80], 20), lloyd(row_ND[order_N], row_ND[:80], 20)
    assert torch.equal(one.label_N[order_N], other.label_N)
    torch.testing.assert_close(one.centroid_CD, other.centroid_CD, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", [1, 3, 64])
@pytest.mark.parametrize("block", [1, 50, 5000, 100_000])
def test_the_size_of_blocks_and_groups_does_not_matter(monkeypatch, block, group):
    row_ND = sphere(90, 6, 0)
    want = lloyd(row_ND, row_ND[:70], 2)
    monkeypatch.setattr(clusters, "CPU_BLOCK", block)
    monkeypatch.setattr(clusters, "GROUP", group)
    found = lloyd(row_ND, row_ND[:70], 2)
    assert torch.equal(found.label_N, want.label_N)
    torch.testing.assert_close(found.centroid_CD, want.centroid_CD, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.inertia, want.inertia, rtol=1e-12, atol=0)


def test_no_tensor_of_rows_times_clusters_is_made(monkeypatch):
    monkeypatch.setattr(clusters, "CPU_BLOCK", 2**12)
    row_ND = sphere(3000, 8, 0)
    with Watch("cpu") as watch:
        lloyd(row_ND, row_ND[:500], 2)
    assert watch.largest == row_ND.numel()  # the rows themselves


@pytest.mark.parametrize(("rows", "count"), [(500, 37), (500, 200), (9, 9), (40, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_iterations_neither_wait_for_the_device_nor_use_the_host(monkeypatch, rows, count, dtype):
    monkeypatch.setattr(clusters, "DEVICE_BLOCK", 2**13)
    with FakeTensorMode():
        row_ND, centroid_CD = (torch.empty(length, 16, dtype=dtype, device="cuda") for length in (rows, count))
        with Watch("cuda"):
            found = lloyd(row_ND, centroid_CD, 3)
        assert [part.device.type for part in found] == ["cuda"] * 3
        assert [part.shape for part in found] == [(rows,), (count, 16), ()]
        label_HN, own_B, index_BK = (
            torch.empty(shape, dtype=torch.int64, device="cuda") for shape in ((3, rows), 4, (4, 7))
        )
        with Watch("cuda"):
            assert same_cluster(label_HN.int(), own_B, index_BK).shape == (4, 7)


def test_rows_that_differ_little_keep_their_clusters_in_single_precision():
    """Rows are 10,000 from the origin, clusters about 1 apart: next to 1e8, float32 goes in steps of 8."""
    row_ND = blobs(600, 8, 12, 0).float() + 10_000 / 8**0.5
    first_CD = row_ND[:12]
    found, want = lloyd(row_ND, first_CD, 10), lloyd(row_ND.double(), first_CD.double(), 10)
    assert torch.equal(found.label_N, want.label_N)
    assert found.inertia.item() == pytest.approx(want.inertia.item(), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_clustered_in_single(dtype):
    row_ND = sphere(300, 8, 0).to(dtype)
    found, want = kmeans(row_ND, 10, seed=0), kmeans(row_ND.float(), 10, seed=0)
    assert found.centroid_CD.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_autocast_and_gradients_change_nothing():
    row_ND = sphere(2000, 64, 0).float()
    want = kmeans(row_ND, 50, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        found = kmeans(row_ND.clone().requires_grad_(), 50, seed=0)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, want, strict=True))


def test_a_seed_names_one_clustering():
    row_ND = sphere(1000, 16, 0).float()
    one, again, other = (kmeans(row_ND, 50, seed=seed) for seed in (1234, 1234, 1235))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.label_N, other.label_N)
    assert torch.equal(one.label_N, lloyd(row_ND, start(row_ND, 50, 1234), 20).label_N)


def test_cluster_labels_are_the_labels_of_each_seed():
    row_ND = sphere(400, 8, 0)
    label_HN = cluster_labels(row_ND, 20, [1234, 1235, 1236], iterations=5)
    assert label_HN.dtype == torch.int32
    assert label_HN.tolist() == [kmeans(row_ND, 20, iterations=5, seed=1234 + h).label_N.tolist() for h in range(3)]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), clusterings=st.integers(1, 4), rows=st.integers(1, 12))
def test_rows_share_a_cluster_as_a_slow_loop_says(data, clusterings, rows):
    def integers(below, *shape):
        if not shape:
            return data.draw(st.integers(0, below - 1))
        return [integers(below, *shape[1:]) for _ in range(shape[0])]

    label, own, index = integers(3, clusterings, rows), integers(rows, 4), integers(rows, 4, 5)
    want = [[any(each[j] == each[i] for each in label) for j in asked] for i, asked in zip(own, index, strict=True)]
    assert same_cluster(torch.tensor(label, dtype=torch.int32), torch.tensor(own), torch.tensor(index)).tolist() == want


@pytest.mark.parametrize(
    ("count", "iterations", "words"),
    [(11, 20, "10 rows needs 1 to 10 clusters, got 11"), (0, 20, "got 0"), (-1, 20, "got -1"), (3, 0, "1 iteration, got 0")],
)
def test_numbers_that_cannot_be_are_refused(count, iterations, words):
    with pytest.raises(ValueError, match=words):
        kmeans(sphere(10, 2, 0), count, iterations=iterations, seed=0)
    with pytest.raises(ValueError, match=words):
        cluster_labels(sphere(10, 2, 0), count, [0], iterations)


def test_labels_for_no_seed_are_refused():
    with pytest.raises(ValueError, match="at least 1 seed"):
        cluster_labels(sphere(10, 2, 0), 2, [])

"""More than two views: which are contrasted with which, what that costs, and that it is what the formulas say.

Shape suffixes: V = views, B = images, D = embedding, K = rows of a memory.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.methods.method import Method
from viewmill.methods.outputs import Outputs
from viewmill.methods.pairing import Graph, Listed, Pair, pairs_of
from viewmill.methods.parts import Bank, Decoupled, HardNegatives, InfoNCE, Queue, Ring
from viewmill.methods.schedules import Moment
from viewmill.methods.table import BOTH_WAYS, METHODS
from viewmill.methods.terms import Bootstrap, FixedGaussian, SquaredError, Superfluous, VICReg
from viewmill.objectives import memory as memories
from viewmill.objectives import superinfo
from viewmill.objectives.images import Images
from viewmill.objectives.objective import loss

NOW, D, ROWS = Moment(120, 200, 2), 6, 60
CPU = torch.device("cpu")


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def outputs_of(method, count, *, seed=0, features=None):
    embedding = unit(method.online_views, count, D, seed=seed).requires_grad_()
    target = unit(max(method.target_views, default=0) + 1, count, D, seed=seed + 1)
    chosen = target[list(method.target_views)] if method.target_views else None
    mean = embedding if features is None else features
    return Outputs(embedding, embedding, mean)._replace(target_VBD=chosen)


def batch_of(count):
    return Images(torch.arange(count) * 7 % ROWS, torch.ones(count, dtype=torch.bool), torch.empty(0, dtype=torch.int64))


def memory_of(method, batch=4):
    made = memories.start(method, rows=ROWS, batch=batch, dimension=D, seed=3, device=CPU)
    made = {name: x.double() if x.dtype == torch.float32 else x for name, x in made.items()}
    if "queue_row" in made:
        made["queue_row"] = torch.arange(len(made["queue_row"])) + 1000
    if "bank_step" in made:
        made["bank_step"].zero_()
    return made


# Graphs


@given(
    kind=st.sampled_from(["full", "core", "chain"]),
    views=st.integers(2, 9),
    keys=st.integers(0, 9),
    own=st.booleans(),
    total=st.sampled_from(["mean", "sum"]),
)
def test_a_graph_has_each_of_its_pairs_once_and_weights_that_make_its_total(kind, views, keys, own, total):
    try:
        pairs = Graph(kind, views, keys, own, total).pairs()
    except ValueError:
        assert keys > views
        return
    ends = [(pair.anchor, pair.key) for pair in pairs]
    assert len(set(ends)) == len(ends)
    assert all((anchor == key) <= own and key < (keys or views) for anchor, key in ends)
    assert math.isclose(sum(pair.weight for pair in pairs), 1 if total == "mean" else len(pairs))
    if not keys and not own:
        assert len(pairs) == {"full": views * (views - 1), "core": 2 * (views - 1), "chain": 2 * (views - 1)}[kind]
        assert {(key, anchor) for anchor, key in ends} == set(ends)


def test_the_graphs_of_two_views_are_the_usual_pairs():
    for kind in ("full", "core", "chain"):
        assert pairs_of(Graph(kind, 2)) == BOTH_WAYS
    assert pairs_of(Listed("0-1:0.5, 1-0:0.5")) == BOTH_WAYS


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Graph("ring"), "full, core or chain"),
        (lambda: Graph(views=1), "2 to 64 views"),
        (lambda: Graph(views=3, keys=4), "0 \\(all\\) to 3 can be keys"),
        (lambda: Graph(total="max"), "mean or sum"),
        (lambda: Listed("0>1"), "written ANCHOR-KEY"),
        (lambda: Listed("0-1,0-1"), "there twice"),
        (lambda: Listed("0-64"), "views 0 to 63"),
        (lambda: Listed(""), "written ANCHOR-KEY"),
        (lambda: replace(METHODS["simclr"], contrast=(Pair(0, 0), Pair(0, 1))), "only a bank"),
        (lambda: replace(METHODS["moco-v2"], contrast=Graph(own=True)), "only a bank"),
        (lambda: replace(METHODS["cmc"], contrast=Graph(views=4)), "at most three colour parts"),
        (lambda: replace(METHODS["pirl"], contrast=Graph(views=3, keys=1)), "a jigsaw has two views"),
        (lambda: replace(METHODS["superinfo-simclr-variational"], contrast=Graph(views=3)), "one other view of two"),
        (lambda: replace(METHODS["simclr"], contrast=Graph(views=3), terms=(VICReg(),)), "VICReg is of two views"),
        (lambda: Method("simclr", "x", contrast=Graph(), terms=(Bootstrap(),)), "Bootstrap is of two views"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


# Against loops


@settings(deadline=None, max_examples=30)
@given(views=st.integers(2, 5), keys=st.integers(0, 3), count=st.integers(2, 4), seed=st.integers(0, 99))
def test_in_a_batch_every_key_of_every_other_image_is_a_negative(views, keys, count, seed):
    """And no anchor that is nobody's key: log of the number of terms is the ceiling."""
    keys = min(keys, views)
    method = replace(METHODS["simclr"], contrast=Graph(views=views, keys=keys), bound=InfoNCE(0.3))
    outputs = outputs_of(method, count, seed=seed)
    x = outputs.embedding_VBD.detach()
    losses = []
    for pair in method.pairs:
        for i in range(count):
            positive = (x[pair.anchor, i] @ x[pair.key, i] / 0.3).exp()
            others = [
                (x[pair.anchor, i] @ x[key, other] / 0.3).exp()
                for key in range(keys or views)
                for other in range(count)
                if other != i
            ]
            losses.append(-(positive / (positive + sum(others))).log())
    result = loss(method, outputs, {}, batch_of(count), NOW)
    torch.testing.assert_close(result.loss, torch.stack(losses).mean())
    assert result.scalars["ceiling"].item() == pytest.approx(math.log(1 + (keys or views) * (count - 1)))
    assert result.scalars["bound"].item() == pytest.approx(result.scalars["ceiling"].item() - result.loss.item())


@pytest.mark.parametrize("name", ["cmc-full", "cmc-core"])
def test_colour_parts_are_drawn_to_the_banks_of_the_others(name):
    method = replace(METHODS[name], memory=Bank(negatives=ROWS))
    outputs, memory, batch = outputs_of(method, 4), memory_of(method), batch_of(4)
    edges = [(0, 1), (0, 2), (1, 0), (2, 0)] + ([(1, 2), (2, 1)] if name == "cmc-full" else [])
    banks = ("bank", "second_bank", "third_bank")
    expected = sum(
        F.cross_entropy(outputs.embedding_VBD[anchor] @ memory[banks[key]].T / 0.07, batch.row_B) for anchor, key in edges
    )
    torch.testing.assert_close(loss(method, outputs, memory, batch, NOW).loss, expected)


def test_every_view_is_drawn_to_one_bank_that_the_first_view_writes():
    contrast = Graph(views=3, keys=1, own=True)
    method = replace(METHODS["ir"], contrast=contrast, memory=Bank(momentum=0.0, negatives=ROWS))
    outputs, memory, batch = outputs_of(method, 4), memory_of(method), batch_of(4)
    expected = [F.cross_entropy(x @ memory["bank"].T / 0.07, batch.row_B) for x in outputs.embedding_VBD]
    result = loss(method, outputs, memory, batch, NOW)
    torch.testing.assert_close(result.loss, sum(expected) / 3)
    memories.write_(method, memory, outputs, batch, NOW, result.pending)
    torch.testing.assert_close(memory["bank"][batch.row_B], outputs.embedding_VBD[0].detach())
    assert "second_bank" not in memory


def test_small_views_are_drawn_to_both_keys_of_the_momentum_encoder():
    method = replace(METHODS["moco-v2-multicrop"], memory=Queue(20))
    assert (method.online_views, method.target_views) == (8, (0, 1))
    outputs, memory, batch = outputs_of(method, 4), memory_of(method), batch_of(4)
    losses = []
    for anchor in range(8):
        for key in {0, 1} - {anchor}:
            own = (outputs.embedding_VBD[anchor] * outputs.target_VBD[key]).sum(dim=1, keepdim=True)
            logits = torch.cat((own, outputs.embedding_VBD[anchor] @ memory["queue"].T), dim=1) / 0.2
            losses.append(F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64)))
    result = loss(method, outputs, memory, batch, NOW)
    torch.testing.assert_close(result.loss, torch.stack(losses).mean())
    memories.write_(method, memory, outputs, batch, NOW, result.pending)
    assert set(memory["queue_row"].tolist()) >= set(batch.row_B.tolist())


# One selection for all keys of an anchor


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bound": InfoNCE(0.2, positive_in_denominator=False)},
        {"bound": Decoupled(0.1)},
        {"bound": Decoupled(0.1, sigma=0.5)},
        {"bound": HardNegatives(0.5, 0.1, 1.0)},
        {"region": Ring(0.2, 0.8)},
        {"region": Ring(0.0, 0.5)},
    ],
)
def test_the_loss_of_many_pairs_is_that_of_each_alone(change):
    method = replace(METHODS["simclr"], contrast=Graph(views=4), **change)
    outputs, batch = outputs_of(method, 5), batch_of(5)
    together = loss(method, outputs, {}, batch, NOW)
    together.loss.backward()
    gradient, outputs.embedding_VBD.grad = outputs.embedding_VBD.grad, None
    parts, bounds = [], []
    for pair in method.pairs:  # weights of next to nothing keep all four views among what is on offer
        others = tuple(replace(each, weight=1.0 if each == pair else 1e-300) for each in method.pairs)
        alone = loss(replace(method, contrast=others), outputs, {}, batch, NOW)
        parts.append(alone.loss)
        bounds.append(alone.scalars["bound"])
    torch.testing.assert_close(together.loss, torch.stack(parts).mean())
    torch.stack(parts).mean().backward()
    torch.testing.assert_close(gradient, outputs.embedding_VBD.grad)
    torch.testing.assert_close(together.scalars["bound"], torch.stack(bounds).mean())


def test_the_selection_is_made_once_for_each_anchor(monkeypatch):
    from viewmill.objectives import contrast

    made, usual = [], contrast.select
    monkeypatch.setattr(contrast, "select", lambda *given, **options: made.append(1) or usual(*given, **options))
    for views in (2, 4, 8):
        made.clear()
        method = replace(METHODS["simclr"], contrast=Graph(views=views))
        loss(method, outputs_of(method, 3), {}, batch_of(3), NOW, observe=False)
        assert len(made) == views


# Terms


def test_superfluous_information_is_a_mean_over_the_pairs_of_each_direction():
    graph = Graph(views=4, keys=2)
    term = Superfluous("conditional-kl", first=0.3, second=0.7, warmup=replace(Superfluous().warmup, start=1.0))
    method = replace(METHODS["superinfo-simclr"], contrast=graph, head=FixedGaussian(0.5), terms=(term,))
    outputs = outputs_of(method, 3)
    outputs = outputs._replace(scale_VBF=torch.full_like(outputs.mean_VBF, 0.5))
    mean, scale = outputs.mean_VBF, outputs.scale_VBF

    def apart(view, other):
        return superinfo.gaussian_kl(mean[view], scale[view], mean[other], scale[other]).mean()

    later = [apart(view, other) for view, other in ((0, 1),)]
    earlier = [apart(view, other) for view, other in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1))]
    penalty = (0.3 * torch.stack(later).mean() + 0.7 * torch.stack(earlier).mean()) / D
    plain = loss(replace(method, terms=()), outputs, {}, batch_of(3), NOW).loss
    torch.testing.assert_close(loss(method, outputs, {}, batch_of(3), NOW).loss, plain + penalty)


def test_the_squared_error_is_a_mean_over_the_pairs_too():
    method = replace(METHODS["simclr"], contrast=Graph("chain", 3), terms=(SquaredError(2.0),))
    outputs = outputs_of(method, 3)
    x = outputs.mean_VBF
    error = torch.stack([superinfo.squared_error(x[a], x[b]).mean() for a, b in ((0, 1), (1, 2))]).mean()
    plain = loss(replace(method, terms=()), outputs, {}, batch_of(3), NOW).loss
    torch.testing.assert_close(loss(method, outputs, {}, batch_of(3), NOW).loss, plain + 2 * error)

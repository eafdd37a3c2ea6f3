"""When a region comes into force by what the ranking is worth, and what an image is drawn to before its row is written."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from viewmill.methods.outputs import Outputs
from viewmill.methods.parts import Bank, Everything, Nearest, Own
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.objectives import memory as memories
from viewmill.objectives.images import Images
from viewmill.objectives.memory import NEVER
from viewmill.objectives.objective import loss
from viewmill.objectives.warm_start import EVERY, READINGS, first_step, in_force, judge_, ranking_edge, waits

ROWS, D, CPU = 200, 4, torch.device("cpu")
WAITING = replace(METHODS["ring"], warm_start=1.0, ranked_share=0.5)


def memory_of(method, rows=ROWS):
    memory = memories.start(method, rows=rows, batch=8, dimension=D, seed=0, device=CPU)
    return {name: value.double() if value.is_floating_point() else value for name, value in memory.items()}


def at(step, steps=200):
    return Moment(step, steps, steps_per_epoch=10)


def told(method, readings, steps=200):
    """The step since which the region is in force, where a reading is made at each step that asks for one."""
    memory, readings = memory_of(method), iter(readings)
    for step in range(steps):
        if in_force(method, memory, at(step, steps)) is method:
            return step
        if waits(method, memory, at(step, steps)):
            judge_(method, memory, next(readings), at(step, steps))
    return steps


def test_the_region_comes_into_force_when_enough_anchors_have_their_own_row_within_the_edge():
    first = 10 + EVERY * READINGS  # an epoch of the clock, then so many readings at least
    assert told(WAITING, [1.0] * 99) == first
    assert told(WAITING, [0.0, 0.0, 0.0, *[1.0] * 99]) == first + 2 * EVERY  # means 0, 0, 0, .3, .51


def test_it_waits_no_longer_than_for_a_share_of_the_run():
    assert told(WAITING, [0.49] * 99) == 150
    assert told(replace(WAITING, latest=0.2), [0.0] * 99) == 40
    assert told(replace(WAITING, latest=0.2, warm_start=6.0), [0.0] * 99) == 60  # the clock goes before
    assert told(WAITING, [math.nan] * 99) == 150
    assert told(replace(WAITING, latest=0.2), [0.0] * 99, steps=1) == 1


def test_what_it_knows_is_memory_so_that_a_run_that_goes_on_decides_alike():
    memory = memory_of(WAITING)
    for step in (19, 29):
        judge_(WAITING, memory, 0.8, at(step))
    later = {name: value.clone() for name, value in memory.items()}
    for each in (memory, later):
        judge_(WAITING, each, 0.8, at(39))
        assert first_step(WAITING, each, at(40)) == 40
        judge_(WAITING, each, 0.0, at(49))  # and once it is in force it stays
        assert first_step(WAITING, each, at(50)) == 40
    assert "ranked" not in memory_of(METHODS["ring"])


@pytest.mark.parametrize(
    ("name", "rows", "edge"), [("ring", 200, 0.1), ("ball", 200, 0.1), ("cave", 200, 0.01), ("la", 8192, 0.5), ("la", 99, 1)]
)
def test_the_edge_is_where_negatives_end_or_positives_do(name, rows, edge):
    assert ranking_edge(METHODS[name], rows=rows) == edge


def outputs_of(views, count):
    generator = torch.Generator().manual_seed(1)
    z = F.normalize(torch.randn(views, count, D, dtype=torch.float64, generator=generator), dim=2).requires_grad_()
    return Outputs(**{name: z if name in ("embedding_VBD", "mean_VBF") else None for name in Outputs._fields})


def images_of(rows):
    row_B = torch.tensor(rows)
    return Images(row_B, torch.ones(len(rows), dtype=torch.bool), torch.empty(0, dtype=torch.int64))


def own(name):
    method = METHODS[name]
    return replace(method, memory=replace(method.memory, unvisited="own"))


def test_an_image_without_a_row_waits_where_it_would_be_its_own_positive():
    method, outputs = own("ir"), outputs_of(1, 4)
    memory = memory_of(method)
    memory["bank_step"][:100] = 0
    found = loss(method, outputs, memory, images_of([3, 5, 100, 101]), at(20))
    z = outputs.embedding_VBD[0]
    expected = sum(
        torch.logsumexp(z[i] @ memory["bank"][:100].T / 0.07, dim=0) - z[i] @ memory["bank"][row] / 0.07
        for i, row in ((0, 3), (1, 5))
    )
    torch.testing.assert_close(found.loss, expected / 4)
    (gradient,) = torch.autograd.grad(found.loss, outputs.embedding_VBD)
    assert gradient[0, 2:].abs().max() == 0
    assert gradient[0, :2].abs().min() > 0


def test_with_two_views_the_other_one_stands_for_the_row_that_is_not_written():
    method, outputs = own("cmc"), outputs_of(2, 3)
    memory = memory_of(method)
    memory["bank_step"][:100] = 0
    found = loss(method, outputs, memory, images_of([100, 101, 102]), at(20)).loss
    expected = 0
    for anchor, key, bank in ((0, 1, "second_bank"), (1, 0, "bank")):
        z, other = outputs.embedding_VBD[anchor], outputs.embedding_VBD[key].detach()
        positive_B = (z * other).sum(dim=1, keepdim=True)
        logits = torch.cat((positive_B, z @ memory[bank][:100].T), dim=1) / 0.07
        expected = expected + F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("unvisited", "left"), [("random", 0.5), ("own", 0.0)])
def test_the_first_visit_leaves_nothing_of_what_a_row_began_with(unvisited, left):
    method = replace(METHODS["cmc"], memory=Bank(unvisited=unvisited))
    memory, outputs = memory_of(method), outputs_of(2, 2)
    memory["bank_step"][1] = 0
    before = {name: memory[name].clone() for name in ("bank", "second_bank")}
    memories.write_(method, memory, outputs, images_of([0, 1]), at(20), {})
    for index, name in enumerate(before):
        for row, share in ((0, left), (1, 0.5)):
            new = share * before[name][row] + (1 - share) * outputs.embedding_VBD[index, row].detach()
            torch.testing.assert_close(memory[name][row], F.normalize(new, dim=0))
    assert memory["bank_step"][:3].tolist() == [20, 20, NEVER]


def test_what_the_ranking_is_worth_is_told_by_the_anchors_whose_row_is_written():
    memory, outputs = memory_of(WAITING), outputs_of(1, 3)
    z = outputs.embedding_VBD
    memory["bank_step"][:] = 0
    memory["bank_step"][2] = NEVER
    memory["bank"][0], memory["bank"][1], memory["bank"][2] = z[0, 0].detach(), -z[0, 1].detach(), z[0, 2].detach()
    scalars = loss(WAITING, outputs, memory, images_of([0, 1, 2]), at(20)).scalars
    assert scalars["ranked"] == pytest.approx(1 / 3)
    assert "ranked" not in loss(METHODS["ring"], outputs, memory, images_of([0, 1, 2]), at(20)).scalars


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"ranked_share": 1.1}, "ranked_share is a share"),
        ({"latest": 0.0}, "latest is a share"),
        ({"ranked_share": 0.5, "region": Everything(), "positives": Own()}, "all there is here"),
    ],
)
def test_what_cannot_be_is_refused(bad, word):
    with pytest.raises(ValueError, match=word):
        replace(METHODS["ring"], **bad)
    with pytest.raises(ValueError, match="random or own"):
        Bank(unvisited="none")


def test_while_it_waits_the_loss_is_that_of_instance_discrimination():
    for method in (WAITING, replace(METHODS["la"], region=Nearest(40), warm_start=1.0, ranked_share=0.5)):
        memory, outputs, batch = memory_of(method), outputs_of(1, 3), images_of([0, 1, 2])
        memory["bank_step"][:] = 0
        torch.testing.assert_close(
            loss(method, outputs, memory, batch, at(99)).loss, loss(METHODS["ir"], outputs, memory, batch, at(99)).loss
        )
        memory["ranked"][2] = 99
        assert loss(method, outputs, memory, batch, at(99)).loss != loss(METHODS["ir"], outputs, memory, batch, at(99)).loss

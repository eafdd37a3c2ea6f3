"""What a person is told: each alarm at its own numbers, and nothing of a healthy run or of its first steps.

Every method is trained here on vectors, by its own loss, memory and alarms; a network of two layers stands for the encoder.
"""

from dataclasses import replace

import pytest
import torch
from test_objective import asked, small
from torch import nn
from torch.nn import functional as F

from viewmill.methods.outputs import Outputs
from viewmill.methods.overrides import values
from viewmill.methods.parts import NCE, Batch, Ring
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.objectives import memory as memories
from viewmill.objectives.alarms import AFTER_STEPS, Watch, Watched, alarms, judged
from viewmill.objectives.objective import Images, loss

HEALTHY = {
    "loss": 3.0,
    "bound": 2.0,
    "ceiling": 8.3,
    "bound_valid": 1.0,
    "effective_rank": 40.0,
    "spread": 0.9,
    "learned": 0.0,
    "false_negatives": 0.1,
    "superfluous_first": 3.0,
}


def test_a_healthy_run_raises_none():
    assert alarms(HEALTHY, step=1000, most_rank=128) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"effective_rank": 1.2}, "collapse", "one point or line (effective rank 1.2"),
        ({"spread": 0.01}, "collapse", "spread 0.01 of 1"),
        ({"learned": 0.8}, "dead", "80% of the anchors"),
        ({"bound_valid": 0.25}, "no bound", "75% of the anchors"),
        ({"false_negatives": 0.6}, "false negatives", "60% of the negatives"),
        ({"bound": 0.001}, "superinfo collapse", "the bound is 0.001 nats"),
    ],
)
def test_each_fault_is_told_in_words_with_its_number(changes, kind, words):
    found = alarms(HEALTHY | changes, step=AFTER_STEPS, most_rank=128)
    assert list(found) == [kind]
    assert words in found[kind]
    assert alarms(HEALTHY | changes, step=AFTER_STEPS - 1, most_rank=128) == {}


def test_a_method_that_logs_less_is_asked_for_no_more():
    assert alarms({"loss": 1.0, "bound": 0.5, "ceiling": 2.0}, step=1000, most_rank=128) == {}


def test_a_batch_of_two_images_has_no_rank_to_lose():
    assert alarms(HEALTHY | {"effective_rank": 1.8}, step=1000, most_rank=2) == {}
    assert "collapse" in alarms(HEALTHY | {"effective_rank": 1.0}, step=1000, most_rank=3)


# A bound that tells nothing, and embeddings that hardly differ


RING = {"bound": -0.05, "ceiling": 4.53, "bound_valid": 1.0, "spread": 0.14, "effective_rank": 4.0, "nearer": 0.24}


def test_the_ring_that_sinks_to_a_point_is_told():
    """As logged of `ring` on 2,934 photographs: negatives at a cosine of .99, the bound at 0 or below in every record."""
    found = alarms(RING, step=1000, most_rank=128, temperature=0.07)
    assert list(found) == ["near collapse", "chance"]
    assert (
        "a mean cosine of 0.980 (spread 0.14 of 1), which at a temperature of 0.07 leaves 0.28 nats"
        in found["near collapse"]
    )
    assert "the bound is -0.050 nats and tells nothing" in found["chance"]
    assert "24% of other images lie nearer to an anchor than its positive (50% is chance)" in found["chance"]
    assert "let it reach further" in found["chance"]


def test_a_cosine_is_much_or_little_by_the_temperature():
    values = HEALTHY | {"spread": 0.3}  # a mean cosine of .91
    assert alarms(values, step=1000, most_rank=128, temperature=0.07) == {}
    assert list(alarms(values, step=1000, most_rank=128, temperature=0.5)) == ["near collapse"]


def test_an_encoder_that_knows_nothing_is_advised_otherwise():
    found = alarms({"bound": -1.0, "nearer": 0.5}, step=1000, most_rank=128)
    assert "train longer" in found["chance"]
    assert "chance" not in alarms(
        {"bound": None, "spread": None, "bound_valid": None, "learned": None}, step=99, most_rank=9
    )


SETTINGS = {"rows": 2560, "batch": 256, "steps": 1000, "warmup": 0.05, "embedding": 128, "objective": {"warm_start": 0.0}}


@pytest.mark.parametrize(
    ("changes", "begin"),
    [
        ({}, 100),  # a tenth of the run
        ({"steps": 300}, AFTER_STEPS),
        ({"warmup": 0.3}, 300),
        ({"rows": 256_000}, 500),  # half of a run of one epoch
        ({"rows": 76_800}, 500),
        ({"rows": 38_400}, 300),  # two epochs
    ],
)
def test_alarms_begin_once_there_is_something_to_see(changes, begin):
    watched = Watched.of(SETTINGS | changes)
    assert watched.begin == begin
    assert not watched.counts(begin - 1)
    assert watched.counts(begin)
    watch = Watch(watched)
    assert not watch.heard(RING | {"spread": 0.01}, step=begin - 1)
    assert "collapse" in watch.heard(RING | {"spread": 0.01}, step=begin)


def test_nothing_is_said_in_the_first_epochs_after_a_warm_start():
    watched = Watched.of(SETTINGS | {"objective": {"warm_start": 20.0, "bound.temperature": 0.07}})
    assert [step for step in (100, 199, 200, 219, 220) if watched.counts(step)] == [100, 199, 220]
    assert watched.temperature == 0.07


def test_a_number_that_moves_has_to_stay_there_for_some_readings():
    watch = Watch(Watched.of(SETTINGS))
    low = HEALTHY | {"bound": 0.0}
    del low["superfluous_first"]
    for step in (200, 210, 230, 240):
        assert watch.heard(low if step != 230 else HEALTHY, step=step) == {}
    assert watch.standing() == {}
    assert watch.heard(low, step=250) == {}
    assert list(watch.heard(low, step=260)) == list(watch.standing()) == ["chance"]
    watch.heard(HEALTHY, step=270)
    assert watch.standing() == {}


def test_the_end_of_a_short_run_is_judged_by_what_there_is():
    assert list(judged(SETTINGS, [RING | {"step": 1000}])) == ["near collapse", "chance"]
    assert judged(SETTINGS, [RING | {"step": 40}]) == {}
    assert judged({}, []) == {}
    assert judged(SETTINGS, [RING | {"step": 980}, HEALTHY | {"step": 990}, HEALTHY | {"step": 1000}]) == {}


# Every method


ROWS, BATCH, D, WIDE = 256, 64, 16, 12
STEPS = 160
EASIER = {  # settings in which a method whose preset is for a million photographs learns so few vectors in seconds
    Ring: lambda method: replace(method, region=Ring(0.02 if method.region.inner else 0.0, 0.9)),
}


class Net(nn.Module):
    """Two layers, and whatever a method may ask for on them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(WIDE, 64), nn.BatchNorm1d(64), nn.ReLU())
        sizes = {"embedding": D, "mean": 8, "scale": 8, "pixels": 12}
        self.layers = nn.ModuleDict({name: nn.Linear(64, out) for name, out in sizes.items()})
        self.predictor = nn.Sequential(nn.Linear(D, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, D))

    def forward(self, x_VBW):
        flat = x_VBW.flatten(0, 1)
        hidden = self.trunk(flat)
        made = {name: layer(hidden).unflatten(0, x_VBW.shape[:2]) for name, layer in self.layers.items()}
        projected = made["embedding"]
        embedding = F.normalize(projected, dim=-1)
        prediction = self.predictor(projected.flatten(0, 1)).unflatten(0, x_VBW.shape[:2])
        sample = F.normalize(embedding + 0.02 * torch.randn_like(embedding), dim=-1)
        pixels = made["pixels"].unflatten(-1, (3, 2, 2))
        scale = 0.1 + 0 * made["scale"]
        return Outputs(embedding, projected, made["mean"], scale, sample, prediction, pixels, pixels)


def trained(name, *, sunk):
    """The last readings of a training of `name`, and its settings; where it is `sunk` all images look alike."""
    method = small(METHODS[name])
    if isinstance(method.region, Ring) and not sunk:
        method = EASIER[Ring](method)
    if not isinstance(method.memory, Batch):
        method = replace(method, memory=replace(METHODS[name].memory, **({"size": ROWS} if "moco" in name else {})))
    method = replace(method, warm_start=0.0) if method.warm_start else method
    net, target = Net(), Net()
    rate = 0.03 if isinstance(method.bound, NCE) or not method.contrast else 0.1
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0 if sunk else rate, momentum=0.9)
    x_NW = torch.randn(ROWS, WIDE, generator=torch.Generator().manual_seed(1))
    cpu = torch.device("cpu")
    memory = memories.start(method, rows=ROWS, batch=BATCH, dimension=D, seed=0, device=cpu)
    watch = Watch(
        Watched.of(
            {**SETTINGS, "rows": ROWS, "batch": BATCH, "steps": STEPS, "embedding": D} | {"objective": dict(values(method))}
        )
    )
    said, draws = {}, torch.Generator().manual_seed(2)
    for step in range(STEPS):
        moment = Moment(step, STEPS, ROWS // BATCH)
        if step % (ROWS // BATCH) == 0:
            order = torch.randperm(ROWS, generator=draws)
        row_B = order[step % (ROWS // BATCH) * BATCH :][:BATCH]
        memories.refresh_(method, memory, moment)
        x_VBW = x_NW[row_B] + 0.2 * torch.randn(2, BATCH, WIDE, generator=draws)
        if sunk:  # of two thirds a thousandth is left, and what is the same for all
            x_VBW = 1 + 1e-3 * x_VBW
            net.eval(), target.eval()
        made = net(x_VBW)
        with torch.no_grad():
            target_VBD = target(x_VBW).embedding_VBD
        outputs = asked(method, made, target_VBD)
        images = Images(
            row_B,
            torch.ones(BATCH, dtype=torch.bool),
            torch.empty(0, dtype=torch.int64),
            None,
            (torch.rand(2 * BATCH, 3, 2, 2),),
        )
        observe = (step + 1) % 10 == 0
        result = loss(method, outputs, memory, images, moment, observe=observe)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        memories.write_(method, memory, outputs, images, moment, result.pending)
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1.0 if sunk else 0.1)
        if observe:
            numbers = {key: value.tolist() for key, value in result.scalars.items()}
            said |= watch.heard(numbers, step=step + 1)
    return said | watch.standing(), numbers


def each():
    """Every method; some kinds of them are among the quick tests."""
    quick = ("ring", "moco-v2", "simclr", "vicreg", "byol")
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.chaos) for name in METHODS]


@pytest.mark.parametrize("name", each())
def test_of_a_method_that_learns_nothing_is_said(name):
    said, numbers = trained(name, sunk=False)
    said.pop("no bound", None)  # a ring that reaches so far is none, and says so
    assert said == {}, (said, numbers)


@pytest.mark.parametrize("name", each())
def test_of_a_method_that_sinks_to_a_point_it_is_said(name):
    said, _ = trained(name, sunk=True)
    assert {"collapse", "near collapse"} & set(said)

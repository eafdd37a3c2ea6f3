"""Methods from outputs to a loss: slow references, equivalences, images that do not count, and several ranks.

Run as a script, this file is one rank of `ranks` below.
Shape suffixes: V = views, B = images, M = rows on offer, D = embedding, F = features, S = pixels.
"""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from viewmill.methods.method import MIN_CANDIDATES, Method, candidate_count
from viewmill.methods.outputs import Outputs
from viewmill.methods.pairing import Pair
from viewmill.methods.parts import (
    NCE,
    Anneal,
    Bank,
    Batch,
    Clusters,
    Decoupled,
    Everything,
    HardNegatives,
    InfoNCE,
    Nearest,
    Neighbours,
    Own,
    Queue,
    Ring,
    SameCluster,
)
from viewmill.methods.schedules import Moment, Schedule
from viewmill.methods.synthetic import MixedQueue
from viewmill.methods.table import METHODS
from viewmill.methods.terms import BoundedGaussian, FixedGaussian, Momentum, Superfluous, VonMisesFisher
from viewmill.objectives import memory as memories
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.losses import derived
from viewmill.objectives.objective import Images, loss
from viewmill.objectives.places import positions
from viewmill.objectives.regions import cut, window, with_neighbours
from viewmill.objectives.superinfo import ceb_expected
from viewmill.pipeline.views.recipe import RECIPES

CPU = torch.device("cpu")
ROWS, D, FEATURES, PIXELS = 200, 4, 6, 2  # rows of the bank: enough for a ring from 1 %
NOTHING = torch.empty(0, dtype=torch.int64)
NOW = Moment(step=90, steps=200, steps_per_epoch=2)  # past every warm start and warm-up
CASES = {  # which of 8 images are valid
    "all valid": [True] * 8,
    "one invalid": [True] * 5 + [False] + [True] * 2,
    "a rank without a valid image": [False] * 4 + [True] * 4,
}


def small(method):
    """The method in sizes that fit 200 rows."""
    if isinstance(method.region, Nearest):
        method = replace(method, region=Nearest(40))
    if isinstance(method.memory, Batch) and isinstance(method.region, Ring):
        method = replace(method, region=Ring(0.3 if method.region.inner else 0.0, 0.8))
    if isinstance(method.memory, Queue):
        method = replace(method, memory=replace(method.memory, size=ROWS))
    if isinstance(method.memory, MixedQueue):
        method = replace(method, memory=replace(method.memory, hardest=20, mixed=9))
    if isinstance(method.memory, Bank):
        method = replace(method, memory=replace(method.memory, negatives=30))
    if isinstance(method.positives, Clusters):
        method = replace(method, positives=Clusters(clusterings=2, rows_per_cluster=20))
    return method


VARIANTS = {  # settings that no row has, held to the same
    "decoupled, weighted": replace(METHODS["decoupled"], bound=Decoupled(0.1, sigma=0.5)),
    "ir, own cluster": replace(METHODS["ir"], region=SameCluster()),
    "ir-nce, first": replace(METHODS["ir"], bound=NCE(0.07, "first")),
    "ring, exact": replace(METHODS["ring"], memory=Bank(exact=True)),
    "superinfo, bounded": replace(METHODS["superinfo-simclr"], head=BoundedGaussian()),
    "superinfo, directions": replace(METHODS["superinfo-moco"], head=VonMisesFisher(10.0)),
}
EVERY = {**METHODS, **VARIANTS}
SMALL = {name: small(method) for name, method in EVERY.items()}
BANKED = [name for name, method in SMALL.items() if isinstance(method.memory, Bank)]
CONTRASTED = [name for name, method in SMALL.items() if method.contrast]
PLAIN = [  # what is InfoNCE and nothing else
    name
    for name in CONTRASTED
    if isinstance(SMALL[name].bound, InfoNCE)
    and isinstance(SMALL[name].positives, Own)
    and not SMALL[name].terms
    and not isinstance(SMALL[name].memory, MixedQueue)
]


def unit(*shape, seed, dtype=torch.float64):
    return F.normalize(normal(*shape, seed=seed), dim=-1).to(dtype)


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Toy(nn.Module):
    """A network of linear layers that yields whatever a method may ask for."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        sizes = {"embedding": D, "mean": FEATURES, "scale": FEATURES, "prediction": D, "pixels": 3 * PIXELS**2}
        self.layers = nn.ModuleDict({name: nn.Linear(5, out) for name, out in sizes.items()}).to(dtype)
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                parameter.copy_(0.4 * normal(*parameter.shape, seed=20 + seed))

    def forward(self, x_VB5):
        made = {name: layer(x_VB5) for name, layer in self.layers.items()}
        pixels = made["pixels"].unflatten(-1, (3, PIXELS, PIXELS))
        embedding = F.normalize(made["embedding"], dim=-1)
        sample = F.normalize(embedding + 0.1 * torch.sin(7 * x_VB5[..., :D]), dim=-1)
        scale = 0.5 + made["scale"].sigmoid()
        return Outputs(embedding, made["embedding"], made["mean"], scale, sample, made["prediction"], pixels, pixels.tanh())


def asked(method, made, target_VBD):
    """Of all outputs those that `method` asks for, at the views that it sends through each network."""
    online = method.online_views
    made = Outputs(*(None if x is None else x[:online] for x in made))
    keep = {
        "sample_VBD": method.samples_embedding,
        "scale_VBF": isinstance(method.head, FixedGaussian | BoundedGaussian),
        "prediction_VBD": method.predicts,
        "other_VBCSS": method.decodes_other,
        "own_VBCSS": method.decodes_own,
    }
    made = made._replace(**{name: None for name, wanted in keep.items() if not wanted})
    targets = target_VBD[list(method.target_views)] if method.target_views else None
    return made._replace(target_VBD=targets)


def outputs_of(method, count, *, seed=1, model=None, part=slice(None), dtype=torch.float64):
    """Outputs for `count` images; of a linear network, so that gradients have somewhere to go."""
    model = Toy(dtype) if model is None else model
    views = max(2, method.views)
    x = normal(views, count, 5, seed=seed, dtype=dtype)[:, part]
    target = unit(views, count, D, seed=seed + 1000, dtype=dtype)[:, part]
    return asked(method, model(x), target)


def images(count, *, valid=None, candidate_M=NOTHING, part=slice(None)):
    """`count` images of scattered rows of the bank, with labels and pixels."""
    valid_B = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid)
    row_B = torch.arange(count) * 37 % ROWS
    pixels = normal(2, count, 3, PIXELS, PIXELS, seed=5)[:, part]
    return Images(row_B[part], valid_B[part], candidate_M, torch.arange(ROWS) % 5, (pixels.flatten(0, 1),))


def memory_of(method, dtype=torch.float64):
    memory = memories.start(method, rows=ROWS, batch=8, dimension=D, seed=3, device=CPU)
    memory = {name: x.to(dtype) if x.dtype == torch.float32 else x for name, x in memory.items()}
    for name in ("labels", "second_labels"):
        if name in memory:
            memory[name] = (torch.arange(ROWS, dtype=torch.int32) * 7 + torch.tensor([[0], [3]], dtype=torch.int32)) % 11
    if "queue_row" in memory:
        memory["queue_row"] = torch.arange(ROWS) - 50  # some of nobody, some of the batch's own
    if "bank_step" in memory:
        memory["bank_step"].zero_()  # every row has been written
    return memory


def compute(method, count=6, *, valid=None, seed=1, **options):
    return loss(method, outputs_of(method, count, seed=seed), memory_of(method), images(count, valid=valid), NOW, **options)


# SimCLR and IR against loops


@settings(deadline=None)
@given(
    valid=st.lists(st.booleans(), min_size=1, max_size=5),
    temperature=st.sampled_from([0.005, 0.07, 0.2, 1.0]),
    seed=st.integers(0, 99),
)
def test_simclr_is_the_mean_over_valid_views_of_a_loop_over_the_other_valid_images(valid, temperature, seed):
    method = replace(METHODS["simclr"], bound=InfoNCE(temperature))
    count, outputs = len(valid), outputs_of(method, len(valid), seed=seed)
    embedding = outputs.embedding_VBD.flatten(0, 1).detach()
    losses = []
    for anchor in range(2 * count):
        if valid[anchor % count]:
            value = (embedding @ embedding[anchor] / temperature).tolist()
            partner = (anchor + count) % (2 * count)
            others = [value[i] for i in range(2 * count) if i not in (anchor, partner) and valid[i % count]]
            highest = max(value[partner], *others, -math.inf)
            total = sum(math.exp(term - highest) for term in [value[partner], *others])
            losses.append(math.log(total) + highest - value[partner])
    result = loss(method, outputs, {}, images(count, valid=valid), NOW)
    assert result.loss.item() == pytest.approx(sum(losses) / max(1, len(losses)), rel=1e-10, abs=1e-12)
    ceiling = math.log(max(1, 2 * sum(valid) - 1)) if any(valid) else 0
    assert result.scalars["ceiling"].item() == pytest.approx(ceiling, abs=1e-12)


@settings(deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 6))
def test_ir_over_the_whole_bank_is_a_softmax_over_it(seed, count):
    method = replace(METHODS["ir"], memory=Bank(negatives=ROWS))
    outputs, memory, batch = outputs_of(method, count, seed=seed), memory_of(method), images(count)
    result = loss(method, outputs, memory, batch, NOW)
    expected = F.cross_entropy(outputs.embedding_VBD[0] @ memory["bank"].T / method.bound.temperature, batch.row_B)
    torch.testing.assert_close(result.loss, expected)
    assert result.scalars["ceiling"].item() == pytest.approx(math.log(ROWS))


def test_moco_is_a_softmax_over_the_positive_and_the_queue():
    method = SMALL["moco-v1"]
    outputs, memory, batch = outputs_of(method, 5), memory_of(method), images(5)
    memory["queue_row"].fill_(1)  # an image that is not of the batch
    query, key = outputs.embedding_VBD[0], outputs.target_VBD[0]
    logits = torch.cat(((query * key).sum(1, keepdim=True), query @ memory["queue"].T), dim=1) / method.bound.temperature
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(loss(method, outputs, memory, batch, NOW).loss, expected)


def test_a_queue_that_holds_an_earlier_key_of_the_same_image_does_not_offer_it():
    method = SMALL["moco-v1"]
    outputs, memory, batch = outputs_of(method, 1), memory_of(method), images(1)
    own = memory["queue_row"] == batch.row_B
    assert own.sum() == 1
    far, near = memory["queue"].clone(), memory["queue"].clone()
    far[own], near[own] = -outputs.embedding_VBD[0].detach(), outputs.embedding_VBD[0].detach()
    losses = [loss(method, outputs, memory | {"queue": queue}, batch, NOW).loss for queue in (far, near)]
    torch.testing.assert_close(*losses)


def test_a_batch_of_one_image_has_no_negative_and_costs_nothing():
    for name in ("simclr", "simclr-noise", "decoupled"):
        assert compute(SMALL[name], count=1).loss.item() == pytest.approx(0, abs=1e-12)


# Equivalences between methods


def same(one, other, **options):
    torch.testing.assert_close(compute(one, **options).loss, compute(other, **options).loss)


def test_the_widest_ring_is_everything():
    every_row = Bank(negatives=ROWS)
    same(replace(METHODS["ring"], region=Ring(0, 1), memory=every_row), replace(METHODS["ir"], memory=every_row))
    same(replace(SMALL["moco-v2-ring"], region=Ring(0, 1)), SMALL["moco-v2"])
    same(replace(SMALL["simclr-ring"], region=Ring(0, 1)), SMALL["simclr"])


def test_a_ring_without_an_inner_edge_is_the_ball():
    for base in ("", "cmc-", "moco-v1-", "moco-v2-"):
        same(replace(SMALL[f"{base}ring"], region=Ring(0, 0.1)), SMALL[f"{base}ball"])


def test_a_relative_inner_edge_is_a_share_of_the_outer_one():
    same(replace(SMALL["ring"], region=Ring(0.1, 0.5, relative=True)), replace(SMALL["ring"], region=Ring(0.05, 0.5)))


def test_local_aggregation_with_a_cluster_for_every_row_is_the_ball_of_as_many_rows():
    method, memory = SMALL["la"], memory_of(SMALL["la"])
    memory["labels"] = torch.arange(ROWS, dtype=torch.int32).repeat(2, 1)
    outputs, batch = outputs_of(method, 6), images(6)
    ball = replace(SMALL["ball"], region=Ring(0, 40 / ROWS), memory=Bank(negatives=40))
    torch.testing.assert_close(
        loss(method, outputs, memory, batch, NOW).loss, loss(ball, outputs, memory_of(ball), batch, NOW).loss
    )


def test_until_its_warm_start_is_over_local_aggregation_is_instance_discrimination():
    early = Moment(step=19, steps=200, steps_per_epoch=2)
    outputs, memory, batch = outputs_of(SMALL["la"], 6), memory_of(SMALL["la"]), images(6)
    found = loss(SMALL["la"], outputs, memory, batch, early).loss
    torch.testing.assert_close(found, loss(SMALL["ir"], outputs, memory, batch, early).loss)
    assert found != loss(SMALL["la"], outputs, memory, batch, early._replace(step=20)).loss


def test_cmc_of_two_equal_halves_is_twice_ir():
    outputs, batch = outputs_of(SMALL["cmc"], 6), images(6)
    outputs = outputs._replace(embedding_VBD=outputs.embedding_VBD[:1].repeat(2, 1, 1))
    memory = memory_of(SMALL["cmc"])
    memory["second_bank"] = memory["bank"].clone()
    one = loss(SMALL["ir"], outputs._replace(embedding_VBD=outputs.embedding_VBD[:1]), memory, batch, NOW).loss
    torch.testing.assert_close(loss(SMALL["cmc"], outputs, memory, batch, NOW).loss, 2 * one)


def test_cmc_contrasts_each_half_with_the_bank_of_the_other():
    outputs, batch, memory = outputs_of(SMALL["cmc"], 6), images(6), memory_of(SMALL["cmc"])
    expected = 0
    for anchor, key in ((0, "second_bank"), (1, "bank")):
        logits = outputs.embedding_VBD[anchor] @ memory[key].T / 0.07
        expected = expected + F.cross_entropy(logits, batch.row_B)
    torch.testing.assert_close(loss(SMALL["cmc"], outputs, memory, batch, NOW).loss, expected)


def test_pirl_halves_its_weight_between_image_and_puzzle_against_one_bank():
    outputs, batch, memory = outputs_of(SMALL["pirl"], 6), images(6), memory_of(SMALL["pirl"])
    logits = outputs.embedding_VBD @ memory["bank"].T / 0.07
    expected = (F.cross_entropy(logits[0], batch.row_B) + F.cross_entropy(logits[1], batch.row_B)) / 2
    torch.testing.assert_close(loss(SMALL["pirl"], outputs, memory, batch, NOW).loss, expected)


def test_cave_has_the_balls_positives_and_the_rings_negatives():
    method, outputs, batch = SMALL["cave"], outputs_of(SMALL["cave"], 6), images(6)
    method = replace(method, region=Ring(0.05, 0.15), memory=Bank())
    bank = memory_of(method)["bank"]
    critic = outputs.embedding_VBD[0] @ bank.T / 0.07
    own = critic.gather(1, batch.row_B[:, None])
    ranked = critic.scatter(1, batch.row_B[:, None], -math.inf).sort(dim=1, descending=True).values
    positives = torch.cat((own, ranked[:, :10]), dim=1)
    denominators = {False: torch.cat((own, ranked[:, 10:30]), dim=1), True: torch.cat((own, ranked[:, :30]), dim=1)}
    for among, denominator in denominators.items():
        for kind, numerator in (("logsumexp", positives.logsumexp(1)), ("mean", positives.mean(1))):
            with_neighbours = replace(method, positives=Neighbours(kind, among_negatives=among))
            found = loss(with_neighbours, outputs, memory_of(method), batch, NOW)
            torch.testing.assert_close(found.loss, (denominator.logsumexp(1) - numerator).mean())


def test_thinned_neighbours_stand_as_densely_as_the_ring_and_in_simplified_la_all_in_the_denominator():
    method, outputs, batch = SMALL["cave"], outputs_of(SMALL["cave"], 6), images(6)
    method = replace(method, region=Ring(0.2, 0.6), memory=Bank(negatives=40))  # every second row of the ring
    scalars = loss(method, outputs, memory_of(method), batch, NOW).scalars
    assert scalars["ceiling"].exp().item() == pytest.approx(41)
    where = with_neighbours(window(method.region, ROWS, limit=40), among_negatives=False, limit=40)
    assert (where.near, where.taken) == (20, 40)
    simplified = replace(method, positives=Neighbours(among_negatives=True))
    where = with_neighbours(window(method.region, ROWS, limit=40), among_negatives=True, limit=40)
    assert (where.near, where.taken) == (13, 27)
    for numerator in ("logsumexp", "mean"):
        one = replace(simplified, positives=Neighbours(numerator, among_negatives=True))
        assert loss(one, outputs, memory_of(method), batch, NOW).loss > 0
    assert loss(simplified, outputs, memory_of(method), batch, NOW).scalars["bound_valid"] == 1


def test_local_aggregation_draws_to_the_rows_of_any_shared_cluster_among_the_nearest():
    method, outputs, batch, memory = SMALL["la"], outputs_of(SMALL["la"], 6), images(6), memory_of(SMALL["la"])
    losses = []
    for vector, own in zip(outputs.embedding_VBD[0], batch.row_B.tolist(), strict=True):
        critic = memory["bank"] @ vector / 0.07
        near = [row for row in critic.argsort(descending=True).tolist() if row != own][:40]
        alike = [row for row in near if (memory["labels"][:, row] == memory["labels"][:, own]).any()]
        assert 0 < len(alike) < 40
        losses.append(critic[[own, *near]].logsumexp(0) - critic[[own, *alike]].logsumexp(0))
    torch.testing.assert_close(loss(method, outputs, memory, batch, NOW).loss, torch.stack(losses).mean())


def test_negatives_of_the_own_cluster_are_the_nearest_rows_of_it():
    method = replace(SMALL["ir"], region=SameCluster(), memory=Bank(negatives=10))
    outputs, batch, memory = outputs_of(method, 6), images(6), memory_of(method)
    memory["labels"] = memory["labels"][:1] if "labels" in memory else (torch.arange(ROWS)[None] % 11).int()
    losses = []
    for vector, own in zip(outputs.embedding_VBD[0], batch.row_B.tolist(), strict=True):
        critic = memory["bank"] @ vector / 0.07
        alike = (memory["labels"][0] == memory["labels"][0, own]).nonzero()[:, 0].tolist()
        near = sorted((row for row in alike if row != own), key=lambda row: -critic[row].item())[:10]
        losses.append(critic[[own, *near]].logsumexp(0) - critic[own])
    torch.testing.assert_close(loss(method, outputs, memory, batch, NOW).loss, torch.stack(losses).mean())


def test_superinfo_without_weights_is_its_base_and_its_penalties_add_up():
    for base in ("simclr", "moco"):
        plain = replace(SMALL[f"superinfo-{base}"], terms=())
        plain = replace(plain, contrast=SMALL[f"superinfo-{base}"].contrast)
        no_weights = replace(SMALL[f"superinfo-{base}"], terms=(Superfluous(first=0, second=0),))
        outputs, memory, batch = outputs_of(no_weights, 6), memory_of(no_weights), images(6)
        start = loss(no_weights, outputs, memory, batch, NOW)
        torch.testing.assert_close(start.loss, loss(plain, outputs, memory, batch, NOW).loss)
        for first, second in ((0.3, 0.0), (0.0, 0.2)):
            weighted = replace(no_weights, terms=(Superfluous(first=first, second=second),))
            found = loss(weighted, outputs, memory, batch, NOW)
            added = first * start.scalars["superfluous_first"] + second * start.scalars["superfluous_second"]
            torch.testing.assert_close(found.loss.detach(), start.loss.detach() + added)


def test_superfluous_terms_are_told_in_nats_and_per_dimension_and_weigh_alike():
    for name in ("superinfo-simclr", "superinfo-simclr-variational"):
        scalars = compute(SMALL[name]).scalars
        for side in ("first", "second"):
            per_dimension, nats = scalars[f"superfluous_{side}"], scalars[f"superfluous_{side}_nats"]
            torch.testing.assert_close(per_dimension * FEATURES, nats)
    rate, nll = scalars["rate_first"], scalars["nll_first"]
    torch.testing.assert_close(scalars["superfluous_first_nats"], rate * FEATURES + nll * 3 * PIXELS**2)
    method = replace(SMALL["superinfo-simclr-variational"], terms=(Superfluous("variational", 0.3, 0.0, 0.3, 0.0),))
    plain = replace(method, terms=(replace(method.terms[0], first=0.0, decode_first=0.0),))
    outputs, memory, batch = outputs_of(method, 6), memory_of(method), images(6)
    found = loss(method, outputs, memory, batch, NOW)
    without = loss(plain, outputs._replace(other_VBCSS=None), memory, batch, NOW)
    torch.testing.assert_close(found.loss, without.loss + 0.3 * found.scalars["superfluous_first"])


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("superinfo")])
def test_penalties_start_at_nothing_and_warm_up(name):
    method, outputs, memory = SMALL[name], outputs_of(SMALL[name], 6), memory_of(SMALL[name])
    losses = [loss(method, outputs, memory, images(6), Moment(step, 200, 2)).loss.item() for step in (0, 9, 19, 30)]
    without = replace(method, terms=(replace(method.terms[0], first=0.0, second=0.0),))
    assert losses[0] == pytest.approx(loss(without, outputs, memory, images(6), NOW).loss.item())
    assert losses[0] != pytest.approx(losses[1])
    assert losses[2] == losses[3]


def test_the_residual_of_directions_is_told_at_its_tightest_too():
    method = SMALL["superinfo-simclr-ceb"]
    values = {name: value.tolist() for name, value in compute(method).scalars.items()}
    tightest = derived(method, values, D)["superfluous_tightest"]
    outputs = outputs_of(method, 6)
    one, two = outputs.embedding_VBD.detach()
    means = [ceb_expected(one, two, 1024.0, kappa).mean().item() for kappa in torch.logspace(-2, 5, 400).tolist()]
    assert tightest == pytest.approx(min(means), abs=1e-2)
    assert tightest <= min(means) + 1e-9
    assert derived(SMALL["simclr"], values, D) == {}


# Candidates


@pytest.mark.parametrize("name", ["ir", "ball", "ring", "cmc", "cmc-ring"])
def test_with_candidates_only_they_and_never_the_own_row_are_negatives(name):
    method = SMALL[name]
    outputs, memory = outputs_of(method, 5), memory_of(method)
    candidate_M = torch.arange(0, ROWS, 2)  # some of the 5 own rows are among them, some are not
    result = loss(method, outputs, memory, images(5, candidate_M=candidate_M), NOW)
    expected = 0
    for pair in method.pairs:
        bank = memory[memories.bank_of(pair.key)]
        where = window(method.region, len(candidate_M), limit=30, step=NOW.step)
        for vector, row in zip(outputs.embedding_VBD[pair.anchor], images(5).row_B, strict=True):
            critic = (bank @ vector / method.bound.temperature)[None]
            selected = cut(where, critic[:, candidate_M], (candidate_M != row)[None])
            expected = expected + info_nce(critic[:, row], *selected[:2]).loss_B[0] / 5
    torch.testing.assert_close(result.loss, expected)


def test_candidates_that_are_all_rows_are_the_whole_bank():
    for name in ("ir", "ball", "ring", "cave", "cmc-ring", "pirl", "ir-nce"):
        method = SMALL[name]
        drawn, whole = (
            loss(method, outputs_of(method, 5), memory_of(method), images(5, candidate_M=rows), NOW)
            for rows in (torch.arange(ROWS), NOTHING)
        )
        torch.testing.assert_close(drawn.loss, whole.loss)


def test_negatives_drawn_for_each_image_are_its_own_draw_without_its_own_row():
    method, outputs, memory = SMALL["ir"], outputs_of(SMALL["ir"], 5), memory_of(SMALL["ir"])
    candidate_BK = torch.randint(0, ROWS, (5, 30), generator=torch.Generator().manual_seed(0))
    candidate_BK[:, 0] = images(5).row_B
    result = loss(method, outputs, memory, images(5, candidate_M=candidate_BK), NOW)
    critic = outputs.embedding_VBD[0] @ memory["bank"].T / 0.07
    own = critic.gather(1, images(5).row_B[:, None])
    taken = critic.gather(1, candidate_BK).masked_fill(candidate_BK == images(5).row_B[:, None], -math.inf)
    torch.testing.assert_close(result.loss, (torch.cat((own, taken), dim=1).logsumexp(1) - own[:, 0]).mean())


@pytest.mark.parametrize(
    ("method", "rows", "count"),
    [
        (METHODS["simclr"], 10**6, 0),
        (METHODS["moco-v2-ring"], 10**6, 0),
        (METHODS["vicreg"], 10**6, 0),
        (METHODS["la"], 10**6, 0),
        (METHODS["ir"], 4_095, 0),
        (METHODS["ir"], 4_096, 4_095),
        (METHODS["ring"], 91_000, 0),
        (METHODS["ring"], 91_001, 45_500),
        (replace(METHODS["ring"], memory=Bank(exact=True)), 10**6, 0),
        (replace(METHODS["ring"], memory=Bank(negatives=9)), 10**6, MIN_CANDIDATES),
        (replace(METHODS["ring"], region=Ring(0.1, 0.1 + 0.9, anneal=Anneal("linear", 1.0))), 10**6, MIN_CANDIDATES),
    ],
)
def test_a_large_bank_is_sampled_and_a_small_one_taken_whole(method, rows, count):
    assert candidate_count(method, rows) == count


# Every method


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("simclr-ball", "simclr-ring")])  # shares of all
@pytest.mark.parametrize("valid", [[True, False, True, True], [False, True, True, False]])
def test_the_loss_of_a_batch_is_that_of_its_valid_images_alone(name, valid):
    method, keep, model = SMALL[name], torch.tensor(valid), Toy()
    whole, batch = outputs_of(method, 4, model=model), images(4, valid=valid)
    alone = Outputs(*(None if x is None else x[:, keep].detach().requires_grad_() for x in whole))
    whole = Outputs(*(None if x is None else x.detach().requires_grad_() for x in whole))
    pixels = (batch.views[0].unflatten(0, (2, 4))[:, keep].flatten(0, 1),)
    batch_alone = batch._replace(row_B=batch.row_B[keep], valid_B=batch.valid_B[keep], views=pixels)
    with_invalid = loss(method, whole, memory_of(method), batch, NOW)
    without = loss(method, alone, memory_of(method), batch_alone, NOW)
    torch.testing.assert_close(with_invalid.loss, without.loss)
    torch.testing.assert_close(with_invalid.scalars, without.scalars, rtol=1e-5, atol=1e-5)
    with_invalid.loss.backward()
    without.loss.backward()
    for one, other in zip(whole, alone, strict=True):
        if one is not None and one.grad is not None:
            assert (one.grad[:, ~keep] == 0).all()
            torch.testing.assert_close(one.grad[:, keep], other.grad)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_without_a_valid_image_teaches_nothing(name):
    method, model = SMALL[name], Toy()
    result = loss(method, outputs_of(method, 3, model=model), memory_of(method), images(3, valid=[False] * 3), NOW)
    result.loss.backward()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in model.parameters())
    for value in result.scalars.values():
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_the_images_does_not_matter(name):
    method, batch = SMALL[name], images(6, valid=[True, True, False, True, True, True])
    outputs, order = outputs_of(method, 6), torch.tensor([3, 0, 5, 1, 2, 4])
    pixels = (batch.views[0].unflatten(0, (2, 6))[:, order].flatten(0, 1),)
    shuffled = batch._replace(row_B=batch.row_B[order], valid_B=batch.valid_B[order], views=pixels)
    mixed = Outputs(*(None if x is None else x[:, order] for x in outputs))
    one = loss(method, outputs, memory_of(method), batch, NOW)
    other = loss(method, mixed, memory_of(method), shuffled, NOW)
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.scalars, other.scalars)


@pytest.mark.parametrize("name", EVERY)
def test_scalars_are_detached_numbers_that_every_run_has(name):
    result = compute(SMALL[name], valid=[True, True, False, True, True, True])
    assert result.loss.ndim == 0
    assert result.loss.requires_grad
    always = {"loss", "bound", "ceiling", "bound_valid", "alignment", "uniformity", "effective_rank", "spread"}
    assert always <= set(result.scalars)
    if SMALL[name].contrast:
        assert {"negative_histogram", "false_negatives"} <= set(result.scalars)
        assert ("learned" in result.scalars) == isinstance(SMALL[name].bound, InfoNCE)
        assert result.scalars["negative_histogram"].sum().item() == pytest.approx(1)
    assert ("bank_age" in result.scalars) == (name in BANKED)
    for key, value in result.scalars.items():
        assert value.ndim == (key == "negative_histogram")
        assert not value.requires_grad
        assert torch.isfinite(value).all()
    torch.testing.assert_close(result.scalars["loss"], result.loss.detach())
    assert result.scalars["bound"] <= result.scalars["ceiling"]


@pytest.mark.parametrize("name", PLAIN)
def test_the_bound_that_is_logged_is_the_ceiling_less_the_mean_loss_of_a_pair(name):
    scalars = compute(SMALL[name]).scalars
    pairs = sum(pair.weight for pair in SMALL[name].pairs)
    torch.testing.assert_close(scalars["bound"] + scalars["loss"] / pairs, scalars["ceiling"])


@pytest.mark.parametrize("name", EVERY)
def test_unless_it_is_observed_a_step_tells_its_loss_alone(name):
    quiet, told = compute(SMALL[name], observe=False), compute(SMALL[name])
    assert set(quiet.scalars) == {"loss"}
    torch.testing.assert_close(quiet.loss, told.loss)


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_outputs_are_contrasted_in_single_precision_also_under_autocast(name):
    method = SMALL[name]
    memory = memory_of(method, torch.float32)
    outputs = outputs_of(method, 4)
    half = Outputs(*(None if x is None else x.detach().bfloat16() for x in outputs))
    single = Outputs(*(None if x is None else x.float() for x in half))
    expected = loss(method, single, memory, images(4), NOW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(method, half, memory, images(4), NOW)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_every_method_starts_learns_and_remembers(name):
    method, model = SMALL[name], Toy(torch.float32)
    assert method.recipe in RECIPES
    memory = memories.start(method, rows=ROWS, batch=8, dimension=D, seed=0, device=CPU)
    memories.refresh_(method, memory, NOW)
    outputs = outputs_of(method, 4, model=model, dtype=torch.float32)
    for others in range(1, 37, 4):  # what has not been written yet is no negative: of an empty memory nothing is learnt
        seen = images(4)._replace(row_B=(torch.arange(4) + others) * 5 % ROWS)
        memories.write_(method, memory, outputs, seen, NOW._replace(step=others // 4), {})
    result = loss(method, outputs, memory, images(4), NOW)
    result.loss.backward()
    assert sum(p.grad.norm() for p in model.parameters() if p.grad is not None) > 0
    before = {key: tensor.clone() for key, tensor in memory.items()}
    memories.write_(method, memory, outputs, images(4), NOW, result.pending)
    for key in before:
        if key in ("labels", "second_labels", "outer"):
            continue
        changed = not torch.equal(before[key], memory[key])
        assert changed, key


def test_observing_a_run_without_labels_says_nothing_of_false_negatives():
    batch = images(4)._replace(label_N=None)
    scalars = loss(SMALL["ring"], outputs_of(SMALL["ring"], 4), memory_of(SMALL["ring"]), batch, NOW).scalars
    assert "false_negatives" not in scalars


def test_false_negatives_are_the_share_of_negatives_with_the_anchors_label():
    method, outputs, batch = replace(SMALL["ir"], memory=Bank(negatives=ROWS)), outputs_of(SMALL["ir"], 4), images(4)
    scalars = loss(method, outputs, memory_of(method), batch, NOW).scalars
    assert scalars["false_negatives"].item() == pytest.approx(39 / 199)  # 40 rows of each of 5 classes, less the own


def test_bank_age_is_counted_in_steps_over_rows_that_were_ever_written():
    method, outputs, batch = replace(SMALL["ir"], memory=Bank(negatives=ROWS)), outputs_of(SMALL["ir"], 4), images(4)
    memory = memory_of(method)
    memory["bank_step"].fill_(-1)
    assert loss(method, outputs, memory, batch, NOW).scalars["bank_age"].item() == 0
    memory["bank_step"][100:150] = 40
    memory["bank_step"][150:] = 80
    own = batch.row_B.tolist()
    ages = [[NOW.step - (40 if row < 150 else 80) for row in range(100, ROWS) if row != i] for i in own]
    expected = sum(sum(age) / len(age) for age in ages) / len(ages)
    assert loss(method, outputs, memory, batch, NOW).scalars["bank_age"].item() == pytest.approx(expected)


def test_everything_and_a_ball_are_always_bounds_and_a_ring_is_where_its_condition_holds():
    valid = {
        region: compute(replace(SMALL["ring"], region=region, memory=Bank()), count=16).scalars["bound_valid"].item()
        for region in (Everything(), Ring(0, 0.1), Ring(0, 0.9), Nearest(30), Ring(0.5, 1))
    }
    assert list(valid.values()) == [1, 1, 1, 1, 0]


# What a memory does not hold yet


FEWER = [1, 7, 60, 199]  # rows that have been written


def of_these(method, memory, here):
    """A memory of the rows `here` alone, and the batch's own rows as they are there."""
    only = dict(memory)
    for name in ("queue", "queue_row"):
        if name in memory:
            only[name] = memory[name][here]
    return only


@pytest.mark.parametrize("there", FEWER)
@pytest.mark.parametrize("name", [name for name in CONTRASTED if isinstance(SMALL[name].memory, Queue)])
def test_slots_of_a_queue_that_hold_nobody_are_no_negatives(name, there):
    method, memory = SMALL[name], memory_of(SMALL[name])
    here = torch.arange(ROWS).roll(-30)[:there].sort().values
    memory["queue_row"] = torch.full((ROWS,), -1).scatter(0, here, here)
    outputs, batch = outputs_of(method, 5), images(5)
    found = loss(method, outputs, memory, batch, NOW)
    ring = method.region if isinstance(method.region, Ring) else Ring(0, 1)
    inner, outer = math.floor(ring.inner * there + 1e-9), math.floor(ring.outer * there + 1e-9)
    ring = Ring(inner / there, max(outer, inner + 1) / there)  # what there is room for among so few
    alone = loss(replace(method, region=ring), outputs, of_these(method, memory, here), batch, NOW)
    torch.testing.assert_close(found.loss, alone.loss)
    told = [{k: v for k, v in each.scalars.items() if "bound_valid" not in k} for each in (found, alone)]
    torch.testing.assert_close(*told)  # but for what is true of a ball, as a ring in so few rows is one
    assert found.scalars["ceiling"] <= math.log(1 + there)


@pytest.mark.parametrize("name", BANKED)
def test_rows_of_a_bank_that_were_never_written_are_no_negatives(name):
    method, memory = replace(SMALL[name], memory=replace(SMALL[name].memory, exact=True)), memory_of(SMALL[name])
    here = torch.arange(ROWS)[torch.arange(ROWS) % 4 != 0]
    memory["bank_step"] = torch.full((ROWS,), -1).scatter(0, here, 3)
    outputs, batch = outputs_of(method, 5), images(5)
    some = loss(method, outputs, memory, batch, NOW)
    far = dict(memory)
    for bank in ("bank", "second_bank"):
        if bank in memory:  # wherever they lie, but for the anchors' own rows, which are positives
            own = torch.isin(torch.arange(ROWS), batch.row_B)
            moved = (memory["bank_step"] == -1) & ~own
            far[bank] = torch.where(moved[:, None], outputs.embedding_VBD[0, 0].detach(), memory[bank])
    torch.testing.assert_close(some.loss, loss(method, outputs, far, batch, NOW).loss)
    if isinstance(method.region, Everything | Ring) and isinstance(method.positives, Own):
        drawn = loss(method, outputs, memory_of(method), images(5, candidate_M=here), NOW)
        torch.testing.assert_close(some.loss, drawn.loss)
        torch.testing.assert_close(some.scalars["ceiling"], drawn.scalars["ceiling"])
    unwritten = (memory["bank_step"][batch.row_B] == -1).double().mean().item()
    assert some.scalars["bound_valid"].item() <= 1 - unwritten + 1e-9


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("name", [name for name in CONTRASTED if not isinstance(SMALL[name].memory, Batch)])
def test_an_empty_memory_has_no_negative_and_a_gradient_of_numbers(name, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr("viewmill.objectives.regions.BLOCK", 1000)
    method, model = replace(SMALL[name], terms=()), Toy()
    memory = memories.start(method, rows=ROWS, batch=8, dimension=D, seed=3, device=CPU)
    memory = {key: x.double() if x.dtype == torch.float32 else x for key, x in memory.items()}
    result = loss(method, outputs_of(method, 4, model=model), memory, images(4), NOW)
    result.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(torch.isfinite(value).all() for value in result.scalars.values())
    assert result.scalars["ceiling"] == 0
    assert result.scalars["bound"] == pytest.approx(0, abs=1e-9)
    memories.write_(method, memory, outputs_of(method, 4), images(4), NOW, result.pending)
    if "partition_steps" in memory:
        assert memory["partition_steps"] == 0  # Z is that of the first batch that has negatives
        assert memory["log_partition"].tolist() == [0.0] * len(method.pairs)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(120, 700),
    share=st.floats(0, 1),
    inner=st.sampled_from([0.0, 0.01, 0.05, 0.29, 0.5]),
    limit=st.sampled_from([None, 7, 40]),
    near=st.booleans(),
)
def test_the_ranks_of_a_memory_that_is_not_full_are_those_of_as_many_rows(rows, share, inner, limit, near):
    region, there = Ring(inner, 0.6), max(1, round(share * rows))
    where, other = window(region, rows, limit=limit, step=5), None
    few = math.floor(round(inner * there, 9)), math.floor(round(0.6 * there, 9))
    if few[0] < few[1]:
        # never more than of all rows, for which there are places: 328 rows have 32 from .5 to .6, the first 325 of them 33
        other = where._replace(inner=few[0], outer=few[1], taken=min(few[1] - few[0], where.taken))
    if near and inner:
        where = with_neighbours(where, among_negatives=False, limit=limit)
        other = other and with_neighbours(other, among_negatives=False, limit=limit)
    taken_K, within_K = positions(where, rows, torch.tensor(there), CPU)
    kept = taken_K[within_K].tolist()
    assert len(set(kept)) == len(kept)
    if other is None:
        assert kept[-1:] == [few[0]]
    elif other.near <= where.near:
        assert kept == positions(other, there, None, CPU)[0].tolist()
    whole_K, _ = positions(where, rows, None, CPU)
    assert torch.equal(positions(where, rows, torch.tensor(rows), CPU)[0], whole_K)


def test_the_bound_of_a_queue_counts_images_and_not_keys():
    method, memory = SMALL["moco-v1"], memory_of(SMALL["moco-v1"])
    outputs, batch = outputs_of(method, 5), images(5)
    memory["queue_row"] = torch.arange(ROWS)
    once = loss(method, outputs, memory, batch, NOW).scalars
    for copies in (2, 32):
        many = memory | {"queue": memory["queue"].repeat(copies, 1), "queue_row": memory["queue_row"].repeat(copies)}
        said = loss(method, outputs, many, batch, NOW).scalars
        for name in ("bound", "ceiling"):
            torch.testing.assert_close(said[name], once[name])
        assert said["loss"] > once["loss"]


def test_how_many_others_are_nearer_than_the_positive_is_a_half_by_chance():
    for name in CONTRASTED:
        method = SMALL[name]
        assert 0.2 < loss(method, outputs_of(method, 8), memory_of(method), images(8), NOW).scalars["nearer"] < 0.8
    method = SMALL["ir"]
    outputs, memory, batch = outputs_of(method, 5), memory_of(method), images(5)
    memory["bank"][batch.row_B] = outputs.embedding_VBD[0].detach()
    assert loss(method, outputs, memory, batch, NOW).scalars["nearer"] == 0


# NCE and its Z


def test_the_partition_of_the_first_batch_stays_and_a_moving_one_moves():
    for partition in ("first", "moving", "fixed"):
        method = replace(SMALL["ir"], bound=NCE(0.07, partition))
        memory, seen = memory_of(method), []
        for step in range(3):
            outputs = outputs_of(method, 4, seed=step)
            result = loss(method, outputs, memory, images(4), NOW)
            memories.write_(method, memory, outputs, images(4), NOW, result.pending)
            seen.append(memory["log_partition"].item())
        assert memory["partition_steps"] == 3
        assert (seen[0] == seen[1] == seen[2]) == (partition != "moving")
        if partition == "fixed":
            assert seen[0] == pytest.approx(math.log(2876934.2 / 1281167 * ROWS))


# Annealing


def test_a_ring_whose_outer_edge_comes_in_has_fewer_negatives_each_time():
    method = replace(SMALL["ring"], region=Ring(0.01, 0.1, anneal=Anneal("linear", over=50)), memory=Bank())
    outputs, memory = outputs_of(method, 4), memory_of(method)
    terms = [
        round(math.exp(loss(method, outputs, memory, images(4), Moment(step, 200, 2)).scalars["ceiling"].item()))
        for step in (0, 50, 99, 150)
    ]
    assert terms == [198, 108, 19, 19]  # the own row, and those between the edges: of all, without the own one


def test_a_ring_does_not_move_while_a_warm_start_lasts():
    method = replace(SMALL["ring"], region=Ring(0.01, 0.1, anneal=Anneal("adaptive")), warm_start=10.0)
    memory, early, late = memory_of(method), Moment(9, 200, 2), Moment(29, 200, 2)
    assert memories.outer_edge(method, memory, early) is None
    assert memories.outer_edge(method, memory, late) == 1
    assert not memories.listens(method, memory, early)
    assert memories.listens(method, memory, late)


def test_a_relative_ring_that_could_be_empty_on_its_way_is_refused():
    method = replace(SMALL["simclr-ring"], region=Ring(0.9, 0.25, relative=True, anneal=Anneal(start=0.6875)))
    with pytest.raises(ValueError, match=r"can be empty of 16 rows|leaves none out"):
        memories.start(method, rows=ROWS, batch=8, dimension=D, seed=0, device=CPU)


def test_the_adaptive_edge_is_part_of_the_memory():
    method = replace(SMALL["ring"], region=Ring(0.01, 0.1, anneal=Anneal("adaptive")))
    memory = memory_of(method)
    assert memories.outer_edge(method, memory, NOW) == 1
    for step in range(1, 401):  # it listens every tenth step, whatever else is read
        memories.hear_(method, memory, 5 - 0.01 * step, Moment(step - 1, 1000, 2))
    assert memories.outer_edge(method, memory, NOW) == pytest.approx(0.97)
    memories.hear_(SMALL["ring"], memory_of(SMALL["ring"]), 1.0, Moment(9, 1000, 2))  # others do not listen
    released = replace(method, region=Ring(0.01, 0.1, anneal=Anneal("adaptive-release")))
    memory = memory_of(released)
    for step in range(4):  # the first reading has none before it
        memories.hear_(released, memory, 5 - 0.01 * step, Moment(step, 1000, 2))
    assert memories.outer_edge(released, memory, NOW) == pytest.approx(0.97)


# Clusters


def test_clusters_are_found_at_the_start_of_the_epochs_that_follow_the_warm_start():
    method, memory = SMALL["la"], memory_of(SMALL["la"])
    when = [step for step in range(44) if memories.refresh_(method, memory, Moment(step, 200, 2))]
    assert when == list(range(20, 44, 2))
    assert memory["labels"].max() < ROWS / 20
    assert not memories.refresh_(SMALL["ring"], memory_of(SMALL["ring"]), Moment(20, 200, 2))


# Refusals


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (lambda: InfoNCE(0), "temperature"),
        (lambda: InfoNCE(-1), "temperature"),
        (lambda: InfoNCE(math.nan), "temperature"),
        (lambda: NCE(0.07, "none"), "partition"),
        (lambda: NCE(0.07, decay=0.0), "decay"),
        (lambda: Pair(0, 64), "views 0 to 63"),
        (lambda: Pair(weight=-1), "weight"),
        (lambda: Neighbours("max"), "numerator"),
        (lambda: replace(METHODS["cave"], bound=NCE()), "InfoNCE alone has, not NCE"),
        (lambda: replace(METHODS["simclr"], bound=NCE()), "give the method a bank"),
        (lambda: replace(METHODS["simclr"], region=SameCluster()), "give the method one"),
        (lambda: replace(METHODS["la"], region=SameCluster()), "not both"),
        (lambda: replace(METHODS["simclr"], region=Everything(shared=False)), "region.shared"),
        (lambda: replace(METHODS["pirl"], head=FixedGaussian()), "jigsaw"),
        (lambda: replace(METHODS["ir"], target=Momentum()), "nothing asks for a momentum encoder"),
        (lambda: replace(METHODS["vicreg"], region=Ring()), "change nothing"),
        (lambda: replace(METHODS["ir"], warm_start=3.0), "all there is here"),
        (lambda: replace(METHODS["la"], warm_start=math.inf), "warm_start"),
        (lambda: Superfluous(first=math.inf), "weights"),
        (lambda: HardNegatives(concentration=math.inf), "concentration"),
        (lambda: replace(METHODS["superinfo-simclr-ceb"], bound=InfoNCE(1e-7)), "temperature of 1e-6"),
        (lambda: Superfluous(warmup=Schedule("adaptive")), "warm-up"),
        (lambda: Superfluous(warmup=Schedule("linear", 0.0, -5.0)), "warm-up"),
        (lambda: Anneal(start=1.5), "at most 1"),
        (lambda: Ring(0.2, 0.5, anneal=Anneal(start=0.1)), "start beyond"),
        (lambda: HardNegatives(positive_share=1), "positive_share"),
        (lambda: Bank(momentum=1), "momentum"),
        (lambda: Bank(momentum=-0.1), "momentum"),
        (lambda: Bank(negatives=0), "negatives"),
        (lambda: Queue(0), "size"),
        (lambda: Ring(0.5, 0.4), "inner < outer"),
        (lambda: Ring(1.0, 0.4, relative=True), "inner < outer"),
        (lambda: Nearest(0), "count"),
        (lambda: Clusters(rows_per_cluster=0.5), "rows_per_cluster"),
        (lambda: Superfluous(first=-1), "weights"),
        (lambda: Superfluous(first=math.nan), "weights"),
        (lambda: Superfluous("ceb", decode_first=1), "variational"),
        (lambda: Superfluous("best"), "estimator"),
        (lambda: Momentum(1.0), "momentum"),
        (lambda: FixedGaussian(0), "sigma"),
        (lambda: BoundedGaussian(0.5, 0.1), "low below high"),
        (lambda: VonMisesFisher(-1), "kappa"),
        (lambda: VonMisesFisher(1e7), "kappa must be at most 1e6"),
        (lambda: replace(METHODS["superinfo-simclr"], head=None), "needs random features"),
        (lambda: replace(METHODS["superinfo-simclr-ceb"], head=FixedGaussian()), "VonMisesFisher head"),
        (
            lambda: replace(METHODS["superinfo-simclr-variational"], head=VonMisesFisher()),
            "FixedGaussian or BoundedGaussian",
        ),
        (lambda: Method("simclr", "none"), "a contrast or a term"),
        (lambda: Method("simclr", "none", contrast=(Pair(),), memory=Queue()), "momentum encoder"),
        (lambda: Method("instance", "none", contrast=(Pair(),), memory=Bank(), positives=Neighbours()), "inner edge"),
        (lambda: Method("simclr", "none", contrast=(Pair(0, 1),), memory=Batch(), positives=Clusters()), "bank"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(bad, word):
    with pytest.raises(ValueError, match=word):
        bad()


@pytest.mark.parametrize(("name", "rows"), [("ring", 9), ("ring", 90), ("la", 4096), ("cmc-ring", 9)])
def test_a_data_set_too_small_for_the_region_is_refused_before_the_first_step(name, rows):
    with pytest.raises(ValueError, match=r"leaves none out|is empty: widen it|lower region\.count"):
        memories.start(METHODS[name], rows=rows, batch=8, dimension=D, seed=0, device=CPU)


def test_embeddings_that_are_not_finite_make_a_loss_that_is_not_and_never_enter_the_memory():
    for name in ("ir", "ir-nce", "ring", "cmc", "cmc-nce", "moco-v2"):
        method, memory = SMALL[name], memory_of(SMALL[name])
        outputs = outputs_of(method, 4)
        broken = outputs.embedding_VBD.detach().clone()
        broken[0, 1] = math.nan
        targets = None if outputs.target_VBD is None else outputs.target_VBD.clone()
        if targets is not None:
            targets[0, 1] = math.nan
        outputs = outputs._replace(embedding_VBD=broken, target_VBD=targets)
        result = loss(method, outputs, memory, images(4), NOW)
        assert not torch.isfinite(result.loss)
        memories.write_(method, memory, outputs, images(4), NOW, result.pending)
        assert all(torch.isfinite(tensor).all() for tensor in memory.values())


# Several ranks


def learn(name, case, rank, world):
    """Gradient, scalars and memory after one step of a network on `rank`'s part of 8 images."""
    method, memory = SMALL[name], memory_of(SMALL[name])
    part = slice(8 * rank // world, 8 * (rank + 1) // world)
    batch = images(8, valid=CASES[case], part=part)
    toy = Toy()
    model = toy if world == 1 else DistributedDataParallel(toy, find_unused_parameters=True)
    outputs = outputs_of(method, 8, model=model, part=part)
    result = loss(method, outputs, memory, batch, NOW)
    result.loss.backward()
    memories.write_(method, memory, outputs, batch, NOW, result.pending)
    gradients = {f"gradient.{key}": value.grad for key, value in toy.named_parameters() if value.grad is not None}
    return gradients | {f"scalar.{key}": value for key, value in result.scalars.items()} | memory


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What each of some gloo ranks computed: one dict a rank, keyed "method, case, name"."""
    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", __file__, str(rank), str(world), str(folder)], env=environment)
        for rank in range(world)
    ]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


def _rank(rank, world, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    results = {
        f"{name}, {case}, {key}": value.contiguous().clone()
        for name in EVERY
        for case in CASES
        for key, value in learn(name, case, rank, world).items()
    }
    save_file(results, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", EVERY)
def test_ranks_have_the_gradient_the_log_and_the_memory_of_the_joint_batch_on_one(ranks, name, case):
    joint = learn(name, case, 0, 1)
    gradients = [key for key in joint if key.startswith("gradient.")]
    assert sum(joint[key].norm() for key in gradients) > 1e-3
    for key, expected in joint.items():
        parts = [rank[f"{name}, {case}, {key}"] for rank in ranks]
        if key.startswith("scalar."):
            torch.testing.assert_close(torch.stack(parts).mean(dim=0), expected, rtol=1e-9, atol=1e-9)
            continue
        for found in parts:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        if key not in gradients:
            assert all(torch.equal(parts[0], found) for found in parts)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

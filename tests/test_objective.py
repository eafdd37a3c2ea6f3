"""Methods from embeddings to a loss: slow references, images that do not count, two ranks, and a GPU that is only pretended.

Run as a script, this file is one rank of `ranks` below.
Shape suffixes: V = views, B = images, N = V*B anchors (view-major), M = rows on offer, D = embedding.
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
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewmill.models.encoders import DESIGNS, ResNet
from viewmill.models.heads import Contrastive
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.methods import METHODS, MIN_CANDIDATES, Bank, Batch, InfoNCE, Ring, candidate_count
from viewmill.objectives.objective import Images, loss, start_memory, write_
from viewmill.objectives.regions import select
from viewmill.pipeline.recipe import RECIPES

CPU = torch.device("cpu")
ROWS = 200  # of the bank: enough for a ring from 1 %
NOTHING = torch.empty(0, dtype=torch.int64)
CASES = {  # which of 8 images, 4 a rank, are valid
    "all valid": [True] * 8,
    "one invalid": [True] * 5 + [False] + [True] * 2,
    "a rank without a valid image": [False] * 4 + [True] * 4,
}


def unit(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def views_of(method):
    return 2 if isinstance(method.memory, Batch) else 1


def memory_of(method):
    return {} if isinstance(method.memory, Batch) else {"bank": unit(ROWS, 4, seed=99)}


def images(count, *, valid=None, candidate_M=NOTHING):
    """`count` images of scattered rows of the bank."""
    valid_B = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Images(torch.arange(count) * 37 % ROWS, valid_B, candidate_M)


@settings(deadline=None)
@given(
    valid=st.lists(st.booleans(), min_size=1, max_size=5),
    temperature=st.sampled_from([0.005, 0.07, 0.2, 1.0]),
    seed=st.integers(0, 99),
)
def test_simclr_is_the_mean_over_valid_views_of_a_loop_over_the_other_valid_images(valid, temperature, seed):
    method = replace(METHODS["simclr"], bound=InfoNCE(temperature))
    count, embedding = len(valid), unit(2 * len(valid), 4, seed=seed)
    losses = []
    for anchor in range(2 * count):
        if valid[anchor % count]:
            value = (embedding @ embedding[anchor] / temperature).tolist()
            partner = (anchor + count) % (2 * count)
            others = [value[i] for i in range(2 * count) if i not in (anchor, partner) and valid[i % count]]
            highest = max(value[partner], *others, -math.inf)
            total = sum(math.exp(term - highest) for term in [value[partner], *others])
            losses.append(math.log(total) + highest - value[partner])
    result, scalars = loss(method, embedding, {}, images(count, valid=valid))
    assert result.item() == pytest.approx(sum(losses) / max(1, len(losses)), rel=1e-10, abs=1e-12)
    assert scalars["ceiling"].item() == pytest.approx(math.log(max(1, 2 * sum(valid) - 1)), abs=1e-12)


@pytest.mark.parametrize("views", [1, 3])
def test_simclr_refuses_other_than_two_views(views):
    with pytest.raises(ValueError, match=f"needs 2 views of each image, got {views}"):
        loss(METHODS["simclr"], unit(4 * views, 4, seed=0), {}, images(4))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("valid", [[True, False, True, True], [False, True, False, False]])
def test_the_loss_of_a_batch_is_that_of_its_valid_images_alone(name, valid):
    method, memory, keep = METHODS[name], memory_of(METHODS[name]), torch.tensor(valid)
    embedding = unit(views_of(method), 4, 4, seed=1)
    whole = images(4, valid=valid)
    alone = Images(whole.row_B[keep], whole.valid_B[keep], NOTHING)
    one = embedding.clone().requires_grad_()
    other = embedding[:, keep].clone().requires_grad_()
    with_invalid, scalars = loss(method, one.flatten(0, 1), memory, whole)
    without, scalars_alone = loss(method, other.flatten(0, 1), memory, alone)
    torch.testing.assert_close(with_invalid, without)
    torch.testing.assert_close(scalars, scalars_alone)
    with_invalid.backward()
    without.backward()
    assert (one.grad[:, ~keep] == 0).all()
    torch.testing.assert_close(one.grad[:, keep], other.grad)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_a_valid_image_costs_nothing_and_teaches_nothing(name):
    method = METHODS[name]
    embedding = unit(views_of(method) * 3, 4, seed=2).requires_grad_()
    result, _ = loss(method, embedding, memory_of(method), images(3, valid=[False] * 3))
    result.backward()
    assert result.item() == 0
    assert (embedding.grad == 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 6))
def test_ir_over_the_whole_bank_is_a_softmax_over_it(seed, count):
    embedding, bank, batch = unit(count, 4, seed=seed), unit(ROWS, 4, seed=99), images(count)
    result, scalars = loss(METHODS["ir"], embedding, {"bank": bank}, batch)
    expected = F.cross_entropy(embedding @ bank.T / METHODS["ir"].bound.temperature, batch.row_B)
    torch.testing.assert_close(result, expected)
    assert scalars["ceiling"].item() == pytest.approx(math.log(ROWS))


@pytest.mark.parametrize("name", ["ir", "ring"])
def test_with_candidates_only_they_and_never_the_own_row_are_negatives(name):
    method, bank, embedding = METHODS[name], unit(ROWS, 4, seed=99), unit(5, 4, seed=3)
    candidate_M = torch.arange(0, ROWS, 2)  # some of the 5 own rows are among them, some are not
    batch = images(5, candidate_M=candidate_M)
    result, _ = loss(method, embedding, {"bank": bank}, batch)
    losses = []
    for vector, row in zip(embedding, batch.row_B, strict=True):
        critic = (bank @ vector / method.bound.temperature)[None]
        selected = select(method.region, critic[:, candidate_M], (candidate_M != row)[None])
        losses.append(info_nce(critic[:, row], *selected).loss_B)
    torch.testing.assert_close(result, torch.cat(losses).mean())


def test_candidates_that_are_all_rows_are_the_whole_bank():
    embedding, memory = unit(5, 4, seed=4), {"bank": unit(ROWS, 4, seed=99)}
    for name in ("ir", "ring"):
        drawn, whole = (
            loss(METHODS[name], embedding, memory, images(5, candidate_M=rows)) for rows in (torch.arange(ROWS), NOTHING)
        )
        torch.testing.assert_close(drawn, whole)


def test_the_widest_ring_is_ir():
    embedding, memory = unit(5, 4, seed=5), {"bank": unit(ROWS, 4, seed=99)}
    ring, everything = (
        loss(replace(METHODS["ring"], region=region), embedding, memory, images(5))
        for region in (Ring(0, 1), METHODS["ir"].region)
    )
    torch.testing.assert_close(ring, everything)


def test_several_views_of_an_image_all_find_its_row():
    memory, embedding = {"bank": unit(ROWS, 4, seed=99)}, unit(2, 3, 4, seed=6)
    both, _ = loss(METHODS["ir"], embedding.flatten(0, 1), memory, images(3))
    first, second = (loss(METHODS["ir"], view, memory, images(3))[0] for view in embedding)
    torch.testing.assert_close(both, (first + second) / 2)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_images_does_not_matter(name):
    method, batch = METHODS[name], images(6, valid=[True, True, False, True, True, True])
    embedding, order = unit(views_of(method), 6, 4, seed=7), torch.tensor([3, 0, 5, 1, 2, 4])
    shuffled = Images(batch.row_B[order], batch.valid_B[order], NOTHING)
    torch.testing.assert_close(
        loss(method, embedding.flatten(0, 1), memory_of(method), batch),
        loss(method, embedding[:, order].flatten(0, 1), memory_of(method), shuffled),
    )


@pytest.mark.parametrize("name", METHODS)
def test_scalars_are_detached_numbers_and_bound_and_loss_make_the_ceiling(name):
    method = METHODS[name]
    embedding = unit(views_of(method) * 4, 4, seed=8).requires_grad_()
    result, scalars = loss(method, embedding, memory_of(method), images(4, valid=[True, True, False, True]))
    assert result.ndim == 0
    assert result.requires_grad
    assert {"loss", "bound", "ceiling"} <= set(scalars)
    for value in scalars.values():
        assert value.ndim == 0
        assert not value.requires_grad
    torch.testing.assert_close(scalars["loss"], result.detach())
    torch.testing.assert_close(scalars["bound"] + scalars["loss"], scalars["ceiling"])


def test_everything_and_a_ball_are_always_bounds_and_a_ring_is_where_its_condition_holds():
    embedding, memory = unit(16, 4, seed=9), {"bank": unit(ROWS, 4, seed=99)}
    valid = {
        region: loss(replace(METHODS["ring"], region=region), embedding, memory, images(16))[1]["bound_valid"].item()
        for region in (METHODS["ir"].region, Ring(0, 0.1), Ring(0, 0.9), Ring(0.5, 1))
    }
    assert list(valid.values()) == [1, 1, 1, 0]


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_embeddings_are_contrasted_in_single_precision_also_under_autocast(name):
    method = METHODS[name]
    memory = {key: tensor.float() for key, tensor in memory_of(method).items()}
    embedding = unit(views_of(method) * 4, 4, seed=10, dtype=torch.bfloat16)
    expected = loss(method, embedding.float(), memory, images(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(method, embedding, memory, images(4))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_learns_and_remembers(name):
    method = METHODS[name]
    assert method.recipe in RECIPES
    memory = start_memory(method, rows=ROWS, dimension=4, seed=0, device=CPU)
    embedding = unit(views_of(method) * 4, 4, seed=11, dtype=torch.float32).requires_grad_()
    result, _ = loss(method, embedding, memory, images(4))
    result.backward()
    assert embedding.grad.norm() > 0
    before, _ = loss(method, embedding.detach(), memory, images(4))
    write_(method, memory, embedding, images(4))
    after, _ = loss(method, embedding.detach(), memory, images(4))
    assert (after < before) if memory else (after == before)


def test_write_updates_the_rows_of_the_batch_from_the_mean_of_their_views():
    method = replace(METHODS["ir"], memory=Bank(momentum=0.5))
    memory, embedding, batch = (
        {"bank": unit(ROWS, 4, seed=99)},
        unit(2, 4, 4, seed=12),
        images(4, valid=[True, False, True, True]),
    )
    before = memory["bank"].clone()
    write_(method, memory, embedding.flatten(0, 1), batch)
    expected = before.clone()
    for i in (0, 2, 3):
        row = batch.row_B[i]
        expected[row] = F.normalize(0.5 * before[row] + 0.5 * (embedding[0, i] + embedding[1, i]) / 2, dim=0)
    torch.testing.assert_close(memory["bank"], expected)
    changed = (memory["bank"] != before).any(dim=1).nonzero()[:, 0]
    assert set(changed.tolist()) == set(batch.row_B[batch.valid_B].tolist())


@pytest.mark.parametrize(
    ("method", "rows", "count"),
    [
        (METHODS["simclr"], 10**6, 0),
        (METHODS["ir"], 8_190, 0),
        (METHODS["ir"], 8_191, 4_095),
        (METHODS["ring"], 91_000, 0),
        (METHODS["ring"], 91_001, 45_500),
        (replace(METHODS["ring"], memory=Bank(negatives=9)), 10**6, MIN_CANDIDATES),
    ],
)
def test_a_large_bank_is_sampled_and_a_small_one_taken_whole(method, rows, count):
    assert candidate_count(method, rows) == count


@pytest.mark.parametrize(
    ("bad", "word"),
    [(lambda: InfoNCE(0), "temperature"), (lambda: Bank(momentum=1), "momentum"), (lambda: Bank(momentum=-0.1), "momentum")],
)
def test_settings_out_of_range_are_refused_by_name(bad, word):
    with pytest.raises(ValueError, match=word):
        bad()


# Two ranks


def learn(name, case, rank, world):
    """Gradient, scalars and memory after one step of a linear encoder on `rank`'s part of 8 images."""
    method, memory = METHODS[name], memory_of(METHODS[name])
    part = slice(8 * rank // world, 8 * (rank + 1) // world)
    batch = Images(*(tensor[part] for tensor in images(8, valid=CASES[case])[:2]), NOTHING)
    linear = nn.Linear(5, 4, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(unit(4, 5, seed=20))
        linear.bias.copy_(unit(4, seed=21))
    model = linear if world == 1 else DistributedDataParallel(linear)
    embedding = F.normalize(model(unit(views_of(method), 8, 5, seed=22)[:, part].flatten(0, 1)), dim=1)
    result, scalars = loss(method, embedding, memory, batch)
    result.backward()
    write_(method, memory, embedding, batch)
    return {"weight": linear.weight.grad, "bias": linear.bias.grad, **scalars, **memory}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo ranks computed: one dict a rank, keyed "method, case, name"."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", __file__, str(rank), str(folder)], env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def _rank(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {
        f"{name}, {case}, {key}": value.contiguous()
        for name in METHODS
        for case in CASES
        for key, value in learn(name, case, rank, 2).items()
    }
    save_file(results, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_have_the_gradient_of_the_joint_batch_on_one(ranks, name, case):
    joint = learn(name, case, 0, 1)
    for rank in ranks:
        for key in ("weight", "bias"):
            assert joint[key].norm() > 1e-3
            torch.testing.assert_close(rank[f"{name}, {case}, {key}"], joint[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", METHODS)
def test_the_mean_over_ranks_of_what_is_logged_is_the_joint_batchs(ranks, name, case):
    for key, value in learn(name, case, 0, 1).items():
        if value.ndim == 0:
            mean = (ranks[0][f"{name}, {case}, {key}"] + ranks[1][f"{name}, {case}, {key}"]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["ir", "ring"])
def test_the_bank_is_the_same_on_every_rank_after_a_write(ranks, name, case):
    one, other = (rank[f"{name}, {case}, bank"] for rank in ranks)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, learn(name, case, 0, 1)["bank"], rtol=1e-12, atol=1e-12)


# A pretended GPU


class DevicesStayApart(TorchDispatchMode):
    """Raises on copies between devices, and on any operation that mixes tensors of two: each would wait for the GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{function} mixes {sorted(devices)}")
        return result


@pytest.mark.parametrize("drawn", [0, 150], ids=["whole bank", "sampled"])
@pytest.mark.parametrize("name", METHODS)
def test_encoder_loss_and_write_stay_on_a_gpu_and_never_wait_for_it(name, drawn):
    method, cuda = METHODS[name], torch.device("cuda")
    with FakeTensorMode():
        memory = start_memory(method, rows=ROWS, dimension=16, seed=0, device=cuda)
        with cuda:
            model = Contrastive(ResNet(DESIGNS["resnet18"], width=4, small_stem=True), hidden=16, out=16)
            views = torch.randn(views_of(method) * 4, 3, 32, 32)
            batch = Images(torch.arange(4), torch.ones(4, dtype=torch.bool), torch.arange(drawn))
        with DevicesStayApart():
            embedding = model(views).embedding_ND
            result, scalars = loss(method, embedding, memory, batch)
            write_(method, memory, embedding, batch)
    assert {tensor.device.type for tensor in (result, embedding, *scalars.values(), *memory.values())} == {"cuda"}


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3),
        lambda x: x + torch.ones(3, device="cuda").to("cpu").to("cuda"),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: 1 if x.sum() > 0 else 0,
    ],
)
def test_the_pretended_gpu_catches_what_would_wait_on_a_real_one(mistake):
    with FakeTensorMode():
        x = torch.ones(3, device="cuda")
        with (
            DevicesStayApart(),
            pytest.raises((AssertionError, RuntimeError, DataDependentOutputException, DynamicOutputShapeException)),
        ):
            mistake(x)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), Path(sys.argv[2]))

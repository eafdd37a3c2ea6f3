import threading
from contextlib import closing
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.loader import BetonLoader, ViewBatch
from viewmill.pipeline.views.recipe import Recipe, View, simclr

CPU = torch.device("cpu")


def open_loader(beton, recipe=None, **options):
    settings = {"batch": 6, "seed": 3, "device": CPU} | options
    return closing(BetonLoader(beton, recipe or simclr(32), **settings))


def same(left: ViewBatch, right: ViewBatch) -> bool:
    views = all(torch.equal(a, b) for a, b in zip(left.views, right.views, strict=True))
    return views and torch.equal(left.row_B, right.row_B)


def test_a_batch_holds_what_the_contract_says(photo_beton):
    recipe = Recipe((View(size=32), View(size=16), View(size=32)))
    with open_loader(photo_beton, recipe) as loader:
        batch = next(loader.epoch(0))
    assert [tuple(group.shape) for group in batch.views] == [(12, 3, 32, 32), (6, 3, 16, 16)]
    assert all(group.dtype == torch.float32 for group in batch.views)
    assert all(group.is_contiguous(memory_format=torch.channels_last) for group in batch.views)
    assert batch.valid_B.all()
    assert batch.label_B.tolist() == photo_beton.label_N[batch.row_B.numpy()].tolist()
    assert batch.host_row_B.tolist() == batch.row_B.tolist()


def test_an_epoch_shows_each_row_at_most_once_and_drops_only_the_tail(photo_beton):
    with open_loader(photo_beton, batch=7) as loader:
        rows = torch.cat([batch.row_B for batch in loader.epoch(0)])
    assert len(rows) == 7 * (len(photo_beton) // 7)
    assert len(rows.unique()) == len(rows)


def test_skip_is_dropping_the_first_batches(photo_beton):
    with open_loader(photo_beton) as loader:
        whole, rest = list(loader.epoch(2)), list(loader.epoch(2, skip=2))
    assert len(rest) == len(whole) - 2
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_another_epoch_is_another_order_and_other_views(photo_beton):
    with open_loader(photo_beton, batch=len(photo_beton)) as loader:
        first, second = next(loader.epoch(0)), next(loader.epoch(1))
    assert not torch.equal(first.row_B, second.row_B)
    by_row = [batch.views[0][: len(photo_beton)][batch.row_B.argsort()] for batch in (first, second)]
    assert ((by_row[0] - by_row[1]).flatten(1).abs().amax(dim=1) > 0.05).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_threads_and_prefetching_change_nothing(photo_beton, threads, ahead):
    with open_loader(photo_beton) as reference, open_loader(photo_beton, threads=threads, ahead=ahead) as loader:
        assert all(same(a, b) for a, b in zip(reference.epoch(1), loader.epoch(1), strict=True))


def test_the_ranks_together_see_the_global_batch(photo_beton):
    with open_loader(photo_beton) as whole:
        expected = next(whole.epoch(0))
    parts = []
    for rank in range(3):
        with open_loader(photo_beton, rank=rank, world=3) as loader:
            parts.append(next(loader.epoch(0)))
    assert torch.equal(torch.cat([part.row_B for part in parts]), expected.row_B)
    views = torch.cat([part.views[0].unflatten(0, (2, -1)) for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(views, expected.views[0])


def test_once_shows_every_row_once_in_order_with_a_ragged_tail(photo_beton):
    with open_loader(photo_beton, batch=7) as loader:
        batches = list(loader.once())
    assert torch.cat([batch.row_B for batch in batches]).tolist() == list(range(len(photo_beton)))
    assert len(batches[-1].row_B) == len(photo_beton) % 7
    assert all(len(batch.views[0]) == len(batch.row_B) for batch in batches)


def test_the_engines_show_the_same_views(photo_beton):
    with open_loader(photo_beton, engine_name="ffcv") as ffcv, open_loader(photo_beton, engine_name="torch") as reference:
        for ours, theirs in zip(ffcv.epoch(0), reference.epoch(0), strict=True):
            # after colour, in units of the normalised view (1 level of 255 is .017): the decoders' rounding, no more
            assert (ours.views[0] - theirs.views[0]).abs().mean() < 0.03
            np.testing.assert_array_equal(ours.plan.box_VB4, theirs.plan.box_VB4)


def test_leaving_an_epoch_early_leaves_no_thread_behind(photo_beton):
    before = threading.active_count()
    for _ in range(5):
        with open_loader(photo_beton, ahead=2) as loader, closing(loader.epoch(0)) as source:
            assert len(list(islice(source, 1))) == 1
    assert threading.active_count() == before


def test_a_fault_while_prefetching_reaches_the_consumer(photo_beton):
    with open_loader(photo_beton, ahead=2) as loader:
        source = loader.epoch(0)
        loader.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            next(source)


def test_a_batch_larger_than_the_data_is_refused(photo_beton):
    with open_loader(photo_beton, batch=1000) as loader, pytest.raises(ValueError, match="larger than the data set"):
        len(loader)


def test_rows_that_do_not_decode_are_counted(photo_beton, tmp_path):
    path = tmp_path / "a.beton"
    data = bytearray(photo_beton.path.read_bytes())
    for row in (3, 11):
        start, size = int(photo_beton.offset_N[row]), int(photo_beton.size_N[row])
        data[start + 2 : start + size] = bytes(size - 2)
    path.write_bytes(data)
    with open_loader(open_beton(path)) as loader:
        for epoch in range(3):
            for batch in loader.epoch(epoch):
                assert batch.row_B[~batch.valid_B].tolist() == [row for row in batch.row_B.tolist() if row in (3, 11)]
        assert loader.unreadable == {3, 11}


def test_an_unknown_placement_is_refused(photo_beton):
    with pytest.raises(ValueError, match="no placement is called 'gpu': use auto, host, device"):
        open_loader(photo_beton, placement="gpu")


def test_finished_views_lie_in_memory_that_is_used_again_once_nobody_holds_them(photo_beton):
    recipe = Recipe((View(size=32), View(size=16)))
    with open_loader(photo_beton, recipe) as loader:
        places = [[views.data_ptr() for views in batch.views] for epoch in range(4) for batch in loader.epoch(epoch)]
        assert [len({batch[group] for batch in places}) for group in (0, 1)] == [2, 2]
        held = list(loader.epoch(0))
    for one, other in pairwise(held):
        assert not torch.equal(one.views[0], other.views[0])

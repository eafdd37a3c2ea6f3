"""What is kept: the same features and scores again, and never those of another encoder, another view or another file."""

import json
import os
import shutil

import pytest
import torch
from faults import figures
from safetensors.torch import load_file, save_file
from torch import nn

from viewmill.evaluation import store
from viewmill.evaluation.features import Features, Pair, Pixels, Shown, augmented, batches, extract, mild, raw_pixels, unseen
from viewmill.evaluation.protocols import PROTOCOLS, Options, measure
from viewmill.evaluation.tasks import Task
from viewmill.pipeline.beton.manifest import file_sha256, sidecars
from viewmill.pipeline.beton.reader import RAW, Sample, open_beton
from viewmill.pipeline.beton.writer import write_beton
from viewmill.pipeline.views.recipe import weak

CPU = torch.device("cpu")


class Means(nn.Module):
    """Two features: the mean of the image, times a weight, and whether it was seen in training mode."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, image_BCSS):
        mean_B = image_BCSS.mean(dim=(1, 2, 3)) * self.weight
        return torch.stack((mean_B, torch.full_like(mean_B, self.training)), dim=1)


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    return open_beton(figures(tmp_path_factory.mktemp("figures"), 300))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "viewmill" / "features"


def shown(weight=1.0, size=16):
    model = Means(weight)
    return Shown(model, weak(size), store.identity_of(model, "means"))


def made(which, beton, calls=None):
    def make():
        if calls is not None:
            calls.append(1)
        return extract(which, beton, device=CPU, engine_name="ffcv")

    return store.kept(which, beton, make, engine_name="ffcv")


def test_every_row_is_seen_once_in_order_and_in_evaluation_mode(beton):
    which = shown()
    which.model.train()
    seen = []
    found = extract(which, beton, device=CPU, engine_name="ffcv", progress=lambda *now: seen.append(now))
    assert found.row_N.tolist() == list(range(300))
    assert found.label_N.tolist() == beton.label_N.tolist()
    assert not found.feature_NF[:, 1].any()
    assert which.model.training
    assert seen == [(256, 300), (300, 300)]
    assert torch.equal(torch.cat([part.feature_NF for part in batches(which, beton, device=CPU)]), found.feature_NF)


def test_a_second_evaluation_reads_the_same_bytes(beton, cache):
    calls = []
    first, second = made(shown(), beton, calls), made(shown(), beton, calls)
    assert len(calls) == 1
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_other_weights_another_size_and_other_images_are_other_features(beton, cache, tmp_path):
    calls, other = [], open_beton(figures(tmp_path / "other", 20))
    for which, data in ((shown(), beton), (shown(2.0), beton), (shown(size=24), beton), (shown(), other)):
        made(which, data, calls)
    assert len(calls) == len(list(cache.iterdir())) == 4


def test_without_an_identity_nothing_is_kept(beton, cache):
    made(raw_pixels(16), beton)
    assert not cache.exists()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other tensors"])
def test_a_damaged_file_is_made_again(beton, cache, harm):
    calls = []
    whole = made(shown(), beton, calls)
    (path,) = cache.iterdir()
    data = bytearray(path.read_bytes())
    match harm:
        case "flip":
            data[-5] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-100])
        case "empty":
            path.write_bytes(b"")
        case "other tensors":
            save_file({"weight": torch.zeros(3)}, path)
    again = made(shown(), beton, calls)
    assert len(calls) == 2
    assert torch.equal(again.feature_NF, whole.feature_NF)
    assert torch.equal(load_file(path)["feature_NF"], whole.feature_NF)


def told(features, options, calls, label_N=None):
    """The scores of `features` on both sides by the one protocol of `options`, through the cache."""
    label_N = torch.arange(300) % 3 if label_N is None else label_N
    task, pair = Task("thirds", label_N, label_N, ("a", "b", "c")), Pair(features, features)

    def make():
        calls.append(1)
        return measure(pair, task, options)

    return store.scores_of(*options.protocols, store.digest_of(pair), task, options, make)


def test_scores_of_the_same_features_labels_and_options_are_told_once(beton, cache):
    features, calls = made(raw_pixels(16), beton), []
    options = Options(("knn",), k=(5,))
    first, again = told(features, options, calls), told(features, options._replace(epochs=7, shots=()), calls)
    assert len(calls) == 1
    assert [store._plain(one) for one in again] == [store._plain(one) for one in first]
    assert again[0].score.confusion_CC.dtype == torch.int64
    told(features._replace(feature_NF=features.feature_NF + 1), options, calls)
    told(features, options._replace(k=(6,)), calls)
    told(features, options, calls, torch.arange(300) % 2)
    told(features, options._replace(protocols=("ridge",)), calls)
    assert len(calls) == 5
    assert {path.suffix for path in (cache.parent / "scores").iterdir()} == {".json"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_protocol_reads_is_what_its_scores_are_kept_for(beton, protocol):
    read = set()

    class Watched(Options):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    features, label_N = made(raw_pixels(16), beton), torch.arange(300) % 3
    task = Task("thirds", label_N, label_N, ("a", "b", "c"))
    measure(Pair(features, features), task, Watched((protocol,), k=(5,), epochs=1, shots=(1,), draws=1))
    assert read & set(Options._fields) == {"protocols", *PROTOCOLS[protocol].depends}


@pytest.mark.parametrize("harm", [b"", b"{", b"\xff", b"0\n[]"])
def test_damaged_scores_are_made_again(beton, cache, harm):
    features, calls, options = made(raw_pixels(16), beton), [], Options(("knn",), k=(5,))
    first = told(features, options, calls)
    (path,) = (cache.parent / "scores").iterdir()
    whole = path.read_bytes()
    path.write_bytes(harm)
    assert told(features, options, calls)[0].score.top1 == first[0].score.top1
    assert len(calls) == 2
    assert path.read_bytes() == whole


def test_where_nothing_can_be_written_the_features_are_there_all_the_same(beton, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    features = made(shown(), beton)
    assert len(features.row_N) == 300
    assert len(told(features, Options(("knn",), k=(5,)), [])) == 1


def test_what_was_used_longest_ago_makes_room(beton, cache, monkeypatch):
    made(shown(1.0), beton)
    (first,) = cache.iterdir()
    monkeypatch.setattr(store, "KEPT_BYTES", 2 * first.stat().st_size)
    made(shown(2.0), beton)
    second = next(path for path in cache.iterdir() if path != first)
    os.utime(second, (1, 1))
    made(shown(1.0), beton)  # used again
    made(shown(3.0), beton)
    left = set(cache.iterdir())
    assert len(left) == 2
    assert first in left
    assert second not in left


def test_augmented_copies_differ_from_each_other_and_not_from_themselves(beton):
    which = shown()
    options = {"copies": 2, "device": CPU, "engine_name": "ffcv", "progress": unseen}
    first, second = augmented(which, beton, seed=3, **options)
    assert first.shape == second.shape == (300, 2)
    assert (first[:, 0] - second[:, 0]).abs().mean() > 1e-3
    again = augmented(which, beton, seed=3, **options)
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    assert not torch.equal(augmented(which, beton, seed=4, **options)[0], first)


def test_mild_views_keep_size_and_colours():
    view = mild(weak(224)).views[0]
    assert (view.size, view.crop.scale, view.flip) == (224, (0.08, 1.0), 0.5)
    assert mild(weak(32)).views[0].crop.scale == (0.5, 1.0)


def test_raw_pixels_are_compared_at_32_px_at_most(beton):
    assert raw_pixels(224).recipe.views[0].size == 32
    assert raw_pixels(24).recipe.views[0].size == 24
    found = extract(raw_pixels(224), beton, device=CPU, engine_name="ffcv")
    assert found.feature_NF.shape == (300, 3 * 32 * 32)
    assert found.feature_NF.mean(dim=1).abs().max() < 1e-5
    assert isinstance(raw_pixels(224).model, Pixels)


def test_a_file_of_which_nothing_can_be_decoded_is_refused(beton, tmp_path):
    import shutil

    copy = tmp_path / "broken.beton"
    shutil.copy(beton.path, copy)
    with open(copy, "r+b") as file:
        for offset, size in zip(beton.offset_N.tolist(), beton.size_N.tolist(), strict=True):
            file.seek(offset)
            file.write(bytes(size))
    with pytest.raises(ValueError, match=r"none of the 300 images of .*broken\.beton could be decoded"):
        extract(shown(), open_beton(copy), device=CPU, engine_name="ffcv")


def test_features_name_their_parts():
    assert Features._fields == ("feature_NF", "label_N", "row_N")


def test_an_entry_under_the_name_of_another_is_never_taken_for_it(beton, cache):
    calls = []
    first, other = (made(shown(weight), beton, calls) for weight in (1.0, 2.0))
    one, two = sorted(cache.iterdir(), key=lambda path: load_file(path)["feature_NF"].abs().sum().item())
    shutil.copy(one, two)
    assert torch.equal(made(shown(2.0), beton, calls).feature_NF, other.feature_NF)
    assert len(calls) == 3
    assert not torch.equal(first.feature_NF, other.feature_NF)
    features, calls = made(raw_pixels(16), beton), []
    wanted = [told(features, Options(("knn",), k=(k,)), calls)[0].score for k in (1, 50)]
    for path in (paths := list((cache.parent / "scores").iterdir())):
        content = path.read_bytes()
        for victim in paths:
            victim.write_bytes(content)
    assert [told(features, Options(("knn",), k=(k,)), calls)[0].score.top1 for k in (1, 50)] == [
        each.top1 for each in wanted
    ]
    assert len(calls) == 3  # that of one of them is its own


@pytest.mark.parametrize("with_manifest", [True, False])
def test_other_pixels_under_the_same_fingerprint_are_other_features(cache, tmp_path, with_manifest):
    """A fingerprint reads no pixel: images that are stored raw can all be exchanged under it."""
    path, calls, found = tmp_path / "a.beton", [], []
    for level in (10, 200):
        samples = (Sample(RAW, 8, 8, row % 2, bytes([level + row]) * 192) for row in range(6))
        write_beton(path, samples, capacity=6)
        opened = open_beton(path)
        if with_manifest:
            facts = {"format": 2, "fingerprint": opened.fingerprint, "sha256": file_sha256(path)}
            sidecars(path)["manifest"].write_text(json.dumps(facts))
        found.append((opened.fingerprint, made(shown(size=8), opened, calls).feature_NF))
    assert found[0][0] == found[1][0]
    assert len(calls) == 2
    assert not torch.equal(found[0][1], found[1][1])
    made(shown(size=8), open_beton(path), calls)
    assert len(calls) == 2

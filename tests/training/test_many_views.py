"""Trainings of more than two views: sizes through one encoder, colour in parts, and what stands in config.json."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from viewmill.methods.architecture import Architecture
from viewmill.methods.overrides import changed
from viewmill.methods.table import METHODS
from viewmill.models.network import Batch, Colour, Network
from viewmill.pipeline.views.recipe import RECIPES, Recipe, View, multicrop, with_views
from viewmill.run import main
from viewmill.settings.training import Views
from viewmill.training.loaders import own_recipe, recipe_for
from viewmill.training.state import shown

TINY = ["--width", "4", "--hidden", "16", "--embedding", "8", "--size", "24", "--batch", "12", "--threads", "1"]
TINY += ["--precision", "no", "--engine", "torch"]
WIDE = ["region.inner=0.1", "region.outer=0.5"]


def batch_of(recipe, count=3):
    """Tensors of a recipe's groups, every pixel of view v being v, as a loader yields them."""
    views = tuple(
        torch.cat([torch.full((count, 3, recipe.views[v].size, recipe.views[v].size), float(v)) for v in members])
        for members in recipe.groups
    )
    return SimpleNamespace(views=views, row_B=torch.arange(count), plan=SimpleNamespace(recipe=recipe))


def test_a_recipe_has_as_many_views_as_are_contrasted():
    assert own_recipe(METHODS["simclr"], 32) == RECIPES["simclr"](32)
    assert len(own_recipe(METHODS["simclr-views"], 32).views) == 4
    assert own_recipe(METHODS["simclr-multicrop"], 32) == multicrop(32)
    assert [len(group) for group in with_views(multicrop(32), 5).groups] == [2, 3]
    assert with_views(multicrop(32), 1).views == multicrop(32).views[:1]
    assert [channels for *_, channels in own_recipe(METHODS["cmc-core"], 32).tensors] == [1, 1, 1]
    assert [channels for *_, channels in own_recipe(METHODS["cmc"], 32).tensors] == [1, 2]


def test_views_that_are_asked_for_come_in_a_tensor_for_each_size():
    recipe = Recipe((View(16), View(8), View(16), View(8), View(8)))
    batch = batch_of(recipe)
    for which in (range(5), (0, 2), (1, 4), (3,), (2, 3)):
        seen = shown(batch, which, METHODS["simclr-views"], step=1)
        assert sorted(seen.numbers) == sorted(which)
        told = [float(view[0, 0, 0, 0]) for tensor in seen.views for view in tensor.split(3)]
        assert told == list(seen.numbers)
        assert len(seen.views) == len({recipe.views[view].size for view in which})


def test_one_pass_a_size_gives_each_view_the_features_that_it_has_alone(monkeypatch):
    torch.manual_seed(0)
    network = Network(Architecture("resnet18", 4, 16, 8, 6)).eval()
    recipe, count = Recipe((View(16), View(12), View(16), View(12))), 2
    pixels = [torch.randn(count, 3, view.size, view.size) for view in recipe.views]
    tensors = tuple(torch.cat([pixels[v] for v in members]) for members in recipe.groups)
    numbers = tuple(v for members in recipe.groups for v in members)
    passes, usual = [], network.encoder.forward
    monkeypatch.setattr(network.encoder, "forward", lambda x: passes.append(len(x)) or usual(x))
    made = network(Batch(tensors, torch.arange(count), 0, numbers)).mean_VBF
    assert passes == [4, 4]
    alone = torch.stack([network(Batch((image,), torch.arange(count), 0, (0,))).mean_VBF[0] for image in pixels])
    torch.testing.assert_close(made, alone)


def test_noise_is_that_of_the_view_in_whichever_tensor_it_stands():
    from viewmill.methods.terms import FixedGaussian

    network = Network(Architecture("resnet18", 4, 16, 8, 6, head=FixedGaussian(0.5))).eval()
    network.head.train()
    row_B = torch.arange(2)
    large, small = torch.zeros(2, 3, 16, 16), torch.zeros(4, 3, 12, 12)
    mixed = network(Batch((small, large), row_B, 0, (1, 2, 0))).embedding_VBD
    plain = network(Batch((large, small), row_B, 0, (0, 1, 2))).embedding_VBD
    torch.testing.assert_close(mixed, plain)
    assert not torch.equal(plain[1], plain[2])


def test_three_parts_of_colour_have_an_encoder_and_a_projector_each():
    network = Network(Architecture("resnet18", 4, 16, 8, 6, views="colour", parts=3))
    image_B3SS = torch.randn(2, 3, 16, 16)
    outputs = network(Batch(image_B3SS.split(1, dim=1), torch.arange(2), 0, (0, 1, 2)))
    assert outputs.embedding_VBD.shape == (3, 2, 6)
    assert isinstance(network.encoder, Colour)
    assert network.encoder.eval()(image_B3SS).shape == (2, network.encoder.features)


@pytest.mark.parametrize(
    ("name", "assigned", "recipe", "message"),
    [
        (
            "simclr",
            [],
            "multicrop",
            "simclr takes 2 views of an image; multicrop makes 8: --set contrast=graph contrast.views=8",
        ),
        ("simclr-views", [], "simclr", "takes 4 views of an image; simclr makes 2: --set contrast=graph contrast.views=2"),
        ("byol", [], "multicrop", "byol takes 2 views of an image; multicrop makes 8: take another recipe"),
        ("simclr", ["contrast=list", "contrast.listed=0-0"], "lab", "only a bank"),
        ("ir", [], "lab", "ir takes whole views; lab cuts them into parts"),
        ("simclr-reconstruction", ["contrast=graph", "contrast.views=8"], "multicrop", "makes views of one size"),
        ("cmc-full", [], "lab", "cmc-full takes tensors of [1, 1, 1] channels; lab makes [1, 2]"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_what_would(name, assigned, recipe, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        recipe_for(Views(size=32, recipe=recipe), name, changed(METHODS[name], assigned))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["simclr-multicrop"],
        ["moco-v2-multicrop"],
        ["cmc-core"],
        [
            "ring",
            "--set",
            "contrast=graph",
            "contrast.views=3",
            "contrast.keys=1",
            "contrast.own=true",
            "region.inner=0.1",
            "region.outer=0.5",
        ],
    ],
    ids=lambda words: words[0],
)
def test_a_training_of_several_views_stops_and_goes_on_to_the_same_bits(words, photo_beton, tmp_path):
    name, *more = words
    more += ["--set", "memory.size=24"] if name.startswith("moco") else []
    start = ["train", name, "--data", str(photo_beton.path), *TINY, *more, "--steps", "4", "--checkpoint-every", "2"]
    assert main([*start, "--out", str(tmp_path / "whole")]) == 0
    whole = tmp_path / "whole" / "checkpoints" / "step-00000004"
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["architecture"]["parts"] == (3 if name == "cmc-core" else 2)
    views = len(config["recipe"]["views"]) if config["recipe"] else len(RECIPES[METHODS[name].recipe](24).views)
    assert views == {"simclr-multicrop": 8, "moco-v2-multicrop": 8, "cmc-core": 1, "ring": 3}[name]
    again = ["train", "--config", str(tmp_path / "whole"), "--data", str(photo_beton.path), "--engine", "torch"]
    assert main([*again, "--out", str(tmp_path / "again"), "--checkpoint-every", "2"]) == 0
    halfway = tmp_path / "again" / "checkpoints"
    for path in (halfway / "step-00000004").iterdir():
        path.unlink()
    (halfway / "step-00000004").rmdir()
    (halfway / "latest").write_text("step-00000002\n")
    assert main([*again, "--out", str(tmp_path / "again"), "--checkpoint-every", "2"]) == 0
    for part in ("model", "memory"):
        for path in whole.glob(f"{part}*.safetensors"):
            one, other = load_file(path), load_file(halfway / "step-00000004" / path.name)
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), path


def test_more_views_leave_the_rows_of_the_table_what_they_were():
    assert METHODS["simclr"].views == METHODS["simclr"].online_views == 2
    assert replace(METHODS["moco-v2"]).target_views == (1,)
    assert METHODS["cmc"].banks == 2


def test_the_plan_says_what_is_contrasted_beyond_two_views(photo_beton, tmp_path, capsys):
    start = ["train", "--data", str(photo_beton.path), *TINY, "--steps", "1"]
    assert main([*start, "--out", str(tmp_path / "a"), "simclr-multicrop"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "pairs 14 of 8 views, 6 of them anchors alone; the bound is the mean of theirs" in told
    assert main([*start, "--out", str(tmp_path / "b"), "simclr"]) == 0
    assert "pairs" not in capsys.readouterr().err

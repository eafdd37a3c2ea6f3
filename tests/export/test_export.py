"""Exports: each library loads what was written for it and sees what the run's encoder sees, and nothing else is left."""

import contextlib
import dataclasses
import json
import resource
import signal
import socket
import sys
import typing
from pathlib import Path

import disks
import huggingface_hub
import onnx
import pytest
import torch
import tyro
from faults import TINY, figures, run
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from viewmill.checkpoint import layout
from viewmill.commands.export import export
from viewmill.errors import Refused
from viewmill.export import compare, place, to_onnx
from viewmill.export.formats import TARGETS
from viewmill.export.trained import load
from viewmill.methods.architecture import Architecture
from viewmill.models import layouts
from viewmill.models.encoders import DESIGNS, ResNet
from viewmill.models.network import Network
from viewmill.models.weights import fingerprint, initialise_
from viewmill.settings import Export
from viewmill.training.run_folder import write_json

FOLDERS = ("encoder", "timm", "transformers")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("data"), 64)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A real run of 8 steps with a moving average, and how its encoder was evaluated."""
    out = tmp_path_factory.mktemp("run") / "run"
    done = run(
        "train",
        "simclr",
        "--data",
        data,
        *TINY,
        "--precision",
        "bf16",
        "--steps",
        "8",
        "--ema",
        ".5",
        "--checkpoint-every",
        "4",
        out=out,
    )
    assert done.code == 0, done.said()
    return out


@pytest.fixture(scope="module")
def settings(trained):
    return json.loads((trained / "config.json").read_text())


def a_run(folder, settings, *, seed=3, **changes):
    """A run as its folder tells it, with weights that no training made: running statistics and all."""
    made_of = settings["architecture"] | {"hidden": 8, "out": 4} | changes
    torch.manual_seed(seed)
    network = Network(Architecture(**made_of)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running_var" in name or name.endswith("bn1.weight"):
                value.uniform_(0.5, 1.5)
            elif "running_mean" in name or name.endswith("bias"):
                value.normal_(0, 0.1)
    described = settings | {"architecture": made_of, "size": made_of["size"], "encoder": made_of["encoder"]}
    if made_of["views"] == "colour":
        colours = {"space": "lab", "mean": [50.0, 0.0, 0.0], "std": [25.0, 20.0, 20.0]}
        described |= {"method": "cmc", "colours": colours}
    folder.mkdir(parents=True)
    write_json(folder / "config.json", described)
    facts = {"step": 3, "config": described, "versions": {"torch": "2.14"}}
    layout.write(folder / "checkpoints", 3, {"model": network.state_dict(), "optimiser": {}}, facts)
    return folder


KINDS = {
    "large": {"encoder": "resnet18", "width": 64, "size": 70},
    "bottleneck": {"encoder": "resnet50", "width": 4, "size": 70},
    "narrow": {"encoder": "resnet18", "width": 6, "size": 70},
    "odd": {"encoder": "resnet18", "width": 5, "size": 16},
    "small": {"encoder": "resnet18", "width": 64, "size": 16},
    "colour": {"encoder": "resnet18", "width": 4, "size": 16, "views": "colour"},
    "large colour": {"encoder": "resnet18", "width": 4, "size": 70, "views": "colour"},
    "vit": {"encoder": "timm:test_vit", "width": 64, "size": 32},
    "timm": {"encoder": "timm:resnet18", "width": 64, "size": 70},
}


@pytest.fixture(scope="module")
def kinds(settings, tmp_path_factory):
    """Runs of each kind, made once and only where asked for."""
    folder, made = tmp_path_factory.mktemp("kinds"), {}

    def of(kind):
        if kind not in made:
            made[kind] = a_run(folder / kind.replace(" ", "-"), settings, **KINDS[kind])
        return made[kind]

    return of


def code_of(card):
    """The first Python of a card."""
    return card.read_text().split("```python\n")[1].split("```")[0]


def written(out, format):
    """Where an export to `out` stands."""
    return out if format in FOLDERS else out.with_name(out.name + TARGETS[format].suffix)


def shown(held, size=None):
    """Images as the encoder knows them, and its features."""
    pixels = compare.figures(size or held.size)
    image = compare.normalised(pixels, held.colours)[:, compare.CHANNELS[held.half]]
    with torch.no_grad():
        return image, held.encoder(image)


def nothing_but(folder, *names):
    assert {path.name for path in folder.iterdir()} == set(names)


# Every format, by the words of its own card


FITTING = [
    ("large", "torchvision"),
    ("large", "transformers"),
    ("bottleneck", "timm"),
    ("bottleneck", "transformers"),
    ("small", "torchvision"),
    ("narrow", "timm"),
    ("narrow", "transformers"),
    ("odd", "encoder"),
    ("colour", "encoder"),
    ("vit", "timm"),
    ("vit", "encoder"),
    ("timm", "torchvision"),
]


@pytest.mark.parametrize(("kind", "format"), FITTING)
def test_the_code_of_its_card_gives_the_features_of_the_encoder(kinds, tmp_path, monkeypatch, capsys, kind, format):
    monkeypatch.chdir(tmp_path)
    source, out = kinds(kind), tmp_path / "made"
    assert export(Export(source, out, format=format)) == 0
    held, place_of = load(source), written(out, format)
    said = capsys.readouterr().err
    sizes = f"{held.size} and {held.size * 3 // 2} px"
    assert f"{place_of}: {held.name} of step 3 for" in said
    assert sizes in said
    assert float(said.split("features agree to ")[1].split(" ")[0]) <= 1e-5
    image, expected = shown(held, held.size * 3 // 2)
    names = {"image": image}
    with torch.no_grad():
        exec(compile(code_of(place.card_of(place_of)), "card", "exec"), names)
    assert names["features"].shape == expected.shape
    assert compare.difference(expected, names["features"]) <= 1e-5
    nothing_but(tmp_path, *{place_of.name, place.card_of(place_of).name if format not in FOLDERS else place_of.name})


@pytest.mark.parametrize("kind", ["large colour", "colour"])
@pytest.mark.parametrize("half", ["first", "second"])
def test_a_half_of_a_colour_network_is_an_encoder_of_its_own(kinds, tmp_path, monkeypatch, kind, half):
    monkeypatch.chdir(tmp_path)
    format = "transformers" if kind == "large colour" else "timm"
    assert export(Export(kinds(kind), tmp_path / "made", format=format, half=half)) == 0
    image, expected = shown(load(kinds(kind), half=half))
    assert image.shape[1] == {"first": 1, "second": 2}[half]
    names = {"image": image}
    with torch.no_grad():
        exec(code_of(tmp_path / "made" / "README.md"), names)
    assert compare.difference(expected, names["features"]) <= 1e-5
    both = load(kinds(kind))
    whole = shown(both)[1].chunk(2, dim=1)[half == "second"]
    assert torch.equal(whole, expected)
    assert "made of sRGB in 0 to 1, of which it takes" in (tmp_path / "made" / "README.md").read_text()
    assert not (tmp_path / "made" / "preprocessor_config.json").exists()


class Detectron2Conv(nn.Conv2d):
    """detectron2.layers.Conv2d: a convolution that holds its norm."""

    def __init__(self, arriving, leaving, side, stride=1):
        super().__init__(arriving, leaving, side, stride=stride, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(leaving)

    def forward(self, x):
        return self.norm(super().forward(x))


class Detectron2Block(nn.Module):
    """BasicBlock and BottleneckBlock of detectron2/modeling/backbone/resnet.py, with the stride in the 3x3 convolution."""

    def __init__(self, arriving, leaving, stride, within):
        super().__init__()
        self.shortcut = Detectron2Conv(arriving, leaving, 1, stride) if arriving != leaving else None
        if within:
            self.conv1 = Detectron2Conv(arriving, within, 1)
            self.conv2 = Detectron2Conv(within, within, 3, stride)
            self.conv3 = Detectron2Conv(within, leaving, 1)
        else:
            self.conv1 = Detectron2Conv(arriving, leaving, 3, stride)
            self.conv2 = Detectron2Conv(leaving, leaving, 3)
            self.conv3 = None

    def forward(self, x):
        out = self.conv2(F.relu(self.conv1(x)))
        out = out if self.conv3 is None else self.conv3(F.relu(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Detectron2ResNet(nn.Module):
    """Its ResNet, and its BasicStem."""

    def __init__(self, width, depths, bottleneck):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Detectron2Conv(3, width, 7, 2)
        arriving = width
        for stage, depth in enumerate(depths):
            within = width << stage
            leaving = within * 4 if bottleneck else within
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Detectron2Block(arriving, leaving, stride, within if bottleneck else 0))
                arriving = leaving
            self.add_module(f"res{stage + 2}", nn.Sequential(*blocks))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, stride=2, padding=1)
        return self.res5(self.res4(self.res3(self.res2(x)))).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", ["large", "bottleneck", "narrow"])
def test_a_network_with_the_names_of_detectron2_sees_what_the_encoder_sees(kinds, tmp_path, kind):
    assert export(Export(kinds(kind), tmp_path / "d2", format="detectron2")) == 0
    made_of, held = KINDS[kind], load(kinds(kind))
    depths = DESIGNS[made_of["encoder"]].depths
    model = Detectron2ResNet(made_of["width"], depths, bottleneck=kind == "bottleneck").eval()
    assert model.load_state_dict(load_file(tmp_path / "d2.safetensors"))  # strict
    image, expected = shown(held, 105)
    with torch.no_grad():
        assert compare.difference(expected, model(image)) <= 1e-5
    card = (tmp_path / "d2.md").read_text()
    compile(code_of(tmp_path / "d2.md"), "card", "exec")
    assert "torch.save({\"model\": load_file('d2.safetensors'), \"matching_heuristics\": True}, 'd2.pth')" in card
    assert ("refuses this width" in card) == (kind == "narrow")
    assert "`MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]`" in card


@pytest.fixture(scope="module")
def in_onnx(trained, tmp_path_factory):
    """The real run in ONNX; it takes torch some seconds."""
    out = tmp_path_factory.mktemp("onnx") / "made.onnx"
    assert export(Export(trained, out, format="onnx")) == 0
    return out


def test_an_onnx_file_takes_any_batch_and_size_and_tells_nothing_of_this_machine(trained, in_onnx, tmp_path, monkeypatch):
    monkeypatch.chdir(in_onnx.parent)
    held, model = load(trained), onnx.load(in_onnx)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [
        *("batch", 3, "height", "width")
    ]
    for size, batch in ((16, 1), (24, 3), (33, 2)):
        image, expected = shown(held, size)
        names = {"image": image[:batch]}
        exec(code_of(in_onnx.with_suffix(".md")), names)
        assert compare.difference(expected[:batch], torch.from_numpy(names["features"])) <= 1e-5
    assert b"site-packages" not in in_onnx.read_bytes()
    assert str(place.__file__).encode() not in in_onnx.read_bytes()
    assert json.loads({item.key: item.value for item in model.metadata_props}["viewmill"])["step"] == 8
    assert "Opset 18; any batch and any size." in in_onnx.with_suffix(".md").read_text()
    nothing_but(in_onnx.parent, "made.onnx", "made.md")


def test_a_card_says_of_raw_pixels_that_they_are_uint8_and_nothing_else(trained, tmp_path):
    for name, raw, words in (("raw", True, "is uint8 [batch, 3, height, width]"), ("plain", False, "is float32 [batch, 3")):
        assert export(Export(trained, tmp_path / f"{name}.onnx", format="onnx", raw_pixels=raw)) == 0
        card = (tmp_path / f"{name}.md").read_text()
        assert words in card
        assert ("float32 [batch" in card, "uint8" in card) == (not raw, raw)


def test_with_raw_pixels_the_graph_normalises_by_itself(trained, kinds):
    for held in (load(trained), load(kinds("colour")), load(kinds("colour"), half="second")):
        graph = to_onnx.Graph(held.encoder, held.colours, compare.CHANNELS[held.half])
        with torch.no_grad():
            assert compare.difference(shown(held)[1], graph(compare.figures(16))) <= 1e-6


@pytest.mark.chaos
@pytest.mark.parametrize("half", ["both", "second"])
def test_an_onnx_file_with_raw_pixels_converts_colours_and_splits_them(kinds, tmp_path, monkeypatch, half):
    monkeypatch.chdir(tmp_path)
    assert export(Export(kinds("colour"), tmp_path / "made", format="onnx", raw_pixels=True, half=half)) == 0
    held = load(kinds("colour"), half=half)
    names = {"image": compare.figures(20)}
    exec(code_of(tmp_path / "made.md"), names)
    assert compare.difference(shown(held, 20)[1], torch.from_numpy(names["features"])) <= 1e-5
    assert "uint8 RGB [B, 3, height, width]" in (tmp_path / "made.md").read_text()


@pytest.mark.chaos
def test_a_model_of_timm_goes_to_onnx_at_its_own_size(kinds, tmp_path, capsys):
    assert export(Export(kinds("vit"), tmp_path / "made", format="onnx")) == 0
    assert "at 32 px; its card" in capsys.readouterr().err
    assert "any batch, images of 32 px" in (tmp_path / "made.md").read_text()


def test_a_model_that_torch_cannot_export_is_refused(trained, tmp_path):
    class Stubborn(nn.Module):
        def forward(self, image):
            return image.flatten(1) if image.sum().item() > 0 else image  # depends on the values

    held = load(trained)._replace(encoder=Stubborn())
    with pytest.raises(ValueError, match=r"torch cannot export resnet18 to ONNX \(.*use --format encoder or timm"):
        to_onnx.write(held, tmp_path / "a.onnx", raw_pixels=False)
    nothing_but(tmp_path)


# Loading back: train --init


BACK = [
    ("large", "torchvision"),
    ("narrow", "transformers"),
    ("narrow", "detectron2"),
    ("bottleneck", "transformers"),
    ("bottleneck", "detectron2"),
    ("colour", "encoder"),
    ("vit", "timm"),
    ("timm", "transformers"),
]


def taken(settings, path, **changes):
    torch.manual_seed(9)
    network = Network(Architecture(**(settings["architecture"] | {"hidden": 8, "out": 4} | changes)))
    return network, initialise_(network, path)


@pytest.mark.parametrize(("kind", "format"), BACK)
def test_an_export_is_taken_by_init_tensor_for_tensor(kinds, settings, tmp_path, kind, format):
    assert export(Export(kinds(kind), tmp_path / "made", format=format)) == 0
    path = written(tmp_path / "made", format)
    network, found = taken(settings, path, **KINDS[kind])
    wanted = load(kinds(kind)).encoder.state_dict()
    for name, tensor in network.encoder.state_dict().items():
        if not (format == "detectron2" and name.endswith("num_batches_tracked")):
            assert torch.equal(tensor, wanted[name]), name
    assert found.unused == []
    assert {name.split(".")[0] for name in found.left} == {"projector"}
    assert fingerprint(path) == fingerprint(path / "model.safetensors" if path.is_dir() else path)


def test_an_onnx_file_is_taken_by_init_tensor_for_tensor(trained, in_onnx, settings):
    network, _ = taken(settings, in_onnx)
    wanted = load(trained).encoder.state_dict()
    for name, tensor in network.encoder.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, wanted[name]), name


def test_a_training_begins_with_an_export(trained, data, tmp_path):
    assert export(Export(trained, tmp_path / "made")) == 0
    began = run(
        *("train", "simclr", "--data", data, *TINY, "--steps", "1", "--init", tmp_path / "made", "--learning-rate", "0"),
        out=tmp_path / "run",
    )
    assert began.code == 0, began.said()
    before, after = (load(place).encoder.state_dict() for place in (trained, tmp_path / "run"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if name.endswith(("weight", "bias")))


def test_a_transformers_file_below_a_prefix_is_taken_and_another_depth_is_not(kinds, settings, tmp_path):
    from safetensors.torch import save_file

    state = layouts.to_transformers(load(kinds("narrow")).encoder.state_dict())
    save_file({f"resnet.{name}": tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    network, found = taken(settings, tmp_path / "a.safetensors", **KINDS["narrow"])
    assert found.source.endswith("below resnet.")
    assert torch.equal(
        network.encoder.layer4[1].bn2.running_var, state["encoder.stages.3.layers.1.layer.1.normalization.running_var"]
    )
    with pytest.raises(ValueError, match=r"it seems to hold a residual network of 2\+2\+2\+2 basic blocks"):
        taken(settings, tmp_path / "a.safetensors", **KINDS["bottleneck"])


def test_a_checkpoint_without_its_manifest_is_no_export(trained, settings, tmp_path):
    lost = tmp_path / "step-00000008"
    lost.mkdir()
    (lost / "model.safetensors").write_bytes(next(trained.glob("checkpoints/step-*8/model.safetensors")).read_bytes())
    with pytest.raises(ValueError, match="holds no checkpoint: --init takes a run"):
        taken(settings, lost)


def test_a_file_that_is_no_onnx_is_refused_by_init(settings, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="is no ONNX file with its weights in it"):
        taken(settings, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r'needs onnx: pip install "viewmill\[export\]"'):
        taken(settings, tmp_path / "a.onnx")


# Layouts


@pytest.mark.parametrize("design", DESIGNS)
def test_names_of_transformers_are_those_of_its_model_and_turn_back(design):
    from transformers import ResNetConfig, ResNetModel

    expansion = DESIGNS[design].block.expansion
    config = ResNetConfig(
        embedding_size=2,
        hidden_sizes=[2 * expansion << stage for stage in range(4)],
        depths=list(DESIGNS[design].depths),
        layer_type="basic" if expansion == 1 else "bottleneck",
    )
    ours = ResNet(DESIGNS[design], width=2, small_stem=False).state_dict()
    theirs = layouts.to_transformers(ours)
    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in ResNetModel(config).state_dict().items()
    }
    assert list(layouts.from_transformers(theirs)) == list(layouts.in_our_names(theirs)) == list(ours)
    below = layouts.from_detectron2({f"backbone.bottom_up.{name}": x for name, x in layouts.to_detectron2(ours).items()})
    assert list(below) == [f"backbone.bottom_up.{name}" for name in ours if not name.endswith(layouts.COUNTER)]


def test_names_of_no_residual_network_stay_or_are_refused():
    other = {"stem.conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}
    assert layouts.in_our_names(other) == other
    with pytest.raises(ValueError, match=r"blocks.0.attn is no tensor of a residual network"):
        layouts.to_transformers({"blocks.0.attn": torch.zeros(1)})


# What transformers and timm find beside the weights


def test_the_image_processor_shows_what_the_evaluation_view_shows(kinds, tmp_path):
    from transformers import AutoImageProcessor

    assert export(Export(kinds("large"), tmp_path / "made", format="transformers")) == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "made", local_files_only=True)
    picture = compare.figures(272, 2)
    found = processor([image for image in picture], return_tensors="pt")["pixel_values"]
    centre = picture[:, :, 17:-17, 17:-17].float()  # .875 of the side
    expected = F.interpolate(centre, size=70, mode="bilinear", antialias=True).round().to(torch.uint8)
    held = load(kinds("large"))
    assert found.shape == (2, 3, 70, 70)
    assert (found - compare.normalised(expected, held.colours)).abs().mean() < 0.02  # one level of 255 is .017


@pytest.mark.parametrize("kind", ["vit", "large"])
def test_timm_knows_how_its_folder_is_shown_and_transformers_loads_it_too(kinds, tmp_path, kind):
    import timm
    from transformers import AutoModel

    assert export(Export(kinds(kind), tmp_path / "made", format="timm")) == 0
    held = load(kinds(kind))
    shown_as = timm.data.resolve_data_config(model=timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True))
    assert list(shown_as["input_size"]) == [3, held.size, held.size]
    assert shown_as["crop_pct"] == (0.875 if kind == "large" else 1)
    assert list(shown_as["mean"]) == pytest.approx([0.485, 0.456, 0.406])
    image, expected = shown(held)
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path / "made", local_files_only=True).eval()(pixel_values=image)
    assert compare.difference(expected, found.pooler_output) <= 1e-5


def test_no_library_asks_a_network(kinds, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"somebody connects to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for format, kind in (("timm", "vit"), ("transformers", "narrow")):
        assert export(Export(kinds(kind), tmp_path / format, format=format)) == 0


# The card


def test_a_card_tells_where_the_encoder_comes_from_and_nothing_of_this_machine(trained, settings, tmp_path):
    lines = [
        {"task": "figures", "protocol": "kNN k=200", "encoder": "run", "top1": 0.5, "step": 8, "weights": "model"},
        {"task": "figures", "protocol": "kNN k=200", "encoder": "run", "top1": 0.75, "step": 8, "weights": "model"},
        {"task": "figures", "protocol": "kNN k=200", "encoder": "run", "top1": 0.1, "step": 4, "weights": "model"},
        {"task": "figures", "protocol": "kNN k=200", "encoder": "run", "top1": 0.2, "step": 8, "weights": "ema"},
        {"task": "figures", "protocol": "kNN k=200", "encoder": "raw pixels", "top1": 0.25},
        {"task": "a|b\nc", "protocol": "linear", "encoder": "run", "top1": 0.875},
        {"task": "figures", "protocol": "linear", "encoder": "run", "top1": "much"},
        {"task": "figures", "protocol": "linear", "encoder": "run", "top1": None},
        ["no object"],
        {"encoder": "run"},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"task": "torn'
    (trained / "evaluation.jsonl").write_text(text)
    try:
        said = {"licence": "My own: licence", "author": "A \u202e\n Person"}
        assert export(Export(trained, tmp_path / "made", **said)) == 0
    finally:
        (trained / "evaluation.jsonl").unlink()
    card = (tmp_path / "made" / "README.md").read_text()
    read = huggingface_hub.ModelCard(card)
    assert read.data.library_name == "viewmill"
    assert read.data.pipeline_tag == "image-feature-extraction"
    assert read.data.license == "other"
    assert read.data["license_name"] == "My own: licence"
    assert {"simclr", "resnet18", "self-supervised"} <= set(read.data.tags)
    results = [(found.dataset_name, found.metric_value, found.metric_name) for found in read.data.eval_results]
    assert results == [("figures", 0.75, "top-1, kNN k=200"), ("a|b c", 0.875, "top-1, linear")]
    assert "| figures | kNN k=200 | raw pixels | 0.2500 |" in card
    assert "| a\\|b c | linear | this encoder | 0.8750 |" in card
    assert "0.1000" not in card
    assert "0.2000" not in card
    assert "Licence: My own: licence. Author: A Person." in card
    for fact in ("8 of 8", "16 images", settings["data_fingerprint"], "bf16", "bound.temperature", "[0.485, 0.456, 0.406]"):
        assert fact in card
    assert "it is not for" in card
    assert str(trained) not in card
    with safe_open(tmp_path / "made" / "model.safetensors", "pt") as file:
        known = json.loads(file.metadata()["viewmill"])
    assert known["step"] == 8
    assert known["data_fingerprint"] == settings["data_fingerprint"]


@pytest.mark.parametrize(("licence", "identifier"), [("Apache 2.0", "apache-2.0"), ("Mine", "other"), ("", None)])
def test_a_licence_that_the_hub_knows_has_its_identifier(trained, tmp_path, licence, identifier):
    assert export(Export(trained, tmp_path / "made.safetensors", licence=licence)) == 0
    card = (tmp_path / "made.md").read_text()
    assert huggingface_hub.ModelCard(card).data.license == identifier
    assert ("none stated: ask the author" in card) == (not licence)
    nothing_but(tmp_path, "made.safetensors", "made.md")


# What goes wrong


def refused(words, *arguments, **options):
    with pytest.raises(Refused, match=words):
        export(Export(*arguments, **options))


@pytest.mark.parametrize(
    ("kind", "format", "words"),
    [
        (
            "small",
            "transformers",
            r"7x7 stem .* 3x3 stem \(16 px\)\. What fits it: --format encoder or torchv",
        ),
        ("small", "detectron2", r"BasicStem is a 7x7 convolution .* What fits it: --format encoder or torchvision or"),
        (
            "narrow",
            "torchvision",
            r"64 channels .* and this one 6\. .*encoder or timm or transformers or onnx or det",
        ),
        ("odd", "timm", r"an even number of channels, and this one has 5\. What fits it: --format encoder or onnx$"),
        (
            "vit",
            "torchvision",
            r"timm:test_vit is none of the residual .* fits it: --format encoder or timm or onnx$",
        ),
        (
            "colour",
            "timm",
            r"timm holds one encoder, cmc trains two: add --half first or second\. What fits it",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_with_what_it_fits(kinds, tmp_path, kind, format, words):
    refused(words, kinds(kind), tmp_path / "made", format=format)
    nothing_but(tmp_path)


def test_options_without_a_meaning_are_refused(trained, kinds, tmp_path):
    refused(r"--half first means nothing to simclr", trained, tmp_path / "a", half="first")
    refused(r"--raw-pixels is for --format onnx: timm has no place", trained, tmp_path / "a", format="timm", raw_pixels=True)
    refused(r"keeps no moving average of its weights: train with --ema", kinds("odd"), tmp_path / "a", ema=True)
    with pytest.raises(SystemExit):
        tyro.cli(Export, args=[str(trained), str(tmp_path / "a"), "--format", "keras"])
    nothing_but(tmp_path)


def test_the_moving_average_is_exported_where_it_is_asked_for(trained, tmp_path):
    for ema in (False, True):
        assert export(Export(trained, tmp_path / "made", ema=ema, overwrite=True)) == 0
        held = load_file(tmp_path / "made" / "model.safetensors")
        parts = layout.newest(trained / "checkpoints").checkpoint.parts
        assert torch.equal(held["conv1.weight"], parts["ema" if ema else "model"]["encoder.conv1.weight"])
    assert "the moving average of the weights" in (tmp_path / "made" / "README.md").read_text()


def test_runs_without_a_sound_checkpoint_are_refused(settings, tmp_path):
    refused("holds no run: it has no config.json", tmp_path, tmp_path / "made")
    (tmp_path / "begun").mkdir()
    write_json(tmp_path / "begun" / "config.json", settings)
    refused("holds no checkpoint yet: train it first", tmp_path / "begun", tmp_path / "made")
    source = a_run(tmp_path / "run", settings)
    path = source / "checkpoints" / "step-00000003" / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 4
    path.write_bytes(whole)
    refused("model.safetensors is damaged: its sha256 is not", source, tmp_path / "made")
    whole[-5] ^= 4
    path.write_bytes(whole)
    write_json(source / "config.json", json.loads((source / "config.json").read_text()) | {"batch": 7})
    refused("is of another run than .*config.json says: batch = 16, this one has 7", source, tmp_path / "made")
    nothing_but(tmp_path, "begun", "run")


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(trained, tmp_path, capsys):
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    with open(tmp_path / "run" / "checkpoints" / "step-00000008" / "ema.safetensors", "r+b") as file:
        file.seek(-3, 2)
        file.write(b"\xff")
    assert export(Export(tmp_path / "run", tmp_path / "made")) == 0
    said = capsys.readouterr().err
    assert "passed over: " in said
    assert "ema.safetensors is damaged" in said
    assert "resnet18 of step 4" in said


def test_weights_that_are_not_finite_are_refused(settings, tmp_path):
    source = a_run(tmp_path / "run", settings)
    parts, facts = layout.newest(source / "checkpoints").checkpoint
    parts["model"]["encoder.layer2.0.bn1.bias"][1] = float("nan")
    layout.write(source / "checkpoints", 9, parts, facts | {"step": 9})
    refused(r"the encoder is not finite in layer2.0.bn1.bias", source, tmp_path / "made")


@pytest.mark.parametrize(
    ("kind", "format", "spoilt"),
    [
        ("small", "torchvision", lambda x: x * 1.0001),
        ("odd", "encoder", lambda x: x * 1.0001),
        ("odd", "encoder", lambda x: x * float("nan")),
        ("odd", "encoder", lambda x: x[:, :-1]),
    ],
)
def test_what_the_library_sees_otherwise_is_removed_and_the_difference_is_said(
    kinds, tmp_path, monkeypatch, capsys, kind, format, spoilt
):
    target = TARGETS[format]

    def load_otherwise(trained, path):
        features = target.load(trained, path)
        return lambda image: spoilt(features(image))

    monkeypatch.setitem(TARGETS, format, target._replace(load=load_otherwise))
    assert export(Export(kinds(kind), tmp_path / "made", format=format)) == 1
    said = capsys.readouterr().err
    difference = said.split("features differ by ")[1].split(" ")[0]
    assert "so nothing is written" in said
    assert difference in ("0.0001", "nan", "inf")
    nothing_but(tmp_path)


def test_a_target_library_that_is_missing_is_named_with_its_pip_line(trained, tmp_path, monkeypatch):
    for name, format, extra in [
        ("timm", "timm", "timm"),
        ("transformers", "transformers", "export"),
        ("onnx", "onnx", "export"),
        ("onnxscript", "onnx", "export"),
        ("onnxruntime", "onnx", "export"),
    ]:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, None)
            refused(
                rf'--format {format} needs {name}: pip install "viewmill\[{extra}\]"', trained, tmp_path / "a", format=format
            )
    nothing_but(tmp_path)


def test_places_that_cannot_be_an_export_are_refused(trained, tmp_path):
    refused("missing is no folder: make it first", trained, tmp_path / "missing" / "made")
    (tmp_path / "file").write_text("mine")
    refused("file is a file and this format writes a folder", trained, tmp_path / "file", overwrite=True)
    refused("file is no folder", trained, tmp_path / "file" / "made")
    (tmp_path / "a.safetensors").mkdir()
    refused("a.safetensors is a folder and this format writes a file", trained, tmp_path / "a", format="torchvision")
    refused("writes a folder, not a.onnx: name it without .onnx", trained, tmp_path / "a.onnx", format="timm")
    refused("writes a .safetensors file, not a.pth", trained, tmp_path / "a.pth", format="detectron2")
    refused("writes a .onnx file, not a.safetensors", trained, tmp_path / "a.safetensors", format="onnx")
    refused("name what to write", trained, tmp_path / "..")
    nothing_but(tmp_path, "file", "a.safetensors")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["made", "made.safetensors"])
def test_an_export_is_replaced_only_where_that_is_asked_for(trained, kinds, tmp_path, name):
    out = tmp_path / name
    weights = out if out.suffix else out / "model.safetensors"
    assert export(Export(trained, out)) == 0
    before = weights.read_bytes()
    refused("exists: add --overwrite to replace it", kinds("odd"), out)
    assert weights.read_bytes() == before
    assert export(Export(kinds("odd"), out, overwrite=True)) == 0
    assert weights.read_bytes() != before
    assert "width 5" in place.card_of(out).read_text()
    nothing_but(tmp_path, *({"made"} if name == "made" else {"made.safetensors", "made.md"}))


def test_overwrite_replaces_exports_alone(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    refused(r"photos holds other things than an export \(cat.jpg\)", trained, tmp_path / "photos", overwrite=True)
    (tmp_path / "made.md").write_text("# My notes")
    refused(r"made.md is no card that viewmill wrote", trained, tmp_path / "made.safetensors", overwrite=True)
    refused(r"made.md exists", trained, tmp_path / "made.safetensors")
    refused(r"run holds other things than an export", trained, trained, overwrite=True)
    assert (tmp_path / "made.md").read_text() == "# My notes"
    (tmp_path / "empty").mkdir()
    assert export(Export(trained, tmp_path / "empty")) == 0
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert export(Export(trained, tmp_path / "link", overwrite=True)) == 0
    assert (tmp_path / "link").is_symlink()
    nothing_but(tmp_path, "photos", "made.md", "empty", "link")
    nothing_but(tmp_path / "empty", "model.safetensors", "README.md")


def test_what_a_killed_export_left_is_cleared_and_a_living_one_is_left_alone(trained, tmp_path):
    left = tmp_path / ".made.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert export(Export(trained, tmp_path / "made")) == 0
    nothing_but(tmp_path, "made")
    with place.building(tmp_path / "other"):
        refused("is being written by another export: wait for it", trained, tmp_path / "other")
        assert (tmp_path / ".other.partial").is_dir()
    nothing_but(tmp_path, "made")


@contextlib.contextmanager
def full(bytes_):
    """No file may grow past so many bytes."""
    usual, before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, usual)


@pytest.mark.parametrize("limit", [10_000, 1_000])
@pytest.mark.parametrize("name", ["made", "made.safetensors"])
def test_a_disk_without_room_leaves_what_was_there_and_nothing_else(trained, kinds, tmp_path, limit, name):
    out = tmp_path / name
    assert export(Export(trained, out)) == 0
    there = {path.name for path in tmp_path.iterdir()}
    before = place.card_of(out).read_bytes()
    with full(limit):
        refused(r"no room for .*made.* \(File too large\): nothing of it is left behind", kinds("odd"), out, overwrite=True)
    nothing_but(tmp_path, *there)
    assert place.card_of(out).read_bytes() == before
    assert export(Export(trained, out, overwrite=True)) == 0


def test_a_small_disk_and_one_that_cannot_be_written_are_refused(trained, kinds, tmp_path):
    with disks.mounted(tmp_path / "small", "tmpfs", "size=64k") as small:
        refused(r"no room for .*made \(No space left on device\)", trained, small / "made")
        nothing_but(small)
    with disks.mounted(tmp_path / "closed", "tmpfs", "size=1m,ro") as closed:
        refused(r"made cannot be written \(Read-only file system\): choose another place", trained, closed / "made")


def test_an_interrupted_replacement_puts_back_what_was_there(trained, tmp_path, monkeypatch):
    import os

    assert export(Export(trained, tmp_path / "made")) == 0
    before = (tmp_path / "made" / "README.md").read_bytes()
    usual = os.rename

    def failing(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        usual(source, target)

    monkeypatch.setattr(os, "rename", failing)
    refused(r"made cannot be written \(Input/output error\)", trained, tmp_path / "made", overwrite=True)
    nothing_but(tmp_path, "made")
    assert (tmp_path / "made" / "README.md").read_bytes() == before


def test_the_command_offers_the_formats_that_there_are():
    assert tuple(TARGETS) == typing.get_args(typing.get_type_hints(Export)["format"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        Export(Path("a"), Path("b")).ema = True

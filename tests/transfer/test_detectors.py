"""Detectors around our encoders: what they take from them, what of them learns, and where they look."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.poolers import _infer_scale

from viewmill.transfer.backbone import Stages, begin, channels, settle_, strides
from viewmill.transfer.detectors import Design, build

TINY = {"classes": 3, "side": 64, "longest": 96, "channels": 8, "hidden": 16, "regions": 16}
KINDS = [(task, "fpn") for task in ("detection", "segmentation", "keypoints")]
KINDS += [(task, "c4") for task in ("detection", "segmentation")]
SMALL, LARGE = (1, 2, 4, 8), (4, 8, 16, 32)


def encoder(size=224, width=4, name="resnet18"):
    return begin("random", encoder=name, width=width, size=size).encoder


def detector(task="detection", kind="fpn", *, size=224, keypoints=2, **options):
    return build(encoder(size), Design(task, kind, keypoints=keypoints, **(TINY | options)), device_type="cpu")


def examples():
    """Two images: one of two objects, one of none."""
    full = {
        "boxes": torch.tensor([[10.0, 10, 40, 50], [30.0, 20, 70, 60]]),
        "labels": torch.tensor([1, 3]),
        "masks": torch.ones(2, 70, 80, dtype=torch.uint8),
        "keypoints": torch.tensor([[[15.0, 15, 2], [30, 40, 1]], [[40.0, 30, 2], [0, 0, 0]]]),
    }
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty |= {"masks": torch.zeros(0, 60, 90, dtype=torch.uint8), "keypoints": torch.zeros(0, 2, 3)}
    return [torch.rand(3, 70, 80), torch.rand(3, 60, 90)], [full, empty]


def losses(model):
    torch.manual_seed(0)
    return model.train()(*examples())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("size", "expected"), [(32, SMALL), (224, LARGE)], ids=["small stem", "large stem"])
def test_strides_and_channels_are_those_of_the_maps(name, size, expected):
    made = encoder(size, 8, name).eval()
    maps = Stages(made, last=4, only_last=False)(torch.rand(1, 3, 64, 96))
    assert strides(made) == expected
    assert [(64 // part.shape[2], 96 // part.shape[3]) for part in maps.values()] == [(s, s) for s in expected]
    assert tuple(part.shape[1] for part in maps.values()) == channels(made)


def test_the_last_map_is_what_the_encoder_pools():
    made, image = encoder(32, 8).eval(), torch.rand(2, 3, 48, 64)
    maps = Stages(made, last=4, only_last=True)(image)
    torch.testing.assert_close(maps["0"].mean(dim=(2, 3)), made(image))


def test_weights_of_torchvision_make_the_maps_of_torchvision(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    save_file(theirs.state_dict(), tmp_path / "r18.safetensors")
    began = begin(str(tmp_path / "r18.safetensors"))
    model = build(began.encoder, Design("detection", "fpn", classes=3), device_type="cpu").train()
    image = torch.rand(1, 3, 64, 64)
    x = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    maps = model.backbone.body(image)  # training, with statistics that are frozen
    for number, stage in enumerate(("layer1", "layer2", "layer3", "layer4")):
        x = getattr(theirs, stage)(x)
        torch.testing.assert_close(maps[str(number)], x, rtol=1e-4, atol=1e-4)
    assert "r18.safetensors" in began.given
    assert model.transform.image_mean == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("kind", ["fpn", "c4"])
@pytest.mark.parametrize(("size", "expected"), [(32, SMALL), (224, LARGE)], ids=["small stem", "large stem"])
def test_the_scales_of_region_alignment_are_the_strides_and_what_torchvision_infers_of_whole_images(kind, size, expected):
    model = detector(kind=kind, size=size)
    used = expected if kind == "fpn" else expected[2:3]
    maps = list(model.backbone(torch.rand(1, 3, 128, 128)).values())[: len(used)]
    pools = [part for part in model.modules() if isinstance(part, MultiScaleRoIAlign)]
    assert pools
    for pool in pools:
        assert pool.scales == [1 / stride for stride in used]
        assert pool.scales == [_infer_scale(part, (128, 128)) for part in maps]


def test_a_first_image_that_is_mostly_padding_does_not_spoil_the_scales():
    model = detector("segmentation", side=36, longest=36).eval()
    with torch.no_grad():
        model([torch.rand(3, 36, 36)])
        padded = model.backbone(torch.rand(1, 3, 64, 64))["0"]
    assert _infer_scale(padded, (36, 36)) == 1 / 2  # what torchvision would have kept for good
    assert model.roi_heads.box_roi_pool.scales[0] == model.roi_heads.mask_roi_pool.scales[0] == 1 / 4


@pytest.mark.parametrize("size", [32, 224], ids=["small stem", "large stem"])
@pytest.mark.parametrize("kind", ["fpn", "c4"])
def test_regions_are_taken_from_where_their_boxes_are(kind, size):
    model = detector(kind=kind, size=size)
    pool, used = model.roi_heads.box_roi_pool, strides(encoder(size))
    used = used if kind == "fpn" else used[2:3]
    maps = {}
    for number, stride in enumerate(used):  # a map whose values say where they are
        centre = (torch.arange(512 // stride) + 0.5) * stride
        across, down = torch.meshgrid(centre, centre, indexing="xy")
        maps[str(number)] = torch.stack((across, down))[None]
    boxes = torch.tensor([[100.0, 200, 116, 216], [64, 32, 128, 160], [40, 60, 240, 260], [16, 16, 496, 400]])
    found = pool(maps, [boxes], [(512, 512)]).mean(dim=(2, 3))
    wanted = torch.stack((boxes[:, [0, 2]].mean(dim=1), boxes[:, [1, 3]].mean(dim=1)), dim=1)
    levels = pool.map_levels([boxes]) if kind == "fpn" else torch.zeros(4, dtype=torch.int64)
    assert kind == "c4" or levels.tolist() == ([0, 2, 3, 3] if size == 32 else [0, 0, 1, 2])
    # half a position, by which torchvision's alignment is off (aligned=False)
    assert ((found - wanted).abs() <= torch.tensor(used)[levels][:, None] / 2 + 0.01).all()


@pytest.mark.parametrize(("height", "width"), [(40, 96), (96, 90), (33, 65)])
@pytest.mark.parametrize("size", [32, 224], ids=["small stem", "large stem"])
def test_anchors_of_every_level_stand_as_far_apart_as_its_stride(size, height, width):
    model = detector(size=size, side=min(height, width))
    images, _ = model.transform([torch.rand(3, height, width)])
    maps = list(model.backbone(images.tensors).values())
    used = strides(encoder(size))
    expected = [*used, 2 * used[-1]]
    for part, stride, anchors in zip(maps, expected, model.rpn.anchor_generator.sizes, strict=True):
        assert images.tensors.shape[-2:] == (part.shape[-2] * stride, part.shape[-1] * stride)
        assert anchors == (8 * stride,)
    anchors = model.rpn.anchor_generator(images, maps)[0]
    last = anchors[-3 * maps[-1].shape[-1] * maps[-1].shape[-2] :].unflatten(0, (-1, 3))[:, 1]
    assert last[0].tolist() == [-4.0 * expected[-1], -4.0 * expected[-1], 4.0 * expected[-1], 4.0 * expected[-1]]
    if maps[-1].shape[-1] > 1:
        assert last[1, 0] - last[0, 0] == expected[-1]


@pytest.mark.parametrize("norm", ["frozen", "local"])
@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_everything_that_is_to_learn_gets_a_gradient(task, kind, norm):
    model = detector(task, kind, size=32, norm=norm, extra_norm=norm == "local")
    told = losses(model)
    sum(told.values()).backward()
    assert all(torch.isfinite(value) for value in told.values())
    assert {"segmentation": "loss_mask", "keypoints": "loss_keypoint"}.get(task, "loss_box_reg") in told
    lacking = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not lacking  # which would leave other processes waiting


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_images_without_objects_are_learnt_from(task, kind):
    model = detector(task, kind, norm="local", extra_norm=True).train()
    images, targets = examples()
    told = model(images[1:] * 2, targets[1:] * 2)
    sum(told.values()).backward()
    assert all(torch.isfinite(value) for value in told.values())
    assert told["loss_objectness"] > 0
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers() if buffer.is_floating_point())


def test_frozen_norm_keeps_its_statistics_and_local_norm_does_not():
    for norm, kept in (("frozen", True), ("local", False)):
        model = detector(norm=norm)
        before = {name: buffer.clone() for name, buffer in model.backbone.body.named_buffers()}
        losses(model)
        after = dict(model.backbone.body.named_buffers())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before) == kept
        assert any(isinstance(part, FrozenBatchNorm2d) for part in model.modules()) == kept


@pytest.mark.parametrize("freeze", range(6))
def test_frozen_parts_neither_learn_nor_follow_statistics(freeze):
    model = detector(norm="local", freeze=freeze)
    body = model.backbone.body
    sum(losses(model).values()).backward()
    parts = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    for number, names in enumerate(parts):
        for name in names:
            part = body.get_submodule(name)
            learns = [parameter for parameter in part.parameters() if parameter.requires_grad]
            assert bool(learns) == (number >= freeze)
            assert all((parameter.grad is not None) == (number >= freeze) for parameter in part.parameters())
            live = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
            assert not (live and number < freeze)


def test_c4_has_the_fourth_stage_as_its_head_once_and_a_norm_after_it_where_asked():
    model = detector("segmentation", "c4", norm="local", extra_norm=True)
    names = [name for name in model.state_dict() if name.endswith("1.conv2.weight")]
    assert sorted(name.split(".")[0] for name in names) == ["backbone"] * 3 + ["roi_heads"]
    stage, norm = model.roi_heads.box_head.stage
    assert isinstance(norm, nn.BatchNorm2d)
    assert model.roi_heads.mask_head.__dict__["stage"][0] is stage
    assert not [name for name in model.backbone.state_dict() if "layer4" in name]
    plain = detector("detection", "c4")
    region = torch.rand(3, 16, 14, 14)
    expected = encoder().layer4.eval()
    expected.load_state_dict(plain.roi_heads.box_head.stage.state_dict(), strict=False)
    torch.testing.assert_close(plain.roi_heads.box_head(region), expected(region).mean(dim=(2, 3)))
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


def test_extra_norm_stands_in_pyramid_and_heads():
    model = detector("segmentation", norm="local", extra_norm=True)
    for part in (model.backbone.fpn, model.roi_heads.box_head, model.roi_heads.mask_head):
        assert any(isinstance(module, nn.BatchNorm2d) for module in part.modules())
    plain = detector("segmentation", norm="local")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.roi_heads.modules())


def test_boxes_are_float32_whatever_the_precision():
    model, seen = detector("segmentation", kind="fpn").eval(), {}
    hook = lambda name: lambda module, given, output: seen.update({name: output})  # noqa: E731
    for name in ("rpn.anchor_generator", "rpn.head", "roi_heads.box_predictor"):
        model.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inner = model.backbone.body.conv1(torch.rand(1, 3, 32, 32))
        found = model([torch.rand(3, 64, 64)])[0]
    assert inner.dtype == torch.bfloat16
    assert seen["rpn.anchor_generator"][0].dtype == torch.float32
    assert {part.dtype for group in seen["rpn.head"] for part in group} == {torch.float32}
    assert {part.dtype for part in seen["roi_heads.box_predictor"]} == {torch.float32}
    assert found["boxes"].dtype == torch.float32


def test_a_training_image_is_scaled_to_its_own_side_with_all_that_is_in_it():
    model = detector("keypoints", side=64, longest=96)
    image, target = examples()[0][0], examples()[1][0]
    shown, scaled = model.transform.train()([image], [target | {"side": 35}])
    assert shown.image_sizes == [(35, 40)]
    torch.testing.assert_close(scaled[0]["boxes"], target["boxes"] / 2)
    torch.testing.assert_close(scaled[0]["keypoints"][..., :2], target["keypoints"][..., :2] / 2)
    assert scaled[0]["masks"].shape == (2, 35, 40)
    assert torch.equal(target["boxes"][0], torch.tensor([10.0, 10, 40, 50]))  # the caller's stays as it was
    assert model.transform.eval()([image])[0].image_sizes == [(64, 73)]
    assert model.transform([torch.rand(3, 30, 300)])[0].image_sizes == [(10, 96)]  # the longer side may have 96


def test_shrinking_is_antialiased():
    model = detector(side=16, longest=16)
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(3, 64, 64)
    small, _ = model.transform.resize(checks)
    assert small.std() < 0.01


@pytest.mark.parametrize(
    ("task", "kind", "options", "told"),
    [
        ("keypoints", "c4", {}, "--detector fpn"),
        ("keypoints", "fpn", {"keypoints": 0}, "no keypoints"),
        ("detection", "fpn", {"norm": "synchronised"}, "on a CPU use local"),
        ("detection", "fpn", {"norm": "batch"}, "frozen, local or synchronised"),
        ("detection", "fpn", {"extra_norm": True}, "--norm local or synchronised"),
        ("detection", "fpn", {"freeze": 6}, "0 to 5, got 6"),
        ("detection", "fpn", {"anchors": (32, 64)}, "5 levels, got 2"),
        ("detection", "fpn", {"classes": 0}, "no categories"),
        ("detection", "fpn", {"side": 100}, "--longest must be at least --side"),
        ("detection", "c4", {"anchors": (0,)}, "at least 1"),
        ("detection", "c4", {"regions": 0}, "--regions must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(task, kind, options, told):
    with pytest.raises(ValueError, match=told):
        detector(task, kind, **options)


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("nowhere", {}, "nowhere does not exist"),
        ("random", {"encoder": "timm:test_vit"}, "residual encoders, not 'timm:test_vit'"),
        ("random", {"encoder": "resnet9"}, "use resnet18"),
        ("random", {"ema": True}, "--ema is for runs"),
        ("random", {"width": 0}, "width must be at least 1"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(source, options, told):
    with pytest.raises(ValueError, match=told):
        begin(source, **options)


def test_random_weights_are_those_of_the_seed():
    first, same, other = (begin("random", width=4, seed=seed).encoder.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_synchronised_encoder_is_settled_as_any_other():
    made = nn.SyncBatchNorm.convert_sync_batchnorm(encoder())
    settle_(made, freeze=0, norm="frozen", device_type="cpu")
    assert isinstance(made.bn1, FrozenBatchNorm2d)
    assert not [part for part in made.modules() if isinstance(part, nn.SyncBatchNorm)]

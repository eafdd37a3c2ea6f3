"""torchvision's detectors around an encoder: Faster, Mask and Keypoint R-CNN on a pyramid, Faster and Mask R-CNN C4.

Shape suffixes: R = regions of all images, C = channels, S = positions along a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes, resize_keypoints
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from ..models.encoders import ResNet
from .backbone import Pyramid, Stages, channels, in_float32_, settle_, strides

RATIOS = (0.5, 1.0, 2.0)
PER_STRIDE = 8  # side of a level's anchors in strides: 32 px at stride 4, as in FPN (arXiv 1612.03144, section 4.1)
C4_PER_STRIDE = (2, 4, 8, 16, 32)  # 32 to 512 px at stride 16, as Detectron2's C4 has them
KEYPOINT_LAYERS = 8  # Mask R-CNN (arXiv 1703.06870), section 5


@dataclass(frozen=True)
class Design:
    """What a detector is made of, besides its encoder; sizes by default as in torchvision.

    Args:
        task: boxes alone, and masks, or and keypoints.
        kind: "fpn" on a pyramid of all stages, "c4" on the map of the third, the fourth being the head of each region.
        classes, keypoints: of the data, without background.
        side, longest: an image is scaled until its shorter side has `side` px, or its longer one `longest`.
        anchors: sides of the anchors in px, one for each of five levels ("fpn"), or any number at each position ("c4");
            none for eight strides of each level, or Detectron2's.
        channels, hidden: of the pyramid and the heads: keypoints' have twice as many channels (512 in the paper).
        regions: of each image that the heads learn from; of proposals four times as many are kept in a training.
        extra_norm: batch norm after the fourth stage ("c4"), or in pyramid and heads ("fpn"; of keypoints, where the paper
            has none, in the pyramid and the boxes' head): arXiv 1911.05722, appendix.
    """

    task: Literal["detection", "segmentation", "keypoints"]
    kind: Literal["fpn", "c4"]
    classes: int
    keypoints: int = 0
    side: int = 800
    longest: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    anchors: tuple[int, ...] = ()
    channels: int = 256
    hidden: int = 1024
    regions: int = 512
    norm: Literal["frozen", "local", "synchronised"] = "frozen"
    extra_norm: bool = False
    freeze: int = 0


def build(encoder: ResNet, design: Design, *, device_type: str, seed: int = 0) -> GeneralizedRCNN:
    """A detector around `encoder`, which becomes a part of it; its heads have the weights of `seed`.

    Raises:
        ValueError: for what does not fit: keypoints on C4 or without any, numbers of anchors, kinds of batch norm.
    """
    _check(design)
    strides_4, channels_4 = strides(encoder), channels(encoder)
    settle_(encoder, freeze=design.freeze, norm=design.norm, device_type=device_type)
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d if design.extra_norm else None
    if design.kind == "c4":
        parts = _c4(encoder, design, strides_4[2], channels_4[3], norm)
        used = strides_4[2:3]
    else:
        parts = _pyramid(encoder, design, channels_4, norm)
        used = strides_4
    parts["rpn_anchor_generator"] = AnchorGenerator(anchors_of(design, used), (RATIOS,) * _levels(used))
    limits = {"train": (2000, 2000), "test": (1000, 1000)}
    if design.kind == "c4":  # Detectron2's: one level has to make up for five
        limits = {"train": (12000, 2000), "test": (6000, 1000)}
    for phase, (before, after) in limits.items():
        parts[f"rpn_pre_nms_top_n_{phase}"] = before
        parts[f"rpn_post_nms_top_n_{phase}"] = min(after, 4 * design.regions)
    made = {"detection": FasterRCNN, "segmentation": MaskRCNN, "keypoints": KeypointRCNN}[design.task]
    model: GeneralizedRCNN = made(**parts, box_batch_size_per_image=design.regions)
    # past the last level, which has twice the fourth stage's stride, no image is padded by a part of a position
    model.transform = Resizing(design, size_divisible=used[-1] * _past(used))
    for pool in (part for part in model.modules() if isinstance(part, MultiScaleRoIAlign)):
        _fix_scales_(pool, used)
    heads = ("box_predictor", "mask_predictor", "keypoint_predictor")
    for part in (model.rpn.head, *(getattr(model.roi_heads, name, None) for name in heads)):
        if isinstance(part, nn.Module):
            in_float32_(part)
    if design.norm == "synchronised":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place, but for a model that is itself a batch norm
    return model


def _check(design: Design) -> None:
    if design.task == "keypoints" and not design.keypoints:
        raise ValueError("the annotations have no keypoints: use --task detection, or others")
    if design.task == "keypoints" and design.kind == "c4":
        raise ValueError("keypoints need --detector fpn: C4 detectors are for boxes and masks")
    if design.extra_norm and design.norm == "frozen":
        raise ValueError("--extra-norm adds batch norms that have no statistics to freeze: use --norm local or synchronised")
    if design.classes < 1:
        raise ValueError("the annotations have no categories: a detector needs at least one")
    sizes = {"side": design.side, "longest": design.longest, "channels": design.channels, "hidden": design.hidden}
    for name, value in (sizes | {"regions": design.regions}).items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if design.side > design.longest:
        raise ValueError(f"--longest must be at least --side, got {design.longest} and {design.side}")
    if any(side < 1 for side in design.anchors):
        raise ValueError(f"--anchors are sides in pixels, at least 1, got {design.anchors}")
    if design.kind == "fpn" and len(design.anchors) not in (0, 5):
        raise ValueError(f"--anchors of a pyramid are one side for each of its 5 levels, got {len(design.anchors)}")


def _levels(used: Sequence[int]) -> int:
    return len(used) + 1 if len(used) > 1 else 1


def _past(used: Sequence[int]) -> int:
    return 2 if len(used) > 1 else 1


def anchors_of(design: Design, used: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Sides of the anchors of each level, in px; `used` are the strides of the maps."""
    if design.kind == "c4":
        return (design.anchors or tuple(used[0] * side for side in C4_PER_STRIDE),)
    levels = (*used, 2 * used[-1])
    return tuple((side,) for side in design.anchors or tuple(PER_STRIDE * stride for stride in levels))


def _fix_scales_(pool: MultiScaleRoIAlign, used: Sequence[int]) -> None:
    """Say which part of the image's size each map has.

    torchvision (.29) infers it from the first batch, by the sizes before padding: of a first image of 40 px that is padded
    to 64 it would take a map of 16 positions for one of stride 2 for good.
    """
    pool.scales = [1 / stride for stride in used]
    lowest, highest = ((stride.bit_length() - 1) for stride in (used[0], used[-1]))
    pool.map_levels = initLevelMapper(lowest, highest)


def _pyramid(encoder: ResNet, design: Design, channels_4: Sequence[int], norm: Any) -> dict[str, Any]:
    """Backbone and heads as in arXiv 1612.03144 and 1703.06870; with a norm the boxes have 4 convolutions and 1 layer."""
    wide, hidden, names = design.channels, design.hidden, ["0", "1", "2", "3"]
    body = Stages(encoder, last=4, only_last=False)
    pyramid = FeaturePyramidNetwork(list(channels_4), wide, extra_blocks=LastLevelMaxPool(), norm_layer=norm)
    parts: dict[str, Any] = {
        "backbone": Pyramid(body, pyramid, wide),
        "box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        "box_predictor": FastRCNNPredictor(hidden, design.classes + 1),
    }
    if norm is None:
        parts["box_head"] = TwoMLPHead(wide * 7 * 7, hidden)
    else:
        parts["box_head"] = FastRCNNConvFCHead((wide, 7, 7), [wide] * 4, [hidden], norm_layer=norm)
    if design.task == "segmentation":
        parts["mask_roi_pool"] = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
        parts["mask_head"] = MaskRCNNHeads(wide, (wide,) * 4, 1, norm_layer=norm)
        parts["mask_predictor"] = MaskRCNNPredictor(wide, wide, design.classes + 1)
    if design.task == "keypoints":
        parts["keypoint_roi_pool"] = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
        parts["keypoint_head"] = KeypointRCNNHeads(wide, (2 * wide,) * KEYPOINT_LAYERS)
        parts["keypoint_predictor"] = KeypointRCNNPredictor(2 * wide, design.keypoints)
    return parts


def _c4(encoder: ResNet, design: Design, stride: int, wide: int, norm: Any) -> dict[str, Any]:
    """As Detectron2's Res5ROIHeads: regions of 14 x 14 of the third stage's map, through the fourth stage."""
    stage: nn.Module = encoder.layer4
    if norm is not None:
        stage = nn.Sequential(stage, norm(wide))
    parts: dict[str, Any] = {
        "backbone": Stages(encoder, last=3, only_last=True),
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        "box_head": Pooled(stage),
        "box_predictor": FastRCNNPredictor(wide, design.classes + 1),
    }
    if design.task == "segmentation":
        parts["mask_roi_pool"] = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
        parts["mask_head"] = Shared(stage)
        parts["mask_predictor"] = MaskRCNNPredictor(wide, design.channels, design.classes + 1)
    return parts


class Pooled(nn.Module):
    """A stage as the head of regions: [R, C, S, S] -> [R, features], the mean over positions."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, region_RCSS: Tensor) -> Tensor:
        """[R, features]."""
        return self.stage(region_RCSS).mean(dim=(2, 3))


class Shared(nn.Module):
    """A stage that is another module's: not registered a second time, so that a checkpoint holds it once."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.__dict__["stage"] = stage

    def forward(self, region_RCSS: Tensor) -> Tensor:
        """[R, features, S / 2, S / 2]."""
        return self.__dict__["stage"](region_RCSS)


class Resizing(GeneralizedRCNNTransform):
    """torchvision's own, but for two things: the side of a training image is its target's `side`, drawn without state, and
    shrinking is antialiased, as are the views that encoders learn from (and as in Detectron2).
    """

    def __init__(self, design: Design, *, size_divisible: int) -> None:
        super().__init__(design.side, design.longest, list(design.mean), list(design.std), size_divisible=size_divisible)
        self._side = design.side

    def resize(self, image: Tensor, target: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any] | None]:
        """`image` [3, H, W] and its target, scaled."""
        height, width = image.shape[-2:]
        side = (target or {}).get("side", self._side)
        scale = min(side / min(height, width), self.max_size / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
        if target is None:
            return image, None
        target = target | {"boxes": resize_boxes(target["boxes"], [height, width], list(size))}
        if "masks" in target:
            masks = F.interpolate(target["masks"][:, None].float(), size=size, mode="nearest-exact")
            target["masks"] = masks[:, 0].byte()
        if "keypoints" in target:
            target["keypoints"] = resize_keypoints(target["keypoints"], [height, width], list(size))
        return image, target

"""The command that fine-tunes a detector."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from .ranges import (
    Anchor,
    Decay,
    Features,
    Freeze,
    FromOne,
    FromTwo,
    FromZero,
    Norm,
    Pixels,
    PositiveRate,
    Seed,
    Share,
    Size,
    Threads,
    Timeout,
    Width,
)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Fine-tune a detector on an encoder and measure it: boxes, masks or keypoints; the same command again continues."""

    source: tyro.conf.Positional[str]
    """What to begin with: a run, a .safetensors file of an encoder (torchvision, timm, MoCo), or random."""
    train: Path
    """Annotations to learn from: a COCO file, or a list of Pascal VOC as FOLDER/SPLIT (VOCdevkit/trainval)."""
    test: Path
    """Annotations to be measured on, of the same classes."""
    out: Path
    """Folder for checkpoints, log, results.json, detections.json and predictions.png."""
    train_images: Path | None = None
    """Folder of the training images, where the annotations do not say."""
    test_images: Path | None = None
    """Folder of the test images, where the annotations do not say."""
    task: Literal["detection", "segmentation", "keypoints"] = "detection"
    """Boxes alone (Faster R-CNN), with masks (Mask R-CNN), or with keypoints (Keypoint R-CNN)."""
    detector: Literal["fpn", "c4"] = "fpn"
    """On a pyramid of all stages, or on the third stage's map with the fourth as head of each region."""
    encoder: str = "resnet18"
    """Of a file or at random: resnet18, resnet34 or resnet50. A run knows its own."""
    width: Width = 64
    """Of a file or at random: channels of the first stage."""
    size: Size = 224
    """Of a file or at random: px the encoder was made for; up to 64 the stem is the small one, of stride 1."""
    ema: bool = False
    """The moving average of a run's weights, instead of the weights themselves."""
    freeze: Freeze = 0
    """How many parts of the encoder stay as they are: 0 none, 1 the stem, 2 the first stage too, ... 5 all of it."""
    norm: Literal["frozen", "local", "synchronised"] = "frozen"
    """Batch norm of what learns: trained statistics for good, each process's own images, or all images (on GPUs)."""
    extra_norm: bool = False
    """New batch norms in pyramid and heads, or after the fourth stage (MoCo's appendix)."""
    schedule: Literal["coco-1x", "coco-2x", "voc-24k"] = "coco-1x"
    """Steps, drops of the learning rate, warm-up and sizes of the images."""
    steps: FromZero = 0
    """Another length: drops and warm-up stand at the same shares; 0 for the schedule's own."""
    batch: FromZero = 0
    """Images of a step over all processes; 0 for the schedule's own (16)."""
    learning_rate: PositiveRate | None = None
    """Another learning rate than the schedule's (.02)."""
    scale_rate: bool = False
    """Multiply the learning rate by batch / 16 (the linear rule)."""
    warmup: FromZero | None = None
    """Steps over which the learning rate rises, instead of the schedule's."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """What turns gradients into updates."""
    weight_decay: Decay = 1e-4
    """Weight decay, of matrices and filters only."""
    clip: Norm = 0.0
    """Largest norm of an update's gradients; 0 for no limit."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; "no" is float32."""
    side: Pixels = 0
    """Px of the shorter side of test images, and of training images without --sides; 0 for the schedule's own."""
    sides: tuple[Anchor, ...] = ()
    """Px of the shorter side of a training image: one of these is drawn."""
    longest: Pixels = 0
    """Px of the longer side at most; 0 for 5/3 of --side, or the schedule's own."""
    flip: Share = 0.5
    """Probability that a training image is mirrored."""
    anchors: tuple[Anchor, ...] = ()
    """Px of the anchors' sides: five for fpn, any number for c4; none for eight strides of each level, or Detectron2's."""
    channels: Features = 256
    """Of pyramid and heads."""
    hidden: Features = 1024
    """Features of a region in the boxes' head of fpn."""
    regions: Features = 512
    """Of each image that the heads learn from."""
    seed: Seed = 0
    """Seed of heads, order, flips and regions."""
    checkpoint_every: FromOne = 1000
    """Steps between checkpoints."""
    keep: FromTwo = 2
    """How many of the newest checkpoints stay."""
    log_every: FromOne = 20
    """Steps between records of the log."""
    threads: Threads = 0
    """Threads that decode images; 0 for every usable core."""
    max_masked: FromOne = 20
    """How many updates in a row may be left out because something was not finite, before the run stops."""
    timeout: Timeout = 1800
    """Seconds that processes wait for one another."""

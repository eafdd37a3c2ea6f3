"""The commands that fine-tune: a classifier or a detector on an encoder."""

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
    Proper,
    Seed,
    Share,
    Size,
    Threads,
    Timeout,
    Width,
)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are written, and which of them stay."""

    checkpoint_every: FromOne = 1000
    """Steps between checkpoints."""
    keep: FromTwo = 2
    """How many of the newest checkpoints stay."""


@dataclasses.dataclass(frozen=True)
class Logging:
    """What is told of it while it runs."""

    log_every: FromOne = 20
    """Steps between records of the log."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Whose labels count, and how those of both files are matched."""

    classes_by: Literal["name", "number"] = "name"
    """How the classes of both files are matched. number: where one file has lost its names and the numbers mean the same."""
    labelled_only: bool = False
    """Leave out images without a label, which are otherwise refused."""


@dataclasses.dataclass(frozen=True)
class ClassifierEncoder:
    """The encoder that it begins with."""

    encoder: str = "resnet18"
    """Of a file or at random: resnet18, resnet34 or resnet50. A run knows its own."""
    width: Width = 64
    """Of a file or at random: channels of the first stage."""
    size: Size = 224
    """Of a file or at random: side of the images in pixels. A run knows its own."""
    ema: bool = False
    """The moving average of a run's weights, instead of the weights themselves."""


@dataclasses.dataclass(frozen=True)
class ClassifierOptimisation:
    """How long it learns, in what batches, and by which updates."""

    epochs: FromOne = 30
    """Passes over the training images."""
    batch: FromOne = 256
    """Images of a batch, over all processes."""
    learning_rate: PositiveRate | None = None
    """Peak of a cosine; by default .1 batch / 256 with SGD and .001 with AdamW."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """What turns gradients into updates."""
    warmup: Proper = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: Decay = 1e-4
    """Weight decay, of matrices and filters only."""
    smoothing: Proper = 0.0
    """Label smoothing."""
    clip: Norm = 0.0
    """Largest norm of an update's gradients; 0 for no limit."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; "no" is float32, and "auto" what a training here would take."""
    max_masked: FromOne = 20
    """How many updates in a row may be left out because something was not finite, before the run stops."""


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Train encoder and classifier together on labelled images, and measure them; the same command again continues.

    For 1 % or 10 % of the labels make a part first: viewmill subset TRAIN.beton PART.beton --fraction 0.01
    """

    source: tyro.conf.Positional[str]
    """What to begin with: a run, a .safetensors file of an encoder (torchvision, timm, MoCo), or random."""
    train: Path
    """Labelled images to learn from: a .beton or a folder."""
    test: Path
    """Labelled images to be told: a .beton or a folder."""
    out: Path
    """Folder for checkpoints, log and results.json."""
    config: Path | None = None
    """A run's config.json, or a .toml file of settings by name, to begin with; flags go before what stands there."""
    threads: Threads = 0
    """Threads of the engine; 0 for every usable core."""
    seed: Seed = 0
    """Seed of classifier, order and views."""
    timeout: Timeout = 600
    """Seconds that processes wait for one another, before the run stops."""
    labels: Labels = Labels()
    network: ClassifierEncoder = ClassifierEncoder()
    optimisation: ClassifierOptimisation = ClassifierOptimisation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()


@dataclasses.dataclass(frozen=True)
class DetectorEncoder:
    """The encoder that it begins with, and what of it learns."""

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


@dataclasses.dataclass(frozen=True)
class Detector:
    """What is built on the encoder."""

    detector: Literal["fpn", "c4"] = "fpn"
    """On a pyramid of all stages, or on the third stage's map with the fourth as head of each region."""
    extra_norm: bool = False
    """New batch norms in pyramid and heads, or after the fourth stage (MoCo's appendix)."""
    anchors: tuple[Anchor, ...] = ()
    """Px of the anchors' sides: five for fpn, any number for c4; none for eight strides of each level, or Detectron2's."""
    channels: Features = 256
    """Of pyramid and heads."""
    hidden: Features = 1024
    """Features of a region in the boxes' head of fpn."""
    regions: Features = 512
    """Of each image that the heads learn from."""


@dataclasses.dataclass(frozen=True)
class Images:
    """How large images are, and how they are shown."""

    side: Pixels = 0
    """Px of the shorter side of test images, and of training images without --sides; 0 for the schedule's own."""
    sides: tuple[Anchor, ...] = ()
    """Px of the shorter side of a training image: one of these is drawn."""
    longest: Pixels = 0
    """Px of the longer side at most; 0 for 5/3 of --side, or the schedule's own."""
    flip: Share = 0.5
    """Probability that a training image is mirrored."""


@dataclasses.dataclass(frozen=True)
class DetectorOptimisation:
    """How long it learns, in what batches, and by which updates."""

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
    max_masked: FromOne = 20
    """How many updates in a row may be left out because something was not finite, before the run stops."""


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
    config: Path | None = None
    """A run's config.json, or a .toml file of settings by name, to begin with; flags go before what stands there."""
    threads: Threads = 0
    """Threads that decode images; 0 for every usable core."""
    seed: Seed = 0
    """Seed of heads, order, flips and regions."""
    timeout: Timeout = 1800
    """Seconds that processes wait for one another."""
    network: DetectorEncoder = DetectorEncoder()
    design: Detector = Detector()
    images: Images = Images()
    optimisation: DetectorOptimisation = DetectorOptimisation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()

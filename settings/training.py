"""The commands that train, and that say what there is to train and on what."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from .ranges import (
    Decay,
    DemoSeed,
    Embedding,
    Epochs,
    FromOne,
    FromTwo,
    FromZero,
    Hidden,
    Norm,
    Proper,
    Rate,
    Seed,
    Share,
    Side,
    Size,
    Threads,
    Timeout,
    Width,
)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Render images with known factors, convert them, train on them, evaluate and draw: about two minutes on two cores."""

    out: Path = Path("runs/demo")
    """Folder for the images, the run and the pictures."""
    seed: DemoSeed = 0
    """Seed of the images and of the training."""
    overwrite: bool = False
    """Replace pictures in that folder that no demo has made."""


@dataclasses.dataclass(frozen=True)
class Network:
    """What learns, and what it begins with."""

    encoder: str = "resnet18"
    """resnet18, resnet34 or resnet50 (up to 64 px with the small stem), or timm:NAME for a model of timm."""
    width: Width = 64
    """Channels of a residual network's first stage; 64 is torchvision's."""
    hidden: Hidden = 512
    """Width of the projector's hidden layer; 0 for a linear projector."""
    embedding: Embedding = 128
    """Dimension of the embedding that the loss sees."""
    init: Path | None = None
    """Weights to begin with: a run, a checkpoint, an export, or a .safetensors file (torchvision, timm, MoCo, SimCLR)."""
    batch_norm: Literal["local", "synchronised", "shuffled"] = "local"
    """Whose images batch norm averages over: each process's own, all (on GPUs), or shuffled ones in the momentum encoder."""
    compile: bool = False
    """Compile the encoder (torch.compile): a minute at the start."""
    recompute: bool = False
    """Compute activations again in the backward pass, for less memory: a third more time, the same weights."""


@dataclasses.dataclass(frozen=True)
class Views:
    """What the network is shown of each image, and what decodes and augments it."""

    size: Size = 224
    """Side of a view in pixels."""
    recipe: str = ""
    """What the views are: a recipe's name, a .toml file, or the config.json of a run that had such a file; by default the
    method's own."""
    engine: Literal["auto", "ffcv", "dali-cpu", "dali-gpu", "torch"] = "auto"
    """What decodes and crops; auto measures those that work here for some seconds."""
    placement: Literal["auto", "host", "device"] = "auto"
    """Where colour, blur and normalisation run; auto is the host for a CPU, the device for a GPU."""
    threads: Threads = 0
    """Threads of the engine; 0 for every usable core."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How long it learns, in what batches, and by which updates."""

    batch: FromTwo = 256
    """Images of a global batch, over all processes: what a loss sees at once."""
    accumulate: FromOne = 1
    """Batches whose gradients make one update; what an epoch leaves over makes one of its own."""
    epochs: Epochs = 100
    """Passes over the data."""
    steps: FromZero = 0
    """Batches in all, instead of epochs; 0 to go by epochs."""
    optimiser: Literal["sgd", "lars", "adamw"] = "sgd"
    """What turns gradients into updates."""
    learning_rate: Rate | None = None
    """Peak of the schedule, at this batch size; by default the method's own (SGD), .3 batch / 256 (LARS), .002 (AdamW)."""
    schedule: Literal["cosine", "linear", "constant", "step"] = "cosine"
    """How the learning rate falls after the warm-up; step is to a tenth at 60 % and again at 80 %."""
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    momentum: Share = 0.9
    """Momentum of SGD and LARS, first beta of AdamW."""
    weight_decay: Decay = 5e-4
    """Weight decay, of matrices and filters only."""
    clip: Norm = 0.0
    """Largest norm of an update's gradients; 0 for no limit."""
    ema: Proper = 0.0
    """Momentum of a moving average of the weights, kept to be evaluated; 0 for none."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; "no" is float32. "auto" takes bf16 where the processor or GPU computes in it, else fp16 on a GPU and
    float32 on a CPU, which takes ten times as long where it has to emulate either. A run keeps what it began with."""
    max_masked: FromOne = 20
    """How many updates in a row may be left out because something was not finite, before the run stops."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are written, and which of them stay."""

    checkpoint_every: FromZero = 0
    """Steps between checkpoints; 0 for every epoch, at most 1,000."""
    keep: FromTwo = 2
    """How many of the newest checkpoints stay."""
    keep_every: FromZero = 0
    """Checkpoints of every so many steps stay for good; 0 for none."""


@dataclasses.dataclass(frozen=True)
class Logging:
    """What is told of it while it runs, and to whom."""

    log_every: FromOne = 10
    """Steps between records of the log."""
    online: bool = True
    """Where the data has classes, log what a linear probe and nearest neighbours make of the features of each batch."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Send records and pictures to these trackers too; their files lie in RUN/track."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Pretrain an encoder without labels; the same command again continues where the run stopped."""

    data: Path
    """A .beton, or images as `convert` takes them (a folder, say), which are converted once and cached."""
    out: Path
    """Folder of the run."""
    method: tyro.conf.Positional[str] = "simclr"
    """Row of the table of methods: `viewmill methods` lists them."""
    set: tuple[str, ...] = ()
    """Settings of the method, as region.outer=0.2: `viewmill methods NAME` lists its own."""
    config: Path | None = None
    """A run's config.json, or a .toml file of settings by name, to begin with; flags go before what stands there."""
    seed: Seed = 0
    """Seed of weights, order, views and negatives."""
    timeout: Timeout = 600
    """Seconds that processes wait for one another, before the run stops and names who is missing."""
    network: Network = Network()
    views: Views = Views()
    optimisation: Optimisation = Optimisation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods, or what can be set of one with `train --set`."""

    name: tyro.conf.Positional[str] = ""
    """Row of the table; none for all of them."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure speeds here, warm and in turns: views beside the peers and the physical limit, regions, or training."""

    what: tyro.conf.Positional[Literal["pipeline", "objective", "step"]]
    """What is measured: views of images; regions, banks and clusters on made-up embeddings; or the engine of a training."""
    data: tyro.conf.Positional[Path | None] = None
    """A .beton. Of JPEG images, some hundred (`viewmill subset`), for views; rendered by default, at least 256, for step."""
    size: Side = 224
    """Side of a view in pixels."""
    batch: FromTwo = 128
    """Images of a batch."""
    threads: Threads = 0
    """Threads; 0 for every usable core."""
    repeats: FromOne = 5
    """Rounds, in each of which every contender has its turn."""
    peers: bool = True
    """Measure torchvision, DALI, kornia and stock FFCV too."""
    picture: Path | None = None
    """Draw the result to this .png."""
    overwrite: bool = False
    """Replace a picture that exists."""
    json: bool = False
    """Print the JSON lines only."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say which engines work here, why the others do not, and which command mends it."""

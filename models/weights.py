"""Weights to begin with, from a run, one of its checkpoints, an export or a safetensors file: checked whole before any is
taken.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import layout
from ..files.opening import open_to_read, regular
from .layouts import COUNTER, in_our_names
from .network import Colour, Network

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
FOLLOWERS = {"momentum", "k", "key", "teacher", "ema", "target", "average", "averaged"}  # words in the names of copies
SHOWN = 3  # keys that a refusal names
TAKEN = (
    "--init takes a run, one of its checkpoints, or what `viewmill export` writes: a folder, a .safetensors or .onnx file"
)
# the words of a refusal: our own code never unpickles
CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d.get('model', d)); "
    'save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])" IN OUT.safetensors'
)


class Initialised(NamedTuple):
    """What became of a file: what it is in words, tensors loaded, keys of the network left at random, keys not used."""

    source: str
    loaded: int
    left: list[str]
    unused: list[str]


class _Read(NamedTuple):
    source: str
    tensors: dict[str, Tensor]


def initialise_(network: Network, path: Path) -> Initialised:
    """Give `network` the weights at `path`: a run (its newest checkpoint), a checkpoint, an export, or a .safetensors file.

    The file may hold a network of ours, or an encoder in the layout of torchvision, timm, transformers or Detectron2 below
    any prefix, such as MoCo's module.encoder_q.; that of a momentum encoder is taken where there is no other. The encoder
    must be there whole; of the heads those are taken that fit. Raises ValueError, and leaves the network as it was, where
    tensors of the encoder are missing, of another shape or too many, where one to be loaded is not finite, and for files
    that are pickles.
    """
    read = _read(path)
    state = network.state_dict()
    wanted = {name.removeprefix("encoder."): live for name, live in state.items() if name.startswith("encoder.")}
    if RESIDUAL in wanted:
        read = read._replace(tensors=in_our_names(read.tensors))
    prefix = _prefix(read, wanted, colour=isinstance(network.encoder, Colour))
    _refuse_misfits(read, prefix, wanted)
    taken = {f"encoder.{name}": prefix + name for name in wanted if prefix + name in read.tensors}
    taken |= _heads(read.tensors, prefix.removesuffix("encoder."), state) if prefix.endswith("encoder.") else {}
    ready = {name: read.tensors[key].to(state[name].dtype) for name, key in taken.items()}
    broken = [taken[name] for name, tensor in ready.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{path} is not finite in {_some(broken)}: take an earlier checkpoint, or another file")
    with torch.no_grad():
        for name, tensor in ready.items():
            state[name].copy_(tensor)
    left = [name for name in state if name not in taken and not name.endswith(COUNTER)]
    below = f" below {prefix}" if prefix and read.source == _FILE else ""
    source = f"{read.source} {path}: {_looks(read.tensors, prefix)}{below}"
    return Initialised(source, len(ready), left, sorted(read.tensors.keys() - set(taken.values())))


def fingerprint(path: Path) -> str:
    """sha256 of all tensors at `path`, names and bytes: the same for a run, its newest checkpoint and that one's model.

    Raises ValueError where initialise_ would for what is no file of weights.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_read(path).tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_FILE = "the file"
RESIDUAL = "layer1.0.conv1.weight"  # a name of every residual network


def _read(path: Path) -> _Read:
    if path.is_dir():
        path = path / "model.safetensors" if _exported(path) else path
    if path.is_dir():
        return _read_checkpoint(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: {TAKEN}")
    if path.suffix.lower() == ".onnx":
        return _Read(_FILE, _read_onnx(path))
    with open_to_read(path) as file:
        first = file.read(9)
    # a safetensors file starts with the length of its header, which may look like a pickle's first bytes, and then {
    pickled = first.startswith((b"PK\x03\x04", b"\x80")) and first[8:] != b"{"
    if path.suffix.lower() in PICKLES or pickled:
        raise ValueError(f"{path} is a pickle, which could run any code. Where you trust it, convert it once: {CONVERT}")
    try:
        return _Read(_FILE, load_file(regular(path)))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}): download or convert it again") from error


def _exported(path: Path) -> bool:
    """Whether a folder is one for timm, transformers or the Hub; a checkpoint that lost its manifest is none of them."""
    names = {"README.md", "config.json"}
    return (path / "model.safetensors").is_file() and any((path / name).is_file() for name in names)


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors that an ONNX file names; raises ValueError for what is none, and where onnx is not installed."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ValueError(f'reading {path} needs onnx: pip install "viewmill[export]"') from None
    try:
        held = onnx.load(str(regular(path)), load_external_data=False).graph.initializer
        return {item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in held}
    except (DecodeError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no ONNX file with its weights in it ({error}): export it again") from error


def _read_checkpoint(path: Path) -> _Read:
    """The model of the run or the checkpoint at `path`."""
    if (path / "manifest.json").is_file():
        found, at = layout.read(path), path
    else:
        newest = layout.newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
        if newest is None:
            raise ValueError(f"{path} holds no checkpoint: {TAKEN}")
        found, at = newest.checkpoint, newest.path
    if "model" not in found.parts:
        raise ValueError(f"{at} holds no model, only {', '.join(found.parts) or 'nothing'}: give another checkpoint")
    return _Read(f"checkpoint {at.name} of", found.parts["model"])


def _prefix(read: _Read, wanted: Mapping[str, Tensor], *, colour: bool) -> str:
    """What stands before the encoder's names in the file; raises ValueError where nothing like the encoder is there."""
    counts = Counter[str]()
    for key in read.tensors:
        for dot in (-1, *(place for place, letter in enumerate(key) if letter == ".")):
            if key[dot + 1 :] in wanted and not key.endswith(COUNTER):
                counts[key[: dot + 1]] += 1
    needed = sum(not name.endswith(COUNTER) for name in wanted)
    # a block's conv1 is found under the name of the stem's too: half of an encoder is no accident
    candidates = [prefix for prefix, count in counts.items() if count > needed / 2]
    online = [prefix for prefix in candidates if not FOLLOWERS & set(re.split(r"[._]", prefix))]
    most = max((counts[prefix] for prefix in online or candidates), default=0)
    best = [prefix for prefix in online or candidates if counts[prefix] == most]
    if len(best) > 1:
        raise ValueError(f"the file holds several encoders, below {', '.join(sorted(best))}: leave one of them in it")
    if best:
        return best[0]
    own = " Colour networks (two encoders) begin with those of their own kind alone." if colour else ""
    raise ValueError(
        f"no encoder like this network's is in what --init names: it seems to hold {_looks(read.tensors, '')}, and none of "
        f"its prefixes has most of {_some(list(wanted))}: give the settings that it was trained with.{own}"
    )


def _refuse_misfits(read: _Read, prefix: str, wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file has the encoder's tensors, in its shapes, and no more of the same parts."""
    held = {key.removeprefix(prefix): tensor for key, tensor in read.tensors.items() if key.startswith(prefix)}
    parts = {name.split(".")[0] for name in wanted}
    faults = [
        f"{prefix}{name} is {_kind(held[name])} there and {_kind(live)} in the network"
        for name, live in wanted.items()
        if name in held and (held[name].shape != live.shape or held[name].is_floating_point() != live.is_floating_point())
    ]
    missing = [prefix + name for name in wanted if name not in held and not name.endswith(COUNTER)]
    more = [prefix + name for name in held if name not in wanted and name.split(".")[0] in parts and COUNTER not in name]
    if faults or missing or more:
        told = [f"{len(faults)} tensors differ ({'; '.join(faults[:SHOWN])})"] * bool(faults)
        told += [f"{len(missing)} are missing there ({_some(missing)})"] * bool(missing)
        told += [f"{len(more)} have no place in the network ({_some(more)})"] * bool(more)
        raise ValueError(
            f"the encoder that --init names is not this network's: {', '.join(told)}. It seems to be "
            f"{_looks(read.tensors, prefix)}: choose --encoder, --width and --size to fit (up to 64 px the stem is 3x3)"
        )


def _heads(tensors: Mapping[str, Tensor], root: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The keys of those heads that are there whole and in the network's shapes: half a head is worth nothing."""
    heads: dict[str, list[str]] = {}
    for name in state:
        if not name.startswith("encoder."):
            head = re.match(r"projector\.\d+|[^.]+", name)
            heads.setdefault(head.group() if head else name, []).append(name)
    taken = {}
    for names in heads.values():
        there = [name for name in names if root + name in tensors]
        lacking = [name for name in names if name not in there and not name.endswith(COUNTER)]
        if not lacking and all(tensors[root + name].shape == state[name].shape for name in there):
            taken |= {name: root + name for name in there}
    return taken


def _looks(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """What the tensors below a prefix seem to be."""
    names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
    blocks = {found.groups() for name in names if (found := re.search(r"(?:^|\.)layer([1-4])\.(\d+)\.conv1\.", name))}
    if blocks:
        depths = [sum(stage == number for stage, _ in blocks) for number in "1234"]
        kind = "bottleneck" if any(re.search(r"layer1\.0\.conv3\.", name) for name in names) else "basic"
        stem = next((key for key in tensors if key.startswith(prefix) and key.endswith("conv1.weight")), "")
        width = f", stem {_kind(tensors[stem])}" if stem in tensors and "layer" not in stem else ""
        return f"a residual network of {'+'.join(map(str, depths))} {kind} blocks{width}"
    if any("patch_embed." in name for name in names):
        return "a vision transformer"
    if any("stages." in name for name in names):
        return "a network of stages, such as ConvNeXt"
    return f"{len(names)} tensors, such as {_some(names)}" if names else "no tensors"


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}" + ("" if tensor.is_floating_point() else f" of {tensor.dtype}".replace("torch.", ""))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

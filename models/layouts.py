"""Names of a residual network's tensors in other libraries, both ways: pure functions on dicts of tensors.

torchvision's are ours, and timm's are torchvision's. transformers (ResNetModel) and Detectron2 (ResNet) have their own.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

Tensors = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # of batch norm: old files lack it, and a fixed momentum makes no use of it


class _Place(NamedTuple):
    """Where a tensor belongs: `stage` 0 is the stem, `layer` 0 a block's shortcut."""

    stage: int
    block: int
    layer: int
    norm: bool
    leaf: str


_OURS = re.compile(r"(?:layer(?P<stage>\d)\.(?P<block>\d+)\.)?(?P<part>conv|bn|downsample\.)(?P<number>\d)\.(?P<leaf>\w+)")
_TRANSFORMERS = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:embedder\.embedder"
    r"|encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\.(?:layer\.(?P<layer>\d)|shortcut))"
    r"\.(?P<kind>convolution|normalization)\.(?P<leaf>\w+)"
)
_DETECTRON2 = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:stem\.conv1|res(?P<stage>\d)\.(?P<block>\d+)\.(?:conv(?P<layer>\d)|shortcut))"
    r"\.(?P<kind>norm\.)?(?P<leaf>\w+)"
)


def to_transformers(tensors: Mapping[str, Tensor]) -> Tensors:
    """A residual network's tensors under the names of transformers' ResNetModel; raises ValueError for any other."""
    return {_transformers(_place(name)): tensor for name, tensor in tensors.items()}


def to_detectron2(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same under the names of Detectron2's ResNet, without the counters, which its frozen batch norm does not have."""
    return {_detectron2(_place(name)): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def from_transformers(tensors: Mapping[str, Tensor]) -> Tensors:
    """Names of transformers turned into ours, below any prefix such as resnet.; others stay as they are."""
    return {_renamed(name, _TRANSFORMERS, first_stage=0, first_layer=0): tensor for name, tensor in tensors.items()}


def from_detectron2(tensors: Mapping[str, Tensor]) -> Tensors:
    """Names of Detectron2 turned into ours, below any prefix such as backbone.bottom_up.; others stay as they are."""
    return {_renamed(name, _DETECTRON2, first_stage=2, first_layer=1): tensor for name, tensor in tensors.items()}


# the end of a name that one layout has and no other
_MARKS: dict[str, Callable[[Mapping[str, Tensor]], Tensors]] = {
    "embedder.embedder.convolution.weight": from_transformers,
    "stem.conv1.norm.weight": from_detectron2,
}


def in_our_names(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of a file of any layout that is known here, under our names; those of any other file as they are."""
    for mark, renamed in _MARKS.items():
        if any(name.endswith(mark) for name in tensors):
            return renamed(tensors)
    return dict(tensors)


def _place(name: str) -> _Place:
    found = _OURS.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no tensor of a residual network")
    stage, block, part, number = found["stage"], found["block"], found["part"], int(found["number"])
    shortcut = part == "downsample."
    norm = number == 1 if shortcut else part == "bn"
    return _Place(int(stage or 0), int(block or 0), 0 if shortcut else number, norm, found["leaf"])


def _ours(place: _Place) -> str:
    block = f"layer{place.stage}.{place.block}." if place.stage else ""
    if place.stage and not place.layer:
        return f"{block}downsample.{int(place.norm)}.{place.leaf}"
    return f"{block}{'bn' if place.norm else 'conv'}{place.layer}.{place.leaf}"


def _transformers(place: _Place) -> str:
    kind = "normalization" if place.norm else "convolution"
    if not place.stage:
        return f"embedder.embedder.{kind}.{place.leaf}"
    layer = f"layer.{place.layer - 1}" if place.layer else "shortcut"
    return f"encoder.stages.{place.stage - 1}.layers.{place.block}.{layer}.{kind}.{place.leaf}"


def _detectron2(place: _Place) -> str:
    block = f"res{place.stage + 1}.{place.block}" if place.stage else "stem"
    layer = f"conv{place.layer}" if place.layer else "shortcut"
    return f"{block}.{layer}.{'norm.' if place.norm else ''}{place.leaf}"


def _renamed(name: str, layout: re.Pattern[str], *, first_stage: int, first_layer: int) -> str:
    """Our name of a tensor of `layout`, whose stages and layers count from these numbers."""
    found = layout.fullmatch(name)
    if found is None:
        return name
    norm = found["kind"] in ("normalization", "norm.")
    if found["stage"] is None:
        return found["prefix"] + _ours(_Place(0, 0, 1, norm, found["leaf"]))
    layer = 0 if found["layer"] is None else int(found["layer"]) - first_layer + 1
    return found["prefix"] + _ours(
        _Place(int(found["stage"]) - first_stage + 1, int(found["block"]), layer, norm, found["leaf"])
    )

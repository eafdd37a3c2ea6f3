"""Encoders of other makers: the image models of timm, without their classifiers."""

import difflib
import re
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PREFIX = "timm:"
INSTALL = "pip install 'viewmill[timm]'"
UNABLE = (RuntimeError, AssertionError, ValueError, TypeError, ZeroDivisionError, IndexError)  # what models raise


class Asked(NamedTuple):
    """Which model, for which images."""

    name: str
    size: int
    channels: int


class Foreign(nn.Module):
    """[B, C, S, S] -> pooled features [B, features] by a model of timm, under timm's own names.

    It shares the model's parts instead of holding the model: state dict and parameters keep their keys, and `features` is
    a number also where the model has a part of that name (DenseNet, VGG, RexNet, DPN, ...).
    """

    model: nn.Module
    asked: Asked

    def __init__(self, model: nn.Module, asked: Asked, features: int) -> None:
        super().__init__()
        for part in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[part] = model.__dict__[part]
        self.__dict__.update(model=model, asked=asked, pooled=features)  # past nn.Module, which would make it a child

    @property
    def features(self) -> int:
        """Length of a feature vector."""
        return self.__dict__["pooled"]

    def forward(self, image_BCSS: Tensor) -> Tensor:
        """Features [B, features], pooled as the model pools them."""
        return self.model(image_BCSS)

    def train(self, mode: bool = True) -> "Foreign":
        """Set the mode of the model and of all its parts."""
        self.model.train(mode)
        self.training = mode
        return self


def build(name: str, *, image_size: int, channels: int = 3, recompute: bool = False) -> Foreign:
    """timm's model `name`, at random, for images [B, channels, image_size, image_size].

    With `recompute` by the model's own gradient checkpointing. Raises ValueError where timm is not installed, for an
    unknown name, for a size that the model does not take, and where it has no gradient checkpointing.
    """
    timm, asked = _timm(), Asked(name, image_size, channels)
    known = timm.list_models()
    if name not in known:
        raise ValueError(_unknown(name, known))
    if channels < 1:
        raise ValueError(f"an encoder's channels must be at least 1, got {channels}")
    try:
        features = _tried(_twin(asked), image_size, channels)
    except UNABLE as error:
        raise ValueError(_unfit(asked, image_size, error)) from error
    model = _made(asked)
    if recompute:
        try:
            model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        except (AttributeError, AssertionError) as error:
            raise ValueError(f"{PREFIX}{name} cannot recompute activations: leave --recompute out") from error
    return Foreign(model, asked, features)


def check_size(encoder: nn.Module, size: int) -> None:
    """Raise ValueError where `encoder` does not take images of `size` px beside those it was built for: patches, crops."""
    if not isinstance(encoder, Foreign):
        return
    asked = encoder.asked
    try:
        _tried(_twin(asked), size, asked.channels)
    except UNABLE as error:
        built = f", built for {asked.size} px,"
        raise ValueError(f"{PREFIX}{asked.name}{built} does not take images of {size} px too ({_words(error)})") from error


def synchronised_(module: nn.Module) -> None:
    """Let every batch norm of a model of timm, or with one, average over all processes, by timm's own means.

    torch's would lose the activations that timm has fused with batch norm.
    """
    _timm().layers.convert_sync_batchnorm(module)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ValueError(f"encoders named {PREFIX}... need timm: {INSTALL}") from None
    return timm


def _unknown(name: str, known: list[str]) -> str:
    if "/" in name or ":" in name:
        return f"{PREFIX}{name} would be fetched from a network: use the plain name of a model (and --init for its weights)"
    nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or difflib.get_close_matches(
        name, known, n=5, cutoff=0
    )
    return f"timm has no model called {name!r}; the nearest names are {', '.join(nearest)}"


def _made(asked: Asked) -> nn.Module:
    """The model, told the size where it asks for it, and ready for others where it can be."""
    sized = {"img_size": asked.size}
    options: list[dict[str, Any]] = [sized | {"dynamic_img_size": True}, sized, {}]
    for option in options[:-1]:
        try:
            return _timm().create_model(asked.name, pretrained=False, num_classes=0, in_chans=asked.channels, **option)
        except TypeError:  # it knows no such option
            continue
    return _timm().create_model(asked.name, pretrained=False, num_classes=0, in_chans=asked.channels)


def _twin(asked: Asked) -> nn.Module:
    """The same model without memory: what it takes is found by trial, and models remember what they have seen."""
    with torch.device("meta"):
        return _made(asked).to("meta")


def _patch(model: nn.Module) -> int | None:
    """Side of the patches that a model cuts an image into; None where they overlap or where there are none."""
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    return cut.stride[0] if isinstance(cut, nn.Conv2d) and cut.stride == cut.kernel_size else None


def _tried(twin: nn.Module, size: int, channels: int) -> int:
    """Length of the features of images of `size` px; raises one of UNABLE where there are none."""
    patch = _patch(twin)
    if size < 1 or (patch and size % patch):  # many models drop what is left over, without a word
        raise ValueError("no size at all" if size < 1 else f"its patches have {patch} px")
    with torch.no_grad():
        feature_BF = twin(torch.empty(2, channels, size, size, device="meta"))
    if not isinstance(feature_BF, Tensor) or feature_BF.ndim != 2 or len(feature_BF) != 2:
        raise ValueError("it yields something else than one vector an image")
    return feature_BF.shape[1]


def _unfit(asked: Asked, size: int, error: Exception) -> str:
    """What to say of a size that a model does not take: why, and which sizes near it does."""
    near = _near(asked, size)
    advice = f"use {' or '.join(map(str, near))}" if near else "use another encoder"
    return f"{PREFIX}{asked.name} does not take images of {size} px ({_words(error)}): {advice}"


def _near(asked: Asked, size: int) -> list[int]:
    """The nearest size below and above that works, of multiples of the patch (of 32 px where there are none)."""
    try:
        step = _patch(_twin(asked)) or 32
    except UNABLE:
        step = 32
    floor = max(0, size) // step * step
    ways = (range(floor, 0, -step)[:3], range(floor + step, floor + 12 * step, step))
    near = [next((other for other in way if other != size and _works(asked, other)), None) for way in ways]
    usual = _timm().get_pretrained_cfg(asked.name)
    if not any(near) and usual is not None and _works(asked, usual.input_size[-1]):
        near = [usual.input_size[-1]]
    return [other for other in near if other]


def _works(asked: Asked, size: int) -> bool:
    try:
        return _tried(_twin(asked._replace(size=size)), size, asked.channels) > 0
    except UNABLE:
        return False


def _words(error: Exception) -> str:
    """The first sentence of an error."""
    return re.split(r"[.;!]( |$)", " ".join(str(error).split()))[0][:120] or type(error).__name__

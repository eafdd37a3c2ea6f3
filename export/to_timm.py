"""timm: its ResNets, whose names are torchvision's, and its other models under their own names.

Where timm makes the very model by its name, the folder is one that `create_model("local-dir:...")` loads. Its plain stem has
64 channels; for another width it is told to make a deep stem of half that width, whose convolutions are then replaced.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..models.timm_encoders import Foreign
from .target import WEIGHTS, Features, Lines, Target, read, save, write_json
from .to_torchvision import stem, stem_lines
from .trained import CHANNELS, Residual, Trained, the_residual

if TYPE_CHECKING:
    pass


def check(trained: Trained) -> Residual | None:
    """What a residual network is made of, None for another model of timm; raises ValueError for what timm cannot build."""
    if isinstance(trained.encoder, Foreign):
        return None
    made_of = the_residual(trained, "timm")
    if made_of.width % 2:
        raise ValueError(f"timm builds stems of 64 or an even number of channels, and this one has {made_of.width}")
    return made_of


def write(trained: Trained, path: Path) -> None:
    """The weights, and where timm builds the model by its name alone the configuration it does that by."""
    save(path / WEIGHTS, trained.encoder.state_dict(), trained)
    if _by_name(trained):
        write_json(path / "config.json", _config(trained))


def _by_name(trained: Trained) -> bool:
    made_of = check(trained)
    return made_of is None or (made_of.width == 64 and not made_of.small_stem)


def _config(trained: Trained) -> dict[str, Any]:
    """As timm's save_config_for_hf writes it."""
    arguments, model = _arguments(trained)
    colours, seen = trained.colours, CHANNELS[trained.half]
    shown = {"input_size": [trained.channels, trained.size, trained.size], "interpolation": "bilinear"}
    shown |= {"crop_pct": trained.share, "crop_mode": "center", "mean": colours.mean[seen], "std": colours.std[seen]}
    own = {name: model.pretrained_cfg.get(name) for name in ("first_conv", "classifier", "fixed_input_size")}  # pyright: ignore
    return {
        "architecture": _architecture(trained),
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": arguments,
        "pretrained_cfg": {"tag": "viewmill", "custom_load": False, "num_classes": 0, **shown, **own},
    }


def _architecture(trained: Trained) -> str:
    return trained.encoder.asked.name if isinstance(trained.encoder, Foreign) else trained.name


def _arguments(trained: Trained) -> tuple[dict[str, Any], nn.Module]:
    """What timm has to be told beside the name, as models.foreign tells it, and the model without memory."""
    import timm

    own: dict[str, Any] = {} if trained.channels == 3 else {"in_chans": trained.channels}
    sized: dict[str, Any] = {"img_size": trained.size}
    options = [sized | {"dynamic_img_size": True}, sized] if isinstance(trained.encoder, Foreign) else []
    for option in options:
        try:
            with torch.device("meta"):
                return own | option, timm.create_model(_architecture(trained), num_classes=0, **own, **option)
        except TypeError:  # it knows no such option
            continue
    with torch.device("meta"):
        return own, timm.create_model(_architecture(trained), num_classes=0, **own)


def load(trained: Trained, path: Path) -> Features:
    """timm's model, by its loader of folders where that can."""
    import timm

    if _by_name(trained):
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
    else:
        made_of = the_residual(trained, "timm")
        model = timm.create_model(made_of.design, num_classes=0, **_sizes(made_of))
        model.conv1 = nn.Conv2d(**stem(made_of))  # pyright: ignore[reportArgumentType]
        if made_of.small_stem:
            model.maxpool = nn.Identity()
        model.load_state_dict(read(path / WEIGHTS))
    return model.eval()


def _sizes(made_of: Residual) -> dict[str, Any]:
    """Options of timm's constructor that make stages of this width; {} for its own."""
    if made_of.width == 64:
        return {}
    return {"channels": tuple(made_of.widths), "stem_type": "deep", "stem_width": made_of.width // 2}


def lines(trained: Trained, path: str) -> Lines:
    """By timm's name for it, or by its constructor with our stem."""
    if _by_name(trained):
        code = f"""\
import timm

model = timm.create_model("local-dir:{path}", pretrained=True)
features = model.eval()(image)"""
        notes = 'From a hub it is `timm.create_model("hf-hub:NAME/REPOSITORY", pretrained=True)`. '
        return Lines(code, notes + f"transformers loads it too: `AutoModel.from_pretrained({path!r})`.")
    made_of = the_residual(trained, "timm")
    options = "".join(f", {name}={value!r}" for name, value in _sizes(made_of).items())
    code = f"""\
import timm
import torch
from safetensors.torch import load_file

model = timm.create_model("{made_of.design}", num_classes=0{options})
{stem_lines(made_of)}model.load_state_dict(load_file("{path}/{WEIGHTS}"))
features = model.eval()(image)"""
    return Lines(code, "timm has no name for this width and stem, so there is no config.json: it is built as above.")


TARGET = Target("timm", "", ("timm",), "timm", check, write, load, lines)

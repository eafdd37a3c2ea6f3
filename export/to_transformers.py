"""transformers: a folder that AutoModel reads as a ResNetModel, and AutoImageProcessor as the evaluation view."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.layouts import to_transformers
from .target import WEIGHTS, Features, Lines, Target, save, write_json
from .trained import Residual, Trained, the_residual

BILINEAR = 2  # Pillow's number


def check(trained: Trained) -> Residual:
    """What it is made of; raises ValueError for the small stem, which ResNetConfig cannot describe."""
    made_of = the_residual(trained, "transformers")
    if made_of.small_stem:
        raise ValueError(
            f"transformers' ResNet has a 7x7 stem of stride 2 with a max-pool, and this one a 3x3 stem ({trained.size} px)"
        )
    return made_of


def write(trained: Trained, path: Path) -> None:
    """Configuration, weights, and where the encoder sees RGB the preprocessing."""
    made_of = check(trained)
    save(path / WEIGHTS, to_transformers(trained.encoder.state_dict()), trained)
    write_json(path / "config.json", _config(made_of))
    if _preprocesses(trained):
        write_json(path / "preprocessor_config.json", _preprocessor(trained))


def _config(made_of: Residual) -> dict[str, Any]:
    from transformers import ResNetConfig

    expansion = 1 if made_of.basic else 4
    config = ResNetConfig(
        num_channels=made_of.channels,
        embedding_size=made_of.width,
        hidden_sizes=[width * expansion for width in made_of.widths],
        depths=made_of.depths,
        layer_type="basic" if made_of.basic else "bottleneck",
    )
    config.architectures = ["ResNetModel"]
    return config.to_dict() | {"dtype": "float32"}


def _preprocesses(trained: Trained) -> bool:
    """Whether transformers has the preprocessing: it knows no other colour space."""
    return trained.colours.space == "rgb" and trained.half == "both"


def _preprocessor(trained: Trained) -> dict[str, Any]:
    """Resize the shorter side, crop the centre, normalise: pipeline.recipe.weak but for the order of the first two."""
    size = trained.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size / trained.share)},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(trained.colours.mean),
        "image_std": list(trained.colours.std),
    }


def load(trained: Trained, path: Path) -> Features:
    """The model by AutoModel, from this folder alone."""
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModel.from_pretrained(str(path), local_files_only=True).eval()
    if _preprocesses(trained):
        AutoImageProcessor.from_pretrained(str(path), local_files_only=True)

    def features(image_BCSS: Tensor) -> Tensor:
        return model(pixel_values=image_BCSS).pooler_output.flatten(1)

    return features


def lines(trained: Trained, path: str) -> Lines:
    """By the classes that find their way themselves."""
    code = f"""\
from transformers import AutoModel

model = AutoModel.from_pretrained({path!r})
features = model.eval()(pixel_values=image).pooler_output.flatten(1)"""
    if _preprocesses(trained):
        notes = f"`AutoImageProcessor.from_pretrained({path!r})` (from transformers too) makes `image` of a picture."
        return Lines(code, notes)
    return Lines(code, "There is no image processor: transformers knows no colours but RGB.")


TARGET = Target("transformers", "", ("transformers",), "export", check, write, load, lines)

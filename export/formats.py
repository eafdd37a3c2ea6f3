"""The formats by name: one file and one line each."""

from . import to_detectron2, to_encoder, to_onnx, to_timm, to_torchvision, to_transformers
from .target import Target

TARGETS: dict[str, Target] = {
    "encoder": to_encoder.TARGET,
    "torchvision": to_torchvision.TARGET,
    "timm": to_timm.TARGET,
    "transformers": to_transformers.TARGET,
    "onnx": to_onnx.target(raw_pixels=False),
    "detectron2": to_detectron2.TARGET,
}

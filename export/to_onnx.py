"""ONNX: one graph for any batch, of a residual network for any size too; also of colour networks, which it splits itself.

Batch norm stays as it is: runtimes fold it when they load the graph, and `train --init` finds the encoder's tensors again.
"""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checkpoint.tensorfile import write_bytes
from ..models.network import Colour
from ..models.timm_encoders import Foreign
from ..pipeline.views import colour_spaces
from ..pipeline.views.recipe import View
from .target import Features, Lines, Target, identity
from .trained import CHANNELS, Trained

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # the lowest that torch's exporter writes, which the most runtimes read
PROVIDERS = ["CPUExecutionProvider"]


class Graph(nn.Module):
    """Images -> features [B, F], as the file holds them. With `colours` from uint8 RGB, which it converts and normalises."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, colours: View | None, channels: slice) -> None:
        super().__init__()
        # what Foreign shares with a model of timm, the exporter takes for constants
        self.encoder = encoder.model if isinstance(encoder, Foreign) else encoder
        self.space = None if colours is None else colour_spaces.NUMBERS[colours.space]
        self.channels = channels
        if colours is not None:
            self.register_buffer("mean", torch.tensor(colours.mean).view(3, 1, 1))
            self.register_buffer("std", torch.tensor(colours.std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """[B, F]."""
        if self.space is not None:
            image = (colour_spaces.to_space(image.float() / 255, self.space) - self.mean) / self.std
            image = image[:, self.channels]
        return self.encoder(image)


def check(trained: Trained) -> None:
    """Every encoder may fit: whether torch can export a model of timm is seen when it does."""


def write(trained: Trained, path: Path, *, raw_pixels: bool) -> None:
    """One file; raises ValueError for a model that torch cannot export."""
    import onnx
    from onnxscript import optimizer

    graph = Graph(trained.encoder, trained.colours if raw_pixels else None, CHANNELS[trained.half]).eval()
    shape = (2, 3 if raw_pixels else trained.channels, trained.size, trained.size)
    example = torch.zeros(shape, dtype=torch.uint8 if raw_pixels else torch.float32)
    sizes = {0: torch.export.Dim("batch")}
    if any_size(trained):
        sizes |= {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own parts
            # optimised it would fold batch norm into other tensors than the encoder's
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["features"],
                dynamic_shapes={"image": sizes},
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"torch cannot export {trained.name} to ONNX ({reason}): use --format encoder or timm") from error
    assert program is not None
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    _bare_(model)
    onnx.helper.set_model_props(model, {"viewmill": json.dumps(identity(trained)), "input": _input(trained, raw_pixels)})
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, [memoryview(model.SerializeToString())])


def _bare_(model: "ModelProto") -> None:
    """Remove what the exporter notes at each node: lines of source and paths of the machine that it ran on."""
    graph: Any = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _input(trained: Trained, raw_pixels: bool) -> str:
    colours = trained.colours
    if raw_pixels:
        return "uint8 RGB, 0 to 255"
    return f"float32, {colours.space}, normalised by mean {list(colours.mean)} and std {list(colours.std)}"


def load(trained: Trained, path: Path) -> Features:
    """The graph by onnxruntime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)

    def features(image_BCSS: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["features"], {"image": image_BCSS.numpy()})[0])

    return features


def any_size(trained: Trained) -> bool:
    """Whether the graph takes images of any size: models of timm may have theirs built in."""
    return not any(isinstance(part, Foreign) for part in _encoders(trained))


def _encoders(trained: Trained) -> list[nn.Module]:
    return list(trained.encoder.halves) if isinstance(trained.encoder, Colour) else [trained.encoder]


def lines(trained: Trained, path: str, *, raw_pixels: bool) -> Lines:
    """By onnxruntime."""
    code = f"""\
import onnxruntime

session = onnxruntime.InferenceSession({path!r}, providers={PROVIDERS})
features = session.run(["features"], {{"image": image.numpy()}})[0]"""
    sizes = "any batch and any size" if any_size(trained) else f"any batch, images of {trained.size} px"
    raw = "uint8 [batch, 3, height, width]: RGB, 0 to 255, which the graph itself converts and normalises"
    return Lines(code, f"Opset {OPSET}; {sizes}.", raw if raw_pixels else "")


def target(*, raw_pixels: bool) -> Target:
    """The format, for images that are normalised or, with `raw_pixels`, uint8."""
    needs = ("onnx", "onnxscript", "onnxruntime")
    made = partial(write, raw_pixels=raw_pixels), load, partial(lines, raw_pixels=raw_pixels)
    return Target("onnx", ".onnx", needs, "export", check, *made, any_size)

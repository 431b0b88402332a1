"""ONNX graphs of torch modules, and the description in their metadata."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from masktree.io.files import write_atomically
from masktree.models.config import to_json
from masktree.models.structures import Model

OPSET = 20  # the first whose GridSample is torch's
DynamicShapes = tuple[dict[int, Any], ...]
INPUTS = {
    "image": "(1, 3, S, S) float32: RGB in [0, 1], the longer side resized to S, zeros right of and below it",
    "cues": "(1, cues, S/2, S/2) float32: masktree.backbones.texture.boundary_cues of the image, zeros around it",
}


@dataclass(frozen=True)
class GraphDescription:
    """Metadata of a file: input size, and the meaning of inputs and outputs by name."""

    image_size: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def export_graph(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    description: GraphDescription,
    dynamic_shapes: DynamicShapes | None = None,
) -> onnx.ModelProto:
    """The graph of a module, which is put into evaluation mode.

    Args:
        module: with tensors as inputs and outputs.
        example_inputs: tensors of the right shapes.
        description: names the inputs and outputs, in order.
        dynamic_shapes: of each input, the dimensions that may differ from those of the examples.
    """
    with torch.inference_mode(), warnings.catch_warnings():
        # torchvision calls a deprecated function of torch, and its anchor generator assigns attributes in forward.
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint.*")
        warnings.filterwarnings("ignore", message=".*assigned during export.*")
        # A dimension that two inputs share has one name.
        warnings.filterwarnings("ignore", message=".*will not be used, since it shares.*")
        program = torch.onnx.export(
            module.eval(),
            tuple(example_inputs),
            input_names=list(description.inputs),
            output_names=list(description.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=dynamic_shapes,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def write_graph(proto: onnx.ModelProto, model: Model, description: GraphDescription, path: Path) -> None:
    """Write a graph atomically, with its description as JSON under ``masktree`` in the metadata."""
    metadata = {
        "format": "masktree-onnx",
        "version": 1,
        "image_size": description.image_size,
        "model": to_json(model.config),
        "inputs": dict(description.inputs),
        "outputs": dict(description.outputs),
    }
    onnx.helper.set_model_props(proto, {"masktree": json.dumps(metadata)})
    write_atomically(path, lambda handle: handle.write(proto.SerializeToString()))

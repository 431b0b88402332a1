"""ONNX graphs of networks that take a photograph, and the description in their metadata."""

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

import masktree
from masktree.backbones.texture import NUM_CUES
from masktree.io.files import write_atomically
from masktree.models.config import to_json
from masktree.models.onnx.preprocessing import INPUT, preprocessing_nodes
from masktree.models.pyramid.base import SIZE_DIVISOR
from masktree.models.structures import Model

OPSET = 20  # the first whose GridSample is torch's
DynamicShape = Mapping[int, Any]  # the dimensions of an input that may differ from those of the example
PHOTOGRAPH = "(H, W, 3) {type}: a photograph of any size, RGB from 0 to 255; the graph resizes it"


@dataclass(frozen=True)
class GraphDescription:
    """Metadata of a file: input size, and the meaning of inputs and outputs by name."""

    image_size: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def export_network(
    module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], image_size: int, dtype: int, short_side: int = 0
) -> onnx.ModelProto:
    """The graph of a network from the photograph on, which is its only input.

    Args:
        module: is put into evaluation mode; takes ``inputs`` and returns one or more tensors.
        inputs: names of ``preprocessing_nodes``' outputs.
        outputs: names.
        image_size, short_side: of the network's input, as in ``prepare_image``.
        dtype: of the photograph: ``onnx.TensorProto.UINT8`` or ``FLOAT``.
    """
    height, width = torch.export.Dim("h", min=1), torch.export.Dim("w", min=1)  # in multiples of SIZE_DIVISOR
    rows, columns = 3, 5  # of the example; 1 would count as a constant
    step = SIZE_DIVISOR // 2
    dynamic_dims = {side: {2: side * height, 3: side * width} for side in (SIZE_DIVISOR, step)}
    examples: Mapping[str, tuple[Tensor, DynamicShape]] = {
        "pixels": (torch.rand(1, 3, rows * SIZE_DIVISOR, columns * SIZE_DIVISOR), dynamic_dims[SIZE_DIVISOR]),
        "cues": (torch.rand(1, NUM_CUES, rows * step, columns * step), dynamic_dims[step]),
        "valid_size": (torch.tensor([rows * SIZE_DIVISOR - 7, columns * SIZE_DIVISOR]), {}),
        "size": (torch.tensor([rows * 100, columns * 100]), {}),
    }
    proto = export_graph(module, {name: examples[name] for name in inputs}, outputs)
    preprocessing = preprocessing_nodes(inputs, image_size, short_side)
    nodes = [*preprocessing.nodes, *proto.graph.node]
    del proto.graph.node[:], proto.graph.input[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(preprocessing.initializers)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(INPUT, dtype, ["height", "width", 3]))
    return proto


def export_graph(
    module: nn.Module, inputs: Mapping[str, tuple[Tensor, DynamicShape]], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The graph of a module, which is put into evaluation mode.

    Args:
        module: with tensors as inputs and outputs.
        inputs: an example and the dynamic shape of each input by name, in order.
        outputs: names, in order.
    """
    with torch.inference_mode(), warnings.catch_warnings():
        # torchvision calls a deprecated function of torch, and its anchor generator assigns attributes in forward.
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint.*")
        warnings.filterwarnings("ignore", message=".*assigned during export.*")
        # A dimension that two inputs share has one name.
        warnings.filterwarnings("ignore", message=".*will not be used, since it shares.*")
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=tuple(dict(shape) for _, shape in inputs.values()),
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    for value in proto.graph.input:  # torch falls back to constants with no more than a log message
        dims = value.type.tensor_type.shape.dim
        assert all(dims[number].dim_param for number in inputs[value.name][1]), f"a size of {value.name} is constant"
    return proto


def write_graph(proto: onnx.ModelProto, model: Model, description: GraphDescription, path: Path) -> None:
    """Write a graph atomically, with its description as JSON under ``masktree`` in the metadata."""
    metadata = {
        "format": "masktree-onnx",
        "version": 2,
        "image_size": description.image_size,
        "class_agnostic": True,
        "model": to_json(model.config),
        "inputs": dict(description.inputs),
        "outputs": dict(description.outputs),
        "versions": {"masktree": masktree.__version__, "torch": torch.__version__, "onnx": onnx.__version__},
    }
    onnx.helper.set_model_props(proto, {"masktree": json.dumps(metadata)})
    proto.producer_name, proto.producer_version = "masktree", masktree.__version__
    write_atomically(path, lambda handle: handle.write(proto.SerializeToString()))

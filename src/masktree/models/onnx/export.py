"""Export of models to ONNX files, for programs without Python, torch or masktree."""

from __future__ import annotations

from pathlib import Path

from masktree.errors import InputError
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import ModelConfig, PromptableConfig
from masktree.models.mask2former.model import Mask2Former
from masktree.models.promptable.model import Promptable
from masktree.models.pyramid.base import SIZE_DIVISOR
from masktree.models.structures import Model


def export_onnx(model: Model, path: str | Path, image_size: int | None = None) -> list[Path]:
    """Write a model as ONNX (opset 20) atomically: one file, or three for a promptable model.

    The only input is ``image``, an (H, W, 3) uint8 RGB photograph of any size: resizing, padding and the boundary cues
    that some models take are part of the graph. Outputs are ``scores``, ``logits``, ``resized_size`` and ``ancestors``
    (kind sohes), or ``boxes``, ``scores``, ``levels`` and ``masks`` (hassod), best first: those of the model's
    ``detect``, without classes. Their number is fixed; a score of 0 stands for no detection. For kind promptable see
    ``masktree.models.onnx.promptable``. The metadata of a file describe its inputs and outputs and name the versions
    that made it, as JSON under ``masktree``.

    Args:
        model: of any kind; put into evaluation mode on the CPU.
        path: file to write.
        image_size: longer side of the network's input, a multiple of 32; by default the sides are the model's.

    Returns:
        The files.

    Raises:
        InputError: ``image_size`` is not a multiple of 32, or onnx or onnxscript is missing.
    """
    side, short_side = (model.config.image_size, model.config.short_side) if image_size is None else (image_size, 0)
    if side < SIZE_DIVISOR or (side % SIZE_DIVISOR and not short_side):
        near = max(SIZE_DIVISOR, round(side / SIZE_DIVISOR) * SIZE_DIVISOR)
        raise InputError(f"expected an image size that is a multiple of {SIZE_DIVISOR}; got {side}; {near} is near")
    try:
        import onnxscript  # noqa: F401
        from onnx import TensorProto

        from masktree.models.onnx.detectors import CascadeOnnxModel, Mask2FormerOnnxModel
        from masktree.models.onnx.graph import PHOTOGRAPH, GraphDescription, export_network, write_graph
        from masktree.models.onnx.promptable import export_promptable
    except ImportError as error:
        raise InputError(
            f"expected onnx and onnxscript; got {error}; pip install onnx onnxruntime onnxscript"
        ) from error
    if isinstance(model, Promptable):
        return export_promptable(model, output_files(model.config, Path(path)), side)
    assert isinstance(model, (CascadeMaskRCNN, Mask2Former))
    is_cascade = isinstance(model, CascadeMaskRCNN)
    module = CascadeOnnxModel(model) if isinstance(model, CascadeMaskRCNN) else Mask2FormerOnnxModel(model)
    inputs = ["pixels", "valid_size", *(["size"] if is_cascade else []), *(["cues"] if model.wants_cues else [])]
    proto = export_network(module.cpu(), inputs, list(module.outputs), side, TensorProto.UINT8, short_side)
    description = GraphDescription(side, {"image": PHOTOGRAPH.format(type="uint8")}, module.outputs)
    write_graph(proto, model, description, Path(path))
    return [Path(path)]


def output_files(config: ModelConfig, path: Path) -> list[Path]:
    """The files that exporting to ``path`` may write: itself, or the encoder, the decoder and the YAML of a promptable
    model."""
    if not isinstance(config, PromptableConfig):
        return [path]
    stem = path.with_suffix("") if path.suffix == ".onnx" else path
    return [stem.with_name(f"{stem.name}.{end}") for end in ("encoder.onnx", "decoder.onnx", "yaml")]

"""masktree export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from masktree.errors import InputError
from masktree.io.files import check_writable, refuse_inputs


def export(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")],
    /,
    onnx: Path,
    image_size: int | None = None,
    overwrite: bool = False,
) -> int:
    """Export a trained model to ONNX.

    Args:
        model: Folder of masktree train, or owner/name on the hub.
        onnx: ONNX file to write; it contains a description of its inputs and outputs. A promptable model is written as
            NAME.encoder.onnx and NAME.decoder.onnx, with NAME.yaml for annotation tools.
        image_size: Longer side in pixels that photographs are resized to, a multiple of 32. Default: that of the model.
        overwrite: Replace existing files.
    """
    from masktree.models.build import read_model
    from masktree.models.onnx.export import export_onnx, output_files
    from masktree.models.saved import CONFIG, WEIGHTS, find_model, read_config

    folder = find_model(model)
    outputs = output_files(read_config(folder), onnx)
    refuse_inputs(outputs, [folder / CONFIG, folder / WEIGHTS])
    for file in outputs:
        check_writable(file)
    existing = [str(file) for file in outputs if file.exists()]
    if existing and not overwrite:
        raise InputError(
            f"expected the name of a new file; got {', '.join(existing)}, which exists; add --overwrite to replace it"
        )
    for file in export_onnx(read_model(folder), onnx, image_size):
        print(f"written: {file}")
    return 0

"""Models from configurations, and their folders: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from masktree.errors import InputError, WeightsError
from masktree.io.files import write_atomically, write_json
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import CascadeConfig, Mask2FormerConfig, ModelConfig, to_json
from masktree.models.mask2former.model import Mask2Former
from masktree.models.promptable.model import Promptable
from masktree.models.pyramid.build import build_pyramid
from masktree.models.saved import CONFIG, FORMAT, VERSION, WEIGHTS, is_model, read_config, read_header, weight_file
from masktree.models.structures import Model


def build_model(config: ModelConfig, *, weights: bool) -> Mask2Former | CascadeMaskRCNN | Promptable:
    """A model in training mode on the CPU; layers without pretrained weights use torch's global random state.

    Args:
        config: of the model.
        weights: load the backbone's pretrained weights; False builds the structure only and reads no weight file.

    Raises:
        WeightsError: unknown backbone, or its weights cannot be loaded.
        InputError: transformers is missing, which all kinds but hassod need.
    """
    train_norm = isinstance(config, CascadeConfig) and config.norm == "batch"
    pyramid = build_pyramid(config.backbone, weights=weights, train_norm=train_norm)
    if isinstance(config, Mask2FormerConfig):
        return Mask2Former(config, pyramid)
    if isinstance(config, CascadeConfig):
        return CascadeMaskRCNN(config, pyramid)
    return Promptable(config, pyramid)


def save_pretrained(model: Model, folder: str | Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` into a folder, each atomically.

    Other keys of an existing ``config.json`` are kept. The weights are written first, so that no ``config.json`` is
    ever without them.

    Raises:
        InputError: the folder has a ``config.json`` of something else.
    """
    assert isinstance(model, nn.Module)
    folder = Path(folder)
    path = folder / CONFIG
    if path.exists() and not is_model(path.parent):
        raise InputError(f"expected a folder for a model of masktree; got {path} of something else; choose another")
    before = read_header(folder) if path.exists() else {}
    # Clones, as safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_atomically(folder / WEIGHTS, lambda handle: handle.write(save(tensors, metadata={"format": "pt"})))
    header = before | {"format": FORMAT, "version": VERSION, "model": to_json(model.config)}
    if header != before:
        write_json(path, header, indent=1)


def read_model(folder: str | Path, device: torch.device | str = "cpu") -> Mask2Former | CascadeMaskRCNN | Promptable:
    """The model in a folder, in evaluation mode on ``device``; no other file is read.

    Weights are float32. For bfloat16 use autocast, which keeps positions and sampling points in float32.

    Raises:
        WeightsError: folder or weights are missing or damaged, or the tensors do not fit the configuration.
        FormatError: ``config.json`` is damaged, of something else, or of another version.
    """
    folder = Path(folder)
    config = read_config(folder)
    state = read_tensors(folder)
    with torch.random.fork_rng(devices=[]):  # the initial values are replaced
        model = build_model(config, weights=False)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reasons = " ".join(str(error).split())[:400]
        raise WeightsError(
            f"expected in {str(weight_file(folder))!r} exactly the tensors of the model in {CONFIG}; got others "
            f"({reasons}); copy both files of one run again"
        ) from error
    return model.eval().to(device)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in a model's folder by name, on the CPU.

    Raises:
        WeightsError: they are missing, damaged or not finite.
    """
    path = weight_file(folder)
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"expected tensors in {str(path)!r}; got a damaged file ({error}); copy it again, or resume the training "
            "run, which writes it again"
        ) from error
    damaged = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if damaged:
        raise WeightsError(
            f"expected finite weights; got NaN or infinity in {len(damaged)} tensors of {str(path)!r}, first "
            f"{damaged[0]!r}; go back to an earlier checkpoint"
        )
    return state

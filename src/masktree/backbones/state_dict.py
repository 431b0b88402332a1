"""State dicts read from weight files of any layout, without running code that a file may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktree.errors import WeightsError

if TYPE_CHECKING:
    import torch

_SUFFIXES = (".safetensors", ".pth", ".pt")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a weight file by name.

    ``.safetensors``, or ``.pth`` / ``.pt`` with nothing but tensors, plain containers and ``argparse.Namespace`` (which
    DINO's full checkpoints carry). A checkpoint's network is found under ``teacher``, ``state_dict`` or ``model``, in
    this order (the authors of DINO evaluate the teacher). The prefixes ``module.``, ``teacher.`` and ``backbone.`` are
    removed; where one is present, tensors without it (projection heads) are dropped.

    Raises:
        WeightsError: no such file, another file type, damaged, or holding other Python objects or no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"expected a weight file; got {str(path)!r}, which is not a file; check the path")
    if path.suffix not in _SUFFIXES:
        raise WeightsError(
            f"expected a weight file ending in {', '.join(_SUFFIXES)}; got {path.name!r}; convert or rename it"
        )
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except Exception as error:  # damaged files raise nearly anything: RuntimeError, EOFError, KeyError ...
        raise WeightsError(
            f"expected tensors in a {path.suffix} file; got {str(path)!r}, which is damaged, of another "
            "type, or holds Python objects that could run code and are refused "
            f"({type(error).__name__}); download the file again, or save its state dict alone as .safetensors"
        ) from error
    return _strip_prefixes(_network_state(content, path))


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    import argparse

    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _network_state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    while isinstance(content, dict):
        inner = [content[k] for k in ("teacher", "state_dict", "model") if isinstance(content.get(k), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"expected a state dict (tensor by name); got {type(content).__name__} in {str(path)!r}; "
            "save the network's state_dict() alone"
        )
    others = [str(k) for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise WeightsError(
            f"expected only tensors in the state dict; got {len(others)} other values in {str(path)!r}, "
            f"first {others[:3]}; save the network's state_dict() alone"
        )
    return content


def _strip_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in ("module.", "teacher.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state

"""Batches of prompts: the arguments of ``Predictor.predict_torch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masktree.errors import InputError
from masktree.prompt.prompt import LOW_RES_SIZE
from masktree.prompt.transform import ResizeLongestSide

if TYPE_CHECKING:
    from torch import Tensor

_SHAPES: dict[str, tuple[str | int, ...]] = {
    "point_coords": ("B", "N", 2),
    "point_labels": ("B", "N"),
    "boxes": ("B", 4),
    "mask_input": ("B", 1, LOW_RES_SIZE, LOW_RES_SIZE),
}


def split_prompts(
    size: tuple[int, int],
    transform: ResizeLongestSide,
    point_coords: Tensor | None,
    point_labels: Tensor | None,
    boxes: Tensor | None,
    mask_input: Tensor | None,
) -> list[dict[str, np.ndarray]]:
    """Arguments of ``Predictor.predict`` for each of B prompts, in pixels of the image.

    Args:
        size: (height, width) of the image.
        transform: has mapped the clicks and boxes from the image to the frame in which they are given.
        point_coords: (B, N, 2), or None; so are the others (B, N), (B, 4) and (B, 1, 256, 256).
        point_labels: see ``Predictor.predict_torch``.
        boxes: see ``Predictor.predict_torch``.
        mask_input: see ``Predictor.predict_torch``.

    Raises:
        InputError: no prompts, different numbers of them, no tensors, or wrong shapes.
    """
    given = {
        "point_coords": point_coords,
        "point_labels": point_labels,
        "boxes": boxes,
        "mask_input": mask_input,
    }
    arrays = {name: _read_tensor(values, name) for name, values in given.items() if values is not None}
    if len({len(array) for array in arrays.values()}) != 1:
        counts = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise InputError(f"expected as many clicks, boxes and masks, one of each for a prompt; got {counts or 'none'}")
    if "point_coords" in arrays:
        arrays["point_coords"] = transform.invert_coords(arrays["point_coords"], size)
    if "boxes" in arrays:
        arrays["box"] = transform.invert_boxes(arrays.pop("boxes"), size)
    count = len(next(iter(arrays.values())))
    return [{name: array[index] for name, array in arrays.items()} for index in range(count)]


def _read_tensor(values: Tensor, name: str) -> np.ndarray:
    """The numbers of a tensor of the shape in ``_SHAPES``."""
    if not hasattr(values, "detach"):
        raise InputError(f"expected {name} as a tensor; got {type(values).__name__}; use torch.as_tensor, or predict")
    expected, got = _SHAPES[name], tuple(values.shape)
    if len(got) != len(expected) or any(isinstance(n, int) and n != m for n, m in zip(expected, got, strict=True)):
        shape = ", ".join(map(str, expected))
        raise InputError(f"expected {name} of shape ({shape}), of B prompts; got {got}; one prompt is B = 1")
    array: np.ndarray = values.detach().float().cpu().numpy()
    return array

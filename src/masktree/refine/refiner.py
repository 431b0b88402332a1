"""The refiner interface, and the check of its arguments."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from masktree.errors import InputError
from masktree.types import RGB, Probabilities

_PROBABILITY_TOLERANCE = 1e-3  # of a probability, and per label of a sum of probabilities (our choice)


@runtime_checkable
class Refiner(Protocol):
    """Function that aligns the boundaries of a soft labelling with image edges.

    Takes the image and (k, H, W) float32 probabilities and returns refined probabilities of that shape; hard labels are
    the argmax. Options of a refiner are keywords, bound with ``functools.partial``.

    ``independent``: if False, the k >= 2 channels are mutually exclusive labels, whose probabilities sum to 1 at every
    pixel, before and after. If True, each of the k >= 1 channels is the foreground probability of a separate two-label
    problem; many masks then share the image-dependent work.
    """

    def __call__(self, image: RGB, probabilities: Probabilities, *, independent: bool = False) -> Probabilities: ...


def check_problem(image: np.ndarray, probabilities: np.ndarray, independent: bool) -> None:
    """Raise InputError unless the arguments are valid for a refiner."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"expected an (H, W, 3) uint8 RGB image; got {image.shape} {image.dtype}; convert it to RGB bytes"
        )
    if probabilities.ndim != 3 or probabilities.dtype != np.float32:
        raise InputError(f"expected (k, H, W) float32 probabilities; got {probabilities.shape} {probabilities.dtype}")
    k, height, width = probabilities.shape
    if (height, width) != image.shape[:2] or height * width == 0:
        raise InputError(
            f"expected probabilities of the image's size {image.shape[:2]}, at least one pixel; got "
            f"{(height, width)}; resize one of them"
        )
    if k < (1 if independent else 2):
        raise InputError(
            f"expected at least {1 if independent else 2} channels; got {k}; a single mask is given as background and "
            "foreground, or with independent=True"
        )
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -_PROBABILITY_TOLERANCE and high <= 1 + _PROBABILITY_TOLERANCE):  # false for NaN too
        raise InputError(
            f"expected finite probabilities from 0 to 1; got {low:.3g} to {high:.3g}; apply a softmax first"
        )
    if not independent:
        total = probabilities.sum(axis=0)
        if float(np.abs(total - 1).max()) > _PROBABILITY_TOLERANCE * k:
            raise InputError(
                f"expected probabilities that sum to 1 over the labels; got sums from {total.min():.3g} to "
                f"{total.max():.3g}; normalise them, or pass independent=True for unrelated masks"
            )

"""What a refiner is: the signature that all of them share and the check of its arguments."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from masktree.errors import InputError
from masktree.types import RGB, Probabilities

_TOLERANCE = 1e-3  # of a probability, and of a sum of probabilities per label (our choice)


@runtime_checkable
class Refiner(Protocol):
    """Function that moves the borders of a soft labelling onto the borders of the image.

    Called with the image and (k, H, W) float32 probabilities, it returns refined probabilities of that shape; hard
    labels are the argmax. Options of the single refiners are keywords, bound with ``functools.partial``.

    independent: False, the k >= 2 channels are rival labels and sum to 1 at every pixel, before and after. True,
    each of the k >= 1 channels is the foreground probability of a two-label problem of its own, which says nothing
    about the others; many masks then share the work that depends on the image only.
    """

    def __call__(self, image: RGB, probabilities: Probabilities, *, independent: bool = False) -> Probabilities: ...


def check_problem(image: np.ndarray, probabilities: np.ndarray, independent: bool) -> None:
    """Raise InputError unless the arguments are a refinement problem."""
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
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # false for NaN too
        raise InputError(
            f"expected finite probabilities from 0 to 1; got {low:.3g} to {high:.3g}; apply a softmax first"
        )
    if not independent:
        total = probabilities.sum(axis=0)
        if float(np.abs(total - 1).max()) > _TOLERANCE * k:
            raise InputError(
                f"expected probabilities that sum to 1 over the labels; got sums from {total.min():.3g} to "
                f"{total.max():.3g}; normalise them, or pass independent=True for unrelated masks"
            )

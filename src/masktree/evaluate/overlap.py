"""How well masks overlap: IoU of two sets of masks, and at how many of COCO's ten thresholds a mask is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from masktree.evaluate.recall import THRESHOLDS
from masktree.trees import rle
from masktree.types import checked


@checked
def ious(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> Float64[np.ndarray, "na nb"]:
    """IoU in [0, 1] of each mask of ``a`` with each of ``b``; 0 where both are empty.

    Time of :func:`masktree.trees.rle.cross_intersections`; 24 bytes a pair, nothing dense.

    Raises:
        InputError: a string is damaged or belongs to another image size.
    """
    shared = rle.cross_intersections(a, b, size)
    either = rle.areas(a, size)[:, None] + rle.areas(b, size)[None] - shared
    return shared / np.maximum(either, 1)


def best_ious(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> Float64[np.ndarray, " na"]:
    """Best IoU of each mask of ``a`` over ``b``; 0 where ``b`` is empty. See :func:`ious`."""
    return ious(a, b, size).max(1, initial=0.0)


@checked
def times_found(best: Float[np.ndarray, " n"]) -> np.ndarray:
    """(n,) int64 in 0..10: at how many of the ten thresholds an IoU counts as found."""
    return np.searchsorted(THRESHOLDS, best, side="right")

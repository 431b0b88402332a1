"""How well masks overlap: IoU of two sets of masks, and at how many of COCO's ten thresholds a mask is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from masktree.evaluate.recall import IOU_THRESHOLDS
from masktree.trees import rle
from masktree.types import checked


def best_ious(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> Float64[np.ndarray, " na"]:
    """Best IoU of each mask of ``a`` over ``b``; 0 where ``b`` is empty. See :func:`masktree.trees.rle.iou`."""
    return rle.iou(a, b, size).max(1, initial=0.0)


@checked
def times_found(best: Float[np.ndarray, " n"]) -> np.ndarray:
    """(n,) int64 in 0..10: at how many of the ten thresholds an IoU counts as found."""
    return np.searchsorted(IOU_THRESHOLDS, best, side="right")

"""Exact non-maximum suppression of run-length masks by IoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from masktree.arguments import check_number, check_rles
from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import checked


@checked
def mask_nms(
    rles: Sequence[bytes], size: tuple[int, int], scores: Float[np.ndarray, " n"], *, iou_threshold: float = 0.9
) -> Int64[np.ndarray, " k"]:
    """Exact greedy non-maximum suppression on mask IoU: indices of the kept masks, best score first.

    Masks are visited by descending score, ties in input order; a mask is dropped if its IoU with a kept mask exceeds
    ``iou_threshold``. An empty mask has IoU 0 with every other.

    Areas and boxes give an upper bound of the IoU of a pair, and only pairs whose bound exceeds the threshold have
    their runs compared: O(n^2) bounds of a few nanoseconds, O(runs) for a compared pair. Memory is that of the runs
    (16 bytes each) plus O(n), so ten thousand masks need no n x n matrix. (``torchvision.ops.nms`` compares boxes
    only; matrix NMS needs the n x n matrix.)

    Args:
        rles: n masks as run-length strings.
        size: (height, width) of the image.
        scores: finite; higher is better.
        iou_threshold: in [0, 1]. (0.9 is our choice: it removes the near-duplicates that pooled thresholds give and
            keeps an object beside its slightly smaller main part.)

    Raises:
        InputError: ``scores`` not finite or of another length, ``iou_threshold`` out of range, damaged strings.
    """
    check_rles(rles)
    check_number(iou_threshold, "an IoU", 0, 1)
    if not isinstance(scores, np.ndarray) or scores.ndim != 1 or scores.dtype.kind not in "fiu":
        raise InputError(f"expected scores as an (n,) array of numbers; got {type(scores).__name__}")
    if len(scores) != len(rles) or not np.isfinite(scores).all():
        raise InputError(
            f"expected a finite score for each of {len(rles)} masks; got {len(scores)} scores, "
            f"{int((~np.isfinite(scores)).sum())} not finite; use areas or a constant if there are none"
        )
    starts, ends, offsets = rle.runs(rles, size)
    order = np.argsort(-scores, kind="stable")
    return order[_keep(starts, ends, offsets, rle.areas(rles, size), rle.boxes(rles, size), order, iou_threshold)]


@kernel()
def _keep(
    starts: np.ndarray,
    ends: np.ndarray,
    offsets: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    order: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """(n,) bool: which positions of ``order`` survive greedy suppression."""
    n = len(order)
    kept = np.ones(n, np.bool_)
    for p in range(n):
        if not kept[p]:
            continue
        a = order[p]
        right, bottom = boxes[a, 0] + boxes[a, 2], boxes[a, 1] + boxes[a, 3]
        for q in range(p + 1, n):
            b = order[q]
            total = areas[a] + areas[b]
            bound = min(areas[a], areas[b])  # of the intersection
            if not kept[q] or bound == 0 or bound / (total - bound) <= iou_threshold:
                continue
            width = min(right, boxes[b, 0] + boxes[b, 2]) - max(boxes[a, 0], boxes[b, 0])
            height = min(bottom, boxes[b, 1] + boxes[b, 3]) - max(boxes[a, 1], boxes[b, 1])
            if width <= 0 or height <= 0:
                continue
            bound = min(bound, np.int64(width * height))
            if bound / (total - bound) <= iou_threshold:
                continue
            shared = _intersection(starts, ends, offsets[a], offsets[a + 1], offsets[b], offsets[b + 1])
            kept[q] = shared / (total - shared) <= iou_threshold
    return kept


@kernel()
def _intersection(starts: np.ndarray, ends: np.ndarray, i: int, i_end: int, j: int, j_end: int) -> int:
    """Number of pixels in both of two lists of runs."""
    total = 0
    while i < i_end and j < j_end:
        overlap = min(ends[i], ends[j]) - max(starts[i], starts[j])
        total += max(overlap, 0)
        if ends[i] < ends[j]:
            i += 1
        else:
            j += 1
    return total

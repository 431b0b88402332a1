"""Which mask lies under which: the coverage relation, its forest, levels, and exact non-maximum suppression.

A forest of n masks is ``parents``, (n,) int32: the index of each mask's parent, -1 for a root. The order of the
masks is free; a parent may stand after its children.

Sources: HASSOD (Cao et al. 2023, arXiv 2402.03311, section 3.2) for the coverage rule and the three levels,
SOHES (Cao et al. 2024, arXiv 2404.12386, section 3.1) for forests of any depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int8, Int32, Int64
from numba import njit

from masktree.errors import InputError
from masktree.trees import rle
from masktree.types import checked

Parents = Int32[np.ndarray, " n"]


@checked
def coverage_parents(rles: Sequence[bytes], size: tuple[int, int], *, cover: float = 0.9) -> Parents:
    """Parent of each mask by coverage, -1 for roots.

    A lies under B if B covers A, |A and B| / |A| >= cover, but A does not cover B, |A and B| / |B| < cover. The
    parent is the smallest mask that A lies under, of equal ones the first. Masks that cover each other stand
    side by side; an empty mask is a root without children.

    The result is a forest: with the same numerator, one quotient at or above ``cover`` and the other below it
    mean |B| > |A| (division rounds monotonically, so this holds in floating point too), and areas that grow
    from child to parent leave no cycle.

    Time of :func:`masktree.trees.rle.intersections` plus O(n^2); 8 n^2 bytes and the runs.

    Args:
        rles: n masks as run-length strings.
        size: (height, width) of the image.
        cover: 0 < cover <= 1; 0.9 is HASSOD's value for pseudo-labels, 0.75 its value inside the teacher.

    Raises:
        InputError: ``cover`` out of range, or a string damaged or of another image size.
    """
    if not 0 < cover <= 1:
        raise InputError(f"expected a coverage in (0, 1]; got {cover}; 0.9 is the published value")
    return _smallest_cover(rle.intersections(rles, size), cover)


@checked
def depths(parents: Parents) -> Parents:
    """Number of ancestors of each mask: 0 for roots. O(n).

    Raises:
        InputError: an entry that is no index and not -1, or a cycle.
    """
    n = len(parents)
    if n and (parents.min() < -1 or parents.max() >= n):
        raise InputError(
            f"expected parents in -1 ... {n - 1}; got {parents.min()} ... {parents.max()}; "
            "use -1 for roots and renumber after removing masks (reparent)"
        )
    result, in_cycle = _depths(parents)
    if in_cycle >= 0:
        raise InputError(f"expected a forest; got a cycle through mask {in_cycle}; cut one of its links to -1")
    return result


@checked
def levels(parents: Parents) -> Int8[np.ndarray, " n"]:
    """HASSOD's level of each mask: 0 whole (a root), 1 part (child of a root), 2 subpart (all deeper)."""
    return np.minimum(depths(parents), 2).astype(np.int8)


@checked
def ancestors(parents: Parents) -> Bool[np.ndarray, "n n"]:
    """Transitive closure: entry (i, j) says that j is an ancestor of i. O(n times the depth), n^2 bytes."""
    result = np.zeros((len(parents), len(parents)), np.bool_)
    above = parents.copy()
    for _ in range(int(depths(parents).max(initial=0))):
        here = np.flatnonzero(above >= 0)
        result[here, above[here]] = True
        above[here] = parents[above[here]]
    return result


@checked
def reparent(parents: Parents, keep: Bool[np.ndarray, " n"]) -> Int32[np.ndarray, " k"]:
    """Parents of the k kept masks, renumbered; a removed parent is replaced by its nearest kept ancestor.

    Raises:
        InputError: ``parents`` is not a forest.
    """
    depth = depths(parents)
    target = parents.copy()
    for i in np.argsort(depth, kind="stable"):  # from the roots down, so that target[parent] is final
        parent = parents[i]
        if parent >= 0 and not keep[parent]:
            target[i] = target[parent]
    number = np.cumsum(keep, dtype=np.int32) - 1
    kept = target[keep]
    return np.where(kept >= 0, number[kept], -1).astype(np.int32)


@checked
def nms(
    rles: Sequence[bytes], size: tuple[int, int], scores: Float[np.ndarray, " n"], *, iou: float = 0.9
) -> Int64[np.ndarray, " k"]:
    """Exact greedy non-maximum suppression on mask IoU: indices of the kept masks, best score first.

    Masks are taken by descending score, of equal scores the first; a mask is dropped if its IoU with a mask
    already kept is above ``iou``. An empty mask has IoU 0 with every other.

    Areas and boxes bound the IoU of a pair from above, and only pairs whose bound is above ``iou`` have their
    runs compared: O(n^2) bounds of a few nanoseconds, O(r) for a pair that is compared. Memory is that of the
    runs (16 bytes each) plus O(n), so ten thousand masks need no n x n matrix.

    Args:
        rles: n masks as run-length strings.
        size: (height, width) of the image.
        scores: finite; higher is better.
        iou: 0 <= iou <= 1. (0.9 is our choice: pooled thresholds give near-copies, which 0.9 removes while
            it leaves an object and its slightly smaller main part.)

    Raises:
        InputError: ``scores`` not finite or of another length, ``iou`` out of range, damaged strings.
    """
    if len(scores) != len(rles) or not np.isfinite(scores).all():
        raise InputError(
            f"expected a finite score for each of {len(rles)} masks; got {len(scores)} scores, "
            f"{int((~np.isfinite(scores)).sum())} not finite; use areas or a constant if there are none"
        )
    if not 0 <= iou <= 1:
        raise InputError(f"expected an IoU in [0, 1]; got {iou}; 0.9 removes near-copies")
    starts, ends, offsets = rle.runs(rles, size)
    order = np.argsort(-scores, kind="stable")
    return order[_keep(starts, ends, offsets, rle.areas(rles, size), rle.boxes(rles, size), order, iou)]


@njit(cache=True, nogil=True)
def _smallest_cover(shared, cover):
    n = len(shared)
    parents = np.full(n, -1, np.int32)
    for a in range(n):
        for b in range(n):
            if (
                shared[a, b] > 0
                and shared[a, b] / shared[a, a] >= cover
                and shared[a, b] / shared[b, b] < cover
                and (parents[a] < 0 or shared[b, b] < shared[parents[a], parents[a]])
            ):
                parents[a] = b
    return parents


@njit(cache=True, nogil=True)
def _depths(parents):
    """Depths, and a mask on a cycle or -1. Each walk stops at the first mask whose depth is known."""
    n = len(parents)
    result = np.full(n, -1, np.int32)
    path = np.empty(n, np.int32)
    for i in range(n):
        length, node = 0, i
        while node >= 0 and result[node] == -1:
            result[node] = -2  # on the present path
            path[length] = node
            length += 1
            node = parents[node]
        if node >= 0 and result[node] == -2:
            return result, node
        depth = -1 if node < 0 else result[node]
        for k in range(length - 1, -1, -1):
            depth += 1
            result[path[k]] = depth
    return result, -1


@njit(cache=True, nogil=True)
def _keep(starts, ends, offsets, areas, boxes, order, iou):
    """Which masks of ``order`` survive greedy suppression."""
    n = len(order)
    kept = np.ones(n, np.bool_)
    for p in range(n):
        if not kept[p]:
            continue
        a = order[p]
        right, foot = boxes[a, 0] + boxes[a, 2], boxes[a, 1] + boxes[a, 3]
        for q in range(p + 1, n):
            b = order[q]
            both = areas[a] + areas[b]
            most = min(areas[a], areas[b])
            if not kept[q] or most == 0 or most / (both - most) <= iou:
                continue
            width = min(right, boxes[b, 0] + boxes[b, 2]) - max(boxes[a, 0], boxes[b, 0])
            height = min(foot, boxes[b, 1] + boxes[b, 3]) - max(boxes[a, 1], boxes[b, 1])
            if width <= 0 or height <= 0:
                continue
            most = min(most, np.int64(width * height))
            if most / (both - most) <= iou:
                continue
            shared = _shared(starts, ends, offsets[a], offsets[a + 1], offsets[b], offsets[b + 1])
            kept[q] = shared / (both - shared) <= iou
    return kept


@njit(cache=True, nogil=True)
def _shared(starts, ends, i, i_end, j, j_end):
    """Pixels that two lists of runs share."""
    total = 0
    while i < i_end and j < j_end:
        overlap = min(ends[i], ends[j]) - max(starts[i], starts[j])
        total += max(overlap, 0)
        if ends[i] < ends[j]:
            i += 1
        else:
            j += 1
    return total

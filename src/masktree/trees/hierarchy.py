"""Hierarchies of masks: parents by coverage, depths, levels, ancestors, removal of masks.

A forest of n masks is ``parents``, (n,) int32: the index of each mask's parent, -1 for a root. Masks may come in any
order; a parent may follow its children.

Sources: HASSOD (Cao et al. 2023, arXiv 2402.03311, section 3.2) for the coverage rule and the three levels,
SOHES (Cao et al. 2024, arXiv 2404.12386, section 3.1) for forests of any depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int8, Int32

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import checked

Parents = Int32[np.ndarray, " n"]


@checked
def parents_by_coverage(
    rles: Sequence[bytes],
    size: tuple[int, int],
    *,
    min_coverage: float = 0.9,
    may_be_parents: Bool[np.ndarray, " n"] | None = None,
) -> Parents:
    """Parent of each mask by coverage, -1 for roots.

    With c = ``min_coverage``, A lies under B if |A and B| / |A| >= c and |A and B| / |B| < c. The parent of A is the
    smallest such B, the first of equal ones. Masks that cover each other are siblings; an empty mask is a root
    without children.

    The result has no cycles: the two inequalities share their numerator, so they imply |B| > |A| (division rounds
    monotonically, so this holds in floating point too).

    Time of :func:`masktree.trees.rle.intersections` plus O(n^2); 8 n^2 bytes and the runs.

    Args:
        rles: n masks as run-length strings.
        size: (height, width) of the image.
        min_coverage: 0 < c <= 1; HASSOD uses 0.9 for pseudo-labels and 0.75 for the teacher.
        may_be_parents: the others get parents but no children; None: all may.

    Raises:
        InputError: ``min_coverage`` out of range, a damaged string or one of another image size.
    """
    if not 0 < min_coverage <= 1:
        raise InputError(f"expected a coverage in (0, 1]; got {min_coverage}; 0.9 is the published value")
    allowed = np.ones(len(rles), np.bool_) if may_be_parents is None else may_be_parents
    return _smallest_covering(rle.intersections(rles, size), min_coverage, allowed)


@checked
def depths(parents: Parents) -> Parents:
    """Number of ancestors of each mask: 0 for roots. O(n).

    Raises:
        InputError: an entry that is neither an index nor -1, or a cycle.
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
    """Transitive closure: entry (i, j) is True if j is an ancestor of i. O(n * depth), n^2 bytes."""
    result = np.zeros((len(parents), len(parents)), np.bool_)
    above = parents.copy()
    for _ in range(int(depths(parents).max(initial=0))):
        nodes = np.flatnonzero(above >= 0)
        result[nodes, above[nodes]] = True
        above[nodes] = parents[above[nodes]]
    return result


@checked
def reparent(parents: Parents, keep: Bool[np.ndarray, " n"]) -> Int32[np.ndarray, " k"]:
    """Parents of the k kept masks, renumbered; a removed parent is replaced by its nearest kept ancestor.

    Raises:
        InputError: ``parents`` is not a forest.
    """
    depth = depths(parents)
    new_parents = parents.copy()
    for i in np.argsort(depth, kind="stable"):  # from the roots down, so that new_parents[parent] is final
        parent = parents[i]
        if parent >= 0 and not keep[parent]:
            new_parents[i] = new_parents[parent]
    new_index = np.cumsum(keep, dtype=np.int32) - 1
    kept = new_parents[keep]
    return np.where(kept >= 0, new_index[kept], -1).astype(np.int32)


def raise_to_children(values: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """(n,) values that never fall towards the root: each raised to the highest of its descendants, in a copy."""
    raised = values.copy()
    for child in np.argsort(-depths(parents), kind="stable"):
        if parents[child] >= 0:
            raised[parents[child]] = max(raised[parents[child]], raised[child])
    return raised


@kernel()
def _smallest_covering(shared: np.ndarray, min_coverage: float, allowed: np.ndarray) -> np.ndarray:
    n = len(shared)
    parents = np.full(n, -1, np.int32)
    for a in range(n):
        for b in range(n):
            if (
                allowed[b]
                and shared[a, b] > 0
                and shared[a, b] / shared[a, a] >= min_coverage
                and shared[a, b] / shared[b, b] < min_coverage
                and (parents[a] < 0 or shared[b, b] < shared[parents[a], parents[a]])
            ):
                parents[a] = b
    return parents


@kernel()
def _depths(parents: np.ndarray) -> tuple[np.ndarray, int]:
    """Depths, and the index of a mask on a cycle (-1 if none). Each walk up stops at the first known depth."""
    n = len(parents)
    result = np.full(n, -1, np.int32)
    path = np.empty(n, np.int32)
    for i in range(n):
        length, node = 0, i
        while node >= 0 and result[node] == -1:
            result[node] = -2  # on the current path
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

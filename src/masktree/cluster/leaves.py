"""Leaf regions of a partition tree: the basins of a boundary map, and which of them touch.

A basin is what drains to one minimum when every pixel runs to its lowest neighbour (steepest-descent watershed);
pixels belong to basins without a line between them. Cost: a few milliseconds per 100,000 pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from masktree.errors import InputError
from masktree.types import Labels, checked

MIN_AREA = 16  # pixels; smaller basins are noise of the interpolation and only cost merging time


@checked
def watershed_leaves(boundary: np.ndarray, *, min_area: int = MIN_AREA, max_leaves: int | None = None) -> Labels:
    """Basins of an (H, W) float32 boundary map (higher = more likely a border): (H, W) int32 labels without gaps.

    Basins below ``min_area`` pixels flow over their lowest pass into a neighbour, and so do the smallest of the
    others while there are more than ``max_leaves``. A flat map is one basin.

    Raises ``InputError`` if the map is empty, has NaN, or a parameter is below 1.
    """
    if boundary.ndim != 2 or boundary.size == 0 or not np.isfinite(boundary.sum(dtype=np.float64)):
        raise InputError(f"expected a finite, non-empty (H, W) boundary map; got {boundary.shape}; check the image")
    if min_area < 1 or (max_leaves is not None and max_leaves < 1):
        raise InputError(f"expected min_area and max_leaves of at least 1; got {min_area} and {max_leaves}")
    levels = np.ascontiguousarray(boundary, np.float32)
    labels = _descend(levels)
    labels = _overflow(labels, levels, min_area)
    while max_leaves is not None and (areas := np.bincount(labels.ravel())).size > max_leaves:
        # At least double the smallest area each time, so that this ends after a few rounds.
        min_area = max(2 * min_area, int(np.sort(areas)[areas.size - max_leaves]))
        labels = _overflow(labels, levels, min_area)
    return labels


@checked
def adjacency(leaves: Labels, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Borders between touching leaves (4-neighbours).

    Returns ``edges`` (m, 2) int32 with the lower number first, in ascending order; ``strengths`` (m,) float64, the
    mean over the common border of the higher boundary value of the two pixels; ``lengths`` (m,) float64 in pixels.

    Raises ``InputError`` if the shapes differ.
    """
    if leaves.shape != boundary.shape:
        raise InputError(f"expected a boundary map of shape {leaves.shape} like the leaves; got {boundary.shape}")
    keys, heights = _crossings(leaves, np.ascontiguousarray(boundary, np.float32))
    codes, which, lengths = np.unique(keys, return_inverse=True, return_counts=True)
    strengths = np.bincount(which, heights, minlength=len(codes)) / np.maximum(lengths, 1)
    count = int(leaves.max()) + 1
    edges = np.stack([codes // count, codes % count], axis=1).astype(np.int32)
    return edges, strengths, lengths.astype(np.float64)


def _overflow(labels: np.ndarray, levels: np.ndarray, min_area: int) -> np.ndarray:
    """Unite basins across their passes, lowest pass first, while one side is smaller than ``min_area``."""
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count)
    if areas.min() >= min_area or count == 1:
        return labels
    keys, heights = _crossings(labels, levels)
    order = np.lexsort((heights, keys))
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))  # the lowest crossing of each border is its pass
    passes = order[first][np.argsort(heights[order[first]], kind="stable")]
    owner = _unite(keys[passes] // count, keys[passes] % count, areas.astype(np.int64), min_area)
    return np.unique(owner, return_inverse=True)[1].astype(np.int32)[labels]


@njit(cache=True, nogil=True)
def _descend(levels):
    """Label of the minimum that each pixel drains to; equal pixels drain to the one that comes first."""
    H, W = levels.shape
    flat = levels.ravel()
    down = np.empty(H * W, np.int32)
    for i in range(H):
        for j in range(W):
            lowest = i * W + j
            for y in range(max(i - 1, 0), min(i + 2, H)):
                for x in range(max(j - 1, 0), min(j + 2, W)):
                    other = y * W + x
                    if flat[other] < flat[lowest] or (flat[other] == flat[lowest] and other < lowest):
                        lowest = other
            down[i * W + j] = lowest
    labels = np.full(H * W, -1, np.int32)
    count = 0
    for start in range(H * W):
        at = start
        while labels[at] < 0 and down[at] != at:
            at = down[at]
        if labels[at] < 0:
            labels[at] = count
            count += 1
        found = labels[at]
        at = start
        while labels[at] < 0:
            labels[at] = found
            at = down[at]
    return labels.reshape(H, W)


@njit(cache=True, nogil=True)
def _crossings(labels, levels):
    """Every pair of 4-neighbours with different labels: its key low * count + high and its height."""
    H, W = labels.shape
    count = np.int64(labels.max()) + 1
    total = 0
    for i in range(H):
        for j in range(W):
            total += (j + 1 < W and labels[i, j] != labels[i, j + 1]) + (i + 1 < H and labels[i, j] != labels[i + 1, j])
    keys = np.empty(total, np.int64)
    heights = np.empty(total, np.float32)
    at = 0
    for i in range(H):
        for j in range(W):
            for down in range(2):
                y, x = i + down, j + 1 - down
                if y < H and x < W and labels[i, j] != labels[y, x]:
                    low, high = min(labels[i, j], labels[y, x]), max(labels[i, j], labels[y, x])
                    keys[at] = low * count + high
                    heights[at] = max(levels[i, j], levels[y, x])
                    at += 1
    return keys, heights


@njit(cache=True, nogil=True)
def _find(owner, node):
    while owner[node] != node:
        owner[node] = owner[owner[node]]
        node = owner[node]
    return node


@njit(cache=True, nogil=True)
def _unite(first, second, areas, min_area):
    owner = np.arange(len(areas))
    for k in range(len(first)):
        a, b = _find(owner, first[k]), _find(owner, second[k])
        if a != b and min(areas[a], areas[b]) < min_area:
            a, b = min(a, b), max(a, b)
            owner[b] = a
            areas[a] += areas[b]
    for node in range(len(owner)):
        owner[node] = _find(owner, node)
    return owner

"""Leaf regions of a partition tree: watershed basins of a boundary map, and their adjacency.

A basin is the set of pixels from which steepest descent over the 8 neighbours leads to one minimum; every pixel belongs
to a basin. Own kernel: ``skimage.segmentation.watershed(boundary, connectivity=2)`` gives the same basins where no two
neighbours are equal, in 15 times the time (147 against 9 ms for 480 x 480 on one core).
"""

from __future__ import annotations

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.types import Labels, checked

MIN_LEAF_AREA = 16  # pixels; smaller basins are interpolation noise and only cost merging time


@checked
def watershed_leaves(boundary: np.ndarray, *, min_area: int = MIN_LEAF_AREA, max_leaves: int | None = None) -> Labels:
    """Watershed basins of a boundary map.

    Args:
        boundary: (H, W) float32, higher = more likely a boundary. A flat map is one basin.
        min_area: smaller basins are merged with the neighbour across their lowest pass.
        max_leaves: if there are more basins, so are the smallest ones until at most this many are left.

    Returns:
        (H, W) int32 labels without gaps.

    Raises:
        InputError: the map is empty, has NaN, or a parameter is below 1.
    """
    if boundary.ndim != 2 or boundary.size == 0 or not np.isfinite(boundary.sum(dtype=np.float64)):
        raise InputError(f"expected a finite, non-empty (H, W) boundary map; got {boundary.shape}; check the image")
    if min_area < 1 or (max_leaves is not None and max_leaves < 1):
        raise InputError(f"expected min_area and max_leaves of at least 1; got {min_area} and {max_leaves}")
    heights = np.ascontiguousarray(boundary, np.float32)
    labels = _merge_small_basins(_steepest_descent(heights), heights, min_area)
    while max_leaves is not None and (areas := np.bincount(labels.ravel())).size > max_leaves:
        # The bound at least doubles each time, so this ends after a few iterations.
        min_area = max(2 * min_area, int(np.sort(areas)[areas.size - max_leaves]))
        labels = _merge_small_basins(labels, heights, min_area)
    return labels


@checked
def adjacency(leaves: Labels, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Region adjacency graph of the leaves (4-neighbours).

    Returns:
        edges: (m, 2) int32, the lower number first, in ascending order.
        strengths: (m,) float64, mean over the common border of the higher boundary value of the two pixels.
        lengths: (m,) float64, pixels of the common border.

    Raises:
        InputError: the shapes differ.
    """
    if leaves.shape != boundary.shape:
        raise InputError(f"expected a boundary map of shape {leaves.shape} like the leaves; got {boundary.shape}")
    keys, heights = _crossings(leaves, np.ascontiguousarray(boundary, np.float32))
    edge_keys, edge_of, lengths = np.unique(keys, return_inverse=True, return_counts=True)
    strengths = np.bincount(edge_of, heights, minlength=len(edge_keys)) / np.maximum(lengths, 1)
    count = int(leaves.max()) + 1
    edges = np.stack([edge_keys // count, edge_keys % count], axis=1).astype(np.int32)
    return edges, strengths, lengths.astype(np.float64)


def _merge_small_basins(labels: np.ndarray, boundary: np.ndarray, min_area: int) -> np.ndarray:
    """Merge basins across their passes, lowest pass first, where one side is smaller than ``min_area``."""
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count)
    if areas.min() >= min_area or count == 1:
        return labels
    keys, heights = _crossings(labels, boundary)
    order = np.lexsort((heights, keys))
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))  # the lowest crossing of each border is its pass
    passes = order[first][np.argsort(heights[order[first]], kind="stable")]
    roots = _unite(keys[passes] // count, keys[passes] % count, areas.astype(np.int64), min_area)
    merged: np.ndarray = np.unique(roots, return_inverse=True)[1].astype(np.int32)[labels]
    return merged


@kernel()
def _steepest_descent(heights: np.ndarray) -> np.ndarray:
    """Label of the minimum that each pixel drains to; of equal pixels the first is lower."""
    H, W = heights.shape
    flat = heights.ravel()
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
        pixel = start
        while labels[pixel] < 0 and down[pixel] != pixel:
            pixel = down[pixel]
        if labels[pixel] < 0:
            labels[pixel] = count
            count += 1
        label = labels[pixel]
        pixel = start
        while labels[pixel] < 0:
            labels[pixel] = label
            pixel = down[pixel]
    return labels.reshape(H, W)


@kernel()
def _crossings(labels: np.ndarray, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of 4-neighbours with different labels: its key low * count + high, and its boundary value."""
    H, W = labels.shape
    count = np.int64(labels.max()) + 1
    total = 0
    for i in range(H):
        for j in range(W):
            total += (j + 1 < W and labels[i, j] != labels[i, j + 1]) + (i + 1 < H and labels[i, j] != labels[i + 1, j])
    keys = np.empty(total, np.int64)
    heights = np.empty(total, np.float32)
    k = 0
    for i in range(H):
        for j in range(W):
            for down in range(2):
                y, x = i + down, j + 1 - down
                if y < H and x < W and labels[i, j] != labels[y, x]:
                    low, high = min(labels[i, j], labels[y, x]), max(labels[i, j], labels[y, x])
                    keys[k] = low * count + high
                    heights[k] = max(boundary[i, j], boundary[y, x])
                    k += 1
    return keys, heights


@kernel()
def find_root(parents: np.ndarray, node: int) -> int:
    """Root of a node, with path halving."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@kernel()
def _unite(first: np.ndarray, second: np.ndarray, areas: np.ndarray, min_area: int) -> np.ndarray:
    """Root of each basin after the merges; overwrites ``areas``."""
    parents = np.arange(len(areas))
    for k in range(len(first)):
        a, b = find_root(parents, first[k]), find_root(parents, second[k])
        if a != b and min(areas[a], areas[b]) < min_area:
            a, b = min(a, b), max(a, b)
            parents[b] = a
            areas[a] += areas[b]
    for node in range(len(parents)):
        parents[node] = find_root(parents, node)
    return parents

"""One tree of masks from dendrograms of one image at several working sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from masktree.kernels import kernel
from masktree.trees import hierarchy
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.nms import mask_nms
from masktree.trees.node_selection import select_nodes
from masktree.types import Labels

# Nodes of each dendrogram that are compared, per mask of the tree: enough that NMS leaves as many masks as are asked
# for (our choice).
CANDIDATES_PER_MASK = 2
# What is smaller than this at a coarser working size is outlined better at the next one, where it is twice as large
# (our choice: some three times the half width of the cues' smallest windows; see the log).
MIN_COARSE_SIDE = 16
COARSE_WEIGHT = 0.5  # of scores at coarser working sizes, where small things are what is looked for (our choice)


def pool_dendrograms(
    dendrograms: Sequence[PartitionTree],
    working_sides: Sequence[int],
    *,
    cuts: PartitionTree,
    min_area: int = 32,
    max_area: float = 0.9,
    max_masks: int | None = MAX_MASKS,
    duplicate_iou: float = 0.9,
) -> MaskTree:
    """The stable nodes of several dendrograms of one image as one tree.

    Nodes of the other dendrograms become unions of leaves of the last one, if they are ``MIN_COARSE_SIDE`` pixels wide
    at their working size: each leaf goes to the leaf of the other dendrogram that it shares most pixels with. So masks
    of all sizes have the sharpest borders there are. The parent of a mask is the smallest mask that contains it whole.
    The granularity of a mask is that at which the cuts have the most similar region, raised to the maximum over its
    children.

    Args:
        dendrograms: of images of one size, altitudes in [0, 1]; the last one is the finest.
        working_sides: longer side in pixels at which each of them was made.
        cuts: the dendrogram of the tree, on the leaves of the finest one.
        min_area, max_area, max_masks, duplicate_iou: as of ``MaskTree.from_dendrogram``, over the masks of all.
    """
    finest = dendrograms[-1]
    limit = None if max_masks is None else CANDIDATES_PER_MASK * max_masks
    rles: list[bytes] = []
    columns: list[np.ndarray] = []  # of each dendrogram (2, k): scores, stabilities
    intervals: list[np.ndarray] = []  # of each (k, 3): its number, positions of leaves
    positions: list[np.ndarray] = []  # of each (n,): of the leaves of the finest
    omitted = 0
    for dendrogram, working_side in zip(dendrograms, working_sides, strict=True):
        united, smallest, weight = dendrogram, min_area, 1.0
        if dendrogram is not finest:
            united, weight = unite_leaves(finest.leaves, dendrogram), COARSE_WEIGHT
            smallest = max(min_area, math.ceil((MIN_COARSE_SIDE * max(finest.size) / working_side) ** 2))
        selected = select_nodes(
            united, min_area=smallest, max_area=max_area, max_masks=limit, duplicate_iou=duplicate_iou
        )
        omitted += selected.omitted
        rles += united.rles(selected.nodes)
        columns.append(np.stack([weight * selected.scores, selected.stabilities]))
        low, high = (bounds[selected.nodes] for bounds in united.intervals)
        intervals.append(np.stack([np.full_like(low, len(positions)), low, high], axis=1))
        positions.append(_positions_of_leaves(united, finest))
    scores, stabilities = np.concatenate(columns, axis=1)
    keep = mask_nms(rles, finest.size, scores, iou_threshold=duplicate_iou)
    omitted += 0 if max_masks is None else max(0, len(keep) - max_masks)
    keep = np.sort(keep[:max_masks])
    rles = [rles[index] for index in keep]
    parents = hierarchy.parents_by_coverage(rles, finest.size, min_coverage=1.0)
    similar = _most_similar_nodes(cuts, np.stack(positions), np.concatenate(intervals)[keep])
    granularities = hierarchy.raise_to_children(ceil_float32(cuts.altitudes[similar]), parents)
    return MaskTree(
        size=finest.size,
        rles=tuple(rles),
        parents=parents,
        scores=scores[keep].astype(np.float32),
        granularities=granularities,
        stabilities=stabilities[keep].astype(np.float32),
        levels=hierarchy.levels(parents),
        dendrogram=cuts,
        omitted=omitted,
    )


def _positions_of_leaves(united: PartitionTree, finest: PartitionTree) -> np.ndarray:
    """(n,) int32: which position in ``united.order`` each leaf of the finest dendrogram has; -1 without pixels."""
    leaves, first = np.unique(finest.leaves, return_index=True)
    positions = np.full(finest.n_leaves, -1, np.int32)
    positions[leaves] = united.intervals[0][united.leaves.ravel()[first]]
    return positions


def _most_similar_nodes(tree: PartitionTree, positions: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Node of the highest IoU for each of k unions of leaves, the lowest of equal ones.

    A union ``intervals[i]`` = (d, low, high) has the leaves with ``positions[d]`` from low to below high.
    """
    leaf_areas = np.bincount(tree.leaves.ravel(), minlength=tree.n_leaves)
    low, high = tree.intervals
    return _best_nodes(leaf_areas, tree.order, low, high, tree.areas, positions, intervals)


@kernel()
def _best_nodes(
    leaf_areas: np.ndarray,
    order: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    areas: np.ndarray,
    positions: np.ndarray,
    intervals: np.ndarray,
) -> np.ndarray:  # pragma: no cover
    best = np.zeros(len(intervals), np.int64)
    inside = np.zeros(len(order) + 1, np.int64)  # pixels of the union in the leaves before each position
    for i in range(len(intervals)):
        which, start, stop = intervals[i]
        for k in range(len(order)):
            leaf = order[k]
            is_member = start <= positions[which, leaf] < stop
            inside[k + 1] = inside[k] + (leaf_areas[leaf] if is_member else 0)
        highest = 0.0
        for node in range(len(areas)):
            shared = inside[high[node]] - inside[low[node]]
            if shared > highest * (areas[node] + inside[-1] - shared):
                highest = shared / (areas[node] + inside[-1] - shared)
                best[i] = node
    return best


def unite_leaves(leaves: Labels, dendrogram: PartitionTree) -> PartitionTree:
    """A dendrogram whose leaves are unions of ``leaves``, (H, W) labels of the same image: each is given to the leaf
    that it shares most pixels with, the first of equal ones. Leaves that get none have area 0."""
    return dendrogram.with_leaves(_owners(leaves, dendrogram.leaves)[leaves])


def divide_leaves(leaves: Labels, dendrogram: PartitionTree) -> PartitionTree:
    """A dendrogram on ``leaves``, (H, W) labels of the same image without gaps: those of one of its own leaves, as in
    ``unite_leaves``, are merged first, at altitude 0."""
    owners = _owners(leaves, dendrogram.leaves)
    tops = np.full(len(dendrogram.parents), -1, np.int64)  # the node of each node of the dendrogram, -1 without pixels
    merges: list[tuple[int, int]] = []
    altitudes: list[float] = []

    def merge(a: int, b: int, altitude: float) -> int:
        if min(a, b) < 0:
            return max(a, b)
        merges.append((a, b))
        altitudes.append(altitude)
        return len(owners) + len(merges) - 1

    for leaf, owner in enumerate(owners):
        tops[owner] = merge(int(tops[owner]), leaf, 0.0)
    for node, (a, b) in enumerate(dendrogram.children, start=dendrogram.n_leaves):
        tops[node] = merge(int(tops[a]), int(tops[b]), float(dendrogram.altitudes[node]))
    return PartitionTree.from_merges(leaves, np.array(merges, np.int64).reshape(-1, 2), np.array(altitudes))


def _owners(leaves: Labels, regions: Labels) -> np.ndarray:
    """(n,) int32: which region each leaf shares most pixels with, the first of equal ones."""
    count = int(regions.max()) + 1
    keys, pixels = np.unique(leaves.astype(np.int64) * count + regions, return_counts=True)
    parts, shared = np.divmod(keys, count)
    order = np.lexsort((-pixels, parts))
    first = order[np.flatnonzero(np.diff(parts[order], prepend=-1))]
    owners = np.zeros(int(leaves.max()) + 1, np.int32)
    owners[parts[first]] = shared[first]
    return owners

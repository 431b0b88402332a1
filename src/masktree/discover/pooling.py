"""One tree of masks from dendrograms of one image at several working sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from masktree.trees import hierarchy
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MAX_MASKS, MaskTree, ceil_float32
from masktree.trees.nms import mask_nms
from masktree.trees.node_selection import select_nodes
from masktree.types import Labels

# Nodes of each dendrogram that are compared, per mask of the tree: enough that NMS leaves as many masks as are asked
# for (our choice).
CANDIDATES_PER_MASK = 2
# What is smaller than this at a coarser working size is outlined better at the next one, where it is twice as large
# (our choice: three times the half width of the cues' windows of medium size).
MIN_COARSE_SIDE = 32
COARSE_WEIGHT = 0.5  # of scores at coarser working sizes, where small things are what is looked for (our choice)


def pool_dendrograms(
    dendrograms: Sequence[PartitionTree],
    working_sides: Sequence[int],
    *,
    min_area: int = 32,
    max_area: float = 0.9,
    max_masks: int | None = MAX_MASKS,
    duplicate_iou: float = 0.9,
) -> MaskTree:
    """The stable nodes of several dendrograms of one image as one tree.

    Nodes of the other dendrograms become unions of leaves of the last one, if they are ``MIN_COARSE_SIDE`` pixels wide
    at their working size: each leaf goes to the leaf of the other dendrogram that it shares most pixels with. So masks
    of all sizes have the sharpest borders there are. The parent of a mask is the smallest mask that contains it whole.

    Args:
        dendrograms: of images of one size, altitudes in [0, 1]; the last one, the finest, is that of the tree and its
            cuts.
        working_sides: longer side in pixels at which each of them was made.
        min_area, max_area, max_masks, duplicate_iou: as of ``MaskTree.from_dendrogram``, over the masks of all.
    """
    if len(dendrograms) == 1:
        return MaskTree.from_dendrogram(
            dendrograms[0], min_area=min_area, max_area=max_area, max_masks=max_masks, duplicate_iou=duplicate_iou
        )
    finest = dendrograms[-1]
    limit = None if max_masks is None else CANDIDATES_PER_MASK * max_masks
    rles: list[bytes] = []
    columns: list[np.ndarray] = []  # of each dendrogram (3, k): scores, stabilities, granularities
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
        columns.append(np.stack([weight * selected.scores, selected.stabilities, united.altitudes[selected.nodes]]))
    scores, stabilities, altitudes = np.concatenate(columns, axis=1)
    keep = mask_nms(rles, finest.size, scores, iou_threshold=duplicate_iou)
    omitted += 0 if max_masks is None else max(0, len(keep) - max_masks)
    keep = np.sort(keep[:max_masks])
    rles = [rles[index] for index in keep]
    parents = hierarchy.parents_by_coverage(rles, finest.size, min_coverage=1.0)
    granularities = ceil_float32(altitudes[keep])
    for child in np.argsort(-hierarchy.depths(parents), kind="stable"):  # they never decrease towards the root
        if parents[child] >= 0:
            granularities[parents[child]] = max(granularities[parents[child]], granularities[child])
    return MaskTree(
        size=finest.size,
        rles=tuple(rles),
        parents=parents,
        scores=scores[keep].astype(np.float32),
        granularities=granularities,
        stabilities=stabilities[keep].astype(np.float32),
        levels=hierarchy.levels(parents),
        dendrogram=finest,
        omitted=omitted,
    )


def unite_leaves(leaves: Labels, dendrogram: PartitionTree) -> PartitionTree:
    """A dendrogram whose leaves are unions of ``leaves``, (H, W) labels of the same image: each is given to the leaf
    that it shares most pixels with, the first of equal ones. Leaves that get none have area 0."""
    count = int(dendrogram.leaves.max()) + 1
    keys, pixels = np.unique(leaves.astype(np.int64) * count + dendrogram.leaves, return_counts=True)
    parts, regions = np.divmod(keys, count)
    order = np.lexsort((-pixels, parts))
    first = order[np.flatnonzero(np.diff(parts[order], prepend=-1))]
    owners = np.zeros(int(leaves.max()) + 1, np.int32)
    owners[parts[first]] = regions[first]
    return dendrogram.with_leaves(owners[leaves])

"""One tree of masks from dendrograms of one image at several working sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from masktree.backbones.texture.words import lab
from masktree.cluster.contrast import node_contrasts
from masktree.discover.detail import GROUND_DISTANCE
from masktree.kernels import kernel
from masktree.trees import hierarchy
from masktree.trees.combinations import Combinations, combine_nodes, unite_nodes
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree, lowest_common_ancestors
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.nms import mask_nms
from masktree.trees.node_selection import SelectedNodes, select_nodes
from masktree.types import RGB, Labels

# Nodes of each dendrogram that are compared, per mask of the tree: enough that NMS leaves as many masks as are asked
# for (our choice).
CANDIDATES_PER_MASK = 2
# What is smaller than this at a coarser working size is outlined better at the next one, where it is twice as large
# (our choice: some three times the half width of the cues' smallest windows; see the log).
MIN_COARSE_SIDE = 16
COARSE_WEIGHT = 0.5  # of scores at coarser working sizes, where small things are what is looked for (our choice)
COMBINED_SHARE = 0.2  # of the masks may be combinations, so that small things keep their places (our choice)


def pool_dendrograms(
    dendrograms: Sequence[PartitionTree],
    working_sides: Sequence[int],
    image: RGB,
    *,
    cuts: PartitionTree,
    combine: bool = False,
    min_area: int = 32,
    max_area: float = 0.9,
    max_masks: int | None = MAX_MASKS,
    duplicate_iou: float = 0.9,
) -> MaskTree:
    """The stable nodes of several dendrograms of one image as one tree.

    Nodes of the other dendrograms become unions of leaves of the last one, if they are ``MIN_COARSE_SIDE`` pixels wide
    at their working size: each leaf goes to the leaf of the other dendrogram that it shares most pixels with. So masks
    of all sizes have the sharpest borders there are. The parent of a mask is the smallest node that contains it whole.
    The granularity of a mask is that at which the cuts have the most similar region, and have merged the regions that
    are most similar to its parts with it.

    Args:
        dendrograms: of images of one size, altitudes in [0, 1]; the last one is the finest.
        working_sides: longer side in pixels at which each of them was made.
        image: (H, W, 3) uint8: scores are weighted by the contrast of a mask in it, see ``masktree.cluster.contrast``.
        cuts: the dendrogram of the tree, on the leaves of the finest one.
        combine: whether combinations of the nodes of the first, coarsest dendrogram are among the masks, for things
            whose parts differ more from each other than from the ground (``masktree.trees.combinations``).
        min_area, max_area, max_masks, duplicate_iou: as of ``MaskTree.from_dendrogram``, over the masks of all.
    """
    finest = dendrograms[-1]
    limit = None if max_masks is None else CANDIDATES_PER_MASK * max_masks
    choose = partial(select_nodes, max_area=max_area, max_masks=limit, duplicate_iou=duplicate_iou)
    united = [one if one is finest else unite_leaves(finest.leaves, one) for one in dendrograms]
    colours = lab(image)
    # 1 where a thing differs as much as what is no longer the ground, so that scores keep their scale (our choice).
    weights = [node_contrasts(one, colours) / GROUND_DISTANCE for one in united]
    candidates = []
    for number, (dendrogram, working_side) in enumerate(zip(united, working_sides, strict=True)):
        smallest, weight = min_area, 1.0
        if dendrogram is not finest:
            weight = COARSE_WEIGHT
            smallest = max(min_area, math.ceil((MIN_COARSE_SIDE * max(finest.size) / working_side) ** 2))
        selected = choose(dendrogram, min_area=smallest, weights=weights[number])
        candidates.append(_nodes(dendrogram, number, selected, weight))
    if combine:  # the members may be smaller than masks of this size
        _, combined = combine_nodes(
            united[0],
            choose(united[0], min_area=min_area, weights=weights[0]),
            max_area=max_area,
            max_masks=limit,
            duplicate_iou=duplicate_iou,
        )
        candidates.append(
            _combinations(united[0], combined, None if max_masks is None else int(COMBINED_SHARE * max_masks))
        )
    rles = [mask for one in candidates for mask in one.rles]
    scores = np.concatenate([one.scores for one in candidates])
    omitted = sum(one.omitted for one in candidates)
    keep = mask_nms(rles, finest.size, scores, iou_threshold=duplicate_iou)
    omitted += 0 if max_masks is None else max(0, len(keep) - max_masks)
    keep = np.sort(keep[:max_masks])
    rles = [rles[index] for index in keep]
    kinds = np.concatenate([np.full(len(one.rles), one.kind, np.int8) for one in candidates])[keep]
    stabilities = np.concatenate([one.stabilities for one in candidates])[keep]
    unions = np.concatenate([one.unions for one in candidates])[keep]
    positions = np.stack([_positions_of_leaves(one, finest) for one in united])
    parents = hierarchy.parents_by_coverage(rles, finest.size, min_coverage=1.0, may_be_parents=kinds == 0)
    similar = _most_similar_nodes(cuts, positions, unions)
    granularities = _granularities(cuts, similar, parents, is_node=kinds == 0)
    return MaskTree(
        size=finest.size,
        rles=tuple(rles),
        parents=parents,
        scores=np.minimum(scores[keep], 1).astype(np.float32),
        granularities=granularities,
        stabilities=stabilities.astype(np.float32),
        levels=hierarchy.levels(parents),
        dendrogram=cuts,
        omitted=omitted,
        kinds=kinds,
    )


def _granularities(cuts: PartitionTree, similar: np.ndarray, parents: np.ndarray, *, is_node: np.ndarray) -> np.ndarray:
    """(k,) float32 granularities of k masks, from the most similar node of each.

    Cuts may show a part beside what resembles the whole, as both are of other dendrograms. The whole is one region only
    when both have merged: before, pictures show the part.
    """
    altitudes = cuts.altitudes[similar]
    parts = np.flatnonzero((parents >= 0) & is_node)
    wholes = parents[parts]
    tops = lowest_common_ancestors(cuts.parents, np.stack([similar[wholes], similar[parts]], axis=1))
    np.maximum.at(altitudes, wholes, cuts.altitudes[tops])
    return hierarchy.raise_to_children(ceil_float32(altitudes), parents)


class _Candidates(NamedTuple):
    """k masks: nodes of one dendrogram, or combinations of them."""

    kind: int  # see ``MaskTree.kinds``
    rles: list[bytes]
    scores: np.ndarray
    stabilities: np.ndarray
    unions: np.ndarray  # see ``_most_similar_nodes``
    omitted: int


def _nodes(tree: PartitionTree, number: int, selected: SelectedNodes, weight: float) -> _Candidates:
    """Candidates from dendrogram ``number``."""
    members = np.full((len(selected.nodes), 3), -1)
    members[:, 0] = selected.nodes
    unions = _unions(tree, number, members)
    rles = tree.rles(selected.nodes)
    return _Candidates(0, rles, weight * selected.scores, selected.stabilities, unions, selected.omitted)


def _combinations(tree: PartitionTree, combined: Combinations, count: int | None) -> _Candidates:
    """Candidates from the coarsest dendrogram, the best ``count``."""
    members, scores = combined.members[:count], COARSE_WEIGHT * combined.scores[:count]
    rles = unite_nodes(tree, members)
    return _Candidates(1, rles, scores, np.zeros(len(rles)), _unions(tree, 0, members), 0)


def _unions(tree: PartitionTree, number: int, members: np.ndarray) -> np.ndarray:
    """(k, 7) int64: the number of a dendrogram, and the intervals of leaves of (k, 3) nodes, -1 for none."""
    bounds = [np.where(members >= 0, ends[members], 0) for ends in tree.intervals]
    intervals = np.stack(bounds, axis=2).reshape(len(members), 6)
    return np.concatenate([np.full((len(members), 1), number), intervals], axis=1).astype(np.int64)


def _positions_of_leaves(united: PartitionTree, finest: PartitionTree) -> np.ndarray:
    """(n,) int32: which position in ``united.order`` each leaf of the finest dendrogram has; -1 without pixels."""
    leaves, first = np.unique(finest.leaves, return_index=True)
    positions = np.full(finest.n_leaves, -1, np.int32)
    positions[leaves] = united.intervals[0][united.leaves.ravel()[first]]
    return positions


def _most_similar_nodes(tree: PartitionTree, positions: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Node of the highest IoU for each of k unions of leaves, the lowest of equal ones.

    A union ``unions[i]`` = (d, low, high, low, high, low, high) has the leaves with ``positions[d]`` from one of the
    lows to below the high after it.
    """
    leaf_areas = np.bincount(tree.leaves.ravel(), minlength=tree.n_leaves)
    low, high = tree.intervals
    return _best_nodes(leaf_areas, tree.order, low, high, tree.areas, positions, unions)


@kernel()
def _best_nodes(
    leaf_areas: np.ndarray,
    order: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    areas: np.ndarray,
    positions: np.ndarray,
    unions: np.ndarray,
) -> np.ndarray:  # pragma: no cover
    best = np.zeros(len(unions), np.int64)
    inside = np.zeros(len(order) + 1, np.int64)  # pixels of the union in the leaves before each position
    for i in range(len(unions)):
        for k in range(len(order)):
            leaf = order[k]
            position = positions[unions[i, 0], leaf]
            is_member = False
            for j in range(1, 7, 2):
                is_member |= unions[i, j] <= position < unions[i, j + 1]
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

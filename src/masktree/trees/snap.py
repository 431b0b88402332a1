"""Masks snapped to the regions of a dendrogram of the same image.

The masks of a small network are blurred; a dendrogram has sharp borders. Each mask is replaced by a union of regions:
the labelling (inside or outside) of all nodes that minimises the number of changed pixels plus a cost for each node
labelled differently from its parent. This is a Potts model on a tree, solved exactly by dynamic programming (our
choice).
"""

from __future__ import annotations

import numpy as np

from masktree.arguments import check_type
from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree

# Cost of a region, as a fraction of the mask's area. Chosen without ground truth, by the recall of pseudo-labels on
# photographs that a small model was not trained on: .54 without snapping; .66, .68, .73, .76, .75 at costs of .01, .03,
# .1, .2, .3. Pseudo-labels of other methods, which are not nodes of the dendrogram, agree (docs/log.md).
REGION_COST = 0.2
MIN_SNAP_IOU = (
    0.5  # with the original mask; below, no union of regions fits it, such as a line, and it stays (our choice)
)


def snap_to_regions(tree: MaskTree, dendrogram: PartitionTree, *, cost: float = REGION_COST) -> MaskTree:
    """The tree with each mask replaced by the union of regions that fits it best.

    A mask whose union has an IoU below ``MIN_SNAP_IOU`` with it stays. Of masks that become equal the one of highest
    score remains. Order, scores and levels are kept; parents are recomputed by coverage.

    Args:
        tree: masks of any origin.
        dendrogram: a dendrogram of the same image, such as that of the method ``masktree``.
        cost: cost of a region as a fraction of the mask's area, at least 0; 0 decides for each leaf independently,
            large values give single regions.

    Returns:
        A tree without dendrogram: its masks need not be nodes.

    Raises:
        InputError: images of different sizes, a negative cost.
    """
    check_type(tree, MaskTree, "a tree")
    check_type(dendrogram, PartitionTree, "a dendrogram")
    if tree.size != dendrogram.size:
        raise InputError(f"expected a dendrogram of the image of the masks, {tree.size}; got one of {dendrogram.size}")
    if len(tree) == 0:
        return tree
    leaves = dendrogram.rles(np.arange(dendrogram.n_leaves))
    inside, fits = closest_regions(rle.cross_intersections(tree.rles, leaves, tree.size), dendrogram, cost)
    rles = [
        new if fit else old for new, old, fit in zip(encode_unions(inside, dendrogram), tree.rles, fits, strict=True)
    ]
    return _replace_masks(tree, rles)


def closest_regions(
    shared: np.ndarray, dendrogram: PartitionTree, cost: float = REGION_COST
) -> tuple[np.ndarray, np.ndarray]:
    """(n, leaves) bool: the leaves whose union fits each of n masks best; (n,) bool: whether their IoU with the mask is
    at least ``MIN_SNAP_IOU``.

    Args:
        shared: (n, leaves) number of pixels of each mask in each leaf.
        dendrogram, cost: as in ``snap_to_regions``.

    Raises:
        InputError: a negative cost.
    """
    if not 0 <= cost < np.inf:
        raise InputError(f"expected a cost of 0 or more; got {cost}; {REGION_COST} is the default")
    sizes = dendrogram.areas[: dendrogram.n_leaves]
    inside = _inside(shared.astype(np.float64), sizes.astype(np.float64), dendrogram.parents, cost)
    intersections, areas = (shared * inside).sum(1), (inside * sizes).sum(1)
    return inside, intersections >= MIN_SNAP_IOU * (shared.sum(1) + areas - intersections)


def encode_unions(inside: np.ndarray, dendrogram: PartitionTree) -> list[bytes]:
    """Run-length strings of n unions of leaves, (n, leaves) bool, from the runs of the leaf map."""
    columns = dendrogram.leaves.T.ravel()
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    ends, leaves = np.append(starts[1:], len(columns)), columns[starts]
    return [rle.encode_runs(starts[union[leaves]], ends[union[leaves]], dendrogram.size) for union in inside]


def _replace_masks(tree: MaskTree, rles: list[bytes]) -> MaskTree:
    """The tree with other masks; of equal masks the one of highest score remains, the first of equal scores."""
    order = np.argsort(-tree.scores, kind="stable")
    best = {rles[i]: i for i in reversed(order)}
    keep = np.sort(np.fromiter(best.values(), np.int64, len(best)))
    kept_rles = [rles[i] for i in keep]
    return MaskTree.from_rles(
        kept_rles,
        tree.size,
        hierarchy.parents_by_coverage(kept_rles, tree.size),
        scores=tree.scores[keep],
        stabilities=tree.stabilities[keep],
        levels=tree.levels[keep],
    )


@kernel()
def _inside(shared: np.ndarray, sizes: np.ndarray, parents: np.ndarray, cost: float) -> np.ndarray:
    """(n, leaves) bool: leaves inside in the best labelling for each mask, from its (n, leaves) ``shared`` pixels.

    Linear in the number of nodes. If both labels cost the same, a node takes that of its parent, the root outside.
    """
    n, leaves = shared.shape
    nodes = len(parents)
    inside = np.zeros((n, leaves), np.bool_)
    errors = np.empty((nodes, 2))  # minimum cost of the subtree of a node labelled outside, inside
    labels = np.empty(nodes, np.int64)
    for mask in range(n):
        change = cost * shared[mask].sum()
        errors[:] = 0.0
        for leaf in range(leaves):
            errors[leaf, 0] = shared[mask, leaf]
            errors[leaf, 1] = sizes[leaf] - shared[mask, leaf]
        for node in range(nodes - 1):  # children come before their parents
            parent = parents[node]
            errors[parent, 0] += min(errors[node, 0], errors[node, 1] + change)
            errors[parent, 1] += min(errors[node, 1], errors[node, 0] + change)
        labels[nodes - 1] = errors[nodes - 1, 1] < errors[nodes - 1, 0]
        for node in range(nodes - 2, -1, -1):
            label = labels[parents[node]]
            labels[node] = label if errors[node, label] <= errors[node, 1 - label] + change else 1 - label
        for leaf in range(leaves):
            inside[mask, leaf] = labels[leaf] == 1
    return inside

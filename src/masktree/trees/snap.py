"""Masks of any origin, drawn anew along the regions of a dendrogram of the same image.

A small network knows what belongs together, and draws it blurred; a dendrogram has the borders, and does not know. The
union of its regions that a mask most likely means is found exactly: the labelling, inside or outside, of all nodes of
the dendrogram with the least sum of pixels that change sides and of a cost for each node that differs from its parent
(a Potts model on a tree, solved by dynamic programming; our choice).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree

# Cost of a region, as a share of the mask's pixels. Chosen without truth, by the labels of photographs that a small
# model was not trained on: their recall is .54 with its masks as they are, .66, .68, .73, .76, .75 with .01, .03, .1,
# .2, .3; labels of other methods, which are no nodes of the dendrogram, agree (docs/log.md).
COST = 0.2
LEAST = 0.5  # IoU with the mask as it was below which that stays: no regions fit it, as with lines (our choice)


def snap_to_regions(tree: MaskTree, dendrogram: PartitionTree, *, cost: float = COST) -> MaskTree:
    """The tree with each mask as the union of regions that it most likely means.

    Order, scores and levels stay; a mask that became the same as a better one is left out; parents follow from the new
    masks by coverage. A mask that no union of regions is like (IoU below ``LEAST``) stays as it was.

    Args:
        tree: masks of any origin.
        dendrogram: a dendrogram of the same image, such as that of the method ``masktree``.
        cost: of a region, as a share of the mask's pixels, 0 or more: 0 decides for each leaf by itself, large values
            give single regions.

    Returns:
        A tree without dendrogram: its masks need not be nodes.

    Raises:
        InputError: images of different sizes, a negative cost.
    """
    if tree.size != dendrogram.size:
        raise InputError(f"expected a dendrogram of the image of the masks, {tree.size}; got one of {dendrogram.size}")
    if len(tree) == 0:
        return tree
    leaves = dendrogram.rles(np.arange(dendrogram.n_leaves))
    inside, fits = closest_regions(rle.cross_intersections(tree.rles, leaves, tree.size), dendrogram, cost)
    rles = [new if fit else old for new, old, fit in zip(_encode(inside, dendrogram), tree.rles, fits, strict=True)]
    return _without_copies(tree, rles)


def closest_regions(shared: np.ndarray, dendrogram: PartitionTree, cost: float = COST) -> tuple[np.ndarray, np.ndarray]:
    """The leaves whose union each of n masks most likely means, (n, leaves) bool, and (n,) bool: whether it is like
    the mask, an IoU of ``LEAST``.

    Args:
        shared: (n, leaves) pixels that each mask has in common with each leaf.
        dendrogram, cost: as in ``snap_to_regions``.

    Raises:
        InputError: a negative cost.
    """
    if not 0 <= cost < np.inf:
        raise InputError(f"expected a cost of 0 or more; got {cost}; {COST} is usual")
    sizes = dendrogram.areas[: dendrogram.n_leaves]
    inside = _inside(shared.astype(np.float64), sizes.astype(np.float64), dendrogram.parents, cost)
    kept, drawn = (shared * inside).sum(1), (inside * sizes).sum(1)
    return inside, kept >= LEAST * (shared.sum(1) + drawn - kept)


def _encode(inside: np.ndarray, dendrogram: PartitionTree) -> list[bytes]:
    """Strings of the unions of leaves of (n, leaves) bool, from the runs of the leaf map."""
    column = dendrogram.leaves.T.ravel()
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    ends, owners = np.append(starts[1:], len(column)), column[starts]
    return [rle.encode_runs(starts[own[owners]], ends[own[owners]], dendrogram.size) for own in inside]


def _without_copies(tree: MaskTree, rles: list[bytes]) -> MaskTree:
    """The tree with these masks; of equal ones that of the highest score, the first of equal scores."""
    order = np.argsort(-tree.scores, kind="stable")
    best = {rles[i]: i for i in reversed(order)}
    keep = np.sort(np.fromiter(best.values(), np.int64, len(best)))
    chosen = [rles[i] for i in keep]
    return MaskTree.from_rles(
        chosen,
        tree.size,
        hierarchy.parents_by_coverage(chosen, tree.size),
        scores=tree.scores[keep],
        stabilities=tree.stabilities[keep],
        levels=tree.levels[keep],
    )


@njit(cache=True, nogil=True)
def _inside(shared, sizes, parents, cost):
    """(n, leaves) bool: the leaves of the best labelling for each mask, by the (n, leaves) pixels it ``shared``.

    Linear in the number of nodes. Where both labels cost the same, a node takes its parent's, the root outside.
    """
    n, leaves = shared.shape
    nodes = len(parents)
    inside = np.zeros((n, leaves), np.bool_)
    errors = np.empty((nodes, 2))  # of everything below a node that is labelled outside, inside
    labels = np.empty(nodes, np.int64)
    for mask in range(n):
        change = cost * shared[mask].sum()
        errors[:] = 0.0
        for leaf in range(leaves):
            errors[leaf, 0] = shared[mask, leaf]
            errors[leaf, 1] = sizes[leaf] - shared[mask, leaf]
        for node in range(nodes - 1):  # children come before their parents
            above = parents[node]
            errors[above, 0] += min(errors[node, 0], errors[node, 1] + change)
            errors[above, 1] += min(errors[node, 1], errors[node, 0] + change)
        labels[nodes - 1] = errors[nodes - 1, 1] < errors[nodes - 1, 0]
        for node in range(nodes - 2, -1, -1):
            own = labels[parents[node]]
            labels[node] = own if errors[node, own] <= errors[node, 1 - own] + change else 1 - own
        for leaf in range(leaves):
            inside[mask, leaf] = labels[leaf] == 1
    return inside

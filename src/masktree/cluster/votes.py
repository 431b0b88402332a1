"""A dendrogram merged anew by votes of masks: leaves that masks have together merge before others.

A dendrogram knows how unlike two neighbouring regions look. Masks of a network know what belongs together although it
looks different, such as a face and its hair, but not where it ends. So each border between two leaves gets a height
between the two: that of the dendrogram, and the share of the masks at the border that end there. Merging by the mean
height of common borders gives a tree whose nodes are things more often (our choice). Without votes it is the tree that
it was: of the borders of an ultrametric tree those at the lowest altitude go first, and their mean is that altitude.
"""

from __future__ import annotations

import numpy as np

from masktree.arguments import check_number
from masktree.cluster.merge import merge_graph
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree

VOTE_WEIGHT = 0.5  # of the votes at a border that all masks speak about (our choice)
SILENCE = 1.0  # sum of scores at which votes have half of their weight: a single mask decides little (our choice)


def leaf_votes(inside: np.ndarray, scores: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far masks have pairs of leaves together, and how many masks say so.

    Args:
        inside: (n, leaves) bool: the leaves of each of n masks.
        scores: (n,) weights of the masks, at least 0.
        edges: (m, 2) pairs of leaves.

    Returns:
        (m,) float64 votes in [0, 1]: of the masks that have one of the two leaves the weighted share that has both; 0
        where there is none. (m,) float64 sum of the weights of these masks.
    """
    if inside.ndim != 2 or scores.shape != inside.shape[:1] or np.any(scores < 0):
        raise InputError(f"expected a score of at least 0 for each of {len(inside)} masks; got {scores.shape}")
    first, second = inside[:, edges[:, 0]], inside[:, edges[:, 1]]
    weights = scores.astype(np.float64)
    together, either = weights @ (first & second), weights @ (first | second)
    return together / np.maximum(either, 1e-12), either


def merge_by_votes(
    tree: PartitionTree, inside: np.ndarray, scores: np.ndarray, *, weight: float = VOTE_WEIGHT
) -> PartitionTree:
    """The leaves of a dendrogram merged anew, by its own altitudes and by masks.

    Args:
        tree: altitudes in [0, 1]; every leaf has pixels.
        inside: (n, leaves) bool: the leaves of each of n masks.
        scores: (n,) weights of the masks, at least 0.
        weight: of the votes against the altitudes, in [0, 1], where many masks speak; 0 gives the same regions.

    Returns:
        ``PartitionTree`` on the same leaves. Merge k has the altitude of merge k before, so that a cut has as many
        regions as it had.

    Raises:
        InputError: altitudes, weight or scores out of range, or a leaf without pixels.
    """
    check_number(weight, "weight", 0, 1)
    n = tree.n_leaves
    if inside.ndim != 2 or inside.shape[1] != n:
        raise InputError(f"expected (masks, {n}) inside, one column per leaf; got {inside.shape}")
    if tree.altitudes[-1] > 1:
        raise InputError(f"expected altitudes in [0, 1]; got up to {tree.altitudes[-1]:.3g}")
    edges, lengths = tree.borders
    votes, voters = leaf_votes(inside, scores, edges)
    trust = weight * voters / (voters + SILENCE)
    merges, _ = merge_graph(
        edges,
        tree.areas[:n],
        image_area=tree.leaves.size,
        boundary=(1 - trust) * tree.border_heights + trust * (1 - votes),
        lengths=lengths,
        histogram_weight=0.0,
        size_power=0.0,
    )
    return PartitionTree.from_merges(tree.leaves, merges, tree.altitudes[n:])

"""Unions of two and three nodes, by sets of leaves and loops over pixels."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from masktree.trees.combinations import WEIGHT
from masktree.trees.dendrogram import PartitionTree


def leaf_sets(tree: PartitionTree) -> list[frozenset[int]]:
    sets = [{leaf} for leaf in range(tree.n_leaves)] + [set() for _ in range(tree.n_leaves - 1)]
    for node in range(len(sets) - 1):
        sets[tree.parents[node]] |= sets[node]
    return [frozenset(leaves) for leaves in sets]


def height(tree: PartitionTree, a: int, b: int) -> float:
    sets = leaf_sets(tree)
    return min(tree.altitudes[node] for node in range(len(sets)) if {a, b} <= sets[node])


def border(tree: PartitionTree, first: frozenset[int], second: frozenset[int]) -> list[float]:
    """Height of each pixel of the common border."""
    rows, columns = tree.size
    heights = []
    for y in range(rows):
        for x in range(columns):
            for other in ((y, x + 1), (y + 1, x)):
                if other[0] < rows and other[1] < columns:
                    a, b = int(tree.leaves[y, x]), int(tree.leaves[other])
                    if (a in first and b in second) or (a in second and b in first):
                        heights.append(height(tree, a, b))
    return heights


def unions(tree: PartitionTree, nodes: np.ndarray, scores: np.ndarray, max_area: float) -> dict[frozenset[int], float]:
    """Score of each union of two or three of the nodes that is no node itself, by its leaves."""
    sets = leaf_sets(tree)
    every = frozenset(range(tree.n_leaves))
    areas = np.bincount(tree.leaves.ravel(), minlength=tree.n_leaves)

    def join(a: frozenset[int], b: frozenset[int], score: float) -> float | None:
        shared = border(tree, a, b)
        both = a | b
        if a & b or not shared or both in sets or sum(areas[leaf] for leaf in both) > max_area * areas.sum():
            return None
        shorter = min(len(border(tree, a, every - a)), len(border(tree, b, every - b)))
        around = border(tree, both, every - both)
        contrast = min(1.0, float(np.mean(around)) / float(np.mean(shared))) if around else 0.0
        return score * float(np.sqrt(len(shared) / shorter)) * contrast**2

    found: dict[frozenset[int], float] = {}
    members = [(sets[node], float(score)) for node, score in zip(nodes, scores, strict=True)]
    for (a, one), (b, two) in combinations(members, 2):
        pair = join(a, b, min(one, two))
        if pair is None:
            continue
        found[a | b] = pair * WEIGHT
        for c, three in members:
            if a | c not in sets and b | c not in sets:
                triplet = join(a | b, c, min(pair * WEIGHT, three))
                if triplet is not None:
                    found[a | b | c] = max(found.get(a | b | c, 0.0), triplet)
    return found

"""Leaves that are parts of one basin, cut by the side of a block.

Steepest descent stops at the side of a block, so a slope that continues beyond it ends in a minimum of its own. Such a
leaf has its lowest pixel on the side, and a lower one faces it. It is joined with the leaf of that pixel before all
merges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components


class Basins(NamedTuple):
    """The graph of n leaves as one of m basins.

    Attributes:
        basin_of: (n,) basin of each leaf.
        merges: (n - m, 2) int64 merges of leaves to basins, as of ``PartitionTree.from_merges``.
        nodes: (m,) int64 node of each basin after these merges.
    """

    basin_of: np.ndarray
    merges: np.ndarray
    nodes: np.ndarray

    @classmethod
    def from_pairs(cls, pairs: np.ndarray, count: int) -> Basins:
        """From (k, 2) pairs of leaves to join."""
        ones = np.ones(len(pairs), np.int8)
        joined = csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        num_basins, basin_of = connected_components(joined, directed=False)
        nodes = np.full(num_basins, -1, np.int64)
        merges = []
        sizes = np.bincount(basin_of)
        single = sizes[basin_of] == 1
        nodes[basin_of[single]] = np.flatnonzero(single)
        for leaf in np.flatnonzero(~single).tolist():
            basin = basin_of[leaf]
            if nodes[basin] < 0:
                nodes[basin] = leaf
            else:
                merges.append((nodes[basin], leaf))
                nodes[basin] = count + len(merges) - 1
        return cls(basin_of, np.array(merges, np.int64).reshape(-1, 2), nodes)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the leaves of each basin of (n, k) float32 values."""
        n = len(self.basin_of)
        members = csr_matrix((np.ones(n, np.float32), (self.basin_of, np.arange(n))), shape=(len(self.nodes), n))
        return np.asarray(members @ values, np.float32)

    def edges(
        self, edges: np.ndarray, strengths: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges between basins, with the mean strength and the sum of the lengths of those between their leaves."""
        ends = np.sort(self.basin_of[edges].astype(np.int64), axis=1)
        between = ends[:, 0] != ends[:, 1]
        keys, edge_of = np.unique(ends[between, 0] * len(self.nodes) + ends[between, 1], return_inverse=True)
        total = np.bincount(edge_of, lengths[between], minlength=len(keys))
        strength = np.bincount(edge_of, (strengths * lengths)[between], minlength=len(keys)) / total
        return np.stack(np.divmod(keys, len(self.nodes)), axis=1), strength, total

    def expand(self, merges: np.ndarray) -> np.ndarray:
        """Merges of basins as merges of leaves: those to basins, then these."""
        num_leaves, num_basins = len(self.basin_of), len(self.nodes)
        first = num_leaves + len(self.merges)
        nodes = np.concatenate([self.nodes, first + np.arange(len(merges))])
        assert len(nodes) == num_basins + len(merges)
        return np.concatenate([self.merges, nodes[merges]])


def continued_leaves(
    leaves: np.ndarray,
    heights: np.ndarray,
    lowest: np.ndarray,
    facing_leaves: np.ndarray,
    facing_heights: np.ndarray,
    *,
    ties: bool,
) -> np.ndarray:
    """(k, 2) pairs of a leaf that continues beyond a side, and the leaf that it continues in.

    Args:
        leaves, heights: (s,) leaf and boundary of the pixels along the side.
        lowest: (s,) lowest boundary of each of these leaves.
        facing_leaves, facing_heights: (s,) of the pixels on the other side.
        ties: whether a pixel also continues in one of equal height, as the pixels of one of two blocks do.
    """
    padded = np.pad(facing_heights, 1, constant_values=np.inf)
    around = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    step = around.argmin(axis=0)
    below = np.take_along_axis(around, step[None], axis=0)[0]
    is_lower = below <= heights if ties else below < heights
    side = np.flatnonzero((heights == lowest) & is_lower)
    return np.stack([leaves[side], facing_leaves[side + step[side] - 1]], axis=1).astype(np.int64)

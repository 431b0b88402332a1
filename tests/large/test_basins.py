"""Basins that the side of a block has cut are joined, and no others."""

from __future__ import annotations

import numpy as np

from masktree.large.basins import Basins, continued_leaves
from masktree.trees.dendrogram import PartitionTree


def test_a_slope_that_ends_at_a_side_continues_in_the_lowest_pixel_that_faces_it():
    leaves, heights = np.array([0, 0, 1, 1, 2]), np.array([0.5, 0.3, 0.2, 0.4, 0.6], np.float32)
    lowest = np.array([0.3, 0.3, 0.1, 0.1, 0.6], np.float32)  # leaf 1 has its minimum inside the block
    facing, facing_heights = np.array([5, 6, 7, 7, 7]), np.array([0.1, 0.9, 0.9, 0.9, 0.6], np.float32)
    arguments = leaves, heights, lowest, facing, facing_heights
    assert continued_leaves(*arguments, ties=False).tolist() == [[0, 5]]  # 0.3 faces 0.1 diagonally
    assert continued_leaves(*arguments, ties=True).tolist() == [[0, 5], [2, 7]]


def test_merges_of_basins_are_merges_of_leaves():
    basins = Basins.from_pairs(np.array([[4, 1], [1, 2]]), 5)  # leaves 1, 2 and 4 are one basin
    assert basins.basin_of.tolist() == [0, 1, 1, 2, 1]
    assert basins.merges.tolist() == [[1, 2], [5, 4]]
    tree = PartitionTree.from_merges(
        np.arange(5, dtype=np.int32)[None], basins.expand(np.array([[0, 2], [1, 3]])), np.array([0, 0, 0.4, 0.8])
    )
    assert tree.cut_at(0.0).tolist() == [[0, 1, 1, 2, 1]]
    assert tree.cut_at(0.4).tolist() == [[0, 1, 1, 0, 1]]
    assert basins.sums(np.eye(5, 2, dtype=np.float32)).tolist() == [[1, 0], [0, 1], [0, 0]]
    edges = np.array([[0, 1], [1, 2], [0, 4], [3, 4]])
    ends, strengths, lengths = basins.edges(edges, np.array([1.0, 9.0, 4.0, 2.0]), np.array([2.0, 5.0, 1.0, 3.0]))
    assert ends.tolist() == [[0, 1], [1, 2]]
    assert strengths.tolist() == [2.0, 2.0]
    assert lengths.tolist() == [3.0, 3.0]

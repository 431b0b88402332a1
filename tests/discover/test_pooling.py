"""One tree from dendrograms at several working sizes: planted coins on a ground of two halves."""

from __future__ import annotations

import numpy as np
import pytest

from masktree import MaskTree
from masktree.discover.pooling import pool_dendrograms
from masktree.trees.dendrogram import PartitionTree

LEFT, RIGHT, COIN = 0, 1, 2


@pytest.fixture
def leaves() -> np.ndarray:
    """The halves of a ground, and a coin in the left one."""
    y, x = np.mgrid[:120, :160]
    leaves = np.where(x < 80, LEFT, RIGHT).astype(np.int32)
    leaves[(y - 60) ** 2 + (x - 40) ** 2 < 25**2] = COIN
    return leaves


@pytest.fixture
def tree(leaves) -> MaskTree:
    """The cuts merge the ground first, the coarser dendrogram the coin with the left half."""
    coarse = PartitionTree.from_merges(leaves, np.array([[LEFT, COIN], [RIGHT, 3]]), np.array([0.2, 0.7]))
    cuts = PartitionTree.from_merges(leaves, np.array([[LEFT, RIGHT], [COIN, 3]]), np.array([0.3, 0.8]))
    image = np.array([[90, 90, 90], [110, 110, 110], [220, 60, 60]], np.uint8)[leaves]
    return pool_dendrograms([coarse, cuts], [160, 320], image, cuts=cuts)


def index_of(tree: MaskTree, mask: np.ndarray) -> int:
    return next(i for i in range(len(tree)) if (tree.mask(i) == mask).all())


def test_masks_are_the_nodes_of_all_dendrograms(tree, leaves):
    for labels in ((COIN,), (LEFT, COIN), (LEFT, RIGHT)):
        index_of(tree, np.isin(leaves, labels))


def test_a_whole_is_one_region_when_the_cuts_have_merged_its_parts(tree, leaves):
    coin, whole = index_of(tree, leaves == COIN), index_of(tree, leaves != RIGHT)
    assert tree.parents[coin] == whole
    assert tree.granularities[coin] == 0
    assert tree.granularities[whole] == pytest.approx(0.8)


def test_pictures_show_the_part_that_the_cuts_show(tree, leaves):
    ground, coin = index_of(tree, leaves != COIN), index_of(tree, leaves == COIN)
    np.testing.assert_array_equal(tree.owners(0.5), np.where(leaves == COIN, coin, ground))
    assert len(np.unique(tree.cut(0.5))) == 2

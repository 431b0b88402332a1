from __future__ import annotations

import numpy as np
import pytest

from masktree import MaskTree
from masktree.cluster.merge import merge_tree
from masktree.errors import InputError
from masktree.trees.candidates import MaskCandidates, find_candidates


@pytest.fixture
def candidates(rng) -> MaskCandidates:
    """Nodes and combinations of a random dendrogram."""
    tree = merge_tree(rng.normal(size=(12, 13, 4)).astype(np.float32))
    return find_candidates(tree.with_altitudes(tree.altitudes / tree.altitudes[-1]), max_masks=None, min_area=2)


def test_leaves_areas_and_masks_agree(candidates):
    tree = MaskTree.from_candidates(candidates)
    assert set(candidates.kinds) == {0, 1}
    np.testing.assert_array_equal(candidates.areas, tree.areas)
    np.testing.assert_array_equal(candidates.kinds, tree.kinds)
    for i in range(len(tree)):
        np.testing.assert_array_equal(candidates.leaves_inside[i][candidates.dendrogram.leaves], tree.mask(i))


def test_a_selection_is_that_of_the_masks(candidates, rng):
    keep = rng.random(len(candidates)) < 0.6
    tree, expected = MaskTree.from_candidates(candidates.select(keep)), MaskTree.from_candidates(candidates)[keep]
    assert tree.rles == expected.rles
    np.testing.assert_array_equal(tree.parents, expected.parents)
    np.testing.assert_array_equal(tree.granularities, expected.granularities)
    assert tree.omitted == (~keep & (candidates.kinds == 0)).sum()
    assert len(candidates.select(np.zeros(len(candidates), np.bool_))) == 0


def test_options_out_of_range_are_refused(candidates):
    with pytest.raises(InputError, match="expected masks as nodes or all; got 'pairs'"):
        find_candidates(candidates.dendrogram, max_masks=None, masks="pairs")
    with pytest.raises(InputError, match="expected max_masks as a whole number of at least 1; got 0"):
        find_candidates(candidates.dendrogram, max_masks=0)

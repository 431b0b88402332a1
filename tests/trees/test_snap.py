from __future__ import annotations

import numpy as np
import pytest

from masktree import MaskTree, PartitionTree
from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.snap import _inside, snap_to_regions
from tests.oracles.regions import least_cost


def quarters(side: int = 40) -> PartitionTree:
    """Four squares; the upper two merge, then the lower two, then all."""
    leaves = np.zeros((side, side), np.int32)
    leaves[:, side // 2 :] += 1
    leaves[side // 2 :] += 2
    return PartitionTree(leaves, np.array([4, 4, 5, 5, 6, 6, 6], np.int32), np.array([0, 0, 0, 0, 0.2, 0.4, 1.0]))


def random_partition(rng: np.random.Generator, size: tuple[int, int], leaves: int) -> PartitionTree:
    """Vertical stripes, merged in any order."""
    width = size[1] // leaves
    labels = np.minimum(np.arange(size[1]) // width, leaves - 1).astype(np.int32)
    alive, merges = list(range(leaves)), []
    for new in range(leaves, 2 * leaves - 1):
        pair = rng.choice(len(alive), 2, replace=False)
        merges.append([alive[k] for k in pair])
        alive = [node for k, node in enumerate(alive) if k not in pair] + [new]
    parents = np.full(2 * leaves - 1, 2 * leaves - 2, np.int32)
    for k, children in enumerate(merges):
        parents[children] = leaves + k
    altitudes = np.concatenate([np.zeros(leaves), np.linspace(0.1, 1, leaves - 1)])
    return PartitionTree(np.broadcast_to(labels, size).copy(), parents, altitudes)


def tree_of(*masks: np.ndarray, scores: list[float] | None = None) -> MaskTree:
    return MaskTree.from_masks(np.stack(masks), scores=None if scores is None else np.array(scores, np.float32))


@pytest.mark.parametrize("cost", [0.0, 0.05, 0.2, 0.7])
def test_snapped_labels_equal_the_exhaustive_optimum(rng, cost):
    for _ in range(15):
        dendrogram = random_partition(rng, (4, 60), 5)
        sizes = dendrogram.areas[:5].astype(float)
        shared = np.floor(rng.random((1, 5)) * (sizes + 1))
        inside = _inside(shared, sizes, dendrogram.parents, cost)[0]
        _, best = least_cost(shared[0].tolist(), sizes.tolist(), dendrogram.parents.tolist(), cost)
        assert tuple(inside.astype(int)) in best


def test_a_rough_mask_gets_the_borders_of_its_regions(rng):
    dendrogram = quarters()
    upper = np.zeros((40, 40), bool)
    upper[:22, :] = rng.random((22, 40)) < 0.9  # a little too far down, with holes
    square = np.zeros((40, 40), bool)
    square[3:20, 22:38] = True
    three = np.zeros((40, 40), bool)
    three[:, :20] = three[21:, :] = True
    drawn = snap_to_regions(tree_of(upper, square, three, scores=[0.9, 0.8, 0.3]), dendrogram)
    expected = [dendrogram.leaves < 2, dendrogram.leaves == 1, dendrogram.leaves != 1]
    for k, mask in enumerate(expected):
        np.testing.assert_array_equal(drawn.mask(k), mask)
    assert drawn.parents.tolist() == [-1, 0, -1]
    np.testing.assert_allclose(drawn.scores, [0.9, 0.8, 0.3])


def test_whatever_the_masks_results_are_unions_of_leaves_or_as_they_were(rng):
    for _ in range(10):
        dendrogram = random_partition(rng, (12, 70), 7)
        masks = np.zeros((8, 12, 70), bool)
        for mask in masks:
            (y, y_end), (x, x_end) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (12, 70))
            mask[y:y_end, x:x_end] = True
        tree = tree_of(*masks, scores=rng.random(8).tolist())
        drawn = snap_to_regions(tree, dendrogram)
        assert 0 < len(drawn) <= 8
        assert len(set(drawn.rles)) == len(drawn)
        hierarchy.depths(drawn.parents)
        for text in drawn.rles:
            mask = rle.decode(text, drawn.size)
            whole = [len(np.unique(mask[dendrogram.leaves == leaf])) == 1 for leaf in range(7)]
            assert all(whole) or text in tree.rles
        again = snap_to_regions(drawn, dendrogram, cost=0)
        assert {text for text in drawn.rles if text not in tree.rles} <= set(again.rles)


def test_masks_that_no_regions_fit_stay_and_duplicates_are_removed():
    dendrogram = quarters()
    line = np.zeros((40, 40), bool)
    line[19:21] = True
    first, second = np.zeros((2, 40, 40), bool)
    first[:20, 1:20] = True
    second[1:20, :19] = True
    drawn = snap_to_regions(tree_of(first, line, second, scores=[0.4, 0.5, 0.8]), dendrogram)
    assert len(drawn) == 2
    np.testing.assert_array_equal(drawn.mask(0), line)
    np.testing.assert_array_equal(drawn.mask(1), dendrogram.leaves == 0)
    np.testing.assert_allclose(drawn.scores, [0.5, 0.8])


def test_snapping_handles_no_mask_one_leaf_and_wrong_input():
    empty = MaskTree.from_rles([], (40, 40), np.zeros(0, np.int32))
    assert snap_to_regions(empty, quarters()) is empty
    flat = PartitionTree(np.zeros((40, 40), np.int32), np.zeros(1, np.int32), np.zeros(1))
    small, large = np.zeros((2, 40, 40), bool)
    small[:10, :10] = large[:, :35] = True
    drawn = snap_to_regions(tree_of(small, large), flat)
    assert drawn.areas.tolist() == [100, 1600]
    with pytest.raises(InputError, match=r"masks, \(40, 40\); got one of \(20, 20\)"):
        snap_to_regions(empty, quarters(20))
    for cost in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cost of 0 or more"):
            snap_to_regions(tree_of(small), quarters(), cost=cost)

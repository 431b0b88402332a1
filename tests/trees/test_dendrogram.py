from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from masktree.cluster.merge import merge_tree
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree, renumber


@pytest.fixture
def tree(rng) -> PartitionTree:
    return merge_tree(rng.normal(size=(7, 9, 4)).astype(np.float32))


def nodes_by_hand(tree: PartitionTree) -> list[set[int]]:
    members: list[set[int]] = [{i} for i in range(tree.n_leaves)] + [set() for _ in range(tree.n_leaves - 1)]
    for node in range(len(members) - 1):
        members[tree.parents[node]] |= members[node]
    return members


def test_every_cut_partitions_the_image_and_coarse_cuts_are_unions_of_finer_ones(tree):
    finer = None
    for theta in (1.5, 0.8, 0.5, 0.3, 0.1, -0.3, -2.0):
        labels = tree.cut(theta)
        assert labels.shape == (7, 9)
        assert labels.dtype == np.int32
        assert set(np.unique(labels)) == set(range(labels.max() + 1))
        if finer is not None:
            assert all(len(np.unique(labels[finer == region])) == 1 for region in range(finer.max() + 1))
        finer = labels
    assert finer is not None
    assert finer.max() == 0


def test_a_cut_at_an_altitude_is_that_at_one_minus_it(tree):
    n = tree.n_leaves
    for theta in (1.5, 0.8, 0.3, -0.3, *(1 - tree.altitudes[n::5])):
        np.testing.assert_array_equal(tree.cut(theta), tree.cut_at(1 - theta))
    for node in range(n, 2 * n - 1):
        assert tree.cut_at(tree.altitudes[node]).max() + 1 == n - np.sum(tree.altitudes[n:] <= tree.altitudes[node])
        below = np.nextafter(tree.altitudes[node], 0)
        assert tree.cut_at(below).max() + 1 == n - np.sum(tree.altitudes[n:] < tree.altitudes[node])
    with pytest.raises(InputError, match="an altitude; got NaN"):
        tree.cut_at(float("nan"))


def test_arrays_are_read_only_and_those_of_the_caller_are_not():
    given = np.array([[0, 1, 2]], np.int32), np.array([3, 3, 4, 4, 4], np.int32), np.array([0, 0, 0, 0.2, 0.5])
    tree = PartitionTree(*given)
    for name, array in zip(("leaves", "parents", "altitudes"), given, strict=True):
        with pytest.raises(ValueError, match="read-only"):
            getattr(tree, name)[..., 0] = 0
        array[..., 0] = array[..., 0]
        assert np.shares_memory(array, getattr(tree, name))
    assert tree != PartitionTree(*given)
    assert len({tree, tree}) == 1


def test_cut_count_gives_exactly_that_many_regions(tree):
    for k in (1, 2, 17, 62, 63):
        assert len(np.unique(tree.cut_count(k))) == k
    for k in (0, 64):
        with pytest.raises(InputError, match="1 <= k <= 63"):
            tree.cut_count(k)


def test_regions_are_numbered_by_first_appearance(tree):
    labels = tree.cut_count(9).ravel()
    first = [int(np.argmax(labels == k)) for k in range(9)]
    assert first == sorted(first)
    np.testing.assert_array_equal(renumber(np.array([[7, 7, 2], [2, 0, 7]], np.int32)), [[0, 0, 1], [1, 2, 0]])


def test_masks_areas_and_rles_agree_with_sets_of_leaves(tree):
    rles = tree.rles(np.arange(len(tree.parents)))
    for node, members in enumerate(nodes_by_hand(tree)):
        expected = np.isin(tree.leaves, list(members))
        np.testing.assert_array_equal(tree.mask(node), expected)
        assert tree.areas[node] == expected.sum()
        assert rles[node] == coco.encode(np.asfortranarray(expected.astype(np.uint8)))["counts"]


def test_children_are_inside_their_parents(tree):
    low, high = tree.intervals
    up = tree.parents
    assert np.all(low[up] <= low)
    assert np.all(high[up] >= high)


@pytest.mark.parametrize("level", [0.05, 0.3, 0.6, 0.9, 1.2])
def test_contours_above_a_level_enclose_the_regions_of_the_cut(tree, level):
    """The definition of an ultrametric contour map: components below the level are the cut at that altitude."""
    from scipy import ndimage

    components, _ = ndimage.label(tree.ucm(doubled=True) <= np.float32(level))
    regions = components[1::2, 1::2]
    cut = tree.cut(1 - level)
    pairs = np.unique(np.stack([regions.ravel(), cut.ravel()]), axis=1).shape[1]
    assert pairs == len(np.unique(regions)) == cut.max() + 1


def test_pixel_contours_carry_the_altitude_of_the_common_ancestor(tree):
    members = nodes_by_hand(tree)
    contours = tree.ucm()
    for y, x in [(0, 0), (3, 4), (6, 2), (2, 8)]:
        expected = 0.0
        for v, u in ((y, x + 1), (y + 1, x)):
            if v < 7 and u < 9:
                both = {int(tree.leaves[y, x]), int(tree.leaves[v, u])}
                node = next(i for i, m in enumerate(members) if both <= m)
                expected = max(expected, float(tree.altitudes[node]))
        assert contours[y, x] == pytest.approx(expected, abs=1e-6)
    assert contours[-1, -1] == 0


def test_a_single_leaf_is_a_tree():
    tree = PartitionTree(np.zeros((3, 4), np.int32), np.zeros(1, np.int32), np.zeros(1))
    assert tree.cut(0.5).max() == 0
    assert tree.ucm().shape == (3, 4)
    assert tree.ucm(doubled=True).shape == (7, 9)
    assert tree.areas.tolist() == [12]


def test_refuses_what_is_not_a_tree():
    leaves = np.array([[0, 1, 2]], np.int32)
    good = np.array([3, 3, 4, 4, 4], np.int32)
    altitudes = np.array([0, 0, 0, 0.2, 0.5])
    PartitionTree(leaves, good, altitudes)
    with pytest.raises(InputError, match="odd length"):
        PartitionTree(leaves, good[:4], altitudes[:4])
    with pytest.raises(InputError, match="later merge node"):
        PartitionTree(leaves, np.array([3, 3, 4, 2, 4], np.int32), altitudes)
    with pytest.raises(InputError, match="two children"):
        PartitionTree(leaves, np.array([4, 4, 4, 4, 4], np.int32), altitudes)
    with pytest.raises(InputError, match="never fall"):
        PartitionTree(leaves, good, np.array([0, 0, 0, 0.5, 0.2]))
    with pytest.raises(InputError, match="leaf labels"):
        PartitionTree(np.array([[0, 1, 3]], np.int32), good, altitudes)
    for index, name in enumerate(("leaves", "parents", "altitudes")):
        values = [leaves, good, altitudes]
        values[index] = values[index].tolist()
        with pytest.raises(InputError, match=f"{name} as a NumPy array; got list"):
            PartitionTree(*values)
    with pytest.raises(InputError, match="NaN"):
        PartitionTree(leaves, good, altitudes).cut(float("nan"))

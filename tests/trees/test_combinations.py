from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from masktree import MaskTree
from masktree.cluster.merge import merge_tree
from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.trees import combinations as module
from masktree.trees import rle
from masktree.trees.combinations import combine_nodes, enumerate_unions
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.draw import overlay
from masktree.trees.node_selection import select_nodes
from tests.oracles.combinations import leaf_sets, unions


def random_tree(rng, size=(6, 7)) -> PartitionTree:
    """Leaves of one to four pixels, altitudes in [0, 1]."""
    tree = merge_tree(rng.normal(size=(*size, 4)).astype(np.float32))
    return tree.with_altitudes(tree.altitudes / tree.altitudes[-1])


@pytest.fixture
def halves() -> PartitionTree:
    """Two grounds side by side, with a disc over both whose halves join their grounds first: leaves 0 and 1 are the
    grounds, 2 and 3 the halves."""
    y, x = np.mgrid[:40, :60]
    leaves = (x >= 30).astype(np.int32)
    leaves[(y - 20) ** 2 + (x - 29.5) ** 2 < 12**2] += 2
    return PartitionTree.from_merges(leaves, np.array([[0, 2], [1, 3], [4, 5]]), np.array([0.5, 0.6, 0.7]))


@pytest.fixture
def tree(rng) -> MaskTree:
    """Nodes and combinations of a random dendrogram."""
    return MaskTree.from_dendrogram(random_tree(rng, (14, 16)), min_area=2, masks="all")


def test_an_object_whose_halves_join_other_regions_first_is_found(halves):
    disc = halves.leaves >= 2
    nodes = MaskTree.from_dendrogram(halves)
    assert not any((nodes.mask(i) == disc).all() for i in range(len(nodes)))
    tree = MaskTree.from_dendrogram(halves, masks="all")
    found = [i for i in range(len(tree)) if (tree.mask(i) == disc).all()]
    assert [tree.kinds[i] for i in found] == [1]
    assert tree.record(found[0])["kind"] == "combination"
    assert tree.stabilities[found[0]] == 0


def test_a_tree_of_nodes_has_no_combinations(halves):
    tree = MaskTree.from_dendrogram(halves)
    assert not tree.kinds.any()
    assert tree.nodes is tree
    assert all(record["kind"] == "node" for record in tree.masks())


@pytest.mark.parametrize("max_area", [1.0, 0.4])
def test_unions_are_those_of_a_naive_enumeration(rng, max_area):
    tree = random_tree(rng, (5, 5))
    nodes = rng.permutation(len(tree.parents) - 1)[:14]
    scores = rng.random(14)
    found = enumerate_unions(tree, nodes, scores, max_area=max_area)
    sets = leaf_sets(tree)
    by_leaves = {
        frozenset().union(*(sets[nodes[i]] for i in row if i >= 0)): score
        for row, score in zip(found.members, found.scores, strict=True)
    }
    expected = unions(tree, nodes, scores, max_area)
    assert len(by_leaves) == len(found.scores)  # none twice
    assert (found.members[:, 2] >= 0).any()
    assert by_leaves.keys() == expected.keys()
    assert not by_leaves.keys() & set(sets)
    for leaves, score in expected.items():
        assert by_leaves[leaves] == pytest.approx(score, abs=1e-6)
    assert (np.diff(found.scores) <= 0).all()


def test_combinations_lie_in_their_parents_and_hold_no_children(tree):
    assert tree.kinds.any()
    assert (np.diff(tree.kinds) >= 0).all()  # nodes first
    areas = tree.areas
    for i in np.flatnonzero(tree.kinds):
        assert not (tree.parents == i).any()
        containing = [j for j in range(len(tree)) if tree.kinds[j] == 0 and not (tree.mask(i) & ~tree.mask(j)).any()]
        assert tree.parents[i] == (min(containing, key=lambda j: areas[j]) if containing else -1)
        if tree.parents[i] >= 0:
            assert tree.granularities[i] <= tree.granularities[tree.parents[i]]


def test_no_combination_resembles_a_node_or_a_better_one(tree):
    ious = rle.iou(tree.rles, tree.rles, tree.size)
    for i, j in combinations(range(len(tree)), 2):
        assert ious[i, j] <= 0.9
    strict = MaskTree.from_dendrogram(tree.dendrogram, min_area=2, masks="all", duplicate_iou=0.5)
    assert (np.triu(rle.iou(strict.rles, strict.rles, tree.size), 1) <= 0.5).all()


@pytest.mark.parametrize("max_masks", [1, 7, 60])
def test_the_best_masks_of_both_kinds_are_kept(tree, max_masks):
    every = MaskTree.from_dendrogram(tree.dendrogram, min_area=2, max_masks=None)
    few = MaskTree.from_dendrogram(tree.dendrogram, min_area=2, max_masks=max_masks, masks="all")
    assert len(few) == min(max_masks, len(tree))
    assert few.omitted == len(every) - len(few.nodes)
    left_out = set(every.rles) - set(few.nodes.rles)
    worst = few.scores.min()
    assert all(every.scores[i] <= worst for i in range(len(every)) if every.rles[i] in left_out)


def test_the_nodes_are_the_tree_without_combinations(tree):
    nodes = tree.nodes
    assert nodes.rles == tree.rles[: len(nodes)]
    np.testing.assert_array_equal(nodes.parents, tree.parents[: len(nodes)])
    np.testing.assert_array_equal(nodes.levels, tree.levels[: len(nodes)])
    for granularity in (0.2, 0.6):
        np.testing.assert_array_equal(tree.cut(granularity), nodes.cut(granularity))
        np.testing.assert_array_equal(tree.owners(granularity), nodes.owners(granularity))
    np.testing.assert_array_equal(tree.instances(min_score=0), nodes.instances(min_score=0))
    assert tree.at(3, 4) == nodes.at(3, 4)
    image = np.zeros((*tree.size, 3), np.uint8)
    np.testing.assert_array_equal(overlay(image, tree), overlay(image, nodes))
    assert f"of these {tree.kinds.sum()} combinations" in repr(tree)


def test_combinations_are_there_for_those_who_ask(tree):
    everything = tree.at(3, 4, masks="all")
    assert sorted(everything) == [i for i in range(len(tree)) if tree.mask(i)[4, 3]]
    assert set(tree.at(3, 4)) < set(everything)
    flat = replace(tree, scores=np.where(tree.kinds == 1, 0.9, 0.1).astype(np.float32))
    assert flat.instances(min_score=0.5).max() == 0
    assert flat.instances(min_score=0.5, masks="all").max() > 0
    with pytest.raises(InputError, match="expected masks as nodes or all; got 'pairs'"):
        tree.at(3, 4, masks="pairs")
    with pytest.raises(InputError, match="expected masks as nodes or all; got None"):
        MaskTree.from_dendrogram(tree.dendrogram, masks=None)


def test_kinds_survive_files_and_selection(tree, tmp_path):
    tree.save(tmp_path / "tree.json")
    np.testing.assert_array_equal(MaskTree.load(tmp_path / "tree.json").kinds, tree.kinds)
    keep = np.arange(len(tree)) % 2 == 0
    np.testing.assert_array_equal(tree[keep].kinds, tree.kinds[keep])
    edited = EditedTree.open(tmp_path / "tree.json")
    assert edited.tree.rles == tree.nodes.rles


def test_a_combination_is_nobodys_parent(tree):
    parents = tree.parents.copy()
    parents[0] = len(tree) - 1
    with pytest.raises(InputError, match="expected nodes as parents; got another mask"):
        replace(tree, parents=parents)
    with pytest.raises(InputError, match="expected kinds in 0"):
        replace(tree, kinds=np.full(len(tree), 3, np.int8))


def test_only_the_best_nodes_and_pairs_are_combined(rng, monkeypatch):
    tree = random_tree(rng, (14, 16))
    selected = select_nodes(tree, min_area=2, max_area=0.9, max_masks=None, duplicate_iou=0.9)
    limits = {"max_area": 0.9, "max_masks": None, "duplicate_iou": 0.9}
    monkeypatch.setattr(module, "NUM_NODES", 12)
    _, few = combine_nodes(tree, selected, **limits)
    best = selected.nodes[np.argsort(-selected.scores, kind="stable")[:12]]
    assert len(few.scores) > 0
    assert np.isin(few.members[few.members >= 0], best).all()
    monkeypatch.setattr(module, "NUM_PAIRS", 0)
    _, pairs = combine_nodes(tree, selected, **limits)
    assert (pairs.members[:, 2] == -1).all()
    assert len(pairs.scores) > 0

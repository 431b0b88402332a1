"""Merging by votes: against the definition of a vote, and on a thing whose halves do not look alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.cluster.merge import merge_regions
from masktree.cluster.votes import leaf_votes, merge_by_votes
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree


@pytest.fixture
def noise_tree() -> PartitionTree:
    """Dendrogram of the basins of smooth noise, altitudes in [0, 1]."""
    boundary = ndimage.gaussian_filter(np.random.default_rng(0).random((60, 50)), 1.5).astype(np.float32)
    boundary = (boundary - boundary.min()) / np.ptp(boundary)
    leaves = watershed_leaves(boundary, min_area=4)
    edges, strengths, lengths = adjacency(leaves, boundary)
    areas = np.bincount(leaves.ravel()).astype(np.float64)
    return merge_regions(leaves, edges, areas, boundary=strengths, lengths=lengths, size_power=0.0)


@pytest.fixture
def two_tone() -> PartitionTree:
    """A thing of two stripes, 1 and 2, in a ground of two, 0 and 3: each stripe joins the ground beside it first."""
    leaves = np.repeat(np.arange(4, dtype=np.int32), 10)[None].repeat(20, axis=0)
    return PartitionTree.from_merges(leaves, np.array([[0, 1], [2, 3], [4, 5]]), np.array([0.3, 0.4, 0.6]))


THING = np.array([[False, True, True, False]])


def nodes_of(tree: PartitionTree) -> set[frozenset[int]]:
    return {frozenset(np.unique(tree.leaves[tree.mask(node)]).tolist()) for node in range(len(tree.parents))}


def test_a_vote_is_the_share_of_the_masks_at_a_border_that_have_both_sides(rng):
    inside, scores = rng.random((30, 8)) < 0.3, rng.random(30)
    edges = np.array([[a, b] for a in range(8) for b in range(a + 1, 8)])
    votes, voters = leaf_votes(inside, scores, edges)
    for (a, b), vote, total in zip(edges, votes, voters, strict=True):
        speaking = [k for k in range(30) if inside[k, a] or inside[k, b]]
        together = sum(scores[k] for k in speaking if inside[k, a] and inside[k, b])
        assert total == pytest.approx(sum(scores[k] for k in speaking))
        assert vote == pytest.approx(together / total)
    silent = leaf_votes(np.zeros((3, 8), bool), np.ones(3), edges)
    assert not silent[0].any()
    assert not silent[1].any()


def test_without_votes_the_regions_stay(noise_tree, rng):
    n = noise_tree.n_leaves
    masks, scores = rng.random((5, n)) < 0.4, np.ones(5)
    for tree in (
        merge_by_votes(noise_tree, masks, scores, weight=0.0),
        merge_by_votes(noise_tree, np.zeros((0, n), bool), np.zeros(0)),
        merge_by_votes(noise_tree, masks, np.zeros(5)),
    ):
        np.testing.assert_array_equal(tree.altitudes, noise_tree.altitudes)
        for altitude in np.linspace(0, 1, 12):
            np.testing.assert_array_equal(tree.cut_at(altitude), noise_tree.cut_at(altitude))
    assert nodes_of(merge_by_votes(noise_tree, masks, scores, weight=1.0)) != nodes_of(noise_tree)


def test_what_masks_have_together_becomes_a_node(two_tone):
    assert frozenset({1, 2}) not in nodes_of(two_tone)
    tree = merge_by_votes(two_tone, THING.repeat(3, axis=0), np.ones(3))
    assert frozenset({1, 2}) in nodes_of(tree)
    np.testing.assert_array_equal(tree.altitudes, two_tone.altitudes)
    np.testing.assert_array_equal(tree.leaves, two_tone.leaves)
    weak = merge_by_votes(two_tone, THING, np.array([0.05]))  # a mask that is hardly believed
    assert nodes_of(weak) == nodes_of(two_tone)


def test_wrong_votes_are_refused(two_tone):
    with pytest.raises(InputError, match=r"expected \(masks, 4\) inside, one column per leaf; got \(1, 3\)"):
        merge_by_votes(two_tone, THING[:, :3], np.ones(1))
    for scores in (np.ones(2), -np.ones(1)):
        with pytest.raises(InputError, match="score of at least 0 for each of 1 masks"):
            merge_by_votes(two_tone, THING, scores)
    with pytest.raises(InputError, match=r"expected weight in \[0, 1\]"):
        merge_by_votes(two_tone, THING, np.ones(1), weight=2.0)
    with pytest.raises(InputError, match=r"altitudes in \[0, 1\]; got up to 6"):
        merge_by_votes(two_tone.with_altitudes(10 * two_tone.altitudes), THING, np.ones(1))

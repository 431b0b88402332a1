"""The hierarchy by volume: against its definition, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.cluster.merge import merge_regions
from masktree.cluster.volume import merge_by_volume
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree


@pytest.fixture
def noise_tree() -> tuple[PartitionTree, np.ndarray, np.ndarray]:
    """Dendrogram of the basins of smooth noise, altitudes in [0, 1], with the edges and strengths of its leaves."""
    boundary = ndimage.gaussian_filter(np.random.default_rng(0).random((60, 50)), 1.5).astype(np.float32)
    boundary = (boundary - boundary.min()) / np.ptp(boundary)
    leaves = watershed_leaves(boundary, min_area=4)
    edges, strengths, lengths = adjacency(leaves, boundary)
    areas = np.bincount(leaves.ravel()).astype(np.float64)
    tree = merge_regions(leaves, edges, areas, boundary=strengths, lengths=lengths, size_power=0.0)
    return tree, edges, strengths


@pytest.mark.parametrize(("attribute", "power"), [("volume", 1), ("energy", 2)])
def test_regions_are_what_is_connected_by_merges_up_to_a_volume(noise_tree, attribute, power):
    """The definition, literally: of each merge the weakest edge between its two sides, kept up to a volume."""
    tree, edges, strengths = noise_tree
    ordered = merge_by_volume(tree, edges, strengths, attribute=attribute)
    links, volumes = [], []
    for node, (first, second) in enumerate(tree.children, tree.n_leaves):
        sides = [np.unique(tree.leaves[tree.mask(side)]) for side in (first, second)]
        across = (np.isin(edges[:, 0], sides[0]) & np.isin(edges[:, 1], sides[1])) | (
            np.isin(edges[:, 1], sides[0]) & np.isin(edges[:, 0], sides[1])
        )
        candidates = np.flatnonzero(across)
        links.append(edges[candidates[np.argmin(strengths[candidates])]])
        volumes.append(tree.altitudes[node] ** power * min(tree.areas[first], tree.areas[second], 0.02 * 60 * 50))
    for kept in (0, 5, 20, len(links) // 2, len(links)):
        graph = np.eye(tree.n_leaves, dtype=bool)
        for link in np.argsort(volumes, kind="stable")[:kept]:
            graph[links[link][0], links[link][1]] = graph[links[link][1], links[link][0]] = True
        components = connected_components(csr_matrix(graph), directed=False)[1]
        labels = ordered.cut_count(tree.n_leaves - kept)
        pairs = np.unique(np.stack([labels.ravel(), components[tree.leaves].ravel()]), axis=1).shape[1]
        assert pairs == labels.max() + 1 == len(np.unique(components))


def test_regions_are_connected_and_altitudes_calibrated(noise_tree):
    tree, edges, strengths = noise_tree
    ordered = merge_by_volume(tree, edges, strengths)
    assert 0 <= ordered.altitudes[ordered.n_leaves] < ordered.altitudes[-1] < 1
    assert np.all(np.diff(ordered.altitudes[ordered.n_leaves :]) >= 0)
    for node in range(len(ordered.parents)):  # basins may hang together at corners
        assert ndimage.label(ordered.mask(node), np.ones((3, 3)))[1] == 1


def test_specks_are_merged_before_a_faint_object():
    """Three specks of four pixels with borders of .6 on one ground, and an object of 100 pixels with one of .3."""
    leaves = np.zeros((30, 30), np.int32)
    leaves[10:20, 10:20] = 1
    for speck, (y, x) in enumerate([(2, 2), (3, 20), (25, 8)], 2):
        leaves[y : y + 2, x : x + 2] = speck
    edges, strengths = np.array([[0, k] for k in range(1, 5)]), np.array([0.3, 0.6, 0.6, 0.6])
    by_contrast = merge_regions(leaves, edges, np.bincount(leaves.ravel()), boundary=strengths, size_power=0.0)
    assert len(np.unique(by_contrast.cut_count(2)[10:20, 10:20])) == 1 < len(np.unique(by_contrast.cut_count(2)))
    assert by_contrast.cut_count(2)[15, 15] == by_contrast.cut_count(2)[0, 0]
    labels = merge_by_volume(by_contrast, edges, strengths).cut_count(2)
    assert np.array_equal(labels == 1, leaves == 1)


def test_a_wide_faint_piece_of_ground_is_merged_before_an_object_by_energy_alone():
    """A piece of ground of 400 pixels with a border of .1 beside an object of 49 pixels with one of .6."""
    leaves = np.zeros((200, 200), np.int32)
    leaves[:20, :20], leaves[30:37, 30:37] = 1, 2
    edges, strengths = np.array([[0, 1], [0, 2]]), np.array([0.1, 0.6])
    tree = merge_regions(leaves, edges, np.bincount(leaves.ravel()), boundary=strengths, size_power=0.0)
    by_volume = merge_by_volume(tree, edges, strengths).cut_count(2)
    by_energy = merge_by_volume(tree, edges, strengths, attribute="energy").cut_count(2)
    assert np.array_equal(by_volume == by_volume[0, 0], leaves == 1)
    assert np.array_equal(by_energy == by_energy[30, 30], leaves == 2)


@pytest.mark.parametrize("attribute", ["volume", "energy"])
def test_what_is_larger_than_a_small_thing_is_merged_by_contrast(attribute):
    """A third of the image with a border of .3 beside an object of a fiftieth with one of .4."""
    leaves = np.zeros((30, 30), np.int32)
    leaves[:10], leaves[20:25, 20:24] = 1, 2
    edges, strengths = np.array([[0, 1], [0, 2]]), np.array([0.3, 0.4])
    tree = merge_regions(leaves, edges, np.bincount(leaves.ravel()), boundary=strengths, size_power=0.0)
    ordered = merge_by_volume(tree, edges, strengths, attribute=attribute)
    assert np.array_equal(ordered.cut_count(2) == ordered.cut_count(2)[20, 20], leaves == 2)
    assert ordered.altitudes[-2:] == pytest.approx(np.sqrt(tree.altitudes[-2:]))


@pytest.mark.parametrize("number", [1, 2])
def test_trees_of_few_leaves(number):
    leaves = np.arange(number, dtype=np.int32)[None]
    edges, strengths = np.array([[0, 1]])[: number - 1], np.ones(number - 1)
    tree = PartitionTree.from_merges(leaves, edges.copy(), 0.5 * strengths)
    assert merge_by_volume(tree, edges, strengths).n_leaves == number


def test_wrong_input_is_an_input_error(noise_tree):
    tree, edges, strengths = noise_tree
    with pytest.raises(InputError, match="expected altitudes in"):
        merge_by_volume(tree.with_altitudes(2 * tree.altitudes + 0.5 * (tree.altitudes > 0)), edges, strengths)
    with pytest.raises(InputError, match="expected attribute as volume or energy; got 'area'"):
        merge_by_volume(tree, edges, strengths, attribute="area")
    with pytest.raises(InputError, match="expected edges of shape"):
        merge_by_volume(tree, edges[:-1], strengths)
    with pytest.raises(InputError, match="expected an edge for each"):
        merge_by_volume(tree, edges[:3], strengths[:3])

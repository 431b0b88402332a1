"""Leaves: every pixel in one connected basin, borders on the ridges, adjacency as a naive count finds it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.errors import InputError


def noise(rng, shape, sigma=2.0):
    return gaussian_filter(rng.random(shape), sigma).astype(np.float32)


def is_partition(labels):
    return labels.dtype == np.int32 and np.bincount(labels.ravel()).min() > 0 and labels.min() == 0


@pytest.mark.parametrize("shape", [(60, 41), (1, 50), (50, 1), (3, 3), (1, 1)])
def test_leaves_are_connected_and_cover_every_pixel(rng, shape):
    leaves = watershed_leaves(noise(rng, shape), min_area=4)
    assert leaves.shape == shape
    assert is_partition(leaves)
    for region in range(leaves.max() + 1):
        assert label(leaves == region, structure=np.ones((3, 3)))[1] == 1


def test_borders_lie_on_planted_ridges():
    y, x = np.mgrid[:40, :60]
    ridges = np.maximum(np.exp(-((x - 19.6) ** 2) / 8), np.exp(-((y - 25.4) ** 2) / 8)).astype(np.float32)
    leaves = watershed_leaves(ridges, min_area=30)
    expected = (x > 19.6) + 2 * (y > 25.4)
    assert leaves.max() == 3
    for region in range(4):
        assert len(np.unique(leaves[expected == region])) == 1


def test_flat_map_is_one_leaf():
    assert watershed_leaves(np.full((7, 9), 0.3, np.float32)).max() == 0


def test_area_and_number_of_leaves_are_bounded(rng):
    levels = noise(rng, (80, 90), 1.5)
    plain = watershed_leaves(levels, min_area=1)
    large = watershed_leaves(levels, min_area=25)
    few = watershed_leaves(levels, min_area=1, max_leaves=12)
    assert np.bincount(large.ravel()).min() >= 25
    assert 1 < few.max() + 1 <= 12 < large.max() + 1 < plain.max() + 1
    for coarse in (large, few):  # uniting only: each fine basin lies in one coarse leaf
        pairs = np.unique(np.stack([plain.ravel(), coarse.ravel()]), axis=1)
        assert pairs.shape[1] == plain.max() + 1
        assert is_partition(coarse)


def test_small_basins_merge_across_their_lowest_pass():
    levels = np.array([[0.0, 0.1, 0.9, 0.2, 0.5, 0.1, 0.0]], np.float32)
    assert watershed_leaves(levels, min_area=1).max() == 2
    leaves = watershed_leaves(levels, min_area=3)[0]
    assert leaves[3] == leaves[5] != leaves[1]


def test_adjacency_matches_a_naive_count(rng):
    levels = noise(rng, (25, 31), 1.0)
    leaves = watershed_leaves(levels, min_area=3)
    edges, strengths, lengths = adjacency(leaves, levels)
    naive: dict[tuple[int, int], list[float]] = {}
    for y in range(25):
        for x in range(31):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v < 25 and u < 31 and leaves[y, x] != leaves[v, u]:
                    pair = tuple(sorted((int(leaves[y, x]), int(leaves[v, u]))))
                    naive.setdefault(pair, []).append(max(levels[y, x], levels[v, u]))
    assert [tuple(edge) for edge in edges.tolist()] == sorted(naive)
    assert lengths == pytest.approx([len(naive[pair]) for pair in sorted(naive)])
    assert strengths == pytest.approx([np.mean(naive[pair]) for pair in sorted(naive)], rel=1e-5)


def test_one_leaf_has_no_borders():
    edges, strengths, lengths = adjacency(np.zeros((4, 5), np.int32), np.ones((4, 5), np.float32))
    assert edges.shape == (0, 2)
    assert edges.dtype == np.int32
    assert len(strengths) == len(lengths) == 0


def test_invalid_input_is_refused():
    with pytest.raises(InputError, match="finite"):
        watershed_leaves(np.full((3, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="non-empty"):
        watershed_leaves(np.zeros((0, 3), np.float32))
    with pytest.raises(InputError, match="at least 1"):
        watershed_leaves(np.zeros((3, 3), np.float32), min_area=0)
    with pytest.raises(InputError, match="shape"):
        adjacency(np.zeros((3, 3), np.int32), np.zeros((3, 4), np.float32))

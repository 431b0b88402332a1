from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path
from scipy import ndimage

from masktree.trees.masktree import MaskTree
from masktree.trees.polygons import Polygon, fill_rings, mask_to_polygons, run_rings
from masktree.trees.rle import encode
from masktree.trees.run_sets import decode_set


def fill(polygon: Polygon, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie inside, by matplotlib."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], 1)

    def contains(ring: np.ndarray) -> np.ndarray:
        return Path(np.vstack([ring, ring[:1]])).contains_points(centres).reshape(size)

    return contains(polygon.exterior) & ~np.any([contains(hole) for hole in polygon.holes], axis=0)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_filled_polygons_give_the_mask_again(rng, sigma):
    """Also with pixels that touch at corners only, holes in holes and components inside holes."""
    for _ in range(40):
        size = tuple(rng.integers(1, 25, 2).tolist())
        mask = ndimage.gaussian_filter(rng.random(size), sigma) > 0.5
        polygons = mask_to_polygons(mask)
        parts = [fill(polygon, size) for polygon in polygons]
        np.testing.assert_array_equal(np.sum([*parts, np.zeros(size)], axis=0), mask)  # disjoint, too
        assert len(polygons) == ndimage.label(mask)[1]
        rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
        assert all(len(set(map(tuple, ring.tolist()))) == len(ring) for ring in rings)  # none meets itself


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_filled_rings_give_the_mask_again(rng, sigma):
    for _ in range(40):
        size = tuple(rng.integers(1, 25, 2).tolist())
        mask = ndimage.gaussian_filter(rng.random(size), sigma) > 0.5
        rings = run_rings(*decode_set(encode(mask), size), size[0])
        np.testing.assert_array_equal(fill_rings(rings, size), mask)
        for ring in rings:  # each edge has a length, and turns at its end
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps != 0).sum(1) == 1).all()
            assert (steps[::2, 0] == 0).all()
            assert (steps[1::2, 1] == 0).all()


def test_corners_of_a_planted_frame():
    mask = np.zeros((8, 10), bool)
    mask[1:7, 2:9] = True
    mask[3:5, 4:6] = False
    (polygon,) = mask_to_polygons(mask)
    assert {tuple(corner) for corner in polygon.exterior} == {(2, 1), (9, 1), (9, 7), (2, 7)}
    (hole,) = polygon.holes
    assert {tuple(corner) for corner in hole} == {(4, 3), (6, 3), (6, 5), (4, 5)}


def test_a_tree_gives_the_polygons_of_each_mask():
    masks = np.zeros((2, 6, 6), bool)
    masks[0, :2] = masks[0, 4:] = True
    masks[1, 1:3, 1:3] = True
    polygons = MaskTree.from_masks(masks).polygons()
    assert [len(of_mask) for of_mask in polygons] == [2, 1]
    assert mask_to_polygons(np.zeros((3, 4), bool)) == []

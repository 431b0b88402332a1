"""Run sets against sets of pixels of dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from masktree.errors import InputError
from masktree.trees import rle
from masktree.trees.polygons import mask_to_polygons
from masktree.trees.run_sets import (
    RunSet,
    components,
    decode_set,
    intersect,
    line_set,
    nearest_owner,
    polygon_set,
    shared_area,
    split_columns,
    subtract,
    unite,
)

SIZE = (13, 17)


def dense(runs: RunSet, size: tuple[int, int] = SIZE) -> np.ndarray:
    return rle.decode(runs.encode(size), size)


def random_mask(rng: np.random.Generator) -> np.ndarray:
    return ndimage.uniform_filter(rng.random(SIZE), rng.choice([1, 3, 5])) < rng.choice([0.0, 0.3, 0.5, 0.7, 1.1])


def as_runs(mask: np.ndarray) -> RunSet:
    return decode_set(rle.encode(mask), SIZE)


@pytest.mark.parametrize("seed", range(60))
def test_sets_are_those_of_the_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = random_mask(rng), random_mask(rng)
    a, b = as_runs(first), as_runs(second)
    results = ((unite(a, b), first | second), (intersect(a, b), first & second), (subtract(a, b), first & ~second))
    for result, expected in results:
        assert np.array_equal(dense(result), expected)
        assert np.all(result.starts[1:] > result.ends[:-1])  # never adjacent
        assert result.area == expected.sum()
    assert shared_area(a, b) == (first & second).sum()


@pytest.mark.parametrize("seed", range(30))
def test_boxes_are_those_of_coco(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    assert as_runs(mask).box(SIZE[0]) == tuple(rle.boxes([rle.encode(mask)], SIZE)[0].astype(int).tolist())


@pytest.mark.parametrize("seed", range(60))
def test_components_are_those_of_four_neighbours(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    runs = split_columns(as_runs(mask), SIZE[0])
    owners = components(runs, SIZE[0])
    expected, count = ndimage.label(mask)
    assert len(np.unique(owners)) == count == (owners.max(initial=-1) + 1)
    flat = expected.T.ravel()
    for owner in range(count):
        pixels = np.concatenate([np.arange(s, e) for s, e in zip(*runs, strict=True) if flat[s]])
        of_runs = [flat[s:e] for s, e, o in zip(*runs, owners, strict=True) if o == owner]
        assert len(np.unique(np.concatenate(of_runs))) == 1
        assert len(pixels) == mask.sum()


@pytest.mark.parametrize("seed", range(30))
def test_outlines_filled_again_are_the_mask(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    for polygon in mask_to_polygons(mask):
        filled = dense(polygon_set(polygon.exterior, SIZE))
        component = ndimage.label(mask)[0]
        inside = filled & mask
        holes = np.zeros(SIZE, bool)
        for hole in polygon.holes:
            holes |= dense(polygon_set(hole, SIZE))
        own = component[inside & ~holes]
        assert np.array_equal(filled & ~holes, component == own[0])


def test_a_lasso_that_crosses_itself_has_no_holes() -> None:
    turn = [[2, 2], [14, 2], [14, 11], [2, 11]]
    twice = np.array(turn + turn, float)
    assert np.array_equal(dense(polygon_set(twice, SIZE)), dense(polygon_set(np.array(turn, float), SIZE)))
    eight = np.array([[2, 2], [14, 11], [14, 2], [2, 11]], float)  # two triangles, walked round in opposite directions
    assert dense(polygon_set(eight, SIZE))[:, 7].sum() <= 2
    assert dense(polygon_set(eight, SIZE))[[6, 6], [3, 12]].all()


def test_polygons_and_lines_may_leave_the_image() -> None:
    everything = np.array([[-50, -50], [90, -50], [90, 90], [-50, 90]], float)
    assert dense(polygon_set(everything, SIZE)).all()
    outside = everything + 1000
    assert polygon_set(outside, SIZE).area == line_set(outside, SIZE).area == 0
    assert line_set(np.array([[-10, 6.5], [50, 6.5]]), SIZE).area == SIZE[1]


@pytest.mark.parametrize("seed", range(20))
def test_a_line_is_connected_and_goes_through_its_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform([0, 0], [SIZE[1], SIZE[0]], (rng.integers(2, 6), 2))
    line = dense(line_set(points, SIZE))
    assert ndimage.label(line, np.ones((3, 3)))[1] == 1
    columns, rows = points.astype(int).T
    assert line[rows, columns].all()


def test_absurd_shapes_are_refused() -> None:
    zigzag = np.array([[0, 0], [1e6, 5]] * 4000, float)
    with pytest.raises(InputError, match="draw a shorter one"):
        line_set(zigzag, SIZE)
    with pytest.raises(InputError, match="draw a simpler one"):
        polygon_set(zigzag, (10, 10_000))


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_owner_is_at_the_least_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng)
    if not mask.any():
        mask[4, 5] = True
    runs = split_columns(as_runs(mask), SIZE[0])
    owners = np.arange(len(runs.starts))
    pixels = rng.integers(0, SIZE[0] * SIZE[1], 25)
    found, distances = nearest_owner(pixels, runs, owners, SIZE)
    expected = np.round(ndimage.distance_transform_edt(~mask) ** 2).astype(int).T.ravel()[pixels]
    assert np.array_equal(distances, expected)
    for pixel, owner, distance in zip(pixels, found, distances, strict=True):
        x, y = np.divmod(np.arange(runs.starts[owner], runs.ends[owner]), SIZE[0])
        assert distance == ((x - pixel // SIZE[0]) ** 2 + (y - pixel % SIZE[0]) ** 2).min()

"""Masks at several scales: measures and hierarchy are those of their pixels."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.trees import hierarchy, rle
from masktree.trees.scaled_masks import ScaledMasks

SIZE = (45, 53)  # no multiple of 2 or 4


def pixels(cells, factor):
    return np.kron(cells, np.ones((factor, factor), bool))[: SIZE[0], : SIZE[1]].astype(bool)


@pytest.fixture
def masks(rng):
    """60 blobs on cells of 1, 2 and 4 pixels, and their pixels."""
    parts, dense = [], []
    for factor in (1, 2, 4):
        size = -(-SIZE[0] // factor), -(-SIZE[1] // factor)
        cells = []
        for _ in range(20):
            y, x = np.mgrid[: size[0], : size[1]]
            centre, radius = rng.uniform(0, size, 2), rng.uniform(2, 20) / factor + 1
            blob = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2) & (rng.random(size) < 0.95)
            blob[int(centre[0]), int(centre[1])] = True
            cells.append(blob)
        parts.append(ScaledMasks.from_rles([rle.encode(mask) for mask in cells], size).scaled(factor, SIZE))
        dense += [pixels(mask, factor) for mask in cells]
    return ScaledMasks.concatenate(parts, SIZE), np.array(dense)


def test_runs_that_go_on_in_the_next_column_are_split():
    mask = np.zeros((4, 5), bool)
    mask[:, 1:3] = True
    mask[1, 3] = True
    found = ScaledMasks.from_rles([rle.encode(mask), rle.encode(~mask)], (4, 5))
    assert found.columns.tolist() == [1, 2, 3, 0, 3, 3, 4]
    assert found.starts.tolist() == [0, 0, 1, 0, 0, 2, 0]
    assert found.ends.tolist() == [4, 4, 2, 4, 1, 4, 4]


def test_measures_are_those_of_the_pixels(masks):
    found, dense = masks
    assert found.areas.tolist() == dense.sum(axis=(1, 2)).tolist()
    assert found.areas_inside((3, 7, 30, 41)).tolist() == dense[:, 3:30, 7:41].sum(axis=(1, 2)).tolist()
    assert found.rles() == [rle.encode(mask) for mask in dense]
    boxes = [(*np.argwhere(mask).min(axis=0), *(np.argwhere(mask).max(axis=0) + 1)) for mask in dense]
    assert found.boxes.tolist() == [[int(value) for value in box] for box in boxes]
    window = (10, 8, 31, 40)
    assert found.touching(window).tolist() == [
        k for k, (t, a, b, r) in enumerate(boxes) if t < window[2] and b > window[0] and a < window[3] and r > window[1]
    ]
    chosen = np.array([50, 3, 3])
    assert found[chosen].rles() == [rle.encode(dense[k]) for k in chosen]


def test_painted_masks_overwrite_earlier_ones(masks):
    found, dense = masks
    expected = np.full(SIZE, -1)
    for value, mask in enumerate(dense):
        expected[mask] = value
    for top, left, bottom, right in [(0, 0, *SIZE), (7, 5, 20, 52)]:
        out = np.full((bottom - top, right - left), -1, np.int32)
        found.paint(out, np.arange(len(found)), top, left)
        assert np.array_equal(out, expected[top:bottom, left:right])


@pytest.mark.parametrize("step", [2, 3, 8])
def test_samples_are_the_middles_of_squares_of_pixels(masks, step):
    found, dense = masks
    size = -(-SIZE[0] // step), -(-SIZE[1] // step)
    rows, columns = (np.minimum(np.arange(n) * step + step // 2, side - 1) for n, side in zip(size, SIZE, strict=True))
    assert found.sampled(step, size).rles() == [rle.encode(mask[np.ix_(rows, columns)]) for mask in dense]


def test_the_hierarchy_is_that_of_masks_in_memory(masks):
    found, dense = masks
    expected = hierarchy.parents_by_coverage([rle.encode(mask) for mask in dense], SIZE, min_coverage=0.8)
    assert (expected >= 0).sum() > 10
    assert found.parents(0.8).tolist() == expected.tolist()


def test_pairs_agree_inside_a_rectangle(masks):
    found, dense = masks
    rectangle = (5, 4, 40, 44)
    inside = dense[:, 5:40, 4:44].reshape(len(dense), -1).astype(int)
    shared = inside @ inside.T
    iou = shared / np.maximum(inside.sum(1)[:, None] + inside.sum(1) - shared, 1)
    one, other = np.arange(3, 20), np.arange(20, 60)
    pairs, values = found.agreements(one, other, rectangle, 0.3)
    assert len(pairs) > 5
    assert pairs.tolist() == [[a, b] for a in one for b in other if iou[a, b] >= 0.3]
    assert np.allclose(values, iou[pairs[:, 0], pairs[:, 1]])


def test_duplicates_are_masks_of_coarser_scales(masks):
    found, dense = masks
    flat = dense.reshape(len(dense), -1).astype(int)
    shared = flat @ flat.T
    iou = shared / (flat.sum(1)[:, None] + flat.sum(1) - shared)
    expected = np.zeros(len(dense), bool)
    for b in range(20, 60):
        expected[b] = any(iou[a, b] > 0.4 and not expected[a] for a in range(20 * (b // 20)))
    assert expected.any()
    assert found.duplicates(0.4).tolist() == expected.tolist()


def test_a_union_has_the_pixels_of_all(masks):
    found, dense = masks
    assert found[np.array([20, 22, 31, 39])].union().rles() == [rle.encode(dense[[20, 22, 31, 39]].any(axis=0))]

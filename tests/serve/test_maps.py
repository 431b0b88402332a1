"""Maps of masks against naive ones, whole and reduced."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.serve import maps
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.edits.planted import random_tree


def overlapping_tree(seed: int, size: tuple[int, int] = (23, 37), count: int = 12) -> tuple[MaskTree, np.ndarray]:
    """Random boxes that overlap as they like."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in size)
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    masks = masks[masks.any((1, 2))]
    return MaskTree.from_masks(masks, min_coverage=0.9), masks


def smallest(tree: MaskTree, masks: np.ndarray) -> np.ndarray:
    """For each pixel 1 + the index of the smallest mask on it; of equal ones the deepest, then the last."""
    out = np.zeros(tree.size, int)
    for index in sorted(range(len(masks)), key=lambda i: (-masks[i].sum(), tree.depths[i], i)):
        out[masks[index]] = index + 1
    return out


def chain(tree: MaskTree, index: int) -> set[int]:
    found = set()
    while index >= 0:
        found.add(index)
        index = int(tree.parents[index])
    return found


@pytest.mark.parametrize("strip_pixels", [2**22, 100, 1])
@pytest.mark.parametrize("seed", range(4))
def test_map_and_overlaps_are_those_of_dense_masks(monkeypatch, seed, strip_pixels):
    monkeypatch.setattr(maps, "_STRIP_PIXELS", strip_pixels)
    tree, masks = overlapping_tree(seed)
    expected = smallest(tree, masks)
    found = maps.smallest_masks(tree)
    assert (found.factor, found.labels.dtype) == (1, np.dtype("<u4"))
    assert np.array_equal(found.labels, expected)
    unreached = np.zeros_like(masks)
    for y, x in np.ndindex(*tree.size):
        if expected[y, x]:
            above = chain(tree, expected[y, x] - 1)
            for index in np.flatnonzero(masks[:, y, x]):
                unreached[index, y, x] = index not in above
    assert unreached.any()
    extra = maps.overlaps(tree)
    assert [entry["i"] for entry in extra] == np.flatnonzero(unreached.any((1, 2))).tolist()
    for entry in extra:
        x, y, width, height = entry["bbox"]
        values = np.arange(len(entry["counts"])) % 2
        flat = np.repeat(values, entry["counts"]).astype(bool)
        box = np.zeros(width * height, bool)
        box[: len(flat)] = flat
        whole = np.zeros(tree.size, bool)
        whole[y : y + height, x : x + width] = box.reshape(width, height).T
        assert np.array_equal(whole, unreached[entry["i"]])
        assert all(count > 0 for count in entry["counts"][1:])


def test_nested_masks_have_no_overlaps_and_no_masks_no_map():
    assert maps.overlaps(random_tree(1)) == []
    assert maps.overlaps_json(random_tree(1)) == b"{}"
    empty = random_tree(1)
    empty = empty[np.zeros(len(empty), bool)]
    assert maps.overlaps(empty) == []
    assert not maps.smallest_masks(empty).labels.any()


@pytest.mark.parametrize("limit", [851, 400, 100, 7])
def test_maps_of_large_images_show_every_few_pixels(monkeypatch, limit):
    monkeypatch.setattr(maps, "MAX_MAP_PIXELS", limit)
    tree, masks = overlapping_tree(3)
    found = maps.smallest_masks(tree)
    factor = found.factor
    assert found.labels.shape == maps.reduced_size(tree.size, factor)
    assert found.labels.size <= limit
    assert factor == 1 or np.prod(maps.reduced_size(tree.size, factor - 1)) > limit
    rows = np.minimum(np.arange(found.labels.shape[0]) * factor + factor // 2, tree.size[0] - 1)
    columns = np.minimum(np.arange(found.labels.shape[1]) * factor + factor // 2, tree.size[1] - 1)
    assert np.array_equal(found.labels, smallest(tree, masks)[np.ix_(rows, columns)])
    nodes = random_tree(2, tree.size).dendrogram
    body = maps.regions(nodes)
    n, width, height, told = np.frombuffer(body, "<u4", 4).tolist()
    assert (n, (height, width), told) == (nodes.n_leaves, found.labels.shape, factor)
    leaves = np.frombuffer(body, "<i4", width * height, 16).reshape(height, width)
    assert np.array_equal(leaves, nodes.leaves[np.ix_(rows, columns)])
    assert len(body) == 16 + 4 * (width * height + 2 * (2 * n - 1))


def test_a_mask_of_full_columns_is_on_the_map():
    masks = np.zeros((2, 5, 6), bool)
    masks[0, :, 1:5] = True  # one run over four columns
    masks[1, 2:, 3:] = True
    tree = MaskTree.from_rles([rle.encode(mask) for mask in masks], (5, 6), np.array([-1, -1], np.int32))
    assert np.array_equal(maps.smallest_masks(tree).labels, smallest(tree, masks))
    [entry] = maps.overlaps(tree)
    assert (entry["i"], entry["bbox"], entry["counts"]) == (0, [3, 2, 2, 3], [0, 6])

"""Maps of masks against naive ones, whole and reduced."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.serve import maps
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.edits.planted import random_tree
from tests.edits.test_sequences import random_edit


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
    """For each pixel 1 + the index of the smallest mask on it; of equal ones the lowest in the tree, then the last."""
    out = np.zeros(tree.size, int)
    areas = masks.sum((1, 2))
    equal = [sum(areas[above] == areas[i] for above in chain(tree, i)) for i in range(len(masks))]
    for index in sorted(range(len(masks)), key=lambda i: (-areas[i], equal[i], i)):
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
    ids = np.sort(np.random.default_rng(seed).permutation(50)[: len(tree)]).tolist()
    found = maps.smallest_masks(tree, ids)
    assert (found.factor, found.labels.dtype) == (1, np.dtype("<u4"))
    assert np.array_equal(found.labels, np.array([0, *ids])[expected] + (expected > 0))
    unreached = np.zeros_like(masks)
    for y, x in np.ndindex(*tree.size):
        if expected[y, x]:
            above = chain(tree, expected[y, x] - 1)
            for index in np.flatnonzero(masks[:, y, x]):
                unreached[index, y, x] = index not in above
    assert unreached.any()
    assert not maps.are_nested(tree)
    extra = maps.overlaps(tree, range(len(tree)))
    assert [entry["id"] for entry in extra] == np.flatnonzero(unreached.any((1, 2))).tolist()
    for entry in extra:
        x, y, width, height = entry["bbox"]
        values = np.arange(len(entry["counts"])) % 2
        flat = np.repeat(values, entry["counts"]).astype(bool)
        box = np.zeros(width * height, bool)
        box[: len(flat)] = flat
        whole = np.zeros(tree.size, bool)
        whole[y : y + height, x : x + width] = box.reshape(width, height).T
        assert np.array_equal(whole, unreached[entry["id"]])
        assert all(count > 0 for count in entry["counts"][1:])


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_nested_where_none_has_pixels_that_the_chain_does_not_reach(monkeypatch, seed):
    """With masks that are moved a little, and without: overlaps are looked for in both."""
    rng = np.random.default_rng(seed)
    tree = random_tree(seed)
    masks = np.stack([rle.decode(text, tree.size) for text in tree.rles])
    moved = rng.integers(len(masks)) if seed % 2 else 0
    masks[moved] = np.roll(masks[moved], seed % 2, 0)
    texts = tuple(rle.encode(mask) for mask in masks)
    tree = MaskTree.from_rles(texts, tree.size, tree.parents)
    is_nested = maps.are_nested(tree)
    monkeypatch.setattr(maps, "are_nested", lambda tree: False)
    assert is_nested == (maps.overlaps(tree, range(len(tree))) == [])
    assert is_nested or seed % 2


@pytest.mark.parametrize("limit", [2000, 200])
@pytest.mark.parametrize("seed", range(3))
def test_patches_of_edits_keep_the_map(monkeypatch, tmp_path, seed, limit):
    monkeypatch.setattr(maps, "MAX_MAP_PIXELS", limit)
    rng, path = np.random.default_rng(seed), tmp_path / "photo.json"
    random_tree(seed).save(path)
    edited = EditedTree.open(path)
    labels = maps.smallest_masks(edited.tree, edited.ids).labels
    patches = 0
    for _ in range(60):
        with contextlib.suppress(InputError):
            box = edited.apply(random_edit(rng, edited))
            patch = None if box is None else maps.smallest_masks(edited.tree, edited.ids, box)
            if patch is not None:
                height, width = patch.labels.shape
                labels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.labels
                patches += patch.labels.size < labels.size
        assert np.array_equal(labels, maps.smallest_masks(edited.tree, edited.ids).labels)
    assert patches > 10


def test_nested_masks_have_no_overlaps_and_no_masks_no_map():
    assert maps.are_nested(random_tree(1))
    assert maps.overlaps_json(random_tree(1), range(len(random_tree(1)))) == b"{}"
    empty = random_tree(1)
    empty = empty[np.zeros(len(empty), bool)]
    assert maps.overlaps(empty, []) == []
    assert not maps.smallest_masks(empty, []).labels.any()


@pytest.mark.parametrize("limit", [851, 400, 100, 7])
def test_maps_of_large_images_show_every_few_pixels(monkeypatch, limit):
    monkeypatch.setattr(maps, "MAX_MAP_PIXELS", limit)
    tree, masks = overlapping_tree(3)
    found = maps.smallest_masks(tree, range(len(tree)))
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
    assert np.array_equal(maps.smallest_masks(tree, range(2)).labels, smallest(tree, masks))
    [entry] = maps.overlaps(tree, range(2))
    assert (entry["id"], entry["bbox"], entry["counts"]) == (0, [3, 2, 2, 3], [0, 6])

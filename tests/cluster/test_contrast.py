"""Contrast of the nodes of a dendrogram."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.backbones.texture.words import lab
from masktree.cluster.contrast import node_contrasts
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree


def random_tree(rng: np.random.Generator, *, is_gapped: bool = False) -> tuple[PartitionTree, np.ndarray]:
    """Stripes of three pixels and random colours, merged from left to right; with a gap one leaf has no pixels."""
    leaves = np.repeat(np.arange(8, dtype=np.int32), 3)[None].repeat(5, axis=0)
    leaves[:2] = np.maximum(leaves[:2] - 1, 0)
    if is_gapped:
        leaves[leaves == 3] = 4
    merges = np.array([[0, 1], [2, 3], [8, 9], [4, 5], [10, 11], [12, 6], [13, 7]])
    tree = PartitionTree.from_merges(leaves, merges, np.linspace(0.1, 0.9, 7))
    return tree, rng.integers(0, 256, (*leaves.shape, 3), np.uint8)


def naive_contrast(tree: PartitionTree, image: np.ndarray, node: int) -> float:
    """Pixel by pixel: each pair of pixels across the border counts the mean colour of the leaf beyond it."""
    colours, inside = lab(image).astype(np.float64), tree.mask(node)
    beyond = []
    for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        for y, x in np.argwhere(inside):
            v, u = y + step[0], x + step[1]
            if 0 <= v < inside.shape[0] and 0 <= u < inside.shape[1] and not inside[v, u]:
                beyond.append(colours[tree.leaves == tree.leaves[v, u]].mean(axis=0))
    if not inside.any() or not beyond:
        return 0.0
    return float(np.linalg.norm(colours[inside].mean(axis=0) - np.mean(beyond, axis=0)))


@pytest.mark.parametrize("is_gapped", [False, True])
def test_contrast_is_that_of_pixels_inside_and_leaves_around(is_gapped):
    tree, image = random_tree(np.random.default_rng(0), is_gapped=is_gapped)
    expected = [naive_contrast(tree, image, node) for node in range(len(tree.parents))]
    assert np.allclose(node_contrasts(tree, lab(image)), expected, atol=1e-3)
    assert np.count_nonzero(expected) == len(expected) - (2 if is_gapped else 1)


def test_a_single_leaf_has_no_contrast():
    tree = PartitionTree.from_merges(np.zeros((3, 4), np.int32), np.zeros((0, 2), np.int64), np.zeros(0))
    assert node_contrasts(tree, lab(np.full((3, 4, 3), 200, np.uint8))).tolist() == [0.0]


def test_another_size_is_an_input_error():
    tree, image = random_tree(np.random.default_rng(0))
    with pytest.raises(InputError, match="5, 24"):
        node_contrasts(tree, lab(image[:, :-1]))

"""Masks of a model among nodes and combinations: planted unions of leaves, and a naive count of what either says."""

from __future__ import annotations

import numpy as np
import pytest

from masktree import MaskTree, PartitionTree
from masktree.backbones import load_backbone
from masktree.discover.masktree import discover_masks
from masktree.discover.model_pool import (
    Predictions,
    leaves_inside,
    pool_predictions,
    pool_with_method,
    snap_predictions,
)
from masktree.errors import InputError
from masktree.trees import hierarchy


@pytest.fixture
def tree() -> MaskTree:
    """Six stripes of 10 x 40 pixels; 0 and 1 are a node, 2 and 3, 4 and 5, and the first four."""
    leaves = np.repeat(np.arange(6, dtype=np.int32), 10)[None].repeat(40, axis=0)
    merges = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])
    dendrogram = PartitionTree.from_merges(leaves, merges, np.array([0.2, 0.3, 0.4, 0.6, 0.9]))
    return MaskTree.from_dendrogram(dendrogram, max_area=0.8, masks="all")


def union(*stripes: int) -> np.ndarray:
    return np.isin(np.arange(6), stripes)


def predictions(*unions: tuple[int, ...], scores: list[float]) -> Predictions:
    return Predictions(np.array([union(*stripes) for stripes in unions]), np.array(scores))


def test_leaves_inside_are_those_of_the_masks(tree):
    inside = leaves_inside(tree)
    for i in range(len(tree)):
        np.testing.assert_array_equal(inside[i][tree.dendrogram.leaves], tree.mask(i))


def test_new_masks_stand_behind_the_others_and_change_no_hierarchy(tree):
    pooled = pool_predictions(tree, predictions((0, 1), (0, 2, 3), (1, 3), (0, 5), scores=[0.9, 0.8, 0.5, 0.3]))
    n = len(tree)
    assert pooled.rles[:n] == tree.rles
    np.testing.assert_array_equal(pooled.parents[:n], tree.parents)
    np.testing.assert_array_equal(pooled.granularities[:n], tree.granularities)
    assert pooled.dendrogram is tree.dendrogram
    assert pooled.kinds[n:].tolist() == [2] * (len(pooled) - n)
    found = {tuple(np.unique(tree.dendrogram.leaves[pooled.mask(i)]).tolist()) for i in range(n, len(pooled))}
    known = {tuple(np.unique(tree.dendrogram.leaves[tree.mask(i)]).tolist()) for i in range(n)}
    assert found == {(0, 2, 3), (1, 3), (0, 5)} - known
    by_stripes = {tuple(np.unique(tree.dendrogram.leaves[pooled.mask(i)]).tolist()): i for i in range(len(pooled))}
    first_four = by_stripes[0, 1, 2, 3]
    assert pooled.parents[by_stripes[1, 3]] == first_four
    assert pooled.parents[by_stripes[0, 5]] == -1
    assert pooled.granularities[by_stripes[1, 3]] == 0  # single leaves
    assert pooled.nodes.rles == tree.nodes.rles
    assert "of a model" in repr(pooled)
    hierarchy.depths(pooled.parents)


def test_scores_are_what_both_say(tree, rng):
    inside = np.unique(rng.random((9, 6)) < 0.5, axis=0)
    given = Predictions(inside[inside.any(axis=1)], rng.random(int(inside.any(axis=1).sum())))
    masks = [np.isin(tree.dendrogram.leaves, np.flatnonzero(row)) for row in given.inside]

    def iou(one: np.ndarray, two: np.ndarray) -> float:
        return (one & two).sum() / (one | two).sum()

    pooled = pool_predictions(tree, given, share=0.3, duplicate_iou=1.0)
    for i in range(len(pooled)):
        mask = pooled.mask(i)
        model = max(score * iou(mask, other) for score, other in zip(given.scores, masks, strict=True))
        own = max(tree.scores[k] * iou(mask, tree.mask(k)) for k in range(len(tree)))
        expected = (tree.scores[i] if i < len(tree) else own) ** 0.7 * model**0.3
        assert pooled.scores[i] == pytest.approx(expected, rel=1e-5)


def test_without_a_share_of_the_model_the_order_of_the_tree_stays(tree):
    pooled = pool_predictions(tree, predictions((0, 2, 3), (2,), scores=[0.1, 0.9]), share=0.0)
    np.testing.assert_allclose(pooled.scores[: len(tree)], tree.scores, rtol=1e-6)
    alone = pool_predictions(tree, predictions((4, 5), scores=[0.9]), share=1.0)
    best = np.unique(tree.dendrogram.leaves[alone.mask(int(alone.scores.argmax()))])
    assert best.tolist() == [4, 5]


def test_near_duplicates_and_repeated_masks_are_dropped(tree):
    given = predictions((0, 5), (0, 5), (0, 1, 5), (4, 5), scores=[0.9, 0.8, 0.7, 0.6])
    assert len(pool_predictions(tree, given)) == len(tree) + 2
    assert len(pool_predictions(tree, given, duplicate_iou=0.6)) == len(tree) + 1
    empty = Predictions(np.zeros((0, 6), bool), np.zeros(0))
    assert pool_predictions(tree, empty) is tree


def test_masks_of_a_model_become_unions_of_leaves(tree):
    masks = np.zeros((4, 40, 60), bool)
    masks[0, 2:39, 1:19] = masks[1, :, 1:20] = True  # both are the first node
    masks[2, :, 22:31] = True
    masks[3, 20, :] = True  # a line, which no leaves fit
    found = snap_predictions(MaskTree.from_masks(masks, scores=np.array([0.2, 0.7, 0.9, 1.0])), tree.dendrogram)
    assert [np.flatnonzero(row).tolist() for row in found.inside] == [[2], [0, 1]]
    np.testing.assert_allclose(found.scores, [0.9, 0.7])


@pytest.fixture(scope="module")
def two_tone() -> tuple[np.ndarray, np.ndarray]:
    """A picture of a thing of two stripes, each of which looks like the ground beside it, and the thing."""
    greys = np.array([60, 75, 185, 200], np.uint8).repeat(32)
    thing = np.zeros((96, 128), bool)
    thing[:, 32:96] = True
    return np.broadcast_to(greys[None, :, None], (96, 128, 3)).copy(), thing


@pytest.mark.parametrize("regroup", [False, True])
def test_a_thing_that_only_the_model_knows_is_found(two_tone, regroup):
    image, thing = two_tone
    backbone = load_backbone("embedded")

    def best(masks: MaskTree) -> float:
        return max((masks.mask(i) & thing).sum() / (masks.mask(i) | thing).sum() for i in range(len(masks)))

    model = MaskTree.from_masks(thing[None], scores=np.array([0.9]))
    before = discover_masks(image, backbone, masks="nodes")
    after = pool_with_method(image, model, backbone, regroup=regroup)
    assert best(before) == 0.5
    assert best(after) == 1
    assert best(after.nodes) == (1 if regroup else 0.5)


def test_wrong_input_is_refused(tree):
    given = predictions((0,), scores=[0.5])
    with pytest.raises(InputError, match="expected a tree with dendrogram"):
        pool_predictions(MaskTree.from_masks(np.ones((1, 4, 4), bool)), given)
    with pytest.raises(InputError, match=r"unions of 6 leaves; got \(1, 5\)"):
        pool_predictions(tree, Predictions(given.inside[:, :5], given.scores))
    with pytest.raises(InputError, match=r"expected share in \[0, 1\]"):
        pool_predictions(tree, given, share=1.5)

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from masktree.errors import InputError, MasktreeWarning
from masktree.trees.instances import best_antichain, select_instances
from masktree.trees.masktree import MaskTree

SIZE = (20, 30)


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def ancestors(parents: np.ndarray, node: int) -> set[int]:
    found = set()
    while parents[node] >= 0:
        node = int(parents[node])
        found.add(node)
    return found


def brute_force(parents: np.ndarray, gains: np.ndarray) -> float:
    """Largest sum of gains over all antichains."""
    above = [ancestors(parents, node) for node in range(len(parents))]
    antichains = (
        chosen
        for k in range(len(parents) + 1)
        for chosen in combinations(range(len(parents)), k)
        if not any(a in above[b] or b in above[a] for a, b in combinations(chosen, 2))
    )
    return max(float(gains[list(chosen)].sum()) for chosen in antichains)


def test_the_best_antichain_equals_that_of_all_sets(rng):
    for _ in range(60):
        n = int(rng.integers(1, 11))
        parents = np.array([rng.integers(-1, i) if i else -1 for i in range(n)], np.int32)
        gains = rng.random(n).round(1)
        chosen = best_antichain(parents, gains)
        assert gains[chosen].sum() == pytest.approx(brute_force(parents, gains))
        above = [ancestors(parents, node) for node in range(n)]
        assert not any(a in above[b] or b in above[a] for a, b in combinations(chosen.tolist(), 2))


@pytest.fixture
def tree() -> MaskTree:
    """A whole with two parts, and a small one beside it."""
    masks = np.array([box(2, 18, 2, 20), box(3, 9, 3, 19), box(11, 17, 3, 19), box(2, 8, 24, 29)])
    return MaskTree.from_masks(masks, scores=np.array([0.9, 0.75, 0.75, 0.8], np.float32))


def test_a_whole_is_preferred_unless_its_parts_are_more_certain(tree):
    labels, indices = select_instances(tree, min_score=0.7)
    assert indices.tolist() == [0, 3]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels == 1, tree.mask(0))
    np.testing.assert_array_equal(labels == 2, tree.mask(3))
    assert (labels == 0).sum() == labels.size - tree.areas[[0, 3]].sum()
    np.testing.assert_array_equal(tree.instances(min_score=0.7), labels)
    assert sorted(select_instances(tree, min_score=0.4)[1].tolist()) == [1, 2, 3]  # logits 1.5 + 1.5 > 2.6


def test_limits_of_area_and_score(tree):
    assert sorted(select_instances(tree, min_score=0.7, max_area=0.3)[1].tolist()) == [1, 2, 3]
    assert select_instances(tree, min_area=100)[1].tolist() == [0]
    with pytest.warns(MasktreeWarning, match="score of 0.95 or more, .* the highest of 4 is 0.900"):
        assert select_instances(tree, min_score=0.95)[0].max() == 0
    for options, message in (
        ({"min_score": 2}, "min_score in"),
        ({"max_area": -1}, "max_area in"),
        ({"min_area": 500, "max_area": 0.1}, "areas are in pixels"),
    ):
        with pytest.raises(InputError, match=message):
            tree.instances(**options)


def test_overlaps_belong_to_the_better_mask_and_remnants_are_dropped():
    masks = np.array([box(2, 18, 2, 16), box(2, 18, 12, 28), box(2, 18, 10, 17)])
    tree = MaskTree.from_rles(
        MaskTree.from_masks(masks).rles,
        SIZE,
        np.full(3, -1, np.int32),
        scores=np.array([0.9, 0.8, 0.75], np.float32),
    )
    labels, indices = select_instances(tree, min_score=0.7)
    assert indices.tolist() == [0, 1]
    np.testing.assert_array_equal(labels == 1, masks[0])
    np.testing.assert_array_equal(labels == 2, masks[1] & ~masks[0])


def test_scores_of_zero_and_one_have_finite_odds():
    masks = np.array([box(2, 18, 2, 20), box(3, 9, 3, 19), box(11, 17, 3, 19)])
    tree = MaskTree.from_masks(masks, scores=np.array([1.0, 1.0, 0.0], np.float32))
    assert select_instances(tree, min_score=0)[1].tolist() == [0]
    assert select_instances(tree, min_score=1)[1].tolist() == [0]


def test_no_masks_are_background():
    labels, indices = select_instances(MaskTree.from_rles([], SIZE, np.zeros(0, np.int32)))
    assert labels.shape == SIZE
    assert labels.max() == len(indices) == 0

"""Forests: equal to the rules written out on dense masks, and invariants."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.trees import hierarchy
from tests.oracles import hierarchy as oracle
from tests.trees.planted import SIZE, planted, rectangles, strings


def test_planted_forest_levels_and_ancestors() -> None:
    parents = hierarchy.parents_by_coverage(strings(planted()), SIZE)
    assert parents.tolist() == [2, -1, 1, 1, -1]
    assert hierarchy.depths(parents).tolist() == [2, 0, 1, 1, 0]
    assert hierarchy.levels(parents).tolist() == [2, 0, 1, 1, 0]
    assert [np.flatnonzero(row).tolist() for row in hierarchy.ancestors(parents)] == [[1, 2], [], [1], [1], []]


@pytest.mark.parametrize("cover", [0.3, 0.75, 0.9, 1.0])
def test_forest_equals_the_rule_on_dense_masks(rng: np.random.Generator, cover: float) -> None:
    for n in (1, 2, 15, 60):
        masks = rectangles(rng, n)
        parents = hierarchy.parents_by_coverage(strings(masks), SIZE, min_coverage=cover)
        assert parents.tolist() == oracle.parents_by_coverage(masks, cover)


def test_masks_that_may_not_be_parents_have_no_children(rng: np.random.Generator) -> None:
    masks = rectangles(rng, 60)
    allowed = rng.random(60) < 0.5
    parents = hierarchy.parents_by_coverage(strings(masks), SIZE, may_be_parents=allowed)
    assert allowed[parents[parents >= 0]].all()
    for index in range(60):  # each alone among those that may be parents
        others = np.flatnonzero(allowed & (np.arange(60) != index))
        chosen = oracle.parents_by_coverage(masks[[index, *others]], 0.9)[0]
        assert parents[index] == (-1 if chosen < 0 else others[chosen - 1])


def test_coverage_forest_has_no_cycle_and_areas_grow_upwards(rng: np.random.Generator) -> None:
    for cover in (0.05, 0.5, 0.9):  # a low value makes the relation dense and far from transitive
        masks = rectangles(rng, 80)
        parents = hierarchy.parents_by_coverage(strings(masks), SIZE, min_coverage=cover)
        areas = masks.sum((1, 2))
        child = np.flatnonzero(parents >= 0)
        assert len(child) > 20
        assert (areas[parents[child]] > areas[child]).all()
        assert not np.diagonal(hierarchy.ancestors(parents)).any()


def test_quotients_at_the_threshold_count_as_covered() -> None:
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 0, :] = True
    masks[1, :, :9] = True  # covers 9 of the 10 pixels of the row
    parents = hierarchy.parents_by_coverage(strings(masks), (10, 10), min_coverage=0.9)
    assert parents.tolist() == [1, -1]


def test_equal_masks_stand_side_by_side_and_the_first_smallest_cover_is_the_parent() -> None:
    masks = planted()[[2, 0, 2, 1]]
    assert hierarchy.parents_by_coverage(strings(masks), SIZE).tolist() == [3, 0, 3, -1]


def test_a_forest_of_no_masks_is_empty() -> None:
    parents = hierarchy.parents_by_coverage([], SIZE)
    assert parents.shape == (0,)
    assert hierarchy.levels(parents).shape == (0,)
    assert hierarchy.ancestors(parents).shape == (0, 0)
    assert hierarchy.reparent(parents, np.zeros(0, bool)).shape == (0,)


def random_forest(rng: np.random.Generator, n: int) -> np.ndarray:
    """Parents earlier in a hidden order, so that indices of parents are above and below their children."""
    names = rng.permutation(n)
    parents = np.full(n, -1, np.int32)
    for i in range(1, n):
        if rng.random() < 0.85:
            parents[names[i]] = names[rng.integers(max(0, i - 5), i)]
    return parents


def test_depths_closure_and_reparent_equal_walks_to_the_root(rng: np.random.Generator) -> None:
    for n in (1, 2, 7, 40):
        parents = random_forest(rng, n)
        walks = [oracle.chain(parents.tolist(), i) for i in range(n)]
        assert hierarchy.depths(parents).tolist() == [len(walk) for walk in walks]
        closure = hierarchy.ancestors(parents)
        assert [set(np.flatnonzero(row)) for row in closure] == [set(walk) for walk in walks]
        for share in (0.0, 0.3, 0.7, 1.0):
            keep = rng.random(n) < share
            expected = oracle.reparent(parents.tolist(), keep.tolist())
            assert hierarchy.reparent(parents, keep).tolist() == expected


def test_reparent_keeps_ancestry_among_the_kept(rng: np.random.Generator) -> None:
    parents = random_forest(rng, 50)
    keep = rng.random(50) < 0.5
    before = hierarchy.ancestors(parents)[np.ix_(keep, keep)]
    assert (hierarchy.ancestors(hierarchy.reparent(parents, keep)) == before).all()


def test_wrong_input_raises_an_input_error() -> None:
    one = strings(planted()[:1])
    with pytest.raises(InputError, match=r"coverage in \(0, 1\]; got 0"):
        hierarchy.parents_by_coverage(one, SIZE, min_coverage=0.0)
    with pytest.raises(InputError, match="mask 0; got 1200 pixels"):
        hierarchy.parents_by_coverage(one, (30, 41))
    with pytest.raises(InputError, match="cycle through mask"):
        hierarchy.depths(np.array([-1, 2, 3, 1], np.int32))
    with pytest.raises(InputError, match="cycle through mask 0"):
        hierarchy.levels(np.array([0], np.int32))
    with pytest.raises(InputError, match=r"-1 \.\.\. 1; got -1 \.\.\. 2"):
        hierarchy.reparent(np.array([-1, 2], np.int32), np.array([True, True]))

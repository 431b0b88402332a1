"""Coverage forest, levels, suppression: against the rules written out on dense masks, and by invariants."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from tests.oracles import hierarchy as oracle

SIZE = (30, 40)


def rectangles(rng: np.random.Generator, n: int) -> np.ndarray:
    """Nested, overlapping and repeated rectangles with a few ragged pixels, and one empty mask."""
    masks = np.zeros((n, *SIZE), bool)
    for i in range(n - 1):
        top, left = rng.integers(0, SIZE[0] - 1), rng.integers(0, SIZE[1] - 1)
        bottom, right = rng.integers(top + 1, SIZE[0] + 1), rng.integers(left + 1, SIZE[1] + 1)
        masks[i, top:bottom, left:right] = True
        if i % 3 == 2:
            masks[i] = masks[i - 1] ^ (rng.random(SIZE) < rng.choice([0.01, 0.05]))
        if i % 7 == 6:
            masks[i] = masks[i - 2]
    return masks


def strings(masks: np.ndarray) -> list[bytes]:
    return [rle.encode(mask) for mask in masks]


def planted() -> np.ndarray:
    """Body > head > eye, body > leg, and a ball apart."""
    masks = np.zeros((5, *SIZE), bool)
    masks[0, 12:14, 6:8] = True  # eye
    masks[1, 2:28, 2:20] = True  # body
    masks[2, 10:20, 4:14] = True  # head
    masks[3, 22:27, 4:9] = True  # leg
    masks[4, 5:15, 25:35] = True  # ball
    return masks


def test_planted_forest_levels_and_ancestors() -> None:
    parents = hierarchy.coverage_parents(strings(planted()), SIZE)
    assert parents.tolist() == [2, -1, 1, 1, -1]
    assert hierarchy.depths(parents).tolist() == [2, 0, 1, 1, 0]
    assert hierarchy.levels(parents).tolist() == [2, 0, 1, 1, 0]
    assert [np.flatnonzero(row).tolist() for row in hierarchy.ancestors(parents)] == [[1, 2], [], [1], [1], []]


@pytest.mark.parametrize("cover", [0.3, 0.75, 0.9, 1.0])
def test_forest_equals_the_rule_on_dense_masks(rng: np.random.Generator, cover: float) -> None:
    for n in (1, 2, 15, 60):
        masks = rectangles(rng, n)
        parents = hierarchy.coverage_parents(strings(masks), SIZE, cover=cover)
        assert parents.tolist() == oracle.coverage_parents(masks, cover)


def test_coverage_forest_has_no_cycle_and_areas_grow_upwards(rng: np.random.Generator) -> None:
    for cover in (0.05, 0.5, 0.9):  # a low value makes the relation dense and far from transitive
        masks = rectangles(rng, 80)
        parents = hierarchy.coverage_parents(strings(masks), SIZE, cover=cover)
        areas = masks.sum((1, 2))
        child = np.flatnonzero(parents >= 0)
        assert len(child) > 20
        assert (areas[parents[child]] > areas[child]).all()
        assert not np.diagonal(hierarchy.ancestors(parents)).any()


def test_quotients_at_the_threshold_count_as_covered() -> None:
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 0, :] = True
    masks[1, :, :9] = True  # covers 9 of the 10 pixels of the row
    parents = hierarchy.coverage_parents(strings(masks), (10, 10), cover=0.9)
    assert parents.tolist() == [1, -1]


def test_equal_masks_stand_side_by_side_and_the_first_smallest_cover_is_the_parent() -> None:
    masks = planted()[[2, 0, 2, 1]]
    assert hierarchy.coverage_parents(strings(masks), SIZE).tolist() == [3, 0, 3, -1]


def test_no_masks() -> None:
    parents = hierarchy.coverage_parents([], SIZE)
    assert parents.shape == (0,)
    assert hierarchy.levels(parents).shape == (0,)
    assert hierarchy.ancestors(parents).shape == (0, 0)
    assert hierarchy.reparent(parents, np.zeros(0, bool)).shape == (0,)
    assert hierarchy.nms([], SIZE, np.zeros(0)).shape == (0,)


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


@pytest.mark.parametrize("iou", [0.0, 0.5, 0.9, 1.0])
def test_nms_equals_the_rule_on_dense_masks(rng: np.random.Generator, iou: float) -> None:
    for n in (1, 2, 15, 60):
        masks = rectangles(rng, n)
        scores = rng.integers(0, 6, n).astype(np.float32)  # many ties
        kept = hierarchy.nms(strings(masks), SIZE, scores, iou=iou)
        assert kept.tolist() == oracle.nms(masks, scores, iou)


def test_nms_keeps_the_better_of_two_copies_and_the_first_of_equals() -> None:
    masks = planted()[[1, 2, 1]]
    assert hierarchy.nms(strings(masks), SIZE, np.array([0.1, 0.5, 0.2])).tolist() == [1, 2]
    assert hierarchy.nms(strings(masks), SIZE, np.array([0.2, 0.5, 0.2])).tolist() == [1, 0]


def test_an_iou_of_exactly_the_threshold_is_kept() -> None:
    masks = np.zeros((2, 4, 5), bool)
    masks[0, :, :] = True
    masks[1, :2, :] = True
    assert len(hierarchy.nms(strings(masks), (4, 5), np.ones(2), iou=0.5)) == 2
    assert len(hierarchy.nms(strings(masks), (4, 5), np.ones(2), iou=0.49)) == 1


def test_wrong_input_is_named() -> None:
    one = strings(planted()[:1])
    with pytest.raises(InputError, match=r"coverage in \(0, 1\]; got 0"):
        hierarchy.coverage_parents(one, SIZE, cover=0.0)
    with pytest.raises(InputError, match="mask 0; got 1200 pixels"):
        hierarchy.coverage_parents(one, (30, 41))
    with pytest.raises(InputError, match="cycle through mask"):
        hierarchy.depths(np.array([-1, 2, 3, 1], np.int32))
    with pytest.raises(InputError, match="cycle through mask 0"):
        hierarchy.levels(np.array([0], np.int32))
    with pytest.raises(InputError, match=r"-1 \.\.\. 1; got -1 \.\.\. 2"):
        hierarchy.reparent(np.array([-1, 2], np.int32), np.array([True, True]))
    with pytest.raises(InputError, match="got 2 scores"):
        hierarchy.nms(one, SIZE, np.ones(2))
    with pytest.raises(InputError, match="1 not finite"):
        hierarchy.nms(one, SIZE, np.array([np.nan]))
    with pytest.raises(InputError, match=r"IoU in \[0, 1\]"):
        hierarchy.nms(one, SIZE, np.ones(1), iou=1.5)

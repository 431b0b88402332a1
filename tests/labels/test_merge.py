from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.labels.merge import DEFAULT_IOU, MaskPool, MergeRule, fill, union
from masktree.trees import rle
from tests.oracles import label_merge as oracle

SIZE = (12, 17)


def pool(masks: np.ndarray, scores: np.ndarray | None = None, source: int = 0) -> MaskPool:
    ones = np.ones(len(masks))
    rles = tuple(rle.encode(mask) for mask in masks)
    return MaskPool(rles, ones if scores is None else scores, ones, np.full(len(masks), source, np.int64))


def rectangles(count: int, rng: np.random.Generator) -> np.ndarray:
    """Rectangles on a coarse grid, so that copies and round overlaps are frequent."""
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks:
        y, x = rng.integers(0, 4, 2) * 3
        mask[y : y + 3 * rng.integers(1, 4), x : x + 3 * rng.integers(1, 4)] = True
    return masks


def row(length: int, start: int = 0) -> np.ndarray:
    """One mask in a row of a long image."""
    mask = np.zeros((1, 1, 200), bool)
    mask[0, 0, start : start + length] = True
    return mask


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_union_is_suppression_over_all_masks(rng, iou):
    for _ in range(20):
        masks = [rectangles(int(rng.integers(0, 9)), rng) for _ in range(3)]
        scores = [rng.integers(1, 4, len(m)) / 4 for m in masks]
        pools = [pool(m, s, i) for i, (m, s) in enumerate(zip(masks, scores, strict=True))]
        dense, together = [m for stack in masks for m in stack], MaskPool.joined(pools)
        ranks = [
            (-together.scores[i], -int(dense[i].sum()), together.rles[i], together.sources[i])
            for i in range(len(dense))
        ]
        wanted = oracle.union(dense, ranks, iou)
        found = union(pools, SIZE, iou=iou)
        assert found.rles == tuple(together.rles[i] for i in wanted)
        for name in ("scores", "sources"):
            np.testing.assert_array_equal(getattr(found, name), getattr(together, name)[wanted])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("iou", [0.0, 0.02, 0.25, 0.5, 1.0])
def test_fill_adds_masks_that_overlap_no_trusted_mask(rng, iou, strict):
    for _ in range(20):
        first, second = (rectangles(int(rng.integers(0, 9)), rng) for _ in range(2))
        trusted, other = pool(first, source=0), pool(second, rng.integers(1, 4, len(second)) / 4, 1)
        found = fill(trusted, [other], SIZE, iou=iou, strict=strict)
        assert found.rles[: len(first)] == trusted.rles
        wanted = oracle.fill(list(first), list(second), iou, strict)
        assert sorted(found.rles[len(first) :]) == sorted(other.rles[i] for i in wanted)
        assert found.sources.tolist() == [0] * len(first) + [1] * len(wanted)


def test_the_order_of_the_sources_does_not_matter(rng):
    pools = [pool(rectangles(7, rng), rng.integers(1, 3, 7) / 2, source) for source in range(4)]
    results = [union(p, SIZE, iou=0.5) for p in permutations(pools)]
    results += [fill(pools[0], p, SIZE) for p in permutations(pools[1:])]
    for group in (results[:24], results[24:]):
        for other in group[1:]:
            assert other.rles == group[0].rles
            np.testing.assert_array_equal(other.sources, group[0].sources)


def test_exact_copies_go_once_and_count_for_the_first_source(rng):
    masks = rectangles(1, rng)
    found = union([pool(masks, source=2), pool(masks, source=1)], SIZE)
    assert (len(found), found.sources.tolist()) == (1, [1])
    assert len(fill(pool(masks), [pool(masks, source=1)], SIZE)) == 1
    twice = pool(np.concatenate([masks, masks]))
    assert len(fill(twice, [], SIZE)) == 2  # what is trusted stays as it is
    assert len(union([twice], SIZE)) == 1


def test_fill_adds_common_masks_of_several_sources_once():
    trusted, near = pool(row(10)), np.concatenate([row(100, 50), row(98, 50)])
    assert len(fill(trusted, [pool(near, source=1)], (1, 200))) == 3
    assert len(fill(trusted, [pool(near[:1], source=1), pool(near[1:], source=2)], (1, 200))) == 2


@pytest.mark.parametrize(("name", "length", "other"), [("fill", 50, 1), ("union", 100, 90)])
def test_an_overlap_of_exactly_the_bound_is_allowed(name, length, other):
    """1 of 50 pixels is 0.02; 90 of 100 is 0.9."""
    rule = MergeRule(name)
    assert len(rule.merge([pool(row(length)), pool(row(other), source=1)], (1, 200))) == 2
    assert len(rule.merge([pool(row(length)), pool(row(other + 1), source=1)], (1, 200))) == 1
    assert len(MergeRule("fill", 0.5, strict=True).merge([pool(row(100)), pool(row(50), source=1)], (1, 200))) == 1
    assert len(MergeRule("fill", 0.5, strict=True).merge([pool(row(100)), pool(row(49), source=1)], (1, 200))) == 2


def test_no_masks_and_one_sided_images(rng):
    masks, none = pool(rectangles(3, rng), source=1), pool(np.zeros((0, *SIZE), bool))
    for name in ("union", "fill"):
        assert len(MergeRule(name).merge([none, none], SIZE)) == 0
        assert len(MergeRule(name, 1.0).merge([none], SIZE)) == 0
        assert len(MergeRule(name).merge([none], SIZE).tree(SIZE)) == 0
    assert sorted(fill(none, [masks], SIZE).rles) == sorted(masks.rles)
    assert fill(masks, [none], SIZE).rles == masks.rles


def test_many_masks_are_compared_in_slices(rng, monkeypatch):
    trusted, other = pool(rectangles(5, rng)), pool(rectangles(40, rng), rng.random(40), 1)
    whole = fill(trusted, [other], SIZE, iou=0.2)
    monkeypatch.setattr("masktree.labels.merge._PAIRS", 12)
    assert fill(trusted, [other], SIZE, iou=0.2).rles == whole.rles


def test_a_merged_tree_is_nested_by_coverage():
    outer, inner = row(100), row(20, 5)
    tree = union([pool(inner, np.array([0.25]), 1), pool(outer, np.array([0.5]))], (1, 200)).tree((1, 200))
    assert tree.parents.tolist() == [-1, 0]
    assert tree.levels.tolist() == [0, 1]
    assert tree.scores.tolist() == [0.5, 0.25]


def test_rules_out_of_range_are_refused():
    assert {name: MergeRule(name).bound for name in DEFAULT_IOU} == DEFAULT_IOU
    with pytest.raises(InputError, match=r"an IoU in \[0, 1\]; got 1.5; 0.02 is the default"):
        MergeRule("fill", 1.5)
    with pytest.raises(InputError, match="a rule union or fill; got 'all'"):
        MergeRule("all")

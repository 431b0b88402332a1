"""Prompts on trees of masks that may overlap."""

from __future__ import annotations

import numpy as np
import pytest

from masktree import MaskTree, Predictor
from tests.prompt.planted import OTHER, PART, SIZE, SUB, WHOLE, box, iou, nested


def ask(tree, points, labels, **options):
    return Predictor(tree).predict(np.array(points), np.array(labels), **options)


def test_a_click_returns_the_masks_that_contain_it():
    masks, scores, low = ask(nested(), [[8, 8]], [1])
    assert {int(mask.sum()) for mask in masks} == {int(m.sum()) for m in (WHOLE, PART, SUB)}
    assert (np.diff(scores) <= 0).all()
    assert low.shape == (3, 256, 256)
    masks, _, _ = ask(nested(), [[40, 10]], [1])
    assert np.array_equal(masks, np.stack([OTHER] * 3))


def test_of_masks_that_are_as_likely_the_smallest_around_the_click_is_first():
    tree = MaskTree.from_masks(np.stack([WHOLE, PART, SUB]), scores=np.array([0.5, 0.5, 0.5]))
    for click, inside in (([8, 8], SUB), ([25, 15], PART), ([10, 30], WHOLE)):
        assert np.array_equal(ask(tree, [click], [1])[0][0], inside)


@pytest.mark.parametrize("scores", [(0.97, 0.6), (0.7, 0.2), (1.0, 0.9)])
def test_a_mask_that_is_much_more_certain_comes_before_a_part_of_it(scores):
    tree = MaskTree.from_masks(np.stack([WHOLE, PART]), scores=np.array(scores))
    assert np.array_equal(ask(tree, [[25, 15]], [1])[0][0], WHOLE)


def test_a_click_outside_takes_away_the_mask_that_has_it():
    masks, _, _ = ask(nested(), [[25, 15], [8, 8]], [1, 0])
    assert np.array_equal(masks[0], PART & ~SUB)
    masks, _, _ = ask(nested(), [[10, 30], [8, 8]], [1, 0])
    assert np.array_equal(masks[0], WHOLE & ~PART)  # of the masks around the click the one of highest score


def test_a_second_click_inside_adds_a_mask():
    masks, _, _ = ask(nested(), [[8, 8], [40, 10]], [1, 1])
    assert any(np.array_equal(mask, PART | OTHER) for mask in masks)
    for mask in masks:
        assert mask[8, 8]
        assert mask[10, 40]


def test_clicks_that_cannot_be_satisfied_lower_the_score():
    all_obeyed = ask(nested(), [[40, 10]], [1])[1][0]
    masks, scores, _ = ask(nested(), [[40, 10], [55, 20], [59, 39]], [1, 0, 1])  # only in OTHER; outside all masks
    assert np.array_equal(masks[0], OTHER)
    assert scores[0] == pytest.approx(all_obeyed / 3)


def test_a_click_on_nothing_is_an_empty_mask_of_score_0():
    masks, scores, low = ask(nested(), [[59, 39]], [1], multimask_output=False)
    assert masks.shape == (1, *SIZE)
    assert not masks.any()
    assert scores.tolist() == [0]
    assert (low < 0).all()
    bare = MaskTree.from_rles([], SIZE, np.zeros(0, np.int32))
    for prompt in ({"box": [0, 0, 5, 5]}, {"mask_input": low}, {"point_coords": [[1, 1]], "point_labels": [1]}):
        masks, scores, _ = Predictor(bare).predict(**prompt)
        assert not scores.any()
        assert not masks.any()


@pytest.mark.parametrize("expected", [WHOLE, PART, SUB, OTHER])
def test_the_box_and_the_mask_of_a_tree_mask_find_it(expected):
    rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    masks, _, low = Predictor(nested()).predict(box=edges)
    assert np.array_equal(masks[0], expected)
    masks, scores, _ = Predictor(nested()).predict(mask_input=low[:1])
    assert np.array_equal(masks[0], expected)
    assert scores[0] > 0.8
    masks, _, _ = ask(nested(), [[8, 8]], [1], mask_input=low[:1])
    assert iou(masks[0], expected) == 1 or expected is OTHER  # the click is not in OTHER


def test_masks_that_overlap_without_nesting():
    left, right, sliver = box(0, 0, 30, 30), box(0, 20, 30, 50), box(0, 28, 30, 32)
    tree = MaskTree.from_masks(np.stack([left, right, sliver]), scores=np.array([0.9, 0.5, 0.3]))
    masks, _, _ = ask(tree, [[25, 5], [10, 5]], [1, 0])
    assert np.array_equal(masks[0], right)
    masks, _, _ = ask(tree, [[45, 5], [29, 5]], [1, 0])
    assert np.array_equal(masks[0], right & ~left)
    masks, _, _ = ask(tree, [[45, 5], [29, 5], [25, 5]], [1, 0, 1])
    assert np.array_equal(masks[0], right & ~sliver)


def test_many_masks_of_score_0():
    masks = np.stack([box(9 - k, 10 - k, 10 + k, 11 + k) for k in range(1, 10)])
    tree = MaskTree.from_masks(masks, scores=np.zeros(9))
    masks, scores, _ = Predictor(tree, num_multimask_outputs=6).predict([[10, 9]], [1])
    areas = [int(mask.sum()) for mask in masks]
    assert len(areas) == len(set(areas)) == 6
    assert (scores > 0).all()
    assert len(ask(tree, [[10, 9]], [1])[0]) == 3

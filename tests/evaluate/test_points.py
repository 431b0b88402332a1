"""Clicks against their definitions written out, and planted trees with known answers."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.evaluate.click_points import farthest_point
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.points import score_image, summarise
from masktree.prompt import Predictor
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.oracles import points as oracle

SIZE = (20, 24)


def box(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def truth_of(masks, size=SIZE, **columns):
    return ImageGroundTruth.from_masks(1, "a.jpg", size, [rle.encode(mask) for mask in masks], **columns)


WHOLE, LEFT, SMALL, OTHER = box(1, 1, 19, 13), box(1, 1, 19, 7), box(2, 2, 7, 6), box(3, 15, 9, 23)


@pytest.fixture
def tree():
    scores = np.array([0.5, 0.9, 0.2, 0.4])
    return MaskTree.from_masks(np.stack([WHOLE, LEFT, SMALL, OTHER]), scores=scores)


class Recorder:
    """Gives the same masks whatever is asked, and remembers what was asked."""

    def __init__(self, masks, scores):
        self.masks, self.scores, self.calls, self.images = masks, scores, [], []

    def set_image(self, image):
        self.images.append(image)

    def predict(self, point_coords, point_labels, multimask_output):
        self.calls.append((point_coords.copy(), point_labels.copy(), multimask_output))
        return self.masks, self.scores, None


def test_farthest_point_equals_the_definition(rng):
    for density in (0.3, 0.8, 0.97, 1.0):
        for shape in [(1, 1), (1, 7), (8, 1), (9, 12), (13, 6)]:
            mask = rng.random(shape) < density
            if mask.any():
                assert farthest_point(mask) == oracle.farthest_point(mask)


def test_farthest_point_of_planted_shapes():
    assert farthest_point(box(4, 5, 9, 10)) == (7, 6)
    assert farthest_point(box(0, 0, 5, 5)) == (2, 2)  # the edge of the image is a boundary
    ring = box(0, 0, 20, 24) & ~box(2, 2, 18, 22)
    x, y = farthest_point(ring)
    assert ring[y, x]  # never in the hole, where the centroid is
    with pytest.raises(InputError, match="empty"):
        farthest_point(np.zeros(SIZE, np.bool_))


def test_max_and_oracle_of_one_click(tree):
    stats = score_image(Predictor(tree), None, truth_of([WHOLE]))
    centre = farthest_point(WHOLE)
    assert tree.at(*centre) == [1, 0] or tree.at(*centre) == [0]
    best = score_image(Predictor(tree), None, truth_of([LEFT, OTHER]))
    assert best["n"] == 2
    assert best["max_iou"] == best["oracle_iou"] == best["one_iou"] == 2.0  # highest scored, and the only one
    assert best["noc90"] == 2.0
    assert stats["oracle_iou"] == 1.0
    inner = score_image(Predictor(tree), None, truth_of([SMALL]))
    assert inner["max_iou"] == pytest.approx(SMALL.sum() / LEFT.sum())  # the click gives LEFT, which scores higher
    assert inner["oracle_iou"] == 1.0
    assert inner["noc80"] == 2.0  # a negative click leads to it
    assert score_image(Predictor(tree), None, truth_of([SMALL]), mask_choice="oracle")["noc80"] == 1.0


def test_choosing_the_best_mask_changes_what_the_loop_works_with(tree):
    stats = score_image(Predictor(tree), None, truth_of([SMALL]), mask_choice="oracle")
    assert stats["one_iou"] == stats["oracle_iou"] == 1.0
    assert stats["max_iou"] < 0.5


@pytest.mark.parametrize("mask_choice", ["score", "oracle"])
def test_clicks_equal_the_definition(rng, mask_choice):
    size = (12, 14)
    for _ in range(6):
        corners = np.sort(rng.integers(0, 12, (8, 2, 2)), axis=1)
        masks = np.stack([box(a, b, c + 1, d + 2, size) for (a, b), (c, d) in corners])
        forest = MaskTree.from_masks(masks, scores=rng.random(8).round(3))
        target = masks[0] ^ (rng.random(size) < 0.05)
        predictor = Predictor(forest)

        def predict(points, labels, predictor=predictor):
            return predictor.predict(np.array(points, float), np.array(labels))[:2]

        stats = score_image(predictor, None, truth_of([target], size), mask_choice=mask_choice, max_clicks=7)
        for goal in (80, 85, 90):
            needed, reached = oracle.clicks_needed(predict, target, goal / 100, 7, mask_choice == "oracle")
            assert stats[f"noc{goal}"] == needed
            assert stats[f"nof{goal}"] == (not reached)


def test_clicks_are_handed_over_as_segment_anything_takes_them():
    image = np.zeros((*SIZE, 3), np.uint8)
    recorder = Recorder(WHOLE[None], np.array([0.3], np.float32))
    stats = score_image(recorder, image, truth_of([LEFT]), max_clicks=5)
    assert recorder.images[0] is image
    assert len(recorder.calls) == 5
    assert [several for *_, several in recorder.calls] == [True, False, False, False, False]
    coords, labels, _ = recorder.calls[-1]
    assert coords.dtype == np.float64
    assert coords.shape == (5, 2)
    assert labels.tolist() == [1, 0, 0, 0, 0]
    assert len({tuple(point) for point in coords.tolist()}) == 5  # no pixel twice
    for x, y in coords[1:].astype(int):
        assert (WHOLE & ~LEFT)[y, x]
    assert stats["noc80"] == 5
    assert stats["nof80"] == 1


def test_missing_parts_get_positive_clicks():
    recorder = Recorder(LEFT[None], np.array([1.0]))
    score_image(recorder, None, truth_of([WHOLE]), max_clicks=3)
    coords, labels, _ = recorder.calls[-1]
    assert labels.tolist() == [1, 1, 1]
    assert all((WHOLE & ~LEFT)[int(y), int(x)] for x, y in coords[1:])


def test_no_mask_counts_as_zero():
    empty = Recorder(np.zeros((0, *SIZE), np.bool_), np.zeros(0))
    stats = score_image(empty, None, truth_of([LEFT, box(0, 0, 1, 1)]))
    assert stats["n"] == 2
    assert stats["max_iou"] == stats["oracle_iou"] == stats["one_iou"] == 0
    assert stats["noc80"] == 40
    assert stats["nof90"] == 2
    bare = MaskTree.from_rles([], SIZE, np.zeros(0, np.int32))
    assert score_image(Predictor(bare), None, truth_of([LEFT])) == {
        **dict.fromkeys(("max_iou", "oracle_iou", "one_iou"), 0.0),
        **dict.fromkeys(("noc80", "noc85", "noc90"), 20.0),
        **dict.fromkeys(("nof80", "nof85", "nof90"), 1.0),
        "n": 1,
        "clicks": 20,
    }


def test_crowds_and_empty_masks_are_passed_over(tree):
    crowd = np.array([False, True, False])
    stats = score_image(Predictor(tree), None, truth_of([LEFT, WHOLE, np.zeros(SIZE, np.bool_)], crowd=crowd))
    assert stats["n"] == 1
    assert stats["max_iou"] == 1


def test_means_run_over_entities(tree):
    first = score_image(Predictor(tree), None, truth_of([LEFT, OTHER, OTHER]))
    empty = Recorder(np.zeros((0, *SIZE), np.bool_), np.zeros(0))
    second = score_image(empty, None, truth_of([LEFT]))
    nothing = score_image(empty, None, truth_of([]))
    metrics = summarise([first, second, nothing])
    assert metrics["max_iou"] == 0.75
    assert metrics["noc80"] == (3 + 20) / 4
    assert metrics["nof85"] == 0.25
    assert set(summarise([nothing]).values()) == {None}
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_a_click_on_a_large_tree_is_fast(rng):
    size = (600, 800)
    corners = [(int(y), int(x), int(s)) for y, x, s in zip(*rng.integers(0, 500, (2, 800)), rng.integers(20, 300, 800))]  # noqa: B905
    masks = [rle.encode(box(y, x, min(y + s, 600), min(x + s, 800), size)) for y, x, s in corners]
    predictor = Predictor(MaskTree.from_rles(masks, size, np.full(800, -1, np.int32)))
    predictor.predict(np.array([[300, 300]]), np.array([1]))
    start = time.process_time()
    for x in range(100, 120):
        predictor.predict(np.array([[x, 300]]), np.array([1]))
    assert time.process_time() - start < 20 * 0.05


def test_bad_input_raises_an_input_error(tree):
    target = truth_of([LEFT])
    with pytest.raises(InputError, match="at least 1 click"):
        score_image(Predictor(tree), None, target, max_clicks=0)
    with pytest.raises(InputError, match="masks by score or oracle"):
        score_image(Predictor(tree), None, target, mask_choice="finest")
    with pytest.raises(InputError, match=r"a\.jpg: expected masks"):
        score_image(Recorder(LEFT[None, :5], np.ones(1)), None, target)
    with pytest.raises(InputError, match=r"a\.jpg: expected masks"):
        score_image(Recorder(LEFT[None], np.ones(2)), None, target)
    with pytest.raises(InputError, match="finite scores"):
        score_image(Recorder(LEFT[None], np.array([np.nan])), None, target)
    boxes_only = ImageGroundTruth(
        1, "a.jpg", SIZE, None, np.ones((1, 4)), np.ones(1), np.zeros(1, bool), np.full(1, -1)
    )
    with pytest.raises(InputError, match="expected masks; got annotations with a box only"):
        score_image(Predictor(tree), None, boxes_only)
    with pytest.raises(InputError, match="at least one image"):
        summarise([])
    with pytest.raises(InputError, match="equally many"):
        summarise([score_image(Predictor(tree), None, target, max_clicks=c) for c in (3, 4)])

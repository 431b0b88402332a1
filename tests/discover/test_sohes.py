from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest
from scipy.ndimage import binary_opening

from masktree.discover.sohes import sohes
from masktree.refine import dense_crf
from tests.oracles.discover import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    PaintedBackbone,
    best_iou,
    cells,
    chain_vectors,
    paint,
    scrambled,
    unchanged,
)

SIDE = 96
SMALL = 2 / 144  # one cell of 144 is small, two are not
PALETTE = {colour: np.eye(5)[i] for i, colour in enumerate((GREEN, RED, BLUE, WHITE, BLACK))}
module = sys.modules["masktree.discover.sohes"]


def run(image, backbone=None, **options):
    options = {"side": SIDE, "small_area": SMALL, "crop_side": 96, "refiner": unchanged} | options
    return sohes(image, backbone or PaintedBackbone(PALETTE), **options)


def halves(row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Left and right half of one cell: too fine for the features of the whole image."""
    cell = cells(12, 12, row, row + 1, column, column + 1)
    left = cell.copy()
    left[:, 8 * column + 4 :] = False
    return left, cell & ~left


def test_small_regions_are_replaced_by_those_of_their_crops():
    left, right = halves(5, 5)
    big = cells(12, 12, 8, 11, 1, 5)
    image = paint(GREEN, [(left, RED), (right, BLUE), (big, WHITE)])
    tree = run(image)
    assert best_iou(tree, left)[0] > 0.8
    assert best_iou(tree, right)[0] > 0.8
    assert best_iou(tree, left | right)[0] < 0.6
    assert best_iou(tree, big)[0] > 0.95
    without = run(image, small_area=0.0)
    assert best_iou(without, left | right)[0] > 0.6
    assert best_iou(without, left)[0] < 0.7


@pytest.mark.parametrize("place", [(0, 0), (11, 11), (0, 6), (6, 11)])
def test_crop_regions_at_the_border_of_the_image_are_kept(place):
    left, right = halves(*place)
    tree = run(paint(GREEN, [(left, RED), (right, BLUE)]))
    assert best_iou(tree, left)[0] > 0.75
    assert best_iou(tree, right)[0] > 0.75


def test_crop_regions_that_touch_the_border_of_the_crop_are_dropped():
    left, right = halves(5, 5)
    stripe = cells(12, 12, 0, 12, 6, 7)  # passes through the crop of cells 4..6
    tree = run(paint(GREEN, [(stripe, WHITE), (left, RED), (right, BLUE)]))
    assert best_iou(tree, left)[0] > 0.8
    assert best_iou(tree, stripe)[0] > 0.95
    assert best_iou(tree, cells(12, 12, 4, 7, 6, 7))[0] < 0.5
    assert best_iou(tree, cells(12, 12, 4, 7, 4, 5))[0] < 0.5  # the background's share of the crop


def test_each_border_of_a_crop_is_checked():
    regions = np.zeros((5, 4, 4), bool)
    regions[0, 0, 1], regions[1, 3, 1], regions[2, 1, 0], regions[3, 1, 3], regions[4, 1:3, 1:3] = [True] * 5
    size = (100, 100)
    assert module._touches_crop_border(regions, (10, 20, 30, 40), size).tolist() == [True, True, True, True, False]
    assert module._touches_crop_border(regions, (0, 20, 0, 40), size).tolist() == [False, True, False, True, False]
    assert module._touches_crop_border(regions, (10, 100, 30, 100), size).tolist() == [True, False, True, False, False]
    assert not module._touches_crop_border(regions, (0, 100, 0, 100), size).any()


def test_windows_grow_about_their_centre_inside_the_image():
    assert module._grow((40, 50, 40, 60), 3.0, (100, 100)) == (30, 60, 20, 80)
    assert module._grow((0, 10, 90, 100), 3.0, (100, 100)) == (0, 20, 80, 100)
    assert module._grow((40, 50, 40, 60), 1.0, (100, 100)) == (40, 50, 40, 60)


def test_the_number_of_crops_is_bounded_and_other_regions_are_kept():
    places = [(1, 1), (1, 6), (6, 1), (6, 6), (10, 10)]
    parts = [half for place in places for half in halves(*place)]
    image = paint(GREEN, [(mask, (RED, BLUE)[i % 2]) for i, mask in enumerate(parts)])
    for most in (0, 2, 5, 64):
        backbone = PaintedBackbone(PALETTE)
        tree = run(image, backbone, max_crops=most)
        assert sum(map(len, backbone.images)) == 1 + min(most, 5)
        split = [best_iou(tree, parts[2 * i])[0] > 0.8 for i in range(5)]
        whole = [best_iou(tree, parts[2 * i] | parts[2 * i + 1])[0] > 0.6 for i in range(5)]
        assert sum(split) == min(most, 5)
        assert all(a != b for a, b in zip(split, whole, strict=True))


def test_a_region_in_the_middle_of_a_crop_needs_no_further_crop():
    """Two small neighbours: the window of the first shows the second."""
    one, two = cells(12, 12, 5, 6, 5, 6), cells(12, 12, 5, 6, 6, 7)
    backbone = PaintedBackbone(PALETTE)
    tree = run(paint(GREEN, [(one, RED), (two, BLUE)]), backbone, crop_scale=7.0)
    assert sum(map(len, backbone.images)) == 2
    assert best_iou(tree, one)[0] > 0.6
    assert best_iou(tree, two)[0] > 0.6


def test_a_chain_of_nested_regions_becomes_a_deep_branch():
    boxes = [cells(12, 12, 3, 9, left, right) for left, right in ((2, 4), (4, 6), (6, 8), (8, 10))]
    vectors = chain_vectors([12, 12, 12, 12], [0.55, 0.45, 0.35])
    colours = (RED, BLUE, WHITE, BLACK)
    palette = {GREEN: np.eye(8)[7]} | dict(zip(colours, vectors, strict=True))
    tree = run(paint(GREEN, list(zip(boxes, colours, strict=True))), PaintedBackbone(palette))
    nested = [boxes[0], boxes[0] | boxes[1], boxes[0] | boxes[1] | boxes[2], np.logical_or.reduce(boxes)]
    chain = []
    for mask in nested:
        iou, index = best_iou(tree, mask)
        assert iou > 0.95
        chain.append(index)
    assert [tree.parents[i] for i in chain] == [*chain[1:], -1]
    assert tree.depths[chain[0]] == 3
    assert tree.levels[chain].tolist() == [2, 2, 1, 0]


def test_refinement_that_scrambles_all_masks_leaves_none():
    image = paint(GREEN, [(cells(12, 12, 3, 6, 1, 5), RED)])
    assert len(run(image)) == 1
    assert len(run(image, refiner=scrambled)) == 0


def test_masks_of_a_crop_are_refined_in_the_crop():
    """This refiner wipes out all that is narrower than seven pixels of the picture it is given."""

    def opened(image, probabilities, *, independent=False):
        assert independent
        kept = [binary_opening(p > 0.5, np.ones((7, 7))) for p in probabilities]
        return np.where(kept, probabilities, np.float32(0))

    left, right = halves(5, 5)  # four pixels wide, sixteen in the crop
    image = paint(GREEN, [(left, RED), (right, BLUE)])
    assert best_iou(run(image, refiner=opened), left)[0] > 0.75
    assert best_iou(run(image, refiner=opened), right)[0] > 0.75
    assert len(run(image, refiner=opened, small_area=0.0)) == 0  # the cell itself, seen in the whole image


def test_masks_over_nine_tenths_of_the_image_are_dropped():
    image = paint(GREEN, [(cells(12, 12, 0, 1, 0, 3), RED)])
    assert max(run(image).areas) < 0.9 * SIDE * SIDE
    assert max(run(image, max_area=1.0).areas) > 0.9 * SIDE * SIDE


def test_defaults_are_the_published_values():
    defaults = {k: p.default for k, p in inspect.signature(inspect.unwrap(sohes)).parameters.items()}
    assert defaults["small_area"] == 1 / 1024
    assert defaults["thresholds"] == (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    assert defaults["refiner"] is dense_crf
    assert defaults["min_coverage"] == defaults["max_area"] == defaults["duplicate_iou"] == 0.9
    assert 480 <= defaults["side"] <= 1024
    assert defaults["crop_side"] == 256


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (40, 70)])
def test_images_of_any_size_and_one_colour_give_trees(size):
    image = np.zeros((*size, 3), np.uint8)
    image[:] = GREEN
    tree = run(image, side=48, refiner=dense_crf)
    assert tree.size == size
    assert len(tree) == 0


def test_features_without_direction_stay_bounded():
    """Every cell its own region: hundreds of small ones, as many crops as allowed, no crash."""
    backbone = PaintedBackbone({GREEN: np.zeros(3), RED: np.zeros(3)})
    image = paint(GREEN, [(cells(12, 12, 3, 6, 1, 5), RED)])
    tree = run(image, backbone, max_crops=4)
    assert sum(map(len, backbone.images)) == 5
    assert tree.size == (SIDE, SIDE)

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest

from masktree.discover.unsam import unsam
from masktree.errors import InputError
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
    paint,
    scrambled,
    unchanged,
)

SIDE = 96
PALETTE = {colour: np.eye(5)[i] for i, colour in enumerate((GREEN, RED, BLUE, WHITE, BLACK))}
module = sys.modules["masktree.discover.unsam"]


def run(image, wholes=None, backbone=None, **options):
    detector = None if wholes is None else lambda _: np.array(wholes)
    options = {"side": SIDE, "crop_side": 96, "refiner": unchanged, "detector": detector} | options
    return unsam(image, backbone or PaintedBackbone(PALETTE), **options)


def test_maskcut_divides_and_merging_conquers():
    """One object of two colours that share a direction: MaskCut takes it whole, merging takes it apart."""
    left, right = cells(12, 12, 3, 9, 3, 6), cells(12, 12, 3, 9, 6, 9)
    half = np.sqrt(0.5)
    palette = {
        GREEN: np.eye(4)[0],
        RED: half * (np.eye(4)[1] + np.eye(4)[2]),
        BLUE: half * (np.eye(4)[1] + np.eye(4)[3]),
    }
    tree = run(paint(GREEN, [(left, RED), (right, BLUE)]), backbone=PaintedBackbone(palette))
    iou, whole = best_iou(tree, left | right)
    assert iou > 0.95
    for part in (left, right):
        iou, number = best_iou(tree, part)
        assert iou > 0.95
        assert tree.parents[number] == whole


def test_a_detector_replaces_maskcut(monkeypatch):
    monkeypatch.setattr(module, "cut_objects", lambda *_: pytest.fail("MaskCut was called"))
    whole = cells(12, 12, 2, 8, 2, 8)
    image = paint(GREEN, [(whole, RED), (cells(12, 12, 2, 5, 2, 8), BLUE)])
    seen = []

    def detector(given):
        seen.append(given)
        return whole[None]

    tree = run(image, detector=detector)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], image)
    assert best_iou(tree, whole)[0] > 0.97
    assert best_iou(tree, cells(12, 12, 2, 5, 2, 8))[0] > 0.95
    assert best_iou(tree, cells(12, 12, 5, 8, 2, 8))[0] > 0.95


@pytest.mark.parametrize(
    "found",
    [
        np.zeros((2, 96, 95), bool),
        np.zeros((96, 96), bool),
        np.zeros((1, 96, 96), np.float32),
        [[True]],
        None,
    ],
)
def test_the_output_of_a_detector_is_checked(found):
    image = paint(GREEN, [(cells(12, 12, 2, 8, 2, 8), RED)])
    with pytest.raises(InputError, match=r"expected detector masks \(n, 96, 96\) bool; got"):
        run(image, detector=lambda _: found)


def test_a_detector_that_finds_nothing_gives_an_empty_tree():
    image = paint(GREEN, [(cells(12, 12, 2, 8, 2, 8), RED)])
    assert len(run(image, detector=lambda _: np.zeros((0, 96, 96), bool))) == 0
    assert len(run(image, wholes=np.zeros((1, 96, 96), bool))) == 0


def test_regions_outside_their_whole_are_dropped():
    inner, outer = cells(12, 12, 2, 5, 2, 5), cells(12, 12, 2, 10, 7, 10)
    image = paint(GREEN, [(inner, RED), (outer, BLUE)])
    whole = cells(12, 12, 2, 6, 2, 10) | cells(12, 12, 2, 10, 2, 6)  # its box holds all of outer, itself half
    tree = run(image, wholes=whole[None], crop_side=64)
    assert best_iou(tree, inner)[0] > 0.9
    assert best_iou(tree, outer)[0] < 0.5
    loose = run(image, wholes=whole[None], crop_side=64, min_inside=0.4)
    assert best_iou(loose, outer)[0] > 0.9


def test_regions_under_four_cells_are_dropped():
    three, four = cells(12, 12, 2, 3, 2, 5), cells(12, 12, 5, 7, 2, 4)
    image = paint(GREEN, [(three, RED), (four, BLUE)])
    everything = np.ones((1, 96, 96), bool)
    tree = run(image, wholes=everything)
    assert best_iou(tree, four)[0] > 0.8
    assert best_iou(tree, three)[0] < 0.5
    assert best_iou(run(image, wholes=everything, min_cells=3), three)[0] > 0.8


def test_masks_over_nine_tenths_of_the_image_are_dropped():
    image = paint(GREEN, [(cells(12, 12, 2, 8, 2, 8), RED)])
    everything = np.ones((1, 96, 96), bool)
    assert max(run(image, wholes=everything).areas) < 0.9 * SIDE * SIDE
    assert max(run(image, wholes=everything, max_area=1.0).areas) == SIDE * SIDE


def test_the_backbone_sees_rgb():
    backbone = PaintedBackbone(PALETTE)
    run(paint(RED, [(cells(12, 12, 2, 8, 2, 8), RED)]), wholes=cells(12, 12, 2, 8, 2, 8)[None], backbone=backbone)
    run(paint(RED, [(cells(12, 12, 2, 8, 2, 8), RED)]), backbone=backbone)
    assert all((images == RED).all() for images in backbone.images)
    assert len(backbone.images) >= 2


def test_all_masks_have_different_ids():
    parts = [cells(12, 12, top, top + 3, 2, 8) for top in (0, 3, 6, 9)]
    image = paint(GREEN, list(zip(parts, (RED, BLUE, WHITE, BLACK), strict=True)))
    tree = run(image, wholes=np.ones((1, 96, 96), bool))
    assert len(tree) >= 4
    for records in (tree.masks(), tree.coco_annotations()):
        assert len({r["id"] for r in records}) == len(tree)


@pytest.mark.parametrize("size", [(200, 150), (96, 96), (61, 333)])
def test_the_last_row_and_column_are_kept(size):
    image = np.zeros((*size, 3), np.uint8)
    image[:] = GREEN
    part, whole = np.zeros(size, bool), np.zeros((1, *size), bool)
    part[size[0] // 2 :, size[1] // 2 :] = True
    whole[0, size[0] // 4 :, size[1] // 4 :] = True
    image[part] = RED
    backbone = PaintedBackbone(PALETTE)
    tree = run(image, wholes=whole, backbone=backbone)
    assert (backbone.images[0][0, -1, -1] == RED).all()
    for mask in (part, whole[0]):
        iou, number = best_iou(tree, mask)
        assert iou > 0.9
        assert tree.mask(number)[-1, -1]
        assert tree.mask(number)[-1].sum() > 0.9 * mask[-1].sum()
        assert tree.mask(number)[:, -1].sum() > 0.9 * mask[:, -1].sum()


def test_refinement_that_scrambles_all_masks_leaves_none():
    image = paint(GREEN, [(cells(12, 12, 3, 6, 1, 5), RED)])
    assert len(run(image)) >= 1
    assert len(run(image, refiner=scrambled)) == 0


def test_defaults_are_the_published_values():
    defaults = {k: p.default for k, p in inspect.signature(inspect.unwrap(unsam)).parameters.items()}
    assert (defaults["side"], defaults["tau"], defaults["n_cuts"]) == (480, 0.15, 3)
    assert defaults["thresholds"] == (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    assert (defaults["crop_side"], defaults["min_cells"], defaults["min_inside"]) == (256, 4, 0.9)
    assert (defaults["duplicate_iou"], defaults["refine_iou"], defaults["max_area"]) == (0.9, 0.5, 0.9)
    assert defaults["refiner"] is dense_crf
    assert defaults["detector"] is None


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (40, 70)])
def test_images_of_any_size_and_one_colour_give_trees(size):
    image = np.zeros((*size, 3), np.uint8)
    image[:] = GREEN
    tree = run(image, side=48, refiner=dense_crf)
    assert tree.size == size
    assert len(tree) == 0

from __future__ import annotations

import inspect

import numpy as np
import pytest

from masktree.cluster import merge_tree
from masktree.discover import region_masks
from masktree.discover.hassod import hassod
from masktree.discover.sohes import sohes
from masktree.discover.unsam import unsam
from masktree.errors import InputError
from masktree.trees import rle
from tests.oracles import discover as oracle
from tests.oracles import hierarchy as hierarchy_oracle
from tests.oracles.discover import BLUE, GREEN, RED, PaintedBackbone

COLOURS = {GREEN: np.eye(3)[0], RED: np.eye(3)[1], BLUE: np.eye(3)[2]}


def blobs(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        top, left = rng.integers(0, size[0] - 1), rng.integers(0, size[1] - 1)
        mask[top : top + rng.integers(2, size[0]), left : left + rng.integers(2, size[1])] = True
    return masks


@pytest.mark.parametrize("thresholds", [(0.6, 0.3, 0.1), (0.5,), (1.0, -1.0)])
def test_pooled_regions_are_the_distinct_regions_of_all_cuts(rng, thresholds):
    tree = merge_tree(rng.normal(size=(7, 9, 3)).astype(np.float32) + 0.5)
    regions = region_masks.pooled_regions(tree, thresholds)
    assert len(regions) == len({r.tobytes() for r in regions})
    assert {r.tobytes() for r in regions} == oracle.regions_of_cuts(tree, list(thresholds))


def test_scaled_windows_lose_nothing_and_end_where_the_image_ends(rng):
    for _ in range(300):
        (h, w), (H, W) = rng.integers(1, 600, 2).tolist(), rng.integers(1, 600, 2).tolist()
        top, left = int(rng.integers(0, h)), int(rng.integers(0, w))
        bottom, right = int(rng.integers(top + 1, h + 1)), int(rng.integers(left + 1, w + 1))
        y0, y1, x0, x1 = region_masks.scale_window((top, bottom, left, right), (h, w), (H, W))
        for low, high, start, end, source, target in ((top, bottom, y0, y1, h, H), (left, right, x0, x1, w, W)):
            # In exact arithmetic: outside by less than one pixel, never inside.
            assert start * source <= low * target < (start + 1) * source
            assert (end - 1) * source < high * target <= end * source
            assert 0 <= start < end <= target
    assert region_masks.scale_window((0, 480, 0, 480), (480, 480), (427, 641)) == (0, 427, 0, 641)


def test_box_window_is_tight():
    mask = np.zeros((9, 7), bool)
    mask[3, 2] = mask[8, 6] = True
    assert region_masks.box_window(mask) == (3, 9, 2, 7)


def test_crops_in_batches_equal_crops_one_by_one(rng):
    image = rng.integers(0, 256, (120, 90, 3), dtype=np.uint8)
    windows = [(0, 20, 0, 20), (30, 60, 10, 45), (40, 41, 44, 45), (0, 60, 0, 45), (50, 60, 5, 9)]
    together, alone = PaintedBackbone(COLOURS), PaintedBackbone(COLOURS)
    options = {"side": 32, "thresholds": (0.9, 0.5)}
    found = region_masks.cluster_crops(image, windows, (60, 45), together, batch=2, **options)
    assert [len(batch) for batch in together.images] == [2, 2, 1]
    assert len(found) == len(windows)
    for window, regions in zip(windows, found, strict=True):
        single = region_masks.cluster_crops(image, [window], (60, 45), alone, **options)
        np.testing.assert_array_equal(regions, single[0])
    assert region_masks.cluster_crops(image, [], (60, 45), alone, **options) == []


def test_crops_come_from_the_full_image():
    image = np.zeros((200, 100, 3), np.uint8)
    image[180:, 90:] = RED
    backbone = PaintedBackbone(COLOURS)
    region_masks.cluster_crops(image, [(90, 100, 45, 50)], (100, 50), backbone, side=16, thresholds=(0.5,))
    assert (backbone.images[0] == RED).all()


@pytest.mark.parametrize("iou", [0.3, 0.6, 0.9])
def test_suppression_of_duplicates_is_greedy_nms_by_area(rng, iou):
    masks = np.concatenate([blobs(rng, 40, (20, 30)), blobs(rng, 5, (20, 30))[[0, 0, 1, 2, 2]]])
    expected = sorted(hierarchy_oracle.nms(masks, masks.sum(axis=(1, 2)), iou))
    assert region_masks.suppress_duplicates([rle.encode(m) for m in masks], (20, 30), iou_threshold=iou) == [
        rle.encode(masks[i]) for i in expected
    ]
    assert len(expected) < len(masks)


def test_suppression_of_no_masks():
    assert region_masks.suppress_duplicates([], (4, 5), iou_threshold=0.9) == []


def test_resized_masks_keep_position_area_and_type():
    mask = np.zeros((30, 40), bool)
    mask[6:24, 10:30] = True
    for size in ((60, 80), (300, 200), (15, 20), (30, 40)):
        scaled = region_masks.resize_mask(mask, size)
        assert scaled.shape == size
        assert scaled.dtype == np.bool_
        assert abs(scaled.mean() - mask.mean()) < 0.02
        y, x = np.nonzero(scaled)
        assert abs((y.mean() + 0.5) / size[0] - 0.5) < 0.01
        assert abs((x.mean() + 0.5) / size[1] - 0.5) < 0.01
    assert region_masks.resize_mask(np.ones((5, 6), bool), (33, 17)).all()
    assert not region_masks.resize_mask(np.zeros((5, 6), bool), (33, 17)).any()
    assert region_masks.resize_masks(np.zeros((0, 5, 6), bool), (7, 8)).shape == (0, 7, 8)


@pytest.mark.parametrize("size", [(101, 77), (480, 640), (23, 31), (1, 9), (48, 48)])
def test_resizing_in_a_window_equals_the_window_of_the_resized_mask(rng, size):
    for mask in [*blobs(rng, 15, (48, 48)), np.eye(48, dtype=bool), np.ones((48, 48), bool)]:
        part, (top, bottom, left, right) = region_masks.resize_in_window(mask, size)
        full = np.zeros(size, bool)
        full[top:bottom, left:right] = part
        # Values that fall on one half may round either way.
        assert (full != region_masks.resize_mask(mask, size)).sum() <= 0.002 * full.size


def test_the_window_of_a_small_mask_of_a_large_image_is_small():
    mask = np.zeros((48, 48), bool)
    mask[20:22, 30:33] = True
    part, _ = region_masks.resize_in_window(mask, (4000, 6000))
    assert part.size < 1000 * 1000
    assert abs(part.sum() / (2 * 3 * (4000 / 48) * (6000 / 48)) - 1) < 0.1


def test_paste_fills_its_window():
    region = np.zeros((4, 4), bool)
    region[:, 2:] = True
    pasted = region_masks.paste(region, (5, 25, 10, 50))
    assert pasted.shape == (20, 40)
    assert pasted[:, 24:].all()
    assert not pasted[:, :16].any()


def test_refined_masks_are_filtered_scored_and_made_a_forest():
    size = (96, 96)
    image = np.zeros((*size, 3), np.uint8)
    outer, inner = np.zeros(size, bool), np.zeros(size, bool)
    outer[8:72, 8:72], inner[16:40, 16:40] = True, True
    speck = np.zeros(size, bool)
    speck[80:83, 80:83] = True
    pool = [rle.encode(m) for m in (inner, outer, np.ones(size, bool), speck, np.zeros(size, bool), outer)]

    def finish(refiner=oracle.unchanged, **changes):
        options = {"refine_iou": 0.5, "min_area": 16, "max_area": 0.9, "duplicate_iou": 0.9} | changes
        duplicate_iou = options.pop("duplicate_iou")
        refined = region_masks.RefinedMasks(size, refiner, **options)
        refined.add(pool, image)
        return region_masks.build_forest(
            refined.rles, refined.scores, size, duplicate_iou=duplicate_iou, min_coverage=0.9
        )

    tree = finish()
    assert sorted(tree.areas) == [24 * 24, 64 * 64]
    assert tree.parents[np.argmin(tree.areas)] == np.argmax(tree.areas)
    np.testing.assert_allclose(tree.scores, 1.0)
    assert sorted(finish(min_area=9).areas) == [9, 24 * 24, 64 * 64]
    assert 96 * 96 in finish(max_area=1.0).areas
    assert len(finish(duplicate_iou=1.0)) == 3
    assert len(finish(refiner=oracle.scrambled)) == 0
    shifted = finish(refiner=lambda i, p, **k: np.roll(p, 4, axis=2), refine_iou=0.7)
    expected = 64 * 60 / (64 * 68)
    np.testing.assert_allclose(np.sort(shifted.scores), [20 / 28, expected], rtol=1e-6)


def test_refined_counts_the_area_in_original_pixels():
    image = np.zeros((96, 96, 3), np.uint8)
    mask = np.zeros((96, 96), bool)
    mask[10:14, 10:14] = True  # 16 pixels here, 64 in the original

    def finish(min_area):
        refined = region_masks.RefinedMasks(
            (192, 192), oracle.unchanged, refine_iou=0.5, min_area=min_area, max_area=0.9
        )
        refined.add([rle.encode(mask)], image)
        return region_masks.build_forest(refined.rles, refined.scores, (192, 192), duplicate_iou=0.9, min_coverage=0.9)

    assert len(finish(55)) == 1
    assert len(finish(70)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": ()}, r"at least one merge threshold, all finite; got \(\)"),
        ({"thresholds": (0.5, float("nan"))}, "at least one merge threshold, all finite"),
        ({"side": 7}, "at least one cell of painted, 8 pixels; got 7"),
        ({"side": 0}, "at least one cell of painted, 8 pixels; got 0"),
        ({"side": -480}, "at least one cell of painted, 8 pixels; got -480"),
        ({"side": 480.5}, "whole numbers of at least one cell of painted"),
        ({"min_area": 0}, "min_area as a whole number of at least 1 pixel; got 0"),
        ({"min_area": 1.5}, "min_area as a whole number of at least 1 pixel; got 1.5"),
        ({"crop_side": 7}, "at least one cell of painted, 8 pixels; got 7"),
        ({"crop_scale": 0}, "crop_scale above 0, in units of the region's box; got 0"),
        ({"crop_scale": -3.0}, "crop_scale above 0"),
        ({"crop_scale": float("inf")}, "crop_scale above 0"),
    ],
)
def test_invalid_settings_are_refused_before_any_work(options, message):
    backbone = PaintedBackbone(COLOURS)
    methods = [m for m in (hassod, sohes, unsam) if set(options) <= set(inspect.signature(m).parameters)]
    assert sohes in methods
    for method in methods:
        with pytest.raises(InputError, match=message):
            method(np.zeros((40, 50, 3), np.uint8), backbone, **options)
    assert backbone.images == []

"""Segment-anything's mask generator: its keys, its filters, and trees."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
from scipy import ndimage

from masktree import AutomaticMaskGenerator, MaskTree
from masktree.errors import InputError, MasktreeWarning
from masktree.prompt.crops import crops_of_layers
from masktree.prompt.generator import remove_small_regions

SAM_KEYS = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}


class Fixed:
    """A segmenter whose tree is known."""

    def __init__(self) -> None:
        masks = np.zeros((3, 20, 30), bool)
        masks[0, 2:18, 2:20], masks[1, 4:10, 4:10], masks[2, 12:16, 22:28] = True, True, True
        tree = MaskTree.from_masks(masks, scores=np.array([0.9, 0.5, 0.7], np.float32))
        self.tree = dataclasses.replace(tree, stabilities=np.array([0.2, 0.8, 0.6], np.float32))

    def __call__(self, image: object) -> MaskTree:
        return self.tree


IMAGE = np.zeros((20, 30, 3), np.uint8)


def test_generated_records_have_the_keys_of_segment_anything():
    records = AutomaticMaskGenerator(Fixed()).generate(IMAGE)
    assert [r["area"] for r in records] == [288, 36, 24]
    for record in records:
        assert SAM_KEYS | {"id", "parent_id", "level", "depth", "granularity"} <= record.keys()
        assert record["segmentation"].dtype == np.bool_
        assert record["segmentation"].sum() == record["area"]
        x, y = (int(v) for v in record["point_coords"][0])
        assert record["segmentation"][y, x]
        left, top, width, height = record["bbox"]
        ys, xs = np.nonzero(record["segmentation"])
        assert (left, top, left + width, top + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert record["crop_box"] == [0, 0, 30, 20]
    assert records[1]["parent_id"] == records[0]["id"]


@pytest.mark.parametrize(
    ("options", "areas"),
    [
        ({"pred_iou_thresh": 0.6}, [288, 24]),
        ({"pred_iou_thresh": 0.9}, [288]),
        ({"stability_score_thresh": 0.5}, [36, 24]),
        ({"min_mask_region_area": 36}, [288, 36]),
        ({"pred_iou_thresh": 0.6, "stability_score_thresh": 0.5}, [24]),
    ],
)
def test_thresholds_keep_what_reaches_them(options, areas):
    records = AutomaticMaskGenerator(Fixed(), **options).generate(IMAGE)
    assert [r["area"] for r in records] == areas
    ids = {r["id"] for r in records}
    assert all(r["parent_id"] in ids | {None} for r in records)


@pytest.mark.parametrize(
    ("options", "areas", "message"),
    [
        ({"pred_iou_thresh": 0.95}, [], "none of 3 masks reaches pred_iou_thresh 0.95: .* up to 0.9; set 0.86 to keep"),
        (
            {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.92},
            [],
            "none of the 2 masks that reach pred_iou_thresh 0.6 .* 0.92: .* 0.4 in the median and at most 0.6; leave",
        ),
        ({"stability_score_thresh": 0.7}, [36], None),  # on this scale, so the user knows it
    ],
)
def test_thresholds_that_leave_nothing_are_said_with_what_to_set(options, areas, message):
    generator = AutomaticMaskGenerator(Fixed(), **options)
    with pytest.warns(MasktreeWarning, match=message) if message else nullcontext():
        assert [record["area"] for record in generator.generate(IMAGE)] == areas


def test_a_stability_of_segment_anything_that_leaves_next_to_nothing_is_said():
    masks = np.zeros((12, 20, 30), bool)
    masks[np.arange(12), 5, np.arange(12)] = True
    tree = dataclasses.replace(MaskTree.from_masks(masks), stabilities=np.float32([0.95] + 11 * [0.1]))
    with pytest.warns(MasktreeWarning, match="1 of the 12 masks .* reaches stability_score_thresh 0.92"):
        assert len(AutomaticMaskGenerator(lambda image: tree, stability_score_thresh=0.92).generate(IMAGE)) == 1


def test_output_modes_encode_the_same_masks():
    from pycocotools import mask as coco

    dense, raw, packed = (
        AutomaticMaskGenerator(Fixed(), output_mode=mode).generate(IMAGE)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    for a, b, c in zip(dense, raw, packed, strict=True):
        assert b["segmentation"]["size"] == c["segmentation"]["size"] == [20, 30]
        np.testing.assert_array_equal(coco.decode(coco.frPyObjects(b["segmentation"], 20, 30)), a["segmentation"])
        np.testing.assert_array_equal(coco.decode(c["segmentation"]), a["segmentation"])
    with pytest.raises(InputError, match="output_mode binary_mask, uncompressed_rle or coco_rle; got 'png'"):
        AutomaticMaskGenerator(Fixed(), output_mode="png")


# --- beyond thresholds ------------------------------------------------------------------------------------------------


def test_a_grid_keeps_the_masks_that_hold_one_of_its_points():
    generated = AutomaticMaskGenerator(Fixed(), points_per_side=2).tree(IMAGE)  # at (7, 5), (22, 5), (7, 15), (22, 15)
    assert generated.areas.tolist() == [288, 36, 24]
    generated = AutomaticMaskGenerator(Fixed(), point_grids=[np.array([[0.5, 0.5], [1.0, 1.0]])]).tree(IMAGE)
    assert generated.areas.tolist() == [288]
    assert AutomaticMaskGenerator(Fixed(), points_per_side=1).tree(IMAGE).areas.tolist() == [288]


def test_box_suppression_keeps_the_better_of_two_boxes():
    masks = np.zeros((4, 20, 30), bool)
    masks[0, 2:18, 2:20], masks[1, 2:18, 2:18], masks[2, 2:18, 22:30], masks[3, 5:8, 5:8] = True, True, True, True
    tree = MaskTree.from_masks(masks, scores=np.array([0.5, 0.9, 0.3, 0.8]))
    generated = AutomaticMaskGenerator(lambda image: tree, box_nms_thresh=0.7).tree(IMAGE)
    assert generated.areas.tolist() == [256, 128, 9]
    assert generated.parents.tolist() == [-1, -1, 0]
    assert len(AutomaticMaskGenerator(lambda image: tree, box_nms_thresh=0.95).tree(IMAGE)) == 4
    assert len(AutomaticMaskGenerator(lambda image: tree).tree(IMAGE)) == 4


def test_small_pieces_and_holes_are_removed():
    mask = np.zeros((20, 30), bool)
    mask[2:14, 2:14] = True
    mask[4:6, 4:6] = False  # a hole of 4
    mask[8:12, 5:9] = False  # a hole of 16
    mask[16:18, 20:23] = True  # a piece of 6
    mask[0, 29] = True
    tidy = remove_small_regions(mask, 5)
    assert tidy[4:6, 4:6].all()
    assert not tidy[8:12, 5:9].any()
    assert tidy[16:18, 20:23].all()
    assert not tidy[0, 29]
    assert remove_small_regions(mask, 17)[8:12, 5:9].all()
    assert not remove_small_regions(mask, 300).any()
    assert not remove_small_regions(np.zeros((3, 4), bool), 5).any()
    assert np.array_equal(remove_small_regions(mask, 1), mask)
    open_ = np.ones((5, 5), bool)
    open_[2, 4] = False  # at the edge of the image, but within the box of the mask
    assert not remove_small_regions(open_, 1)[2, 4]


def test_tidy_masks_keep_scores_and_parents():
    tree = Fixed().tree
    ragged = np.stack([tree.mask(i) for i in range(3)])
    ragged[0, 19, 29] = True
    fixed = MaskTree.from_masks(ragged, scores=tree.scores)
    generated = AutomaticMaskGenerator(lambda image: fixed, min_mask_region_area=30).tree(IMAGE)
    assert generated.areas.tolist() == [288, 36]
    assert generated.scores.tolist() == fixed.scores[:2].tolist()
    assert generated.parents.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side as a whole number of at least 1; got 0"),
        ({"points_per_batch": 2.5}, "points_per_batch as a whole number"),
        ({"pred_iou_thresh": 88}, r"pred_iou_thresh in \[0, 1\]; got 88"),
        ({"stability_score_thresh": -1}, "stability_score_thresh"),
        ({"box_nms_thresh": 2}, "box_nms_thresh"),
        ({"min_mask_region_area": -1}, "min_mask_region_area"),
        ({"crop_n_layers": 1.5}, "crop_n_layers as a whole number of at least 0; got 1.5"),
        ({"crop_n_layers": 9}, "crop_n_layers of at most 4; got 9"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor as a whole number of at least 1"),
        ({"crop_overlap_ratio": 1}, r"crop_overlap_ratio in \[0, 0.99\]"),
        ({"crop_nms_thresh": 7}, "crop_nms_thresh"),
        ({"stability_score_offset": 1.0}, "for a promptable model only; got 1.0"),
        ({"points_per_side": 3, "point_grids": [np.zeros((1, 2))]}, "got both"),
        ({"point_grids": [np.zeros((1, 2)), np.zeros((1, 2))]}, "a list of 1"),
        ({"point_grids": [np.array([[3.0, 4.0]])]}, "a list of 1"),
        ({"point_grids": [np.zeros((1, 2))], "crop_n_layers": 1}, "a list of 2"),
    ],
)
def test_invalid_generator_options_raise_an_input_error(options, message):
    with pytest.raises(InputError, match=message):
        AutomaticMaskGenerator(Fixed(), **options)


def test_a_generator_needs_a_segmenter():
    with pytest.raises(InputError, match="a segmenter; got MaskTree"):
        AutomaticMaskGenerator(Fixed().tree)


# --- crops ----------------------------------------------------------------------------------------------------------


class Bright:
    """A segmenter that finds each connected bright region of at least ``min_side`` x ``min_side`` of the image."""

    def __init__(self, min_side: float) -> None:
        self.min_side = min_side
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, image: np.ndarray) -> MaskTree:
        self.sizes.append(image.shape[:2])
        labels, count = ndimage.label(image[..., 0] > 0)
        masks = np.stack([labels == k + 1 for k in range(count)] or [np.zeros(labels.shape, np.bool_)])
        large = masks.mean(axis=(1, 2)) >= self.min_side**2
        return MaskTree.from_masks(masks[large])


def squares() -> np.ndarray:
    """Two small squares, one of them in all crops, and a large one that no crop of the first layer holds."""
    image = np.zeros((60, 90, 3), np.uint8)
    for top, left, side in ((5, 5, 6), (27, 40, 6), (10, 20, 14), (40, 60, 18)):
        image[top : top + side, left : left + side] = 255
    return image


def test_crops_add_the_masks_that_only_they_show():
    image, segmenter = squares(), Bright(0.1)
    assert AutomaticMaskGenerator(segmenter).tree(image).areas.tolist() == [196, 324]
    segmenter.sizes.clear()
    tree = AutomaticMaskGenerator(segmenter, crop_n_layers=1).tree(image)
    assert segmenter.sizes == [(60, 90)] + [(40, 55)] * 4
    assert sorted(tree.areas.tolist()) == [36, 36, 196, 324]
    for index in range(4):
        assert (image[tree.mask(index)] == 255).all()


def test_masks_that_a_crop_cuts_are_left_out():
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40] = 255
    tree = AutomaticMaskGenerator(Bright(0.9), crop_n_layers=2).tree(image)
    assert len(tree) == 0  # the band is more of each crop than of the image, but no crop holds its ends


def test_the_crops_are_those_of_segment_anything():
    corners = [crop[:4] for crop in crops_of_layers((60, 90), 1, 0.5)]
    assert corners == [(0, 0, 60, 45), (30, 0, 90, 45), (0, 15, 60, 60), (30, 15, 90, 60)]
    assert len(crops_of_layers((60, 90), 2, 512 / 1500)) == 4 + 16
    for left, top, right, bottom, _ in crops_of_layers((5, 3), 4, 0.3):
        assert 0 <= left < right <= 3
        assert 0 <= top < bottom <= 5


def test_grids_of_crops_are_coarser():
    generator = AutomaticMaskGenerator(
        model=Fixed(), points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=2, min_mask_region_area=5
    )
    assert [len(grid) for grid in generator.point_grids] == [64, 16, 4]

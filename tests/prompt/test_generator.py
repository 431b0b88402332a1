"""Segment-anything's mask generator: its keys, its filters, and trees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from masktree import AutomaticMaskGenerator, MaskTree
from masktree.errors import InputError

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
        ({"pred_iou_thresh": 1.0}, []),
    ],
)
def test_thresholds_keep_what_reaches_them(options, areas):
    records = AutomaticMaskGenerator(Fixed(), **options).generate(IMAGE)
    assert [r["area"] for r in records] == areas
    ids = {r["id"] for r in records}
    assert all(r["parent_id"] in ids | {None} for r in records)


def test_output_modes_say_the_same():
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

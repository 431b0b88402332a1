"""``MaskTree.to_detections``, with the package itself where it is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.trees.mask_selection import select_masks
from masktree.trees.masktree import LEVELS, MaskTree
from tests.export.planted import SIZE, planted_masks, planted_tree


def supervision():
    return pytest.importorskip("supervision", reason="supervision is not installed: pip install supervision.")


def test_detections_have_masks_boxes_scores_and_the_tree():
    sv, tree = supervision(), planted_tree()
    found = tree.to_detections()
    assert isinstance(found, sv.Detections)
    np.testing.assert_array_equal(found.mask, planted_masks())
    # Boxes as supervision has them of segment-anything's results, which it sorts by area
    order = np.argsort(-tree.areas, kind="stable")
    np.testing.assert_array_equal(found.xyxy[order], sv.Detections.from_sam(tree.masks()).xyxy)
    np.testing.assert_allclose(found.confidence, tree.scores)
    assert found.data["id"].tolist() == list(range(6))
    assert found.data["parent_id"].tolist() == [-1, 0, 1, 2, 0, 0]
    assert found.data["level"].tolist() == [LEVELS[level] for level in tree.levels]
    np.testing.assert_allclose(found.data["granularity"], tree.granularities)
    chosen = found[found.data["level"] == "part"]
    assert chosen.data["id"].tolist() == [1, 4, 5]
    np.testing.assert_array_equal(chosen.mask, planted_masks()[[1, 4, 5]])


def test_detections_of_some_masks_keep_their_ids_and_nearest_ancestors():
    supervision()
    tree = planted_tree()
    found = tree.to_detections(levels=("whole", "subpart"), min_area=2)
    assert found.data["id"].tolist() == [0, 2, 3]
    assert found.data["parent_id"].tolist() == [-1, 0, 2]
    assert tree.to_detections(min_score=0.75).data["id"].tolist() == [0, 1, 2]
    assert tree.to_detections(levels=["part"]).data["parent_id"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("compact", [False, True])
def test_detections_of_no_mask_are_empty(compact):
    supervision()
    empty = MaskTree.from_masks(np.zeros((0, *SIZE), bool)).to_detections(compact=compact)
    assert len(empty) == 0
    assert empty.is_empty()


def test_compact_masks_are_the_same_pixels():
    sv = supervision()
    if not hasattr(sv, "CompactMask"):
        pytest.skip("This supervision has no CompactMask: pip install --upgrade supervision.")
    found = planted_tree().to_detections(compact=True)
    assert isinstance(found.mask, sv.CompactMask)
    np.testing.assert_array_equal(found.mask.to_dense(), planted_masks())
    assert found.mask.area.tolist() == planted_masks().sum((1, 2)).tolist()


def test_annotators_draw_them():
    sv = supervision()
    photo = np.full((*SIZE, 3), 128, np.uint8)
    found = planted_tree().to_detections(levels=("part",))
    drawn = sv.MaskAnnotator(opacity=1).annotate(photo.copy(), found)
    np.testing.assert_array_equal((drawn != 128).any(2), found.mask.any(0))


def test_what_is_missing_or_wrong_is_said(monkeypatch):
    with pytest.raises(InputError, match=r"^expected levels of whole, part, subpart; got parts$"):
        select_masks(planted_tree(), levels=("parts",))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"got none; pip install supervision$"):
        planted_tree().to_detections()

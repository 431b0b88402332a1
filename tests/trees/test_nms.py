"""Mask NMS equals greedy suppression written out on dense masks."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.trees.nms import mask_nms
from tests.oracles import hierarchy as oracle
from tests.trees.planted import SIZE, planted, rectangles, strings


@pytest.mark.parametrize("iou", [0.0, 0.5, 0.9, 1.0])
def test_nms_equals_the_rule_on_dense_masks(rng: np.random.Generator, iou: float) -> None:
    for n in (1, 2, 15, 60):
        masks = rectangles(rng, n)
        scores = rng.integers(0, 6, n).astype(np.float32)  # many ties
        kept = mask_nms(strings(masks), SIZE, scores, iou_threshold=iou)
        assert kept.tolist() == oracle.nms(masks, scores, iou)


def test_nms_keeps_the_better_of_two_copies_and_the_first_of_equals() -> None:
    masks = planted()[[1, 2, 1]]
    assert mask_nms(strings(masks), SIZE, np.array([0.1, 0.5, 0.2])).tolist() == [1, 2]
    assert mask_nms(strings(masks), SIZE, np.array([0.2, 0.5, 0.2])).tolist() == [1, 0]


def test_an_iou_of_exactly_the_threshold_is_kept() -> None:
    masks = np.zeros((2, 4, 5), bool)
    masks[0, :, :] = True
    masks[1, :2, :] = True
    assert len(mask_nms(strings(masks), (4, 5), np.ones(2), iou_threshold=0.5)) == 2
    assert len(mask_nms(strings(masks), (4, 5), np.ones(2), iou_threshold=0.49)) == 1


def test_nms_of_no_masks_is_empty() -> None:
    assert mask_nms([], SIZE, np.zeros(0)).shape == (0,)


def test_wrong_input_raises_an_input_error() -> None:
    one = strings(planted()[:1])
    with pytest.raises(InputError, match="got 2 scores"):
        mask_nms(one, SIZE, np.ones(2))
    with pytest.raises(InputError, match="1 not finite"):
        mask_nms(one, SIZE, np.array([np.nan]))
    with pytest.raises(InputError, match=r"IoU in \[0, 1\]"):
        mask_nms(one, SIZE, np.ones(1), iou_threshold=1.5)

from __future__ import annotations

from inspect import unwrap  # past the type checks of the test run, to masktree's own messages

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from masktree.errors import InputError
from masktree.refine import (
    dense_crf,
    elementwise_iou,
    fill_holes,
    guided,
    refine_masks,
    upsample_labels,
)


def scene(height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Two coloured rectangles on grey, and their masks."""
    image = np.full((height, width, 3), 90, np.uint8)
    masks = np.zeros((2, height, width), bool)
    masks[0, 8:40, 8:32] = True
    masks[1, 24:56, 48:72] = True
    image[masks[0]], image[masks[1]] = (210, 60, 40), (40, 80, 200)
    return image, masks


@pytest.mark.parametrize(
    ("source", "target"), [((6, 7), (48, 56)), ((5, 3), (17, 29)), ((9, 8), (4, 4)), ((1, 1), (3, 2))]
)
def test_upsampling_equals_torch(rng, source, target):
    import torch

    labels = rng.integers(0, 4, source).astype(np.int32)
    labels.flat[0] = 3
    one_hot = torch.from_numpy(np.eye(4, dtype=np.float32)[labels]).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(one_hot, target, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(upsample_labels(labels, *target), expected, atol=1e-5)


def test_upsampling_refuses_invalid_grids():
    for labels, size in [
        (np.zeros((0, 3), np.int32), (4, 4)),
        (np.full((2, 2), -1, np.int32), (4, 4)),
        (np.zeros((2, 2), np.int32), (0, 4)),
    ]:
        with pytest.raises(InputError, match="label grid"):
            upsample_labels(labels, *size)


@pytest.mark.parametrize("refiner", [dense_crf, guided])
def test_label_boundaries_move_to_image_edges(refiner):
    image, masks = scene()
    truth = (masks[0] + 2 * masks[1]).astype(np.int32)
    grid = np.roll(truth, 3, axis=1)[4::8, 4::8].copy()
    before = (upsample_labels(grid, 64, 80).argmax(axis=0) == truth).mean()
    after = (refiner(image, upsample_labels(grid, 64, 80)).argmax(axis=0) == truth).mean()
    assert after > before
    assert after > 0.97


def test_masks_are_refined_one_by_one_in_order():
    image, masks = scene()
    shifted = np.roll(masks, 2, axis=2)
    shifted = np.concatenate([shifted, np.zeros((1, 64, 80), bool), shifted[:1]])
    refined = refine_masks(image, shifted)
    ious = elementwise_iou(refined, np.concatenate([masks, masks[:1], masks[:1]]))
    assert (ious[[0, 1, 3]] > 0.98).all()
    assert not refined[2].any()
    np.testing.assert_array_equal(refined[0], refined[3])


def test_batches_do_not_change_masks(monkeypatch):
    from masktree.refine import masks as module

    image, masks = scene()
    stack = np.stack([np.roll(masks[i % 2], i % 5, axis=1) for i in range(11)])
    together = refine_masks(image, stack)
    monkeypatch.setattr(module, "_BATCH_PIXELS", 1)
    np.testing.assert_array_equal(refine_masks(image, stack), together)


def test_a_mask_is_refined_as_cutlers_two_label_problem():
    image, masks = scene()
    shifted = np.roll(masks, 2, axis=2)
    foreground = np.where(shifted[0], 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))).astype(np.float32)
    expected = dense_crf(image, np.stack([1 - foreground, foreground])).argmax(axis=0)
    np.testing.assert_array_equal(refine_masks(image, shifted[:1])[0], expected == 1)


def test_no_masks_are_accepted_and_invalid_masks_refused():
    image, masks = scene()
    assert refine_masks(image, masks[:0]).shape == (0, 64, 80)
    with pytest.raises(InputError, match="size"):
        unwrap(refine_masks)(image, masks[:, 1:])
    for foreground in (0.5, 1.0, float("nan")):
        with pytest.raises(InputError, match="foreground"):
            refine_masks(image, masks, foreground=foreground)


def test_iou_pairwise():
    before = np.zeros((4, 3, 4), bool)
    after = np.zeros((4, 3, 4), bool)
    before[0, :, :2] = after[0, :, 1:3] = True
    before[1] = after[1] = True
    before[2, 0] = after[2, 1] = True
    np.testing.assert_allclose(elementwise_iou(before, after), [1 / 3, 1, 0, 0])
    assert elementwise_iou(before[:0], after[:0]).shape == (0,)
    with pytest.raises(InputError, match="shape"):
        unwrap(elementwise_iou)(before, after[:2])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (12, 17)])
@pytest.mark.parametrize("density", [0.0, 0.5, 0.7, 1.0])
def test_filled_holes_equal_scipy(rng, size, density):
    masks = rng.random((6, *size)) < density
    expected = np.stack([binary_fill_holes(m) for m in masks])
    np.testing.assert_array_equal(fill_holes(masks), expected)


def test_fill_holes_without_masks_or_pixels():
    assert fill_holes(np.zeros((0, 4, 5), bool)).shape == (0, 4, 5)
    assert fill_holes(np.zeros((2, 0, 5), bool)).shape == (2, 0, 5)

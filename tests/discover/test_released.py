"""The published methods side by side with the mask steps of their released codes, written out."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.backbones import load_backbone
from masktree.cluster import maskcut as cut_patches
from masktree.discover.hassod import hassod
from masktree.discover.maskcut import maskcut
from masktree.discover.unsam import _conquer
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.refine import dense_crf
from masktree.trees import rle
from tests.oracles import released
from tests.oracles.merge import partition_at

SIDE = 96


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("texture")


@pytest.fixture(scope="module")
def pictures(photos):
    return [resize_image(read_image(path), size) for path, size in zip(photos, ((213, 320), (150, 100)), strict=False)]


def features(backbone):
    return lambda image: backbone(image[None])[0]


def crf(image, probabilities):
    """(2, H, W) or more labels, as pydensecrf takes and gives them."""
    return dense_crf(image, np.ascontiguousarray(probabilities))


def test_masks_of_hassod_are_those_of_the_released_code(pictures, backbone):
    thresholds = (0.4, 0.2, 0.1)
    for image in pictures:
        expected = released.hassod_masks(image, features(backbone), partition_at, crf, thresholds, SIDE)
        tree = hassod(image, backbone, side=SIDE, thresholds=thresholds, duplicate_iou=1.0)
        found = {tree.mask(i).tobytes() for i in range(len(tree))}
        assert found == {mask.tobytes() for mask in expected}
        assert found


def test_other_filters_and_hard_masks_are_not_those_of_the_released_code(pictures, backbone):
    """What is compared above can fail."""
    image = pictures[0]
    expected = released.hassod_masks(image, features(backbone), partition_at, crf, (0.4, 0.2), SIDE)
    for options in ({"resample": "bilinear"}, {"soft_masks": False}):
        tree = hassod(image, backbone, side=SIDE, thresholds=(0.4, 0.2), duplicate_iou=1.0, **options)
        assert {tree.mask(i).tobytes() for i in range(len(tree))} != {mask.tobytes() for mask in expected}


def test_masks_of_maskcut_are_those_of_the_released_code(pictures, backbone):
    for image in pictures:
        expected = released.maskcut_masks(image, features(backbone), cut_patches, crf, SIDE)
        tree = maskcut(image, backbone, side=SIDE, duplicate_iou=1.0)
        found = {tree.mask(i).tobytes() for i in range(len(tree))}
        assert found == {mask.tobytes() for mask in expected}
        assert found


def test_regions_of_the_conquer_step_are_those_of_the_released_code(pictures, backbone):
    image, thresholds = pictures[0], (0.6, 0.3, 0.1)
    wholes = np.zeros((2, *image.shape[:2]), bool)
    wholes[0, 20:150, 40:200], wholes[1, 100:, 30:] = True, True
    parts = _conquer(image, wholes, backbone, thresholds, 128, "bicubic", 4, 0.9)
    expected = [
        rle.encode(mask)
        for whole in wholes
        for mask in released.conquer_masks(image, whole, features(backbone), partition_at, thresholds, side=128)
    ]
    assert set(parts) == set(expected)
    assert len(parts) > 4
    assert set(_conquer(image, wholes, backbone, thresholds, 128, "bilinear", 4, 0.9)) != set(expected)

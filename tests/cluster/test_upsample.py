"""Leaf maps upsampled along the edges of the full-size image."""

from __future__ import annotations

import numpy as np

from masktree.cluster.upsample import upsample_leaves


def test_boundaries_follow_the_colours_of_the_full_image():
    small_truth = np.zeros((10, 10), np.int32)
    small_truth[:, 5:] = 1
    y, x = np.mgrid[:80, :80]
    full_truth = (x + 3 * np.sin(y / 7) >= 40).astype(np.int32)  # wavy at full size, straight at small size
    colours = np.array([[30, 30, 30], [220, 220, 220]], np.uint8)
    upsampled = upsample_leaves(small_truth, colours[small_truth], colours[full_truth])
    assert (upsampled == full_truth).mean() > 0.995
    nearest = small_truth.repeat(8, 0).repeat(8, 1)
    assert (upsampled == full_truth).mean() > (nearest == full_truth).mean()


def test_no_leaf_is_lost(rng):
    leaves = np.arange(64, dtype=np.int32).reshape(8, 8)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.zeros((20, 24, 3), np.uint8)  # whose colours say nothing about the leaves
    assert len(np.unique(upsample_leaves(leaves, small, image))) == 64

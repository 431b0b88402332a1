"""HASSOD stage 1, hierarchical adaptive clustering (Cao et al., NeurIPS 2023, arXiv 2402.03311, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.backbones.base import Backbone
from masktree.discover.region_masks import (
    Window,
    build_forest,
    check_settings,
    cluster,
    resize_in_window,
    resize_soft_in_window,
)
from masktree.io.resize import Resample, resize_image
from masktree.kernels import kernel
from masktree.refine import Refiner, dense_crf, elementwise_iou, fill_holes, upsample_labels
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Labels, Mask, Masks


def hassod(
    image: RGB,
    backbone: Backbone,
    *,
    side: int = 480,
    resample: Resample = "lanczos",
    thresholds: Sequence[float] = (0.4, 0.2, 0.1),
    refiner: Refiner = dense_crf,
    soft_masks: bool = True,
    refine_iou: float = 0.5,
    min_area: int = 100,
    max_corners: int = 2,
    duplicate_iou: float = 0.9,
    min_coverage: float = 0.9,
    max_labels: int = 128,
) -> MaskTree:
    """Masks of one image as a forest of wholes, parts and subparts.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8 with the keys of its last block (``dino-vitb8``).
        side: working resolution in pixels; the aspect is not kept.
        resample: filter of the resize to it (the authors' code: lanczos).
        thresholds: merge thresholds, whose partitions are pooled.
        refiner: one joint multi-label refinement per threshold; the paper's is the dense CRF.
        soft_masks: a mask is where its label has a probability of at least one half, and probabilities are resized to
            the image before that is decided (the authors' code). False: every pixel belongs to its most probable
            label, and masks are resized.
        refine_iou: masks whose IoU with their refined version is below this are dropped.
        min_area: smallest mask in pixels of the original image.
        max_corners: masks on more image corners are background and dropped (paper: 3 or more).
        duplicate_iou: NMS threshold over the pooled masks (the paper removes duplicates; the value is our choice).
        min_coverage: coverage at which one mask is a descendant of another.
        max_labels: maximum number of labels in the joint refinement; the smallest regions share the last one and give
            no masks (our choice: bounds memory, at 10 times the usual number).

    The score of a mask is its IoU with its refined version (our choice; the paper gives none).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, or a ``min_area`` below 1.
    """
    check_settings(backbone, thresholds, side, min_area=min_area)
    size = (image.shape[0], image.shape[1])
    working = resize_image(image, (side, side), resample)
    tree = cluster(working, backbone)
    rles: list[bytes] = []
    scores: list[float] = []
    # The cuts are nested: those with equal numbers of regions are the same partition.
    partitions = {int(cut.max()): cut for cut in map(tree.cut, thresholds)}
    for cut in partitions.values():
        labels, n = _limit_labels(cut, max_labels)
        before = upsample_labels(labels, side, side)
        after = refiner(working, before) if len(before) > 1 else before
        masks = _masks_of_labels(after, soft_masks)
        stable = elementwise_iou(_masks_of_labels(before, soft_masks), masks)[:n]
        for label in np.flatnonzero((stable >= refine_iou) & (stable > 0)):
            if soft_masks:
                part, window = resize_soft_in_window(after[label], size)
            else:
                part, window = resize_in_window(masks[label], size)
            if part.sum() >= min_area and _corners(part, window, size) <= max_corners:
                rles.append(rle.encode_at(fill_holes(part[None])[0], window[0], window[2], size))
                scores.append(float(stable[label]))
    return build_forest(rles, scores, size, duplicate_iou=duplicate_iou, min_coverage=min_coverage)


def _limit_labels(labels: Labels, limit: int) -> tuple[Labels, int]:
    """Labels of at most ``limit`` regions, the smallest of which share the last label; and the number of the others."""
    areas = np.bincount(labels.ravel())
    if len(areas) <= limit:
        return labels, len(areas)
    rank = np.empty(len(areas), np.int32)
    rank[np.argsort(-areas, kind="stable")] = np.arange(len(areas))
    return np.minimum(rank, limit - 1)[labels].astype(np.int32), limit - 1


def _masks_of_labels(probabilities: np.ndarray, soft_masks: bool) -> Masks:
    """(k, H, W) bool: where each label has at least one half, or where it is the first of the most probable ones."""
    if soft_masks:
        return probabilities >= np.float32(0.5)
    masks: Masks = _argmax(probabilities) == np.arange(len(probabilities))[:, None, None]
    return masks


def _corners(part: Mask, window: Window, size: tuple[int, int]) -> int:
    """Number of image corners inside a mask, which is given in a window."""
    top, bottom, left, right = window
    rows = [y for y, at_border in ((0, top == 0), (-1, bottom == size[0])) if at_border]
    columns = [x for x, at_border in ((0, left == 0), (-1, right == size[1])) if at_border]
    return int(part[np.ix_(rows, columns)].sum())


@kernel()
def _argmax(probabilities: np.ndarray) -> np.ndarray:
    """First label of the highest probability at each pixel: (H, W) int32. Five times as fast as NumPy's argmax."""
    k, height, width = probabilities.shape
    labels = np.zeros((height, width), np.int32)
    for y in range(height):
        best = probabilities[0, y].copy()
        for c in range(1, k):
            for x in range(width):
                if probabilities[c, y, x] > best[x]:
                    best[x] = probabilities[c, y, x]
                    labels[y, x] = c
    return labels

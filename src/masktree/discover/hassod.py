"""HASSOD stage 1, hierarchical adaptive clustering (Cao et al., NeurIPS 2023, arXiv 2402.03311, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from masktree.backbones.base import Backbone
from masktree.discover.region_masks import Window, build_forest, check_settings, cluster, encode_part, resize_part
from masktree.io.images import resize_image
from masktree.refine import Refiner, dense_crf, fill_holes, upsample_labels
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Labels, Mask


def hassod(
    image: RGB,
    backbone: Backbone,
    *,
    side: int = 480,
    thresholds: Sequence[float] = (0.4, 0.2, 0.1),
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 100,
    max_corners: int = 2,
    duplicate_iou: float = 0.9,
    cover: float = 0.9,
    max_labels: int = 128,
) -> MaskTree:
    """Masks of one image with their whole / part / subpart forest.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8 with the keys of its last block (``dino-vitb8``).
        side: working resolution in pixels, aspect not kept.
        thresholds: merge thresholds; their partitions are pooled.
        refiner: one joint multi-label refinement per threshold; the paper's is the dense CRF.
        refine_iou: a mask that the refinement changes to an IoU below this is dropped.
        min_area: smallest mask in pixels of the original image.
        max_corners: a mask on more image corners is background and dropped (paper: 3 or more).
        duplicate_iou: NMS over the pooled thresholds (the paper removes duplicates; the value is our choice).
        cover: coverage at which one mask lies under another.
        max_labels: the joint refinement sees at most this many labels, the smallest regions share the last one and
            give no masks (our choice; it bounds memory, and 10 times the usual number never gets there).

    The score of a mask is its IoU before against after refinement (our choice; the paper gives none).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, or a ``min_area`` below 1.
    """
    check_settings(backbone, thresholds, side, min_area=min_area)
    size = (image.shape[0], image.shape[1])
    working = resize_image(image, (side, side))
    tree = cluster(image, backbone, side)
    rles: list[bytes] = []
    scores: list[float] = []
    # The cuts are nested: those with as many regions are the same partition, and give only duplicates.
    partitions = {int(cut.max()): cut for cut in map(tree.cut, thresholds)}
    for cut in partitions.values():
        labels, n = _largest(cut, max_labels)
        probabilities = upsample_labels(labels, side, side)
        before = _argmax(probabilities)
        after = _argmax(refiner(working, probabilities)) if len(probabilities) > 1 else before
        stable = _label_iou(before, after, len(probabilities))[:n]
        for label in np.flatnonzero((stable >= refine_iou) & (stable > 0)):
            part, window = resize_part(after == label, size)
            if part.sum() >= min_area and _corners(part, window, size) <= max_corners:
                rles.append(encode_part(fill_holes(part[None])[0], window, size))
                scores.append(float(stable[label]))
    return build_forest(rles, scores, size, duplicate_iou=duplicate_iou, cover=cover)


def _largest(labels: Labels, limit: int) -> tuple[Labels, int]:
    """Labels in which the smallest regions beyond ``limit - 1`` share the last label; and the number of the others."""
    areas = np.bincount(labels.ravel())
    if len(areas) <= limit:
        return labels, len(areas)
    rank = np.empty(len(areas), np.int32)
    rank[np.argsort(-areas, kind="stable")] = np.arange(len(areas))
    return np.minimum(rank, limit - 1)[labels].astype(np.int32), limit - 1


def _label_iou(before: np.ndarray, after: np.ndarray, n: int) -> np.ndarray:
    """(n,) IoU of each label's region in two label maps; 0 where it vanished."""
    same = np.bincount(before[before == after], minlength=n)
    union = np.bincount(before.ravel(), minlength=n) + np.bincount(after.ravel(), minlength=n) - same
    return same / np.maximum(union, 1)


def _corners(part: Mask, window: Window, size: tuple[int, int]) -> int:
    """Number of image corners that a mask covers, given in its window."""
    top, bottom, left, right = window
    rows = [y for y, reached in ((0, top == 0), (-1, bottom == size[0])) if reached]
    columns = [x for x, reached in ((0, left == 0), (-1, right == size[1])) if reached]
    return int(part[np.ix_(rows, columns)].sum())


@njit(cache=True, nogil=True)
def _argmax(probabilities):
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

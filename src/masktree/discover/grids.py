"""From feature cells to pixels: the steps that the three published methods share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from masktree import hierarchy, rle
from masktree.backbones.base import Backbone
from masktree.cluster import merge_tree
from masktree.images import resize_image
from masktree.masks import MaskTree
from masktree.refine import Refiner, iou_pairwise, refine_masks
from masktree.tree import PartitionTree
from masktree.types import RGB, Mask, Masks

Window = tuple[int, int, int, int]  # top, bottom, left, right; half-open, in pixels


def cluster(image: RGB, backbone: Backbone, side: int) -> PartitionTree:
    """Merge tree of the image's features at side x side pixels (aspect not kept, as the authors do)."""
    return merge_tree(backbone(resize_image(image, (side, side))[None])[0])


def pooled_regions(tree: PartitionTree, thresholds: Sequence[float]) -> Masks:
    """The distinct regions of all the partitions at the given thresholds: (n, h, w) bool, coarse ones last.

    All cuts come from one tree, so a region that stands in several partitions is one node and is met once.
    """
    n = tree.n_leaves
    merges = [int(np.searchsorted(tree.altitudes[n:], 1.0 - theta, side="right")) for theta in thresholds]
    nodes = np.unique(np.concatenate([tree.cut_nodes(count) for count in merges]))
    low, high = tree.intervals
    positions = low[:n][tree.leaves]
    return (positions >= low[nodes][:, None, None]) & (positions < high[nodes][:, None, None])


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Bilinear resize of a mask to (H, W), cut at one half: smooth borders at any scale."""
    if mask.shape == size:
        return mask
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(scaled) >= 128


def resize_masks(masks: Masks, size: tuple[int, int]) -> Masks:
    """``resize_mask`` of each."""
    return np.array([resize_mask(mask, size) for mask in masks], np.bool_).reshape(len(masks), *size)


def distinct(masks: Masks, *, iou: float) -> Masks:
    """Exact greedy NMS by mask IoU, larger masks first, in the given order where areas are equal."""
    if len(masks) == 0:
        return masks
    rles = [rle.encode(mask) for mask in masks]
    keep = hierarchy.nms(rles, masks.shape[1:], masks.sum(axis=(1, 2)).astype(np.float64), iou=iou)
    return masks[np.sort(keep)]


def box_window(mask: Mask) -> Window:
    """Tight window of a mask that is not empty."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1


def scale_window(window: Window, size: tuple[int, int], other: tuple[int, int]) -> Window:
    """The window of an image of ``size`` in the same image at size ``other``, rounded outwards.

    Rounding outwards keeps the last row and column, which UnSAM's code loses.
    """
    top, bottom, left, right = window
    y, x = other[0] / size[0], other[1] / size[1]
    return int(top * y), int(np.ceil(bottom * y)), int(left * x), int(np.ceil(right * x))


def cluster_crops(
    image: RGB,
    windows: Sequence[Window],
    size: tuple[int, int],
    backbone: Backbone,
    *,
    side: int,
    thresholds: Sequence[float],
    batch: int = 8,
) -> list[Masks]:
    """Regions inside each window, each seen at side x side pixels. Windows are in the coordinates of ``size``; the
    crops are taken from the full image.

    The crops go through the backbone ``batch`` at a time, so memory does not grow with their number.

    Returns:
        per window (n, h, w) bool masks on the crop's feature grid.
    """
    regions: list[Masks] = []
    for start in range(0, len(windows), batch):
        crops = []
        for window in windows[start : start + batch]:
            top, bottom, left, right = scale_window(window, size, (image.shape[0], image.shape[1]))
            crops.append(resize_image(np.ascontiguousarray(image[top:bottom, left:right]), (side, side)))
        for grid in backbone(np.stack(crops)):
            regions.append(pooled_regions(merge_tree(grid), thresholds))
    return regions


def paste(region: Mask, window: Window, size: tuple[int, int]) -> Mask:
    """A crop's grid mask in image coordinates: (H, W) bool."""
    top, bottom, left, right = window
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = resize_mask(region, (bottom - top, right - left))
    return mask


def finish(
    masks: Masks,
    working: RGB,
    size: tuple[int, int],
    *,
    refiner: Refiner,
    refine_iou: float,
    min_area: int,
    max_area: float,
    duplicate_iou: float,
    cover: float,
) -> MaskTree:
    """Refine each mask at the working size, filter, bring to the original size, remove duplicates, nest.

    Scores are the IoU before against after refinement. One mask at a time stands at full size.
    """
    refined = refine_masks(working, masks, refiner)
    stable = iou_pairwise(masks, refined)
    rles: list[bytes] = []
    scores: list[float] = []
    for mask, score in zip(refined, stable, strict=True):
        if score < refine_iou:
            continue
        full = resize_mask(mask, size)
        if min_area <= full.sum() <= max_area * full.size:
            rles.append(rle.encode(full))
            scores.append(float(score))
    keep = hierarchy.nms(rles, size, np.array(scores), iou=duplicate_iou)
    rles = [rles[i] for i in keep]
    parents = hierarchy.coverage_parents(rles, size, cover=cover)
    return MaskTree.from_rles(rles, size, parents, scores=np.array(scores)[keep])

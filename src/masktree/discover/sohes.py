"""SOHES phase 1, self-exploration (Cao et al., ICLR 2024, arXiv 2404.12386, section 3.1 and appendix)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.backbones.base import Backbone
from masktree.discover.region_masks import (
    RefinedMasks,
    Window,
    box_window,
    build_forest,
    check_settings,
    cluster,
    cluster_crops,
    crop,
    pooled_regions,
    resize_mask,
    scale_window,
    suppress_duplicates,
)
from masktree.io.resize import Resample, resize_image
from masktree.refine import Refiner, dense_crf
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask, Masks


def sohes(
    image: RGB,
    backbone: Backbone,
    *,
    side: int = 480,
    resample: Resample = "lanczos",
    thresholds: Sequence[float] = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    duplicate_iou: float = 0.9,
    small_area: float = 1 / 1024,
    crop_side: int = 256,
    crop_resample: Resample = "bicubic",
    crop_scale: float = 3.0,
    max_crops: int = 64,
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 16,
    max_area: float = 0.9,
    min_coverage: float = 0.9,
) -> MaskTree:
    """Masks of one image as a forest of any depth.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8.
        side: global resolution S (480..1024, our choice).
        resample, crop_resample: filters of the resize of the image and of crops (our choices: those in the code of
            HASSOD, by the same authors, and of UnSAM).
        thresholds: merge thresholds, pooled (UnSAM's list, our choice; the paper gives none).
        duplicate_iou: NMS threshold (our choice).
        small_area: regions below this fraction of the image are clustered again in crops (authors' rebuttal).
        crop_side: side S' of the resized crops (our choice).
        crop_scale: side of a crop's window in units of the region's box (our choice: includes the surroundings).
        max_crops: maximum number of crops per image, for the largest small regions first (our choice; the authors'
            unbounded version takes 6-10 s per image); the other small regions are kept unchanged.
        refiner: refinement of each mask. The paper's CascadePSP was trained on human masks, so it is not used here; the
            dense CRF is the paper's label-free alternative.
        refine_iou: masks whose IoU with their refined version is below this are dropped.
        min_area, max_area: smallest mask in original pixels, largest as a fraction of the image (our choices).
        min_coverage: coverage at which one mask is a descendant of another (our choice; HASSOD's value).

    Masks of a crop are refined in the crop (our choice). In the whole image they are smaller than the filters of the
    refiners, which remove them: of 188 masks from the crops of six photographs the guided filter keeps 5 in the whole
    image and 165 in the crops, the dense CRF 3 and 74, in a quarter of the time.

    The score of a mask is its IoU with its refined version (our choice).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, a ``crop_scale`` not above 0
            or a ``min_area`` below 1.
    """
    check_settings(backbone, thresholds, side, crop_side, min_area=min_area, crop_scale=crop_scale)
    size = (image.shape[0], image.shape[1])
    working = resize_image(image, (side, side), resample)
    regions = pooled_regions(cluster(working, backbone), thresholds)
    is_small = regions.mean(axis=(1, 2)) < small_area
    windows, uncovered = _crop_windows(regions[is_small], (side, side), crop_scale, max_crops)
    pool = [rle.encode(resize_mask(region, (side, side))) for region in [*regions[~is_small], *uncovered]]
    refined = RefinedMasks(size, refiner, refine_iou, min_area, max_area)
    refined.add(suppress_duplicates(pool, (side, side), iou_threshold=duplicate_iou), working)
    crops = cluster_crops(
        image, windows, (side, side), backbone, side=crop_side, thresholds=thresholds, resample=crop_resample
    )
    for window, crop_regions in zip(windows, crops, strict=True):
        inner = crop_regions[~_touches_crop_border(crop_regions, window, (side, side))]
        crop_rles = [rle.encode(resize_mask(region, (crop_side, crop_side))) for region in inner]
        close_up = crop(image, window, (side, side), crop_side, crop_resample)
        refined.add(crop_rles, close_up, scale_window(window, (side, side), size))
    return build_forest(refined.rles, refined.scores, size, duplicate_iou=duplicate_iou, min_coverage=min_coverage)


def _crop_windows(
    regions: Masks, size: tuple[int, int], crop_scale: float, max_crops: int
) -> tuple[list[Window], list[Mask]]:
    """Windows, in the coordinates of ``size``, around small regions, which are replaced by the regions of their crops;
    and the small regions that are in no window."""
    windows: list[Window] = []
    uncovered: list[Mask] = []
    for region in regions[np.argsort(-regions.sum(axis=(1, 2)), kind="stable")]:
        tight = scale_window(box_window(region), (regions.shape[1], regions.shape[2]), size)
        if any(_in_middle(tight, window) for window in windows):
            continue
        if len(windows) < max_crops:
            windows.append(_grow(tight, crop_scale, size))
        else:
            uncovered.append(region)
    return windows, uncovered


def _in_middle(tight: Window, window: Window) -> bool:
    """Whether the centre of ``tight`` is in the middle third of ``window``; then it needs no window of its own."""
    y, x = (tight[0] + tight[1]) / 2, (tight[2] + tight[3]) / 2
    top, bottom, left, right = window
    return abs(2 * y - top - bottom) * 3 <= bottom - top and abs(2 * x - left - right) * 3 <= right - left


def _grow(tight: Window, scale: float, size: tuple[int, int]) -> Window:
    """Window of ``scale`` times the size with the same centre, clipped to the image."""
    top, bottom, left, right = tight
    y, x = (scale - 1) * (bottom - top) / 2, (scale - 1) * (right - left) / 2
    return (
        max(int(top - y), 0),
        min(int(np.ceil(bottom + y)), size[0]),
        max(int(left - x), 0),
        min(int(np.ceil(right + x)), size[1]),
    )


def _touches_crop_border(regions: Masks, window: Window, size: tuple[int, int]) -> np.ndarray:
    """(n,) bool: whether a region touches a border of the window that is not a border of the image."""
    top, bottom, left, right = window
    return np.asarray(
        (regions[:, 0].any(axis=1) & (top > 0))
        | (regions[:, -1].any(axis=1) & (bottom < size[0]))
        | (regions[:, :, 0].any(axis=1) & (left > 0))
        | (regions[:, :, -1].any(axis=1) & (right < size[1]))
    )

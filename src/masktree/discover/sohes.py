"""SOHES phase 1, self-exploration (Cao et al., ICLR 2024, arXiv 2404.12386, section 3.1 and appendix)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.backbones.base import Backbone
from masktree.discover.region_masks import (
    RefinedMasks,
    Window,
    box_window,
    check_settings,
    cluster,
    cluster_crops,
    crop,
    pooled_regions,
    resize_mask,
    scale_window,
    suppress_duplicates,
)
from masktree.io.images import resize_image
from masktree.refine import Refiner, dense_crf
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask, Masks


def sohes(
    image: RGB,
    backbone: Backbone,
    *,
    side: int = 480,
    thresholds: Sequence[float] = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    duplicate_iou: float = 0.9,
    small: float = 1 / 1024,
    crop_side: int = 256,
    crop_scale: float = 3.0,
    max_crops: int = 64,
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 16,
    max_area: float = 0.9,
    cover: float = 0.9,
) -> MaskTree:
    """Masks of one image with their forest of any depth.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8.
        side: global resolution S (480..1024, our choice).
        thresholds: merge thresholds, pooled (UnSAM's list, our choice; the paper gives none).
        duplicate_iou: NMS threshold (our choice).
        small: regions below this share of the image are clustered again at their own scale (authors' rebuttal).
        crop_side: side S' of the crop given to the backbone (our choice).
        crop_scale: side of the crop's window in units of the region's box (our choice: the region, and its
            surroundings to tell it from).
        max_crops: at most this many windows per image, the largest small regions first (our choice; the
            authors' unbounded version costs 6-10 s per image); small regions beyond them stay as they are.
        refiner: refinement of each mask. The paper's CascadePSP was trained on human masks, so it is not used
            here; the dense CRF is the paper's own label-free alternative.
        refine_iou: masks that the refinement changes to an IoU below this are dropped.
        min_area, max_area: smallest mask in original pixels, largest as a share of the image (our choices).
        cover: coverage at which one mask lies under another (our choice; HASSOD's value).

    Step 3 refines what a crop shows at the scale of the crop (our choice). Seen in the whole image such masks are
    smaller than the reach of the refiners, which wipe them out: of 188 masks from the crops of six photographs the
    guided filter keeps 5 that way and 165 in the crops, the dense CRF 3 and 74, for a quarter of the time.

    The score of a mask is its IoU before against after refinement (our choice).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, a ``crop_scale`` not above 0
            or a ``min_area`` below 1.
    """
    check_settings(backbone, thresholds, side, crop_side, min_area=min_area, crop_scale=crop_scale)
    size = (image.shape[0], image.shape[1])
    regions = pooled_regions(cluster(image, backbone, side), thresholds)
    is_small = regions.mean(axis=(1, 2)) < small
    windows, unseen = _small_windows(regions[is_small], (side, side), crop_scale, max_crops)
    pool = [rle.encode(resize_mask(region, (side, side))) for region in [*regions[~is_small], *unseen]]
    refined = RefinedMasks(size, refiner, refine_iou, min_area, max_area)
    refined.add(suppress_duplicates(pool, (side, side), iou_threshold=duplicate_iou), resize_image(image, (side, side)))
    crops = cluster_crops(image, windows, (side, side), backbone, side=crop_side, thresholds=thresholds)
    for window, seen in zip(windows, crops, strict=True):
        inner = seen[~_leaves_window(seen, window, (side, side))]
        local = [rle.encode(resize_mask(region, (crop_side, crop_side))) for region in inner]
        refined.add(local, crop(image, window, (side, side), crop_side), scale_window(window, (side, side), size))
    return refined.build_forest(duplicate_iou=duplicate_iou, cover=cover)


def _small_windows(
    regions: Masks, size: tuple[int, int], crop_scale: float, max_crops: int
) -> tuple[list[Window], list[Mask]]:
    """Step 2: windows, in the coordinates of ``size``, that show the small regions, which their crops replace; and
    the regions that no window shows, which stay."""
    windows: list[Window] = []
    unseen: list[Mask] = []
    for region in regions[np.argsort(-regions.sum(axis=(1, 2)), kind="stable")]:
        tight = scale_window(box_window(region), (regions.shape[1], regions.shape[2]), size)
        if any(_in_middle(tight, window) for window in windows):
            continue
        if len(windows) < max_crops:
            windows.append(_grow(tight, crop_scale, size))
        else:
            unseen.append(region)
    return windows, unseen


def _in_middle(tight: Window, window: Window) -> bool:
    """Whether the centre of ``tight`` lies in the middle third of ``window``, which then shows it well enough."""
    y, x = (tight[0] + tight[1]) / 2, (tight[2] + tight[3]) / 2
    top, bottom, left, right = window
    return abs(2 * y - top - bottom) * 3 <= bottom - top and abs(2 * x - left - right) * 3 <= right - left


def _grow(tight: Window, scale: float, size: tuple[int, int]) -> Window:
    """``scale`` times as large a window about the same centre, inside the image."""
    top, bottom, left, right = tight
    y, x = (scale - 1) * (bottom - top) / 2, (scale - 1) * (right - left) / 2
    return (
        max(int(top - y), 0),
        min(int(np.ceil(bottom + y)), size[0]),
        max(int(left - x), 0),
        min(int(np.ceil(right + x)), size[1]),
    )


def _leaves_window(regions: Masks, window: Window, size: tuple[int, int]) -> np.ndarray:
    """(n,) bool: whether a region reaches a border of the window that is not a border of the image."""
    top, bottom, left, right = window
    return np.asarray(
        (regions[:, 0].any(axis=1) & (top > 0))
        | (regions[:, -1].any(axis=1) & (bottom < size[0]))
        | (regions[:, :, 0].any(axis=1) & (left > 0))
        | (regions[:, :, -1].any(axis=1) & (right < size[1]))
    )

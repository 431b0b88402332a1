"""Steps that the three published methods share: from regions of a feature grid to a forest of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from masktree.backbones.base import Backbone
from masktree.cluster import merge_tree
from masktree.errors import InputError
from masktree.io.resize import Resample, find_filter, resize_image
from masktree.refine import Refiner, elementwise_iou, refine_masks, resize_probabilities
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.trees.nms import mask_nms
from masktree.types import RGB, Mask, Masks

Window = tuple[int, int, int, int]  # top, bottom, left, right; half-open, in pixels

_REFINEMENT_BATCH = 32  # dense masks at a time
_MIN_REFINED_AREA = 8  # pixels of the refined image; smaller masks have no shape to refine (our choice)


def check_settings(
    backbone: Backbone, thresholds: Sequence[float], *sides: int, min_area: float, crop_scale: float = 1.0
) -> None:
    """Check the settings of a method before any work.

    Raises:
        InputError: no thresholds or one that is not finite, a side below one cell of the backbone, a ``crop_scale`` not
            above 0, or a ``min_area`` that is not a whole number of at least 1.
    """
    if len(thresholds) == 0 or not np.all(np.isfinite(thresholds)):
        raise InputError(f"expected at least one merge threshold, all finite; got {thresholds!r}")
    for side in sides:
        if not isinstance(side, (int, np.integer)) or side < backbone.stride:
            raise InputError(
                f"expected sides as whole numbers of at least one cell of {backbone.name}, {backbone.stride} pixels; "
                f"got {side!r}"
            )
    if not 0 < crop_scale < np.inf:
        raise InputError(f"expected a crop_scale above 0, in units of the region's box; got {crop_scale!r}")
    if not isinstance(min_area, (int, np.integer)) or min_area < 1:
        raise InputError(f"expected min_area as a whole number of at least 1 pixel; got {min_area!r}")


def cluster(image: RGB, backbone: Backbone) -> PartitionTree:
    """Merge tree of the features of an image at its working size."""
    return merge_tree(backbone(image[None])[0])


def pooled_regions(tree: PartitionTree, thresholds: Sequence[float]) -> Masks:
    """Regions of the partitions at all thresholds, without duplicates: (n, h, w) bool, coarse ones last.

    All partitions are cuts of one tree, so a region of several partitions is a single node.
    """
    nodes = np.unique(np.concatenate([tree.cut_nodes(tree.merges_at(1.0 - theta)) for theta in thresholds]))
    low, high = tree.intervals
    positions = low[: tree.n_leaves][tree.leaves]
    masks: np.ndarray = (positions >= low[nodes][:, None, None]) & (positions < high[nodes][:, None, None])
    return masks


def resize_mask(mask: Mask, size: tuple[int, int], resample: Resample = "bilinear") -> Mask:
    """Resize of a mask to (H, W), thresholded at one half."""
    return mask if mask.shape == size else _resample(mask, size, (0, size[0], 0, size[1]), resample)


def resize_masks(masks: Masks, size: tuple[int, int], resample: Resample = "bilinear") -> Masks:
    """``resize_mask`` of each."""
    return np.array([resize_mask(mask, size, resample) for mask in masks], np.bool_).reshape(len(masks), *size)


def resize_in_window(mask: Mask, size: tuple[int, int]) -> tuple[Mask, Window]:
    """``resize_mask`` of a non-empty mask, computed only in a window around it; and that window.

    Time and memory are those of the window, which matters for small masks of large images.
    """
    window = _window_at(mask, size)
    return _resample(mask, size, window, "bilinear"), window


def resize_soft_in_window(probabilities: np.ndarray, size: tuple[int, int]) -> tuple[Mask, Window]:
    """Probabilities (h, w) float32, one half somewhere, resized and thresholded at one half, in a window; and the
    window. The resize is torch's bilinear one, which does not antialias, as in HASSOD's code."""
    window = _window_at(probabilities >= 0.5, size)
    return resize_probabilities(probabilities, size, window) >= 0.5, window


def _window_at(mask: Mask, size: tuple[int, int]) -> Window:
    """Window of the image at ``size`` outside of which the resized non-empty mask is empty."""
    top, bottom, left, right = box_window(mask)
    h, w = mask.shape
    # A bilinear filter reaches one pixel of the coarser image: a margin of one pixel in both images suffices.
    padded = max(top - 1, 0), min(bottom + 1, h), max(left - 1, 0), min(right + 1, w)
    top, bottom, left, right = scale_window(padded, (h, w), size)
    return max(top - 1, 0), min(bottom + 1, size[0]), max(left - 1, 0), min(right + 1, size[1])


def _resample(mask: Mask, size: tuple[int, int], window: Window, resample: Resample) -> Mask:
    """Window of the mask resized to ``size``."""
    top, bottom, left, right = window
    y, x = mask.shape[0] / size[0], mask.shape[1] / size[1]
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (right - left, bottom - top), find_filter(resample), box=(left * x, top * y, right * x, bottom * y)
    )
    return np.asarray(scaled) >= 128


def suppress_duplicates(rles: Sequence[bytes], size: tuple[int, int], *, iou_threshold: float) -> list[bytes]:
    """The masks that mask NMS keeps, larger ones first in rank, in their given order."""
    keep = mask_nms(rles, size, rle.areas(rles, size).astype(np.float64), iou_threshold=iou_threshold)
    return [rles[i] for i in np.sort(keep).tolist()]


def box_window(mask: Mask) -> Window:
    """Tight window of a non-empty mask."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1


def scale_window(window: Window, size: tuple[int, int], other: tuple[int, int]) -> Window:
    """A window of an image of ``size`` in the coordinates of the same image at size ``other``, rounded outwards.

    UnSAM's code rounds down, which loses the last row and column.
    """
    top, bottom, left, right = window
    (h, w), (H, W) = size, other
    return top * H // h, -(-bottom * H // h), left * W // w, -(-right * W // w)


def crop(image: RGB, window: Window, size: tuple[int, int], side: int, resample: Resample) -> RGB:
    """Crop of the full image at side x side pixels; the window is in the coordinates of ``size``."""
    top, bottom, left, right = scale_window(window, size, (image.shape[0], image.shape[1]))
    return resize_image(np.ascontiguousarray(image[top:bottom, left:right]), (side, side), resample)


def cluster_crops(
    image: RGB,
    windows: Sequence[Window],
    size: tuple[int, int],
    backbone: Backbone,
    *,
    side: int,
    thresholds: Sequence[float],
    resample: Resample = "bicubic",
    batch: int = 8,
) -> list[Masks]:
    """Regions of crops of the full image at side x side pixels; windows are in the coordinates of ``size``.

    The backbone processes ``batch`` crops at a time, which bounds memory.

    Returns:
        per window (n, h, w) bool masks on the feature grid of the crop.
    """
    regions: list[Masks] = []
    for start in range(0, len(windows), batch):
        crops = [crop(image, window, size, side, resample) for window in windows[start : start + batch]]
        for grid in backbone(np.stack(crops)):
            regions.append(pooled_regions(merge_tree(grid), thresholds))
    return regions


def paste(region: Mask, window: Window, resample: Resample = "bicubic") -> Mask:
    """A mask of a crop's feature grid at the size of its window."""
    top, bottom, left, right = window
    return resize_mask(region, (bottom - top, right - left), resample)


@dataclass
class RefinedMasks:
    """Refined masks at the original size that have passed the filters, with their scores.

    Attributes:
        size: height and width of the original image.
        refiner, refine_iou: masks whose IoU with their refined version is below ``refine_iou`` are dropped; the IoU is
            the score.
        min_area, max_area: smallest mask in original pixels, largest as a fraction of the image.
        rles, scores: of the masks so far.
    """

    size: tuple[int, int]
    refiner: Refiner
    refine_iou: float
    min_area: int
    max_area: float
    rles: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, rles: Sequence[bytes], image: RGB, window: Window | None = None) -> None:
        """Refine masks and keep those that pass the filters.

        A batch of masks is dense at the size of ``image``, one mask at a time at the original size. Masks too small to
        pass ``min_area`` are not refined: with an IoU of ``refine_iou`` a mask grows at most by 1 / refine_iou.

        Args:
            rles: masks of ``image``.
            image: the resized image, or a resized crop.
            window: of the crop, in original pixels.
        """
        shape = (image.shape[0], image.shape[1])
        top, bottom, left, right = window or (0, self.size[0], 0, self.size[1])
        area_scale = shape[0] * shape[1] / ((bottom - top) * (right - left))
        min_area = max(self.min_area * area_scale * self.refine_iou, _MIN_REFINED_AREA)
        candidates = [rles[i] for i in np.flatnonzero(rle.areas(rles, shape) >= min_area).tolist()]
        for start in range(0, len(candidates), _REFINEMENT_BATCH):
            masks = np.array([rle.decode(item, shape) for item in candidates[start : start + _REFINEMENT_BATCH]])
            refined = refine_masks(image, masks, self.refiner)
            for mask, score in zip(refined, elementwise_iou(masks, refined), strict=True):
                if score < self.refine_iou or not mask.any():
                    continue
                part, (y0, _, x0, _) = resize_in_window(mask, (bottom - top, right - left))
                if self.min_area <= part.sum() <= self.max_area * self.size[0] * self.size[1]:
                    self.rles.append(rle.encode_at(part, top + y0, left + x0, self.size))
                    self.scores.append(float(score))


def build_forest(
    rles: Sequence[bytes], scores: Sequence[float], size: tuple[int, int], *, duplicate_iou: float, min_coverage: float
) -> MaskTree:
    """Forest of masks: exact NMS by score, then parents by coverage."""
    keep = mask_nms(rles, size, np.array(scores), iou_threshold=duplicate_iou)
    kept = [rles[i] for i in keep]
    parents = hierarchy.parents_by_coverage(kept, size, min_coverage=min_coverage)
    return MaskTree.from_rles(kept, size, parents, scores=np.array(scores)[keep])

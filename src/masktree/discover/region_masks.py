"""From feature cells to pixels: the steps that the three published methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from masktree.backbones.base import Backbone
from masktree.cluster import merge_tree
from masktree.errors import InputError
from masktree.io.images import resize_image
from masktree.refine import Refiner, elementwise_iou, refine_masks
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.trees.nms import mask_nms
from masktree.types import RGB, Mask, Masks

Window = tuple[int, int, int, int]  # top, bottom, left, right; half-open, in pixels

_BATCH = 32  # masks that are dense at a time: those that one call of the refiner takes
_LEAST = 8  # pixels, of the picture that is refined: what is smaller has no shape to refine (our choice)


def check_settings(
    backbone: Backbone, thresholds: Sequence[float], *sides: int, min_area: float, crop_scale: float = 1.0
) -> None:
    """Refuse settings of a method under which nothing could be found, before the first image is looked at.

    Raises:
        InputError: no thresholds or one that is no number, a side below one cell of the backbone, a crop without
            extent, or a smallest mask that is no whole number of at least 1.
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


def cluster(image: RGB, backbone: Backbone, side: int) -> PartitionTree:
    """Merge tree of the image's features at side x side pixels (aspect not kept, as the authors do)."""
    return merge_tree(backbone(resize_image(image, (side, side))[None])[0])


def pooled_regions(tree: PartitionTree, thresholds: Sequence[float]) -> Masks:
    """The distinct regions of all the partitions at the given thresholds: (n, h, w) bool, coarse ones last.

    All cuts come from one tree, so a region that stands in several partitions is one node and is met once.
    """
    nodes = np.unique(np.concatenate([tree.cut_nodes(tree.merges_at(1.0 - theta)) for theta in thresholds]))
    low, high = tree.intervals
    positions = low[: tree.n_leaves][tree.leaves]
    return (positions >= low[nodes][:, None, None]) & (positions < high[nodes][:, None, None])


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Bilinear resize of a mask to (H, W), cut at one half: smooth borders at any scale."""
    return mask if mask.shape == size else _resample(mask, size, (0, size[0], 0, size[1]))


def resize_masks(masks: Masks, size: tuple[int, int]) -> Masks:
    """``resize_mask`` of each."""
    return np.array([resize_mask(mask, size) for mask in masks], np.bool_).reshape(len(masks), *size)


def resize_part(mask: Mask, size: tuple[int, int]) -> tuple[Mask, Window]:
    """``resize_mask`` of a mask that is not empty, computed in a window around it only, and that window.

    Time and memory are those of the window: a small mask of a 24-megapixel image costs next to nothing.
    """
    top, bottom, left, right = box_window(mask)
    h, w = mask.shape
    # A bilinear filter reaches one pixel of the coarser image, so nothing lies further off than one of each.
    grown = max(top - 1, 0), min(bottom + 1, h), max(left - 1, 0), min(right + 1, w)
    top, bottom, left, right = scale_window(grown, (h, w), size)
    window = max(top - 1, 0), min(bottom + 1, size[0]), max(left - 1, 0), min(right + 1, size[1])
    return _resample(mask, size, window), window


def _resample(mask: Mask, size: tuple[int, int], window: Window) -> Mask:
    """A window of the mask resized to ``size``."""
    top, bottom, left, right = window
    y, x = mask.shape[0] / size[0], mask.shape[1] / size[1]
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=(left * x, top * y, right * x, bottom * y)
    )
    return np.asarray(scaled) >= 128


def encode_part(part: Mask, window: Window, size: tuple[int, int]) -> bytes:
    """Run-length string of the (H, W) mask that is ``part`` in the window and empty elsewhere."""
    top, bottom, left, right = window
    height = bottom - top + 1
    columns = np.zeros((right - left, height), np.int8)  # the last entry of each column is background: no run crosses
    columns[:, :-1] = part.T
    step = np.diff(columns.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    return rle.encode_runs(
        (left + starts // height) * size[0] + top + starts % height,
        (left + ends // height) * size[0] + top + ends % height,
        size,
    )


def suppress_duplicates(rles: Sequence[bytes], size: tuple[int, int], *, iou_threshold: float) -> list[bytes]:
    """The masks that mask NMS keeps, larger ones first in rank, in their given order."""
    keep = mask_nms(rles, size, rle.areas(rles, size).astype(np.float64), iou_threshold=iou_threshold)
    return [rles[i] for i in np.sort(keep).tolist()]


def box_window(mask: Mask) -> Window:
    """Tight window of a mask that is not empty."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1


def scale_window(window: Window, size: tuple[int, int], other: tuple[int, int]) -> Window:
    """The window of an image of ``size`` in the same image at size ``other``, rounded outwards.

    Rounding outwards keeps the last row and column, which UnSAM's code loses.
    """
    top, bottom, left, right = window
    (h, w), (H, W) = size, other
    return top * H // h, -(-bottom * H // h), left * W // w, -(-right * W // w)


def crop(image: RGB, window: Window, size: tuple[int, int], side: int) -> RGB:
    """A window in the coordinates of ``size``, cut from the full image, at side x side pixels."""
    top, bottom, left, right = scale_window(window, size, (image.shape[0], image.shape[1]))
    return resize_image(np.ascontiguousarray(image[top:bottom, left:right]), (side, side))


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
        crops = [crop(image, window, size, side) for window in windows[start : start + batch]]
        for grid in backbone(np.stack(crops)):
            regions.append(pooled_regions(merge_tree(grid), thresholds))
    return regions


def paste(region: Mask, window: Window) -> Mask:
    """A crop's grid mask at the size of its window."""
    top, bottom, left, right = window
    return resize_mask(region, (bottom - top, right - left))


@dataclass
class RefinedMasks:
    """Masks at the original size that refinement and filters have passed, with their scores.

    Attributes:
        size: height and width of the original image.
        refiner, refine_iou: masks that the refiner changes to an IoU below this are dropped; the IoU is the score.
        min_area, max_area: smallest mask in original pixels, largest as a share of the image.
    """

    size: tuple[int, int]
    refiner: Refiner
    refine_iou: float
    min_area: int
    max_area: float
    rles: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, rles: Sequence[bytes], picture: RGB, window: Window | None = None) -> None:
        """Refine masks of a picture of the image, or of a window of it in original pixels, and keep the good ones.

        A batch of masks is dense at the picture's size, one at a time at full size. Masks too small to pass
        ``min_area`` are not refined: within ``refine_iou`` refinement can make a mask 1 / refine_iou times as large.
        """
        shape = (picture.shape[0], picture.shape[1])
        top, bottom, left, right = window or (0, self.size[0], 0, self.size[1])
        share = shape[0] * shape[1] / ((bottom - top) * (right - left))
        least = max(self.min_area * share * self.refine_iou, _LEAST)
        candidates = [rles[i] for i in np.flatnonzero(rle.areas(rles, shape) >= least).tolist()]
        for start in range(0, len(candidates), _BATCH):
            masks = np.array([rle.decode(item, shape) for item in candidates[start : start + _BATCH]])
            refined = refine_masks(picture, masks, self.refiner)
            for mask, score in zip(refined, elementwise_iou(masks, refined), strict=True):
                if score < self.refine_iou or not mask.any():
                    continue
                part, (y0, y1, x0, x1) = resize_part(mask, (bottom - top, right - left))
                if self.min_area <= part.sum() <= self.max_area * self.size[0] * self.size[1]:
                    placed = (top + y0, top + y1, left + x0, left + x1)
                    self.rles.append(encode_part(part, placed, self.size))
                    self.scores.append(float(score))

    def build_forest(self, *, duplicate_iou: float, cover: float) -> MaskTree:
        """``build_forest`` of the kept masks."""
        return build_forest(self.rles, self.scores, self.size, duplicate_iou=duplicate_iou, cover=cover)


def build_forest(
    rles: Sequence[bytes], scores: Sequence[float], size: tuple[int, int], *, duplicate_iou: float, cover: float
) -> MaskTree:
    """The forest of masks without duplicates: exact NMS, the best score first, then parents by coverage."""
    ranking = np.array(scores)
    keep = mask_nms(rles, size, ranking, iou_threshold=duplicate_iou)
    kept = [rles[i] for i in keep]
    parents = hierarchy.parents_by_coverage(kept, size, min_coverage=cover)
    return MaskTree.from_rles(kept, size, parents, scores=ranking[keep])

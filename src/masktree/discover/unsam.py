"""UnSAM's divide and conquer (Wang et al., NeurIPS 2024, arXiv 2406.20081, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from masktree.backbones.base import Backbone
from masktree.discover.maskcut import cut_objects
from masktree.discover.region_masks import (
    RefinedMasks,
    box_window,
    build_forest,
    check_settings,
    cluster_crops,
    paste,
    resize_masks,
    suppress_duplicates,
)
from masktree.errors import InputError
from masktree.io.resize import Resample, resize_image
from masktree.refine import Refiner, dense_crf
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Masks

Detector = Callable[[RGB], Masks]


def unsam(
    image: RGB,
    backbone: Backbone,
    *,
    detector: Detector | None = None,
    side: int = 480,
    resample: Resample = "lanczos",
    tau: float = 0.15,
    n_cuts: int = 3,
    sign: Literal["lapack", "seed"] = "lapack",
    thresholds: Sequence[float] = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    crop_side: int = 256,
    crop_resample: Resample = "bicubic",
    min_cells: int = 4,
    min_inside: float = 0.9,
    duplicate_iou: float = 0.9,
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 16,
    max_area: float = 0.9,
    min_coverage: float = 0.9,
) -> MaskTree:
    """Masks of one image as a forest.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8.
        detector: the divide step: image -> (n, H, W) bool masks of whole objects. None uses MaskCut; UnSAM uses a
            detector trained on MaskCut's masks, such as one trained by this package.
        side: resolution of MaskCut's features and of the masks.
        resample: filter of the resize to it (MaskCut's code: lanczos).
        tau, n_cuts: MaskCut's affinity threshold and number of cuts.
        sign: which side of an eigenvector is foreground, see ``maskcut``: ``lapack`` as in the authors' code, ``seed``
            never the side with three or more image corners.
        thresholds: merge thresholds of the conquer step.
        crop_side: size to which the crop of each divide mask is resized.
        crop_resample: filter of that resize, and of the regions back to the crop (UnSAM's code: Pillow's default).
        min_cells: regions with fewer feature cells are dropped.
        min_inside: a region is kept if more than this fraction of it is inside its divide mask.
        duplicate_iou: NMS threshold over all masks (the authors compare only the next four masks by area).
        refiner, refine_iou: as in ``sohes``; the dense CRF in place of CascadePSP.
        min_area, max_area: smallest mask in original pixels (our choice), largest as a fraction of the image.
        min_coverage: coverage at which one mask is a descendant of another (our choice; HASSOD's value).

    The score of a mask is its IoU with its refined version (our choice).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, a ``min_area`` below 1, or a detector
            that returns something else.
    """
    check_settings(backbone, thresholds, side, crop_side, min_area=min_area)
    size = (image.shape[0], image.shape[1])
    working = resize_image(image, (side, side), resample)
    if detector is None:
        wholes, _ = cut_objects(working, backbone, tau, n_cuts, sign, refiner, refine_iou)
    else:
        wholes = resize_masks(_check_masks(detector(image), size), (side, side))
    parts = _conquer(image, wholes, backbone, thresholds, crop_side, crop_resample, min_cells, min_inside)
    refined = RefinedMasks(size, refiner, refine_iou, min_area, max_area)
    refined.add(
        suppress_duplicates([*map(rle.encode, wholes), *parts], (side, side), iou_threshold=duplicate_iou), working
    )
    return build_forest(refined.rles, refined.scores, size, duplicate_iou=duplicate_iou, min_coverage=min_coverage)


def _check_masks(masks: object, size: tuple[int, int]) -> Masks:
    """The output of a detector, if it is a stack of masks of the image."""
    if isinstance(masks, np.ndarray) and masks.dtype == np.bool_ and masks.ndim == 3 and masks.shape[1:] == size:
        return masks
    got = f"{masks.dtype} {masks.shape}" if isinstance(masks, np.ndarray) else type(masks).__name__
    raise InputError(f"expected detector masks (n, {size[0]}, {size[1]}) bool; got {got}; one mask is mask[None]")


def _conquer(
    image: RGB,
    wholes: Masks,
    backbone: Backbone,
    thresholds: Sequence[float],
    crop_side: int,
    crop_resample: Resample,
    min_cells: int,
    min_inside: float,
) -> list[bytes]:
    """Regions of a crop around each whole: run-length strings at the size of ``wholes``."""
    size = (wholes.shape[1], wholes.shape[2])
    nonempty = [whole for whole in wholes if whole.any()]
    windows = [box_window(whole) for whole in nonempty]
    crops = cluster_crops(image, windows, size, backbone, side=crop_side, thresholds=thresholds, resample=crop_resample)
    rles = []
    for window, whole, regions in zip(windows, nonempty, crops, strict=True):
        top, bottom, left, right = window
        for region in regions[regions.sum(axis=(1, 2)) >= min_cells]:
            part = paste(region, window, crop_resample)
            if (part & whole[top:bottom, left:right]).sum() > min_inside * part.sum():
                rles.append(rle.encode_at(part, top, left, size))
    return rles

"""UnSAM's divide and conquer (Wang et al., NeurIPS 2024, arXiv 2406.20081, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from masktree.backbones.base import Backbone
from masktree.cluster import maskcut
from masktree.discover.region_masks import (
    RefinedMasks,
    box_window,
    check_settings,
    cluster_crops,
    encode_part,
    paste,
    resize_masks,
    suppress_duplicates,
)
from masktree.errors import InputError
from masktree.io.images import resize_image
from masktree.refine import Refiner, dense_crf, elementwise_iou, fill_holes, refine_masks
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
    tau: float = 0.15,
    n_cuts: int = 3,
    sign: Literal["lapack", "seed"] = "lapack",
    thresholds: Sequence[float] = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    crop_side: int = 256,
    min_cells: int = 4,
    inside: float = 0.9,
    duplicate_iou: float = 0.9,
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 16,
    max_area: float = 0.9,
    cover: float = 0.9,
) -> MaskTree:
    """Masks of one image with their forest.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8.
        detector: the divide step: image -> (n, H, W) bool whole-object masks. None uses MaskCut; UnSAM itself
            uses a detector trained on MaskCut's masks, and any detector trained by this package fits here.
            Anything else than such masks is an InputError.
        side: resolution of MaskCut's features and of the masks.
        tau, n_cuts: MaskCut's affinity threshold and number of cuts.
        sign: which side of an eigenvector is foreground, see ``maskcut``: ``lapack`` as in the authors' code, ``seed``
            never the side with three or more image corners.
        thresholds: merge thresholds of the conquer step.
        crop_side: each divide mask's box is seen at this size.
        min_cells: clusters with fewer feature cells are dropped.
        inside: share of a cluster that must lie inside its divide mask (more than this is kept).
        duplicate_iou: exact NMS over everything (the authors compare only the next four masks by area).
        refiner, refine_iou: as in ``sohes``; the dense CRF in place of CascadePSP.
        min_area, max_area: smallest mask in original pixels (our choice), largest as a share of the image.
        cover: coverage at which one mask lies under another (our choice; HASSOD's value).

    The score of a mask is its IoU before against after refinement (our choice).

    Raises:
        InputError: no thresholds, a side smaller than a cell of the backbone, or a ``min_area`` below 1.
    """
    check_settings(backbone, thresholds, side, crop_side, min_area=min_area)
    working = resize_image(image, (side, side))
    if detector is None:
        wholes = _divide(working, maskcut(backbone(working[None])[0], tau, n_cuts, sign=sign), refiner, refine_iou)
    else:
        wholes = resize_masks(_checked_masks(detector(image), (image.shape[0], image.shape[1])), (side, side))
    parts = _conquer(image, wholes, backbone, thresholds, crop_side, min_cells, inside)
    refined = RefinedMasks((image.shape[0], image.shape[1]), refiner, refine_iou, min_area, max_area)
    refined.add(
        suppress_duplicates([*map(rle.encode, wholes), *parts], (side, side), iou_threshold=duplicate_iou), working
    )
    return refined.build_forest(duplicate_iou=duplicate_iou, cover=cover)


def _checked_masks(found: object, size: tuple[int, int]) -> Masks:
    """What a detector returned, if it is a stack of masks of the image."""
    if isinstance(found, np.ndarray) and found.dtype == np.bool_ and found.ndim == 3 and found.shape[1:] == size:
        return found
    got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
    raise InputError(f"expected detector masks (n, {size[0]}, {size[1]}) bool; got {got}; one mask is mask[None]")


def _divide(working: RGB, patches: Masks, refiner: Refiner, refine_iou: float) -> Masks:
    """Whole objects from MaskCut's patch masks; CRF, holes filled, masks that this overturns dropped."""
    cuts = resize_masks(patches, (working.shape[0], working.shape[1]))
    refined = fill_holes(refine_masks(working, cuts, refiner))
    return refined[elementwise_iou(cuts, refined) >= refine_iou]


def _conquer(
    image: RGB,
    wholes: Masks,
    backbone: Backbone,
    thresholds: Sequence[float],
    crop_side: int,
    min_cells: int,
    inside: float,
) -> list[bytes]:
    """Regions inside the box of each whole, seen at their own scale: run-length strings at the size of ``wholes``."""
    size = (wholes.shape[1], wholes.shape[2])
    owners = [whole for whole in wholes if whole.any()]
    windows = [box_window(whole) for whole in owners]
    crops = cluster_crops(image, windows, size, backbone, side=crop_side, thresholds=thresholds)
    found = []
    for window, whole, regions in zip(windows, owners, crops, strict=True):
        top, bottom, left, right = window
        for region in regions[regions.sum(axis=(1, 2)) >= min_cells]:
            part = paste(region, window)
            if (part & whole[top:bottom, left:right]).sum() > inside * part.sum():
                found.append(encode_part(part, window, size))
    return found

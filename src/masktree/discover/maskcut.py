"""MaskCut (CutLER, Wang et al., CVPR 2023, arXiv 2301.11320, section 3.2): up to a few whole objects by normalised
cuts.

The labels of CutLER's detector, which is the divide step of UnSAM.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from masktree.backbones.base import Backbone
from masktree.cluster import maskcut as cut_patches
from masktree.discover.region_masks import build_forest, check_settings, resize_mask, resize_masks
from masktree.io.resize import Resample, resize_image
from masktree.refine import Refiner, dense_crf, elementwise_iou, fill_holes, refine_masks
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Masks


def maskcut(
    image: RGB,
    backbone: Backbone,
    *,
    side: int = 480,
    resample: Resample = "lanczos",
    tau: float = 0.15,
    n_cuts: int = 3,
    sign: Literal["lapack", "seed"] = "lapack",
    refiner: Refiner = dense_crf,
    refine_iou: float = 0.5,
    min_area: int = 1,
    duplicate_iou: float = 0.9,
    min_coverage: float = 0.9,
) -> MaskTree:
    """Whole objects of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: the paper's is DINO ViT-B/8 with the keys of its last block (``dino-vitb8``).
        side: resolution of the features and of the refinement; the aspect is not kept.
        resample: filter of the resize to it (the authors' code: lanczos).
        tau, n_cuts: affinity threshold and largest number of cuts.
        sign: which side of an eigenvector is foreground, see ``masktree.cluster.maskcut``.
        refiner, refine_iou: each mask is refined and its holes filled; those whose IoU with the result is lower are
            dropped.
        min_area: smallest mask in pixels of the original image.
        duplicate_iou: NMS threshold (our choice; refined masks may become alike).
        min_coverage: coverage at which one mask is a descendant of another (our choice; HASSOD's value).

    The score of a mask is its IoU with its refined version (our choice).

    Raises:
        InputError: a side smaller than a cell of the backbone, or a ``min_area`` below 1.
    """
    check_settings(backbone, (0.0,), side, min_area=min_area)
    size = (image.shape[0], image.shape[1])
    working = resize_image(image, (side, side), resample)
    masks, ious = cut_objects(working, backbone, tau, n_cuts, sign, refiner, refine_iou)
    # Pillow's default filter, with which the authors' code resizes masks
    large = [resize_mask(mask, size, "bicubic") for mask in masks]
    kept = [i for i, mask in enumerate(large) if mask.sum() >= min_area]
    return build_forest(
        [rle.encode(large[i]) for i in kept],
        [float(ious[i]) for i in kept],
        size,
        duplicate_iou=duplicate_iou,
        min_coverage=min_coverage,
    )


def cut_objects(
    working: RGB,
    backbone: Backbone,
    tau: float,
    n_cuts: int,
    sign: Literal["lapack", "seed"],
    refiner: Refiner,
    refine_iou: float,
) -> tuple[Masks, np.ndarray]:
    """Refined objects with holes filled, (n, h, w) bool of the ``working`` image, and their IoU with the masks before,
    at least ``refine_iou``."""
    patches = cut_patches(backbone(working[None])[0], tau, n_cuts, sign=sign)
    cuts = resize_masks(patches, (working.shape[0], working.shape[1]), "nearest")  # as MaskCut's code
    refined = fill_holes(refine_masks(working, cuts, refiner))
    ious = elementwise_iou(cuts, refined)
    return refined[ious >= refine_iou], ious[ious >= refine_iou]

"""Label-free mask refinement: moving borders onto image edges, and the filters that follow."""

from masktree.refine.crf import dense_crf
from masktree.refine.filters import corners_covered, fill_holes, iou_pairwise
from masktree.refine.guided import guided
from masktree.refine.masks import refine_labels, refine_masks, upsample_labels
from masktree.refine.refiner import Refiner
from masktree.refine.snap import snap, watershed_regions

__all__ = [
    "Refiner",
    "corners_covered",
    "dense_crf",
    "fill_holes",
    "guided",
    "iou_pairwise",
    "refine_labels",
    "refine_masks",
    "snap",
    "upsample_labels",
    "watershed_regions",
]

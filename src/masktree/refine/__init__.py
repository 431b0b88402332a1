"""Label-free refinement of masks and label maps, which aligns their boundaries with image edges."""

from masktree.refine.crf import dense_crf
from masktree.refine.filters import elementwise_iou, fill_holes
from masktree.refine.guided import guided
from masktree.refine.masks import refine_masks, resize_probabilities, upsample_labels
from masktree.refine.refiner import Refiner

__all__ = [
    "Refiner",
    "dense_crf",
    "elementwise_iou",
    "fill_holes",
    "guided",
    "refine_masks",
    "resize_probabilities",
    "upsample_labels",
]

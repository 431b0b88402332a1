"""Boxes beside the masks of prompts (Semantic-SAM, Li et al. 2023, arXiv 2307.04767, and its code, as in UnSAM's).

Boxes are (..., 4) centre x, centre y, width and height as fractions of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from masktree.models.cascade.boxes import mask_boxes

L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0  # of the losses and of the costs in the assignment


@dataclass(frozen=True)
class PromptBoxes:
    """Predicted boxes (q, k, 4) of q prompts, and boxes (n, 4) of the image's masks."""

    predicted: Tensor
    targets: Tensor


def normalised_boxes(masks: Tensor) -> Tensor:
    """(n, 4) boxes of (n, H, W) bool masks, none empty."""
    sides = torch.tensor([masks.shape[2], masks.shape[1]] * 2, device=masks.device)
    boxes: Tensor = box_convert(mask_boxes(masks), "xyxy", "cxcywh")
    return boxes / sides


def box_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """(2,) sums over k pairs of boxes (k, 4): L1 distance, and 1 - generalised IoU."""
    return torch.stack([(predicted - targets).abs().sum(), (1 - generalised_iou(predicted, targets)).sum()])


def box_costs(predicted: Tensor, targets: Tensor) -> Tensor:
    """(..., q, n) costs of boxes (..., q, 4) and (..., n, 4): the weighted L1 distance minus the generalised IoU."""
    pairs = predicted[..., :, None, :], targets[..., None, :, :]
    return L1_WEIGHT * (pairs[0] - pairs[1]).abs().sum(-1) - GIOU_WEIGHT * generalised_iou(*pairs)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """(...) generalised IoU of boxes (..., 4), which are broadcast (Rezatofighi et al. 2019, arXiv 1902.09630).

    torchvision has that of all pairs of two lists, or a loss, not of pairs with leading dimensions.
    """
    (a_low, a_high), (b_low, b_high) = ((x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2) for x in (a, b))
    shared = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return shared / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)

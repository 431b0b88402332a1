"""Boxes: regression deltas, matching with targets, sampling for the losses, and crops of masks.

Boxes are (k, 4) float32 left, top, right, bottom of pixel edges: the box of one pixel is 1 wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes, roi_align

from masktree.errors import InputError

BoxWeights = tuple[float, float, float, float]
_MAX_LOG_SCALE = math.log(1000 / 16)  # as in Faster R-CNN's code: exp does not overflow
_IOU_ROWS = 16  # targets compared at a time: all of 200 with the anchors of 1024 x 1024 pixels would take 3 GB
_MASK_BATCH = 8  # masks converted to float at a time


def mask_boxes(masks: Tensor) -> Tensor:
    """(n, 4) boxes of (n, H, W) bool masks.

    Raises:
        InputError: an empty mask.
    """
    if not masks.flatten(1).any(1).all():
        raise InputError("expected masks with at least one pixel each; got an empty one; leave it out")
    boxes: Tensor = masks_to_boxes(masks)
    return boxes + boxes.new_tensor([0, 0, 1, 1])  # torchvision's are of pixel indices


def is_proper(boxes: Tensor) -> Tensor:
    """(k,) bool: finite boxes with a positive area."""
    return torch.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


# torchvision's BoxCoder is private; its decoded boxes are the same and its deltas differ by up to 2e-4.
def encode(boxes: Tensor, anchors: Tensor, weights: BoxWeights) -> Tensor:
    """(k, 4) deltas from ``anchors`` to ``boxes``: offset of the centre in widths and heights of the anchor, and log
    scale of both, times ``weights`` (Girshick et al. 2014, arXiv 1311.2524, appendix C)."""
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    offset = (boxes[:, :2] + size / 2 - anchors[:, :2] - anchor_size / 2) / anchor_size
    return torch.cat([offset, torch.log(size / anchor_size)], 1) * offset.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: BoxWeights) -> Tensor:
    """(..., 4) boxes of (..., 4) ``deltas``: the inverse of ``encode``. Sides grow by a factor of at most 62.5."""
    deltas = deltas / deltas.new_tensor(weights)
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + anchor_size / 2 + deltas[..., :2] * anchor_size
    half = anchor_size * torch.exp(deltas[..., 2:].clamp(max=_MAX_LOG_SCALE)) / 2
    return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class Matches:
    """Matches of k boxes with the targets of their image.

    Attributes:
        ious: (k,) highest IoU with any target, 0 without targets.
        targets: (k,) int64 index of that target, 0 without targets.
        is_best_of_target: (k,) bool: no other box has a higher IoU with some target.
    """

    ious: Tensor
    targets: Tensor
    is_best_of_target: Tensor


def match(boxes: Tensor, targets: Tensor) -> Matches:
    """Match (k, 4) boxes with all (n, 4) targets of their image, each of positive area. O(kn), memory O(k)."""
    ious = torch.zeros(len(boxes), device=boxes.device)
    index = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    is_best_of_target = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return Matches(ious, index, is_best_of_target)
    for start in range(0, len(targets), _IOU_ROWS):
        matrix = box_iou(targets[start : start + _IOU_ROWS], boxes)
        best = matrix.amax(1, keepdim=True)
        is_best_of_target |= ((matrix == best) & (best > 0)).any(0)
        values, rows = matrix.max(0)
        is_better = values > ious
        ious, index = torch.where(is_better, values, ious), torch.where(is_better, rows + start, index)
    return Matches(ious, index, is_best_of_target)


def sample(
    positive: Tensor, negative: Tensor, count: int, positive_fraction: float, generator: torch.Generator
) -> Tensor:
    """Indices of at most ``count`` boxes, positives first, drawn without replacement.

    Args:
        positive, negative: (k,) bool.
        count: of both together.
        positive_fraction: largest share of positives in ``count``.
        generator: on the CPU.
    """
    positives = _draw(positive, int(count * positive_fraction), generator)
    return torch.cat([positives, _draw(negative, count - len(positives), generator)])


def _draw(mask: Tensor, max_count: int, generator: torch.Generator) -> Tensor:
    candidates = mask.nonzero().flatten()
    if len(candidates) <= max_count:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=generator)[:max_count].to(mask.device)]


def crop_masks(masks: Tensor, index: Tensor, boxes: Tensor, side: int, points_per_side: int) -> Tensor:
    """(k, side, side) bool crops of mask ``index`` (k,) of (n, H, W) bool ``masks`` by (k, 4) boxes.

    A cell is True if at least half of its points are covered, ``points_per_side`` along each side, or one per pixel for
    0. Few masks at a time are converted to float.
    """
    crops = torch.zeros((len(boxes), side, side), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(masks), _MASK_BATCH):
        rows = ((index >= start) & (index < start + _MASK_BATCH)).nonzero().flatten()
        if len(rows):
            rois = torch.cat([(index[rows, None] - start).float(), boxes[rows]], 1)
            batch = masks[start : start + _MASK_BATCH, None].float()
            crops[rows] = roi_align(batch, rois, side, 1.0, points_per_side, aligned=True)[:, 0] >= 0.5
    return crops

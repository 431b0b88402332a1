"""Boxes of masks: their overlap with targets, their regression code, and the random choice of those to learn from.

Boxes are (k, 4) float32: left, top, right, bottom, of pixel edges, so that the box of one pixel is 1 wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from masktree.errors import InputError

Weights = tuple[float, float, float, float]
_LARGEST = math.log(1000 / 16)  # of a growth in log size; Faster R-CNN's code, so that exp does not overflow
_ROWS = 16  # targets compared at a time: all of 200, with the anchors of 1024 x 1024 pixels, would take 3 GB
_CROPPED = 8  # masks made float at a time
_SAMPLES = 4  # per side and cell of a mask's crop (our choice): every pixel of boxes up to 112 wide


def boxes_of(masks: Tensor) -> Tensor:
    """(n, 4) boxes of (n, H, W) bool masks.

    Raises:
        InputError: a mask without a pixel.
    """
    if not len(masks):
        return torch.zeros((0, 4), device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    if not rows.any(1).all():
        raise InputError("expected masks with at least one pixel each; got an empty one; leave it out")
    edges = []
    for line in (columns, rows):
        ones = line.to(torch.uint8)
        edges.append((ones.argmax(1), line.shape[1] - ones.flip(1).argmax(1)))
    return torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1).float()


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes cut at the borders of an image of (height, width)."""
    across, down = boxes[..., 0::2].clamp(0, size[1]), boxes[..., 1::2].clamp(0, size[0])
    return torch.stack([across, down], -1).flatten(-2)


def proper(boxes: Tensor) -> Tensor:
    """(k,) bool: boxes of finite numbers that have an area."""
    return torch.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def encode(boxes: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """(k, 4) deltas from ``anchors`` to ``boxes``: shift of the centre in units of the anchor's width and height, and
    logarithms of the growth of both, times ``weights`` (Girshick et al. 2014, arXiv 1311.2524, appendix C)."""
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + size / 2 - anchors[:, :2] - anchor_size / 2) / anchor_size
    return torch.cat([shift, torch.log(size / anchor_size)], 1) * shift.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """The boxes that ``encode`` gave ``deltas`` for; (..., 4) both. A side grows at most 62.5 times."""
    deltas = deltas / deltas.new_tensor(weights)
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + anchor_size / 2 + deltas[..., :2] * anchor_size
    half = anchor_size * torch.exp(deltas[..., 2:].clamp(max=_LARGEST)) / 2
    return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class Overlaps:
    """What k boxes have in common with the targets of their image.

    ``ious`` (k,): largest intersection over union, 0 where there is no target; ``targets`` (k,) int64: with which
    target, 0 where there is none; ``closest`` (k,) bool: some target overlaps no other box more.
    """

    ious: Tensor
    targets: Tensor
    closest: Tensor


def overlaps(boxes: Tensor, targets: Tensor) -> Overlaps:
    """Compare (k, 4) boxes with all (n, 4) targets of their image, each of which has an area. O(kn), memory O(k)."""
    ious = torch.zeros(len(boxes), device=boxes.device)
    which = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    closest = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return Overlaps(ious, which, closest)
    for first in range(0, len(targets), _ROWS):
        matrix = box_iou(targets[first : first + _ROWS], boxes)
        most = matrix.amax(1, keepdim=True)
        closest |= ((matrix == most) & (most > 0)).any(0)
        values, rows = matrix.max(0)
        better = values > ious
        ious, which = torch.where(better, values, ious), torch.where(better, rows + first, which)
    return Overlaps(ious, which, closest)


def sample(positive: Tensor, negative: Tensor, count: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Indices of at most ``count`` boxes, first at most ``fraction`` of ``count`` from the ``positive`` (k,) bool, then
    from the ``negative`` ones; drawn without replacement by ``generator``, which lives on the CPU."""
    chosen = _draw(positive, int(count * fraction), generator)
    return torch.cat([chosen, _draw(negative, count - len(chosen), generator)])


def _draw(among: Tensor, most: int, generator: torch.Generator) -> Tensor:
    candidates = among.nonzero().flatten()
    if len(candidates) <= most:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=generator)[:most].to(among.device)]


def crop(masks: Tensor, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """(k, side, side) bool: what lies in each of k boxes of mask ``which`` (k,) among (n, H, W) bool ``masks``: cells
    that are at least half covered. Few masks at a time are made float."""
    cells = torch.zeros((len(boxes), side, side), dtype=torch.bool, device=boxes.device)
    for first in range(0, len(masks), _CROPPED):
        own = ((which >= first) & (which < first + _CROPPED)).nonzero().flatten()
        if len(own):
            rois = torch.cat([(which[own, None] - first).float(), boxes[own]], 1)
            some = masks[first : first + _CROPPED, None].float()
            cells[own] = roi_align(some, rois, side, 1.0, _SAMPLES, aligned=True)[:, 0] >= 0.5
    return cells

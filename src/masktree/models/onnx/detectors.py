"""Mask2Former and Cascade Mask R-CNN as modules with outputs of fixed number.

Instead of dropping a query or box below a threshold or in NMS, its score is set to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms, roi_align

from masktree.models.cascade import heads, proposals
from masktree.models.cascade.boxes import decode, is_proper
from masktree.models.cascade.model import NMS_IOU, CascadeMaskRCNN
from masktree.models.mask2former.model import Mask2Former
from masktree.models.mask2former.scores import expected_iou, mean_inside, suppress_duplicates
from masktree.models.mask_maps import MASK_STRIDE

_OUTPUTS = {
    "scores": "(1, n) float32 in [0, 1], best first; 0: nothing",
    "logits": f"(1, n, rows, columns) float32, inside above 0: cells of {MASK_STRIDE} pixels of the resized photograph",
    "resized_size": "(2,) int64: height and width of the resized photograph in pixels; the last row and column "
    "of cells may reach beyond it",
    "ancestors": "(1, n, n) float32: probability that mask j is an ancestor of mask i at [i, j]",
    "boxes": "(1, n, 4) float32: left, top, right, bottom in pixels of the photograph",
    "levels": "(1, n, 3) float32: probabilities of whole, part and subpart",
    "masks": "(1, n, 28, 28) float32 probabilities in cells of the box, inside above 0.5",
}


class Mask2FormerOnnxModel(nn.Module):
    """The detections of ``Mask2Former.detect``: scores, logits, the size of the resized photograph, ancestors."""

    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model
        names = ["scores", "logits", "resized_size", *(["ancestors"] if model.ancestor_head is not None else [])]
        self.outputs = {name: _OUTPUTS[name] for name in names}

    def forward(self, pixels: Tensor, valid_size: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        objects, logits, *ancestors = self.model(pixels, cues)
        logits = crop_to_valid(logits[0], valid_size)
        cells = logits.flatten(1)
        scores, order = self._best(objects[0], cells)
        strict = [1 - torch.eye(len(order))] * len(ancestors)
        related = [matrix[0][order][:, order] * others for matrix, others in zip(ancestors, strict, strict=True)]
        return scores[None], logits[order][None], valid_size.clone(), *(matrix[None] for matrix in related)

    def _best(self, objects: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """``Mask2Former._best`` of (q, cells) logits."""
        config = self.model.config
        count = min(config.max_detections, config.num_queries)
        if config.score == "expected_iou":
            inside = (cells > 0).float()
            return suppress_duplicates(objects.sqrt() * expected_iou(cells), inside @ inside.T).topk(count)
        scores, chosen = objects.topk(count)
        if config.score == "object":
            return scores, chosen
        scores, order = (scores * mean_inside(cells[chosen])).topk(count)
        return scores, chosen[order]


class CascadeOnnxModel(nn.Module):
    """A Cascade Mask R-CNN whose every step has a fixed number of boxes."""

    def __init__(self, model: CascadeMaskRCNN) -> None:
        super().__init__()
        self.model = model
        self.outputs = {name: _OUTPUTS[name] for name in ("boxes", "scores", "levels", "masks")}

    def forward(
        self, pixels: Tensor, valid_size: Tensor, size: Tensor, cues: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        model = self.model
        maps = model.features(pixels, cues)
        boxes, is_kept = self._propose(maps, valid_size)
        stage_scores, stage_levels = [], []
        for head in model.box_heads:
            x = head.layers(_pool_rois(maps, boxes, heads.BOX_POOL_SIZE, model.points_per_side))
            stage_scores.append(head.cls_score(x).softmax(1)[:, 1])
            stage_levels.append(head.level_score(x).softmax(1))
            boxes = _clip(decode(head.bbox_pred(x), boxes, head.box_weights), valid_size)
        scores = torch.where(is_kept, torch.stack(stage_scores).mean(0), -1.0)
        scores, index = _top_after_nms(boxes, scores, NMS_IOU, min(model.config.max_detections, len(boxes)))
        boxes, levels = boxes[index], torch.stack(stage_levels).mean(0)[index]
        features = model.mask_head.layers(_pool_rois(maps, boxes, heads.MASK_POOL_SIZE, model.points_per_side))
        masks = model.mask_head.predictor(features)[:, 0].sigmoid()
        boxes = boxes * (size / valid_size).flip(0).repeat(2).to(boxes)
        return boxes[None], scores.clamp(min=0)[None], levels[None], masks[None]

    def _propose(self, maps: list[Tensor], valid_size: Tensor) -> tuple[Tensor, Tensor]:
        """(k, 4) boxes, and (k,) whether NMS keeps them."""
        logits, deltas, anchors = self.model.rpn(maps)
        count = self.model.config.test_proposals
        pre_nms_top = max(proposals.PRE_NMS_TOP_TEST, count)
        counts = [map_anchors.shape[0] for map_anchors in anchors]  # len() would be a constant while exporting
        boxes, scores, offsets = [], [], []
        per_map = zip(logits[0].split(counts), deltas[0].split(counts), anchors, strict=True)
        for number, (map_logits, map_deltas, map_anchors) in enumerate(per_map):
            # Anchors without an area, which are never kept: every map has enough for the same number of boxes.
            map_deltas, map_anchors = (functional.pad(m, (0, 0, 0, pre_nms_top)) for m in (map_deltas, map_anchors))
            values, index = functional.pad(map_logits, (0, pre_nms_top), value=-1e4).topk(pre_nms_top)
            decoded = decode(map_deltas[index], map_anchors[index], proposals.BOX_WEIGHTS)
            boxes.append(_clip(decoded, valid_size))
            scores.append(values.sigmoid())
            offset = 2.0 * number * valid_size.max()  # boxes of different maps never overlap
            offsets.append(offset.to(values).expand(pre_nms_top))
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        kept, index = _top_after_nms(
            all_boxes, all_scores, proposals.NMS_IOU, min(count, len(all_boxes)), torch.cat(offsets)[:, None]
        )
        return all_boxes[index], kept >= 0


def crop_to_valid(maps: Tensor, valid_size: Tensor) -> Tensor:
    """``mask_maps.crop_to_valid`` for a (2,) int64 size that is known only when the graph runs."""
    rows, columns = (_as_length(count) for count in (valid_size + MASK_STRIDE - 1) // MASK_STRIDE)
    return maps.index_select(-2, torch.arange(rows)).index_select(-1, torch.arange(columns))


def _as_length(count: Tensor) -> Any:
    """A positive number as the length of an array; ``int`` of it would be a constant while exporting."""
    length: Any = count.item()
    torch._check(length > 0)
    return length


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """``torchvision.ops.clip_boxes_to_image`` for a (2,) height and width that are known only when the graph runs."""
    return torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2).to(boxes))


def _top_after_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, count: int, offsets: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scores and indices of the best ``count`` boxes; the score of those that overlap a better one is -1."""
    scores = torch.where(is_proper(boxes), scores, -1.0)
    kept = torch.zeros_like(scores).index_fill(0, nms(boxes + offsets, scores, iou_threshold), 1.0)
    return torch.where(kept > 0, scores, -1.0).topk(count)


def _pool_rois(maps: Sequence[Tensor], boxes: Tensor, size: int, points_per_side: int) -> Tensor:
    """``heads.pool_rois`` for one image, with every box pooled from every map: no shape depends on the boxes."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    map_indices = heads.assign_maps(boxes)
    pooled = [
        roi_align(feature_map, rois, size, 0.25 / 2**number, points_per_side, aligned=True)
        * (map_indices == number)[:, None, None, None]
        for number, feature_map in enumerate(maps[:4])
    ]
    return torch.stack(pooled).sum(0)

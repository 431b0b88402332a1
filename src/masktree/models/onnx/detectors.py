"""Mask2Former and Cascade Mask R-CNN as modules with outputs of fixed shape.

Instead of dropping a query or box below a threshold or in NMS, its score is set to 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from masktree.models.cascade import heads, proposals
from masktree.models.cascade.boxes import decode, is_proper
from masktree.models.cascade.model import NMS_IOU, CascadeMaskRCNN
from masktree.models.mask2former.model import Mask2Former
from masktree.models.mask2former.scores import expected_iou, suppress_duplicates

_OUTPUTS = {
    "scores": "(1, n) float32 in [0, 1], in no order; 0: nothing",
    "masks": "queries: (1, n, S/4, S/4) float32 logits, inside above 0; boxes: (1, n, 28, 28) probabilities within the "
    "box, inside above 0.5",
    "ancestors": "(1, n, n) float32: probability that mask j is an ancestor of mask i at [i, j]",
    "boxes": "(1, n, 4) float32: left, top, right, bottom in pixels of the image",
    "levels": "(1, n, 3) float32: probabilities of whole, part and subpart",
}


class Mask2FormerOnnxModel(nn.Module):
    """All queries, with the scores that ``Mask2Former.detect`` gives them."""

    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model
        names = ["scores", "masks", *(["ancestors"] if model.ancestor_head is not None else [])]
        self.outputs = {name: _OUTPUTS[name] for name in names}

    def forward(self, image: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        objects, masks, *ancestors = self.model(image, cues)
        logits = masks[0].flatten(1)
        inside = (logits > 0).float()
        scores = suppress_duplicates(objects[0].sqrt() * expected_iou(logits), inside @ inside.T)
        return scores[None], masks, *ancestors


class CascadeOnnxModel(nn.Module):
    """A Cascade Mask R-CNN whose every step has a fixed number of boxes."""

    def __init__(self, model: CascadeMaskRCNN) -> None:
        super().__init__()
        self.model = model
        self.outputs = {name: _OUTPUTS[name] for name in ("boxes", "scores", "levels", "masks")}

    def forward(self, image: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        model, size = self.model, (image.shape[2], image.shape[3])
        maps = model.features(image, cues)
        boxes, is_kept = self._propose(maps, size)
        stage_scores, stage_levels = [], []
        for head in model.box_heads:
            x = head.layers(_pool_rois(maps, boxes, heads.BOX_POOL_SIZE))
            stage_scores.append(head.cls_score(x).softmax(1)[:, 1])
            stage_levels.append(head.level_score(x).softmax(1))
            boxes = clip_boxes_to_image(decode(head.bbox_pred(x), boxes, head.box_weights), size)
        scores = torch.where(is_kept, torch.stack(stage_scores).mean(0), -1.0)
        scores, index = _top_after_nms(boxes, scores, NMS_IOU, min(model.config.max_detections, len(boxes)))
        boxes, levels = boxes[index], torch.stack(stage_levels).mean(0)[index]
        features = model.mask_head.layers(_pool_rois(maps, boxes, heads.MASK_POOL_SIZE))
        masks = model.mask_head.predictor(features)[:, 0].sigmoid()
        return boxes[None], scores.clamp(min=0)[None], levels[None], masks[None]

    def _propose(self, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(k, 4) boxes, and (k,) whether NMS keeps them."""
        logits, deltas, anchors = self.model.rpn(maps)
        count = self.model.config.test_proposals
        counts = [len(map_anchors) for map_anchors in anchors]
        boxes, scores, offsets = [], [], []
        per_map = zip(logits[0].split(counts), deltas[0].split(counts), anchors, strict=True)
        for number, (map_logits, map_deltas, map_anchors) in enumerate(per_map):
            values, index = map_logits.topk(min(max(proposals.PRE_NMS_TOP_TEST, count), len(map_anchors)))
            decoded = decode(map_deltas[index], map_anchors[index], proposals.BOX_WEIGHTS)
            boxes.append(clip_boxes_to_image(decoded, size))
            scores.append(values.sigmoid())
            offsets.append(torch.full_like(values, 2.0 * number * max(size)))  # boxes of different maps never overlap
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        kept, index = _top_after_nms(
            all_boxes, all_scores, proposals.NMS_IOU, min(count, len(all_boxes)), torch.cat(offsets)[:, None]
        )
        return all_boxes[index], kept >= 0


def _top_after_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, count: int, offsets: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scores and indices of the best ``count`` boxes; the score of those that overlap a better one is -1."""
    scores = torch.where(is_proper(boxes), scores, -1.0)
    kept = torch.zeros_like(scores).index_fill(0, nms(boxes + offsets, scores, iou_threshold), 1.0)
    return torch.where(kept > 0, scores, -1.0).topk(count)


def _pool_rois(maps: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
    """``heads.pool_rois`` for one image, with every box pooled from every map: no shape depends on the boxes."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    map_indices = heads.assign_maps(boxes)
    pooled = [
        roi_align(feature_map, rois, size, 0.25 / 2**number, heads.SAMPLING_RATIO, aligned=True)
        * (map_indices == number)[:, None, None, None]
        for number, feature_map in enumerate(maps[:4])
    ]
    return torch.stack(pooled).sum(0)

"""Model of HASSOD (Cao et al. 2023, arXiv 2402.03311): Cascade Mask R-CNN that also classifies wholes, parts and
subparts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image, nms
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from masktree.models.cascade.boxes import BoxWeights, crop_masks, decode, is_proper, mask_boxes, match, sample
from masktree.models.cascade.detections import BoxDetections
from masktree.models.cascade.heads import MASK_SIZE, BoxHead, LossSums, MaskHead, SampledRois, mask_loss
from masktree.models.cascade.proposals import ProposalNetwork
from masktree.models.config import CascadeConfig
from masktree.models.pyramid.base import Pyramid
from masktree.models.structures import Batch

# IoU from which a box is positive, and weights of the deltas, of each stage (Cascade R-CNN).
_STAGES: tuple[tuple[float, BoxWeights], ...] = (
    (0.5, (10.0, 10.0, 5.0, 5.0)),
    (0.6, (20.0, 20.0, 10.0, 10.0)),
    (0.7, (30.0, 30.0, 15.0, 15.0)),
)
# Points along the side of a cell for RoIAlign of maps and of masks; 0: one per pixel.
_POINTS_PER_SIDE = {"adaptive": (0, 0), "fixed": (2, 4)}  # (Mask R-CNN's 4; every pixel of boxes up to 112 wide)
NMS_IOU = 0.5  # of detections (Detectron2's value, which HASSOD keeps; there is no score threshold)
_MASK_HEAD_BATCH = 256  # boxes at a time: 1000 at full width would take 0.8 GB


class CascadeMaskRCNN(nn.Module):
    """A ``Model``: three cascade stages refine the boxes, a mask head predicts a mask in each.

    Args:
        config: of the model.
        pyramid: of its backbone.
    """

    def __init__(self, config: CascadeConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config, self.pyramid, self.wants_cues = config, pyramid, pyramid.wants_cues
        self.points_per_side, self.mask_points_per_side = _POINTS_PER_SIDE[config.roi_sampling]
        norm = nn.BatchNorm2d if config.norm == "batch" else None
        self.fpn = FeaturePyramidNetwork(list(pyramid.channels), config.hidden_dim, LastLevelMaxPool(), norm)
        self.rpn = ProposalNetwork(config.hidden_dim)
        dims = config.hidden_dim, config.box_head_dim
        box_heads = nn.ModuleList(BoxHead(*dims, *stage, self.points_per_side) for stage in _STAGES)
        self.box_heads = cast("Sequence[BoxHead]", box_heads)
        self.mask_head = MaskHead(config.hidden_dim, config.mask_head_layers, self.points_per_side)

    def features(self, images: Tensor, cues: Tensor | None) -> list[Tensor]:
        """Maps (b, hidden, H/s, W/s) float32 at s = 4, 8, 16, 32 and 64; ``images`` and ``cues`` as in ``Batch``."""
        maps = self.fpn({str(number): m for number, m in enumerate(self.pyramid(images, cues))})
        return [m.float() for m in maps.values()]  # once: boxes are pooled from them four times

    def losses(self, batch: Batch, num_masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Losses ``rpn_objectness``, ``rpn_box``, ``class``, ``box``, ``level`` (sums over the stages) and ``mask``,
        all of weight 1.

        With ``config.roi_mean`` of ``image`` each is a mean over images of a mean within the image, so that images may
        be spread over processes in any way; ``num_masks`` is ignored. An image without targets trains its anchors as
        background, and without DropLoss its boxes; without ``batch.learn_from_empty`` nothing.

        Raises:
            InputError: an empty target mask.
        """
        maps = self.features(batch.images, batch.cues)
        size = (batch.images.shape[2], batch.images.shape[3])
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch.seeds]
        boxes = [mask_boxes(targets.masks) for targets in batch.targets]
        logits, deltas, anchors = self.rpn(maps)
        objectness_loss, box_loss = self.rpn.losses(
            logits, deltas, torch.cat(anchors), boxes, generators, batch.loss_weights
        )
        count = self.config.train_proposals
        proposals = self.rpn.propose(logits, deltas, anchors, [size] * len(boxes), count, training=True)
        rois = [self._sample_rois(*image) for image in zip(proposals, boxes, generators, strict=True)]
        return {
            "rpn_objectness": objectness_loss,
            "rpn_box": box_loss,
            **self._box_losses(maps, rois, boxes, [t.levels for t in batch.targets], size, batch.loss_weights),
            "mask": self._mask_loss(maps, rois, [targets.masks for targets in batch.targets]),
        }

    @torch.no_grad()
    def _sample_rois(self, proposals: Tensor, targets: Tensor, generator: torch.Generator) -> SampledRois:
        """Sampled proposals and target boxes; the latter make positives from the first step on."""
        boxes = torch.cat([proposals, targets])
        matches = match(boxes, targets)
        positive = matches.ious >= self.box_heads[0].positive_iou
        fraction = self.config.roi_positive_fraction
        index = sample(positive, ~positive, self.config.roi_batch_size, fraction, generator)
        return SampledRois(boxes[index], positive[index], matches.targets[index])

    def _box_losses(
        self,
        maps: Sequence[Tensor],
        rois: Sequence[SampledRois],
        targets: Sequence[Tensor],
        levels: Sequence[Tensor],
        size: tuple[int, int],
        loss_weights: Tensor,
    ) -> dict[str, Tensor]:
        """Sums over the stages; each gets the refined boxes of the one before, matched by its own IoU threshold."""
        names = ("class", "box", "level")
        totals = dict.fromkeys(names, maps[0].new_zeros((), dtype=torch.float32))
        for number, head in enumerate(self.box_heads):
            boxes = [image_rois.boxes for image_rois in rois]
            predictions = head(maps, boxes, gradient_scale=1 / len(self.box_heads))
            next_rois: list[SampledRois] = []
            losses: list[LossSums] = []
            for i, image in enumerate(predictions.split([len(image_boxes) for image_boxes in boxes])):
                refined = clip_boxes_to_image(decode(image.deltas.detach(), boxes[i], head.box_weights), size)
                matches = match(refined, targets[i])
                losses.append(
                    head.losses(image, rois[i], matches.ious, targets[i], levels[i], drop_loss=self.config.drop_loss)
                )
                if number + 1 < len(self.box_heads):
                    usable = is_proper(refined)
                    positive = matches.ious[usable] >= self.box_heads[number + 1].positive_iou
                    next_rois.append(SampledRois(refined[usable], positive, matches.targets[usable]))
            for name, loss in zip(names, self._mean(losses, loss_weights), strict=True):
                totals[name] = totals[name] + loss
            rois = next_rois
        return totals

    def _mean(self, losses: Sequence[LossSums], loss_weights: Tensor) -> Tensor:
        """(3,) means of the losses of images, which ``loss_weights`` (b,) multiply."""
        sums = torch.stack([image.sums for image in losses]) * loss_weights[:, None]
        counts = torch.stack([image.counts for image in losses])
        if self.config.roi_mean == "image":
            return (sums / counts.clamp(min=1)).mean(0)
        return sums.sum(0) / counts.sum(0).clamp(min=1)

    def _mask_loss(self, maps: Sequence[Tensor], rois: Sequence[SampledRois], masks: Sequence[Tensor]) -> Tensor:
        """Mask loss of the positive RoIs of the first stage."""
        boxes = [image_rois.boxes[image_rois.positive] for image_rois in rois]
        logits = self.mask_head(maps, boxes).split([len(image_boxes) for image_boxes in boxes])
        losses = []
        for i, image_rois in enumerate(rois):
            index = image_rois.targets[image_rois.positive]
            targets = crop_masks(masks[i], index, boxes[i], MASK_SIZE, self.mask_points_per_side)
            losses.append(mask_loss(logits[i], targets))
        if self.config.roi_mean == "image":
            return torch.stack(losses).mean()
        counts = logits[0].new_tensor([len(image_logits) for image_logits in logits])
        return (torch.stack(losses) * counts).sum() / counts.sum().clamp(min=1)

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[BoxDetections]:
        """See ``Model``: the detections of each image after NMS at ``NMS_IOU``; scores are means over the stages."""
        maps = self.features(images, cues)
        logits, deltas, anchors = self.rpn(maps)
        boxes = self.rpn.propose(logits, deltas, anchors, valid_sizes, self.config.test_proposals, training=False)
        counts = [len(image_boxes) for image_boxes in boxes]
        stage_scores, stage_levels = [], []
        for head in self.box_heads:
            predictions = head(maps, boxes)
            stage_scores.append(predictions.class_logits.softmax(1)[:, 1])
            stage_levels.append(predictions.level_logits.softmax(1))
            refined = decode(predictions.deltas, torch.cat(boxes), head.box_weights).split(counts)
            boxes = [clip_boxes_to_image(b, size) for b, size in zip(refined, valid_sizes, strict=True)]
        scores = torch.stack(stage_scores).mean(0).split(counts)
        levels = torch.stack(stage_levels).mean(0).split(counts)
        detections = []
        for i, valid_size in enumerate(valid_sizes):
            usable = (is_proper(boxes[i]) & torch.isfinite(scores[i])).nonzero().flatten()
            kept = usable[nms(boxes[i][usable], scores[i][usable], NMS_IOU)[: self.config.max_detections]]
            image_boxes, image_maps = boxes[i][kept], [m[i : i + 1] for m in maps]
            batches = image_boxes.split(_MASK_HEAD_BATCH)
            masks = torch.cat([self.mask_head(image_maps, [batch]).sigmoid() for batch in batches])
            detections.append(BoxDetections(image_boxes, scores[i][kept], levels[i][kept], masks, valid_size))
        return detections

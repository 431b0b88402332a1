"""The model of HASSOD (Cao et al. 2023, arXiv 2402.03311): Cascade Mask R-CNN that also tells wholes, parts and
subparts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, nms
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from masktree.models.cascade.boxes import Weights, boxes_of, clip, crop, decode, overlaps, proper, sample
from masktree.models.cascade.proposals import ProposalNetwork
from masktree.models.cascade.stages import SIDE, BoxStage, MaskHead, SampledRois, mask_loss
from masktree.models.config import CascadeConfig
from masktree.models.structures import Batch

if TYPE_CHECKING:
    from masktree.models.pyramid.pyramid import Pyramid

# IoU from which a box is a mask, and units of the deltas, in each stage (Cascade R-CNN).
_STAGES: tuple[tuple[float, Weights], ...] = (
    (0.5, (10.0, 10.0, 5.0, 5.0)),
    (0.6, (20.0, 20.0, 10.0, 10.0)),
    (0.7, (30.0, 30.0, 15.0, 15.0)),
)
_POSITIVES = 0.5  # the most of the boxes that are learned from (HASSOD)
NMS = 0.5  # of found boxes (Detectron2's value, which HASSOD leaves; no score is too low for it)
_FILLED = 256  # boxes filled with masks at a time: 1000 at full width would take 0.8 GB


class CascadeMaskRCNN(nn.Module):
    """Finds boxes in three stages, fills them with masks; a ``Model``.

    Args:
        config: shape of the model.
        pyramid: maps at strides 4, 8, 16 and 32.
    """

    def __init__(self, config: CascadeConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config, self.pyramid, self.wants_cues = config, pyramid, pyramid.wants_cues
        self.maps = FeaturePyramidNetwork(list(pyramid.channels), config.hidden_dim, LastLevelMaxPool())
        self.proposals = ProposalNetwork(config.hidden_dim)
        stages = nn.ModuleList(BoxStage(config.hidden_dim, config.box_head_dim, *stage) for stage in _STAGES)
        self.stages = cast("Sequence[BoxStage]", stages)
        self.mask_head = MaskHead(config.hidden_dim, config.mask_head_layers)

    def losses(self, batch: Batch, masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Objectives of a batch by name: ``rpn_objectness``, ``rpn_box``, ``class``, ``box``, ``level`` (sums over the
        stages) and ``mask``; all have weight 1.

        Each is a mean over images of a mean within the image, so images may be spread over processes in any way;
        ``masks`` is not used. An image without targets teaches that its anchors are background, and no more: DropLoss
        leaves out the classes of all its boxes; not even that where ``batch.learn_from_empty`` is false.

        Raises:
            InputError: a target mask without a pixel.
        """
        maps = self.features(batch.images, batch.cues)
        size = (batch.images.shape[2], batch.images.shape[3])
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch.seeds]
        boxes = [boxes_of(targets.masks) for targets in batch.targets]
        logits, deltas, anchors = self.proposals(maps)
        joined = torch.cat(anchors)
        objectness, distance = self.proposals.losses(logits, deltas, joined, boxes, generators, batch.loss_weights)
        count = self.config.train_proposals
        proposed = self.proposals.propose(logits, deltas, anchors, [size] * len(boxes), count, training=True)
        rois = [self._choose(*own) for own in zip(proposed, boxes, generators, strict=True)]
        return {
            "rpn_objectness": objectness,
            "rpn_box": distance,
            **self._stage_losses(maps, rois, boxes, [targets.levels for targets in batch.targets], size),
            "mask": self._mask_loss(maps, rois, [targets.masks for targets in batch.targets]),
        }

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[BoxDetections]:
        """What is found in each image; see ``Model``. Boxes that overlap a better one by more than 0.5 are left out."""
        maps = self.features(images, cues)
        logits, deltas, anchors = self.proposals(maps)
        count = self.config.test_proposals
        boxes = self.proposals.propose(logits, deltas, anchors, valid_sizes, count, training=False)
        counts = [len(own) for own in boxes]
        scores, levels = [], []
        for stage in self.stages:
            predictions = stage(maps, boxes)
            scores.append(predictions.logits.softmax(1)[:, 1])
            levels.append(predictions.levels.softmax(1))
            moved = decode(predictions.deltas, torch.cat(boxes), stage.weights).split(counts)
            boxes = [clip(own, size) for own, size in zip(moved, valid_sizes, strict=True)]
        mean_scores, mean_levels = torch.stack(scores).mean(0), torch.stack(levels).mean(0)
        kept = [self._best(*own) for own in zip(boxes, mean_scores.split(counts), strict=True)]
        found = []
        for i, own in enumerate(kept):
            own_boxes = boxes[i][own]
            found.append(
                BoxDetections(
                    boxes=own_boxes,
                    scores=mean_scores.split(counts)[i][own],
                    levels=mean_levels.split(counts)[i][own],
                    masks=self._fill([one[i : i + 1] for one in maps], own_boxes),
                    valid_size=valid_sizes[i],
                )
            )
        return found

    # --- learning -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _choose(self, proposed: Tensor, targets: Tensor, generator: torch.Generator) -> SampledRois:
        """Boxes to learn from: some of those proposed, and of the targets' own, so that there are positives from the
        first step on."""
        boxes = torch.cat([proposed, targets])
        found = overlaps(boxes, targets)
        positive = found.ious >= self.stages[0].iou
        chosen = sample(positive, ~positive, self.config.roi_batch_size, _POSITIVES, generator)
        return SampledRois(boxes[chosen], positive[chosen], found.targets[chosen])

    def _stage_losses(
        self,
        maps: Sequence[Tensor],
        rois: Sequence[SampledRois],
        targets: Sequence[Tensor],
        levels: Sequence[Tensor],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Each stage gets the boxes that the one before moved, and labels them anew by its own IoU."""
        names = ("class", "box", "level")
        total = dict.fromkeys(names, maps[0].new_zeros((), dtype=torch.float32))
        for number, stage in enumerate(self.stages):
            predictions = stage(maps, [own.boxes for own in rois], scale=1 / len(self.stages))
            following, terms = [], []
            for i, said in enumerate(predictions.split([len(own.boxes) for own in rois])):
                moved = clip(decode(said.deltas.detach(), rois[i].boxes, stage.weights), size)
                found = overlaps(moved, targets[i])
                terms.append(torch.stack(stage.losses(said, rois[i], found.ious, targets[i], levels[i])))
                if number + 1 < len(self.stages):
                    usable = proper(moved)
                    positive = found.ious[usable] >= self.stages[number + 1].iou
                    following.append(SampledRois(moved[usable], positive, found.targets[usable]))
            for name, term in zip(names, torch.stack(terms).mean(0), strict=True):
                total[name] = total[name] + term
            rois = following
        return total

    def _mask_loss(self, maps: Sequence[Tensor], rois: Sequence[SampledRois], masks: Sequence[Tensor]) -> Tensor:
        """The mask head learns from the positives of the first stage."""
        boxes = [own.boxes[own.positive] for own in rois]
        logits = self.mask_head(maps, boxes).split([len(own) for own in boxes])
        terms = []
        for i, own in enumerate(rois):
            terms.append(mask_loss(logits[i], crop(masks[i], own.targets[own.positive], boxes[i], SIDE)))
        return torch.stack(terms).mean()

    # --- both ---------------------------------------------------------------------------------------------------

    def features(self, images: Tensor, cues: Tensor | None) -> list[Tensor]:
        """Maps (b, hidden, H/s, W/s) float32 at s = 4, 8, 16, 32 and 64."""
        maps = self.maps({str(number): one for number, one in enumerate(self.pyramid(images, cues))})
        return [one.float() for one in maps.values()]  # once: boxes are cut out of them four times

    # --- finding ------------------------------------------------------------------------------------------------

    def _best(self, boxes: Tensor, scores: Tensor) -> Tensor:
        usable = (proper(boxes) & torch.isfinite(scores)).nonzero().flatten()
        return usable[nms(boxes[usable], scores[usable], NMS)[: self.config.max_detections]]

    def _fill(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        return torch.cat([self.mask_head(maps, [some]).sigmoid() for some in boxes.split(_FILLED)])


@dataclass(frozen=True)
class BoxDetections:
    """Masks of one image as probabilities inside boxes, best score first; ``ModelDetections``.

    ``boxes`` (n, 4) on the pixels that the network saw, of which ``content`` (height, width) is the image; ``masks``
    (n, SIDE, SIDE) float32 in [0, 1]; ``scores`` (n,) and ``levels`` (n, 3) as in ``ModelDetections``.
    """

    boxes: Tensor
    scores: Tensor
    levels: Tensor
    masks: Tensor
    valid_size: tuple[int, int]
    ancestors: None = None

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """See ``ModelDetections``; a mask may be empty. Besides the result, one mask is in memory as float32."""
        scale = self.boxes.new_tensor([size[1] / self.valid_size[1], size[0] / self.valid_size[0]] * 2)
        boxes, masks = self.boxes[start:stop] * scale, self.masks[start:stop]
        rendered = torch.zeros((len(boxes), *size), dtype=torch.bool, device=boxes.device)
        for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
            rows = slice(max(int(top), 0), min(int(bottom) + 1, size[0]))
            columns = slice(max(int(left), 0), min(int(right) + 1, size[1]))
            mask = paste(masks[number], (left, top, right, bottom), rows, columns)
            rendered[number, rows, columns] = mask > 0.5
        return rendered


def paste(mask: Tensor, box: tuple[float, float, float, float], rows: slice, columns: slice) -> Tensor:
    """Probabilities of a (SIDE, SIDE) mask at the centres of pixels: bilinear between the cells' centres, 0 outside.

    Bilinear weights are products of one number for the row and one for the column, hence two small matrix products.
    """
    left, top, right, bottom = box
    down = _weights(rows, top, bottom, mask)
    across = _weights(columns, left, right, mask)
    with torch.autocast(mask.device.type, enabled=False):
        return down @ mask @ across.T


def _weights(pixels: slice, first: float, last: float, mask: Tensor) -> Tensor:
    """(pixels, SIDE) weight of each cell of a line of cells from ``first`` to ``last`` at the centres of pixels."""
    centres = torch.arange(pixels.start, pixels.stop, device=mask.device, dtype=mask.dtype) + 0.5
    place = (centres - first) / max(last - first, 1e-6) * SIDE - 0.5
    cells = torch.arange(SIDE, device=mask.device, dtype=mask.dtype)
    return (1 - (place[:, None] - cells).abs()).clamp(min=0)

"""Box and mask heads: boxes are classified, refined (Cascade R-CNN, Cai and Vasconcelos 2018, arXiv 1712.00726) and
filled with a mask (Mask R-CNN, He et al. 2017, arXiv 1703.06870)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align, sigmoid_focal_loss

from masktree.models.cascade.boxes import BoxWeights, encode

MASK_SIZE = 28  # cells along a side of a predicted mask
BOX_POOL_SIZE, MASK_POOL_SIZE = 7, 14
_DROP_LOSS_IOU = 0.01  # (HASSOD; from CutLER, Wang et al. 2023, arXiv 2301.11320)
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0  # (Lin et al. 2017, arXiv 1708.02002)


@dataclass(frozen=True)
class BoxPredictions:
    """Predictions of a stage for k boxes, float32: ``class_logits`` (k, 2) of background and object, ``deltas`` (k, 4)
    to a better box, ``level_logits`` (k, 3) of whole, part and subpart."""

    class_logits: Tensor
    deltas: Tensor
    level_logits: Tensor

    def split(self, counts: list[int]) -> list[BoxPredictions]:
        """The predictions of consecutive groups of boxes."""
        parts = (value.split(counts) for value in (self.class_logits, self.deltas, self.level_logits))
        return [BoxPredictions(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class SampledRois:
    """Boxes (k, 4) of one image for the losses: ``positive`` (k,) bool, and ``targets`` (k,) int64 index of the target
    of a positive one (of no meaning for the others)."""

    boxes: Tensor
    positive: Tensor
    targets: Tensor


@dataclass(frozen=True)
class LossSums:
    """Sums of losses, and the numbers that they are divided by: (3,) each, of class, box and level."""

    sums: Tensor
    counts: Tensor


class BoxHead(nn.Module):
    """A cascade stage: RoIAlign, two fully connected layers, and three linear predictors.

    Args:
        channels: of the maps.
        points_per_side: of RoIAlign, see ``pool_rois``.
        dim: width of the fully connected layers.
        positive_iou: IoU with a target from which a box is positive.
        box_weights: of the deltas; see ``boxes.encode``.
    """

    def __init__(
        self, channels: int, dim: int, positive_iou: float, box_weights: BoxWeights, points_per_side: int = 2
    ) -> None:
        super().__init__()
        self.positive_iou, self.box_weights, self.points_per_side = positive_iou, box_weights, points_per_side
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * BOX_POOL_SIZE**2, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )
        self.cls_score, self.bbox_pred, self.level_score = nn.Linear(dim, 2), nn.Linear(dim, 4), nn.Linear(dim, 3)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        # Standard deviations of Detectron2's code.
        for predictor, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001), (self.level_score, 0.01)):
            nn.init.normal_(predictor.weight, std=std)
            nn.init.zeros_(predictor.bias)

    def forward(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor], *, gradient_scale: float = 1.0
    ) -> BoxPredictions:
        """Predictions for the boxes (k_i, 4) of each image, concatenated. The gradient of the pooled features is
        multiplied by ``gradient_scale``."""
        pooled = pool_rois(maps, boxes, BOX_POOL_SIZE, self.points_per_side)
        if pooled.requires_grad and gradient_scale != 1:
            pooled.register_hook(lambda gradient: gradient * gradient_scale)
        x = self.layers(pooled)
        return BoxPredictions(self.cls_score(x).float(), self.bbox_pred(x).float(), self.level_score(x).float())

    def losses(
        self,
        predictions: BoxPredictions,
        rois: SampledRois,
        ious: Tensor,
        boxes: Tensor,
        levels: Tensor,
        *,
        drop_loss: bool = True,
    ) -> LossSums:
        """Class, box and level losses of one image, to be divided by its k boxes, its k boxes, and its positives times
        three levels.

        The L1 loss of the positives is divided by all boxes, as in Faster R-CNN, so that each counts the same whatever
        their number.

        Args:
            predictions, rois: of the k boxes.
            ious: (k,) highest IoU of the refined boxes with any target.
            boxes, levels: (n, 4) and (n,) of the targets.
            drop_loss: see ``class_losses``.
        """
        positive = rois.positive
        index = rois.targets[positive]
        target_deltas = encode(boxes[index], rois.boxes[positive], self.box_weights)
        sums = (
            class_losses(predictions.class_logits, positive, ious if drop_loss else None).sum(),
            functional.l1_loss(predictions.deltas[positive], target_deltas, reduction="sum"),
            level_losses(predictions.level_logits[positive], levels[index]).sum(),
        )
        return LossSums(torch.stack(sums), ious.new_tensor([len(ious), len(ious), 3 * len(index)]))


class MaskHead(nn.Module):
    """Convolutions that predict a mask of ``MASK_SIZE`` x ``MASK_SIZE`` cells in each box."""

    def __init__(self, channels: int, num_layers: int, points_per_side: int = 2) -> None:
        super().__init__()
        self.points_per_side = points_per_side
        convolutions: list[nn.Module] = []
        for _ in range(num_layers):
            convolutions += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*convolutions, nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU())
        self.predictor = nn.Conv2d(channels, 1, 1)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(k, MASK_SIZE, MASK_SIZE) float32 logits for the boxes (k_i, 4) of each image, concatenated."""
        logits: Tensor = self.predictor(self.layers(pool_rois(maps, boxes, MASK_POOL_SIZE, self.points_per_side)))
        return logits[:, 0].float()


def pool_rois(maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int, points_per_side: int) -> Tensor:
    """(k, c, size, size) float32 RoIAlign features of the boxes (k_i, 4) of each image, concatenated: means over
    ``points_per_side`` x ``points_per_side`` points of each cell, or for 0 over one per cell of the map (Detectron2).

    Not torchvision's MultiScaleRoIAlign, which shifts boxes by half a cell (``aligned=False``): features of standard
    deviation 0.4 differ by 0.3 on average; the time is the same.
    """
    all_boxes = torch.cat(list(boxes))
    counts = torch.tensor([len(image_boxes) for image_boxes in boxes], device=all_boxes.device)
    image = torch.repeat_interleave(torch.arange(len(boxes), device=all_boxes.device), counts)
    rois = torch.cat([image[:, None].float(), all_boxes], 1)
    map_indices = assign_maps(all_boxes)
    order, pooled = [], []
    for number, feature_map in enumerate(maps[:4]):
        index = (map_indices == number).nonzero().flatten()
        order.append(index)
        scale = 0.25 / 2**number
        pooled.append(roi_align(feature_map.float(), rois[index], size, scale, points_per_side, aligned=True))
    return torch.cat(pooled)[torch.cat(order).argsort()]


def assign_maps(boxes: Tensor) -> Tensor:
    """(k,) float32 index of the map, at strides 4, 8, 16 and 32, that each box is pooled from: stride 16 for a side of
    224, stride 8 for half of it (Feature Pyramid Networks, arXiv 1612.03144, equation 1)."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (2 + torch.log2(areas.clamp(min=1).sqrt() / 224 + 1e-8)).floor().clamp(0, 3)


def class_losses(logits: Tensor, positive: Tensor, ious: Tensor | None) -> Tensor:
    """(k,) cross-entropy of (k, 2) logits, 0 for boxes whose IoU with all targets is at most ``_DROP_LOSS_IOU``;
    ``ious`` of None drops none.

    DropLoss (CutLER, section 3.3): where the pseudo-labels have no mask, they may have missed one.
    """
    losses = functional.cross_entropy(logits, positive.long(), reduction="none")
    return losses if ious is None else losses * (ious > _DROP_LOSS_IOU)


def level_losses(logits: Tensor, levels: Tensor) -> Tensor:
    """(k, 3) sigmoid focal loss of (k, 3) logits and (k,) int64 levels."""
    targets = functional.one_hot(levels, 3).to(logits.dtype)
    losses: Tensor = sigmoid_focal_loss(logits, targets, _FOCAL_ALPHA, _FOCAL_GAMMA)
    return losses


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over (k, MASK_SIZE, MASK_SIZE) cells; 0 for k = 0."""
    total = functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
    return total / max(math.prod(logits.shape), 1)

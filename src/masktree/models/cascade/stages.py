"""What happens to a box: it is looked at, judged, moved (Cascade R-CNN, Cai and Vasconcelos 2018, arXiv 1712.00726) and
filled with a mask (Mask R-CNN, He et al. 2017, arXiv 1703.06870)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align, sigmoid_focal_loss

from masktree.models.cascade.boxes import Weights, encode

SIDE = 28  # of a mask, in cells
BOX_SIDE, MASK_SIDE = 7, 14  # of what is cut out of a map
SAMPLES = 2  # per side and cell of what is cut out (Mask R-CNN's four points)
_DROP = 0.01  # IoU (HASSOD; from CutLER, Wang et al. 2023, arXiv 2301.11320)
_ALPHA, _GAMMA = 0.25, 2.0  # focal loss (Lin et al. 2017, arXiv 1708.02002)


@dataclass(frozen=True)
class BoxPredictions:
    """What a stage says of k boxes, float32: ``logits`` (k, 2) of nothing and of a mask, ``deltas`` (k, 4) to a better
    box, ``levels`` (k, 3) logits of whole, part and subpart."""

    logits: Tensor
    deltas: Tensor
    levels: Tensor

    def split(self, counts: list[int]) -> list[BoxPredictions]:
        parts = zip(self.logits.split(counts), self.deltas.split(counts), self.levels.split(counts), strict=True)
        return [BoxPredictions(*part) for part in parts]


@dataclass(frozen=True)
class SampledRois:
    """Boxes (k, 4) of one image to learn from: whether each is a mask, ``positive`` (k,) bool, and which, ``targets``
    (k,) int64 (of no meaning for the others)."""

    boxes: Tensor
    positive: Tensor
    targets: Tensor


class BoxStage(nn.Module):
    """Two fully connected layers and three linear ones on what lies in a box.

    Args:
        channels: of the maps.
        width: of the fully connected layers.
        iou: with a target, from which a box counts as a mask.
        weights: units of the deltas; see ``boxes.encode``.
    """

    def __init__(self, channels: int, width: int, iou: float, weights: Weights) -> None:
        super().__init__()
        self.iou, self.weights = iou, weights
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * BOX_SIDE**2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.logits, self.deltas, self.levels = nn.Linear(width, 2), nn.Linear(width, 4), nn.Linear(width, 3)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        # Standard deviations of Detectron2's code: all boxes start alike, and where they are.
        for last, deviation in ((self.logits, 0.01), (self.deltas, 0.001), (self.levels, 0.01)):
            nn.init.normal_(last.weight, std=deviation)
            nn.init.zeros_(last.bias)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], *, scale: float = 1.0) -> BoxPredictions:
        """Judge the boxes (k_i, 4) of each image, in one list. What flows back to the maps is multiplied by
        ``scale``."""
        pooled = pool(maps, boxes, BOX_SIDE)
        if pooled.requires_grad and scale != 1:
            pooled.register_hook(lambda gradient: gradient * scale)
        x = self.layers(pooled)
        return BoxPredictions(self.logits(x).float(), self.deltas(x).float(), self.levels(x).float())

    def losses(
        self, predictions: BoxPredictions, rois: SampledRois, ious: Tensor, boxes: Tensor, levels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Objectives of one image for classes, boxes and levels: means over its k boxes, its k boxes, its positives.

        The sum of distances of positives is divided by all boxes, as in Faster R-CNN, so that each counts the same
        whatever their number.

        Args:
            predictions, rois: what is said of the k boxes, and what is true.
            ious: (k,) largest IoU of the boxes that ``predictions`` moves them to with any target.
            boxes, levels: (n, 4) and (n,) of the targets.
        """
        count, own = max(len(ious), 1), rois.positive
        which = rois.targets[own]
        code = encode(boxes[which], rois.boxes[own], self.weights)
        return (
            class_losses(predictions.logits, own, ious).sum() / count,
            functional.l1_loss(predictions.deltas[own], code, reduction="sum") / count,
            level_losses(predictions.levels[own], levels[which]).sum() / max(3 * len(which), 1),
        )


class MaskHead(nn.Module):
    """Convolutions that draw one mask of ``SIDE`` x ``SIDE`` cells in each box."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for _ in range(layers):
            blocks += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*blocks, nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU())
        self.logits = nn.Conv2d(channels, 1, 1)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.logits.weight, std=0.001)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(k, SIDE, SIDE) float32 logits for the boxes (k_i, 4) of each image, in one list."""
        return self.logits(self.layers(pool(maps, boxes, MASK_SIDE)))[:, 0].float()


def pool(maps: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
    """(k, c, side, side) float32: what lies in the boxes (k_i, 4) of each image, in one list, of the maps at strides 4,
    8, 16 and 32 (RoIAlign, Mask R-CNN)."""
    joined = torch.cat(list(boxes))
    counts = torch.tensor([len(own) for own in boxes], device=joined.device)
    image = torch.repeat_interleave(torch.arange(len(boxes), device=joined.device), counts)
    rois = torch.cat([image[:, None].float(), joined], 1)
    level = map_of(joined)
    order, pooled = [], []
    for number, one in enumerate(maps[:4]):
        order.append((level == number).nonzero().flatten())
        pooled.append(roi_align(one.float(), rois[order[-1]], side, 0.25 / 2**number, SAMPLES, aligned=True))
    return torch.cat(pooled)[torch.cat(order).argsort()]


def map_of(boxes: Tensor) -> Tensor:
    """(k,) float32: which of four maps, at strides 4, 8, 16 and 32, each box is cut out of: one of side 224 out of that
    at 16, of half the side out of that at 8 (Feature Pyramid Networks, arXiv 1612.03144, equation 1)."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (2 + torch.log2(area.clamp(min=1).sqrt() / 224 + 1e-8)).floor().clamp(0, 3)


def class_losses(logits: Tensor, positive: Tensor, ious: Tensor) -> Tensor:
    """(k,) cross-entropy of k boxes, 0 for a box that overlaps no target by more than ``_DROP`` (DropLoss, CutLER,
    section 3.3): where the labels have nothing they may have missed something."""
    return functional.cross_entropy(logits, positive.long(), reduction="none") * (ious > _DROP)


def level_losses(logits: Tensor, levels: Tensor) -> Tensor:
    """(k, 3) sigmoid focal loss of each of the three levels."""
    return sigmoid_focal_loss(logits, functional.one_hot(levels, 3).to(logits.dtype), _ALPHA, _GAMMA)


def mask_loss(logits: Tensor, cells: Tensor) -> Tensor:
    """Mean cross-entropy over (k, SIDE, SIDE) cells; 0 for k = 0."""
    total = functional.binary_cross_entropy_with_logits(logits, cells.float(), reduction="sum")
    return total / max(math.prod(logits.shape), 1)

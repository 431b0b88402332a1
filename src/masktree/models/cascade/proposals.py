"""Region proposal network (Ren et al. 2015, arXiv 1506.01497) on five maps of a feature pyramid network (Lin et al.
2017, arXiv 1612.03144), with HASSOD's settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from masktree.models.cascade.boxes import BoxWeights, decode, encode, is_proper, match, sample

MAP_STRIDES = (4, 8, 16, 32, 64)
_ANCHOR_SIZES = (32, 64, 128, 256, 512)  # one per map
_ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height to width
BOX_WEIGHTS: BoxWeights = (1.0, 1.0, 1.0, 1.0)
# From here on the values of HASSOD's configuration, and Detectron2's where it sets none.
_POSITIVE_IOU, _NEGATIVE_IOU = 0.7, 0.3  # an anchor is positive from the one on, negative below the other
_ANCHORS_PER_IMAGE, _POSITIVE_FRACTION = 256, 0.5  # sampled for the losses
_PRE_NMS_TOP_TRAIN, PRE_NMS_TOP_TEST = 2000, 1000  # per map
NMS_IOU = 0.65


class ProposalNetwork(nn.Module):
    """Objectness and box deltas for anchors of three aspect ratios in every cell of five maps (b, channels, H/s, W/s),
    s in ``MAP_STRIDES``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = RPNHead(channels, len(_ASPECT_RATIOS))
        sizes = tuple((size,) for size in _ANCHOR_SIZES)
        self.anchor_generator = AnchorGenerator(sizes, (_ASPECT_RATIOS,) * len(sizes))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits (b, k) and deltas (b, k, 4) of all k anchors, map by map, and the anchors (k_i, 4) of each map."""
        logits, deltas = self.head(list(maps))
        num_ratios = len(_ASPECT_RATIOS)
        flat_logits = [m.permute(0, 2, 3, 1).flatten(1).float() for m in logits]
        flat_deltas = [m.unflatten(1, (num_ratios, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for m in deltas]
        # The generator would take its type from the maps, but bfloat16 cannot hold pixel coordinates.
        self.anchor_generator.set_cell_anchors(torch.float32, maps[0].device)
        sizes = [list(m.shape[-2:]) for m in maps]
        strides = [[stride, stride] for stride in MAP_STRIDES]
        anchors: list[Tensor] = self.anchor_generator.grid_anchors(sizes, strides)
        return torch.cat(flat_logits, 1), torch.cat(flat_deltas, 1), anchors

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        targets: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        loss_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of sampled anchors and L1 loss of the deltas of the positive ones, both divided by the number
        of images times the sample size.

        Args:
            logits, deltas: (b, k) and (b, k, 4).
            anchors: (k, 4) of all maps.
            targets: (n, 4) boxes of each image, n may be 0.
            generators: of each image's sample, on the CPU.
            loss_weights: (b,) of the images; None for 1.
        """
        objectness_losses, box_losses = [], []
        for i, generator in enumerate(generators):
            matches = match(anchors, targets[i])
            positive = (matches.ious >= _POSITIVE_IOU) | matches.is_best_of_target
            negative = (matches.ious < _NEGATIVE_IOU) & ~positive
            index = sample(positive, negative, _ANCHORS_PER_IMAGE, _POSITIVE_FRACTION, generator)
            labels = positive[index].float()
            objectness_losses.append(
                functional.binary_cross_entropy_with_logits(logits[i, index], labels, reduction="sum")
            )
            index = index[positive[index]]
            target_deltas = encode(targets[i][matches.targets[index]], anchors[index], BOX_WEIGHTS)
            box_losses.append(functional.l1_loss(deltas[i, index], target_deltas, reduction="sum"))
        losses = torch.stack([torch.stack(objectness_losses), torch.stack(box_losses)])
        losses = losses if loss_weights is None else losses * loss_weights
        return losses[0].mean() / _ANCHORS_PER_IMAGE, losses[1].mean() / _ANCHORS_PER_IMAGE

    @torch.no_grad()
    def propose(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        count: int,
        *,
        training: bool,
    ) -> list[Tensor]:
        """At most ``count`` boxes (k, 4) per image after NMS, best first, clipped to its (height, width)."""
        pre_nms_top = _PRE_NMS_TOP_TRAIN if training else max(PRE_NMS_TOP_TEST, count)
        top_logits, top_boxes, map_indices = [], [], []
        counts = [len(map_anchors) for map_anchors in anchors]
        per_map = zip(logits.split(counts, 1), deltas.split(counts, 1), anchors, strict=True)
        for map_index, (map_logits, map_deltas, map_anchors) in enumerate(per_map):
            values, index = map_logits.topk(min(pre_nms_top, len(map_anchors)), 1)
            selected_deltas = map_deltas.gather(1, index[..., None].expand(-1, -1, 4))
            top_logits.append(values)
            top_boxes.append(decode(selected_deltas, map_anchors[index], BOX_WEIGHTS))
            map_indices.append(torch.full_like(index[0], map_index))
        return [
            _nms(clip_boxes_to_image(image_boxes, size), image_logits, torch.cat(map_indices), count)
            for image_boxes, image_logits, size in zip(
                torch.cat(top_boxes, 1), torch.cat(top_logits, 1), sizes, strict=True
            )
        ]


def _nms(boxes: Tensor, scores: Tensor, map_indices: Tensor, count: int) -> Tensor:
    """The best ``count`` boxes, without those that overlap a better one of the same map."""
    usable = is_proper(boxes) & torch.isfinite(scores)
    boxes, scores, map_indices = boxes[usable], scores[usable], map_indices[usable]
    return boxes[batched_nms(boxes, scores, map_indices, NMS_IOU)[:count]]

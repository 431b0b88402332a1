"""Where masks may be: the region proposal network (Ren et al. 2015, arXiv 1506.01497) on five maps of a feature pyramid
network (Lin et al. 2017, arXiv 1612.03144), with HASSOD's settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms

from masktree.models.cascade.boxes import Weights, clip, decode, encode, overlaps, proper, sample

STRIDES = (4, 8, 16, 32, 64)
_SIDES = (32, 64, 128, 256, 512)  # of anchors, one per map
_ASPECTS = (0.5, 1.0, 2.0)  # height to width
PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)
# From here on the values of HASSOD's configuration, and Detectron2's where it sets none.
_POSITIVE, _NEGATIVE = 0.7, 0.3  # IoU from which an anchor is a mask, below which it is none
_SAMPLED, _FRACTION = 256, 0.5  # anchors per image that are learned from; the most positives among them
_TRAIN_TOP, TEST_TOP = 2000, 1000  # anchors per map that go into the suppression of duplicates
NMS = 0.65


class ProposalNetwork(nn.Module):
    """Rates boxes of three aspects at each place of five maps, (b, channels, H/s, W/s) for s in ``STRIDES``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = RPNHead(channels, len(_ASPECTS))
        self.anchors = AnchorGenerator(tuple((side,) for side in _SIDES), (_ASPECTS,) * len(_SIDES))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits (b, k) and deltas (b, k, 4) of all k anchors, map by map, and the anchors (k_i, 4) of each map."""
        logits, deltas = self.head(list(maps))
        aspects = len(_ASPECTS)
        flat_logits = [one.permute(0, 2, 3, 1).flatten(1).float() for one in logits]
        flat_steps = [one.unflatten(1, (aspects, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for one in deltas]
        # The generator would take its type from the maps: bfloat16 has no room for pixel coordinates.
        self.anchors.set_cell_anchors(torch.float32, maps[0].device)
        sizes = [list(one.shape[-2:]) for one in maps]
        anchors = self.anchors.grid_anchors(sizes, [[stride, stride] for stride in STRIDES])
        return torch.cat(flat_logits, 1), torch.cat(flat_steps, 1), anchors

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        targets: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        loss_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of a sample of anchors, and L1 distance of the deltas of its positives, both divided by the
        number of images times that of the sample. ``targets``: (n, 4) boxes of each image, n may be 0.
        ``loss_weights``: (b,) factor on the losses of each image; None for 1."""
        objectness, distance = [], []
        for i, generator in enumerate(generators):
            found = overlaps(anchors, targets[i])
            positive = (found.ious >= _POSITIVE) | found.closest
            chosen = sample(positive, (found.ious < _NEGATIVE) & ~positive, _SAMPLED, _FRACTION, generator)
            wanted = positive[chosen].float()
            objectness.append(functional.binary_cross_entropy_with_logits(logits[i, chosen], wanted, reduction="sum"))
            own = chosen[positive[chosen]]
            code = encode(targets[i][found.targets[own]], anchors[own], PLAIN)
            distance.append(functional.l1_loss(deltas[i, own], code, reduction="sum"))
        both = torch.stack([torch.stack(objectness), torch.stack(distance)])
        both = both if loss_weights is None else both * loss_weights
        return both[0].mean() / _SAMPLED, both[1].mean() / _SAMPLED

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
        """At most ``count`` boxes (k, 4) for each image, best first, cut at its (height, width); k may be 0."""
        top = _TRAIN_TOP if training else max(TEST_TOP, count)
        kept_logits, kept_boxes, maps = [], [], []
        numbers = [len(one) for one in anchors]
        per_map = zip(logits.split(numbers, 1), deltas.split(numbers, 1), strict=True)
        for level, (own_logits, own_steps) in enumerate(per_map):
            best, where = own_logits.topk(min(top, numbers[level]), 1)
            chosen = own_steps.gather(1, where[..., None].expand(-1, -1, 4))
            kept_logits.append(best)
            kept_boxes.append(decode(chosen, anchors[level][where], PLAIN))
            maps.append(torch.full_like(where[0], level))
        scores, boxes, level_of = torch.cat(kept_logits, 1), torch.cat(kept_boxes, 1), torch.cat(maps)
        return [
            _distinct(clip(own_boxes, size), own_scores, level_of, count)
            for own_boxes, own_scores, size in zip(boxes, scores, sizes, strict=True)
        ]


def _distinct(boxes: Tensor, scores: Tensor, maps: Tensor, count: int) -> Tensor:
    """The best ``count`` boxes, without those that overlap a better one of the same map."""
    usable = proper(boxes) & torch.isfinite(scores)
    boxes, scores, maps = boxes[usable], scores[usable], maps[usable]
    return boxes[batched_nms(boxes, scores, maps, NMS)[:count]]

"""A model of three convolutions, and detections of known masks, that satisfy the interface of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.models.config import Mask2FormerConfig
from masktree.models.structures import Batch

CONFIG = Mask2FormerConfig(
    kind="unsam",
    image_size=64,
    hidden_dim=8,
    num_heads=1,
    feedforward_dim=8,
    pixel_decoder_layers=1,
    decoder_layers=1,
    num_queries=4,
)


@dataclass(frozen=True)
class PlantedDetections:
    """Masks from ``logits`` (n, h, w) on the padded input of ``canvas`` pixels; ``valid_size`` of them are the
    image."""

    scores: Tensor
    logits: Tensor
    canvas: tuple[int, int]
    valid_size: tuple[int, int]
    ancestors: Tensor | None = None
    levels: Tensor | None = None

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        logits = self.logits[start:stop, None].float()
        full = functional.interpolate(logits, self.canvas, mode="bilinear", align_corners=False)
        seen = full[..., : self.valid_size[0], : self.valid_size[1]]
        return functional.interpolate(seen, size, mode="bilinear", align_corners=False)[:, 0] > 0


class TinyModel(nn.Module):
    """One query per channel; its masks are thresholded convolutions of the image. Trained by a plain mask loss."""

    def __init__(self, config: Mask2FormerConfig = CONFIG, *, wants_cues: bool = False) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = wants_cues
        self.body = nn.Sequential(
            nn.Conv2d(3, config.hidden_dim, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(config.hidden_dim, config.hidden_dim, 3, 2, 1),
            nn.ReLU(),
        )
        self.masks = nn.Conv2d(config.hidden_dim, config.num_queries, 1)

    def logits(self, images: Tensor) -> Tensor:
        return self.masks(self.body(images - 0.5))

    def losses(self, batch: Batch, num_masks: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.logits(batch.images)
        number = sum(len(targets.masks) for targets in batch.targets) if num_masks is None else num_masks
        total = logits.sum() * 0
        for own, targets, seed in zip(logits, batch.targets, batch.seeds, strict=True):
            generator = torch.Generator().manual_seed(int(seed))
            order = torch.randperm(len(own), generator=generator)[: len(targets.masks)].to(own.device)
            wanted = functional.interpolate(targets.masks[None, : len(order)].float(), own.shape[-2:], mode="area")[0]
            loss = functional.binary_cross_entropy_with_logits(own[order], wanted, reduction="none")
            total = total + loss.mean((1, 2)).sum()
        return {"mask": total / torch.as_tensor(number, device=total.device).clamp(min=1)}

    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> list[PlantedDetections]:
        assert (cues is not None) == self.wants_cues
        found = []
        for own, inside in zip(self.logits(images), valid_sizes, strict=True):
            scores, order = own.sigmoid().mean((1, 2)).sort(descending=True)
            canvas = (images.shape[2], images.shape[3])
            found.append(PlantedDetections(scores.float(), own[order], canvas, inside))
        return found

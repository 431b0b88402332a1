"""Detections of the cascade: boxes with a mask in each, pasted into the image when rendered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoxDetections:
    """n masks of one image as probabilities inside boxes, highest score first; ``ModelDetections``.

    Attributes:
        boxes: (n, 4) in pixels of the network's input.
        scores, levels: as in ``ModelDetections``.
        masks: (n, s, s) float32 probabilities.
        valid_size: height and width of the image within the padding.
    """

    boxes: Tensor
    scores: Tensor
    levels: Tensor
    masks: Tensor
    valid_size: tuple[int, int]
    ancestors: None = None

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """(k, height, width) bool masks ``start`` to ``stop`` at the image's own (height, width); a mask may be empty.

        Takes the memory of the result and of one float32 mask.
        """
        scale = self.boxes.new_tensor([size[1] / self.valid_size[1], size[0] / self.valid_size[0]] * 2)
        boxes, masks = self.boxes[start:stop] * scale, self.masks[start:stop]
        rendered = torch.zeros((len(boxes), *size), dtype=torch.bool, device=boxes.device)
        for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
            rows = slice(max(int(top), 0), min(int(bottom) + 1, size[0]))
            columns = slice(max(int(left), 0), min(int(right) + 1, size[1]))
            rendered[number, rows, columns] = paste_mask(masks[number], (left, top, right, bottom), rows, columns) > 0.5
        return rendered


def paste_mask(mask: Tensor, box: tuple[float, float, float, float], rows: slice, columns: slice) -> Tensor:
    """Probabilities of an (s, s) mask in ``box`` at pixel centres: bilinear between cell centres, 0 outside.

    Bilinear weights are separable, hence two small matrix products. Not torchvision's paste_masks_in_image, which
    rounds boxes to whole pixels and takes 2.7 times as long: 200 masks had a mean IoU of 0.94 with these, the smallest
    0.31.
    """
    left, top, right, bottom = box
    y_weights = _linear_weights(rows, top, bottom, mask)
    x_weights = _linear_weights(columns, left, right, mask)
    with torch.autocast(mask.device.type, enabled=False):
        return y_weights @ mask @ x_weights.T


def _linear_weights(pixels: slice, start: float, stop: float, mask: Tensor) -> Tensor:
    """(pixels, s) weight of each of s cells between ``start`` and ``stop`` at pixel centres."""
    centres = torch.arange(pixels.start, pixels.stop, device=mask.device, dtype=mask.dtype) + 0.5
    positions = (centres - start) / max(stop - start, 1e-6) * len(mask) - 0.5
    cells = torch.arange(len(mask), device=mask.device, dtype=mask.dtype)
    return (1 - (positions[:, None] - cells).abs()).clamp(min=0)

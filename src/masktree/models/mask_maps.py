"""Masks as logits on a map of stride 4: cropping padding off, and upsampling to the pixels of the image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MASK_STRIDE = 4  # pixels of the network's input per cell of a mask


def crop_to_valid(maps: Tensor, valid_size: tuple[int, int]) -> Tensor:
    """The cells of (..., h, w) ``maps`` that the image's ``valid_size`` (height, width) pixels reach."""
    rows, columns = (-(-side // MASK_STRIDE) for side in valid_size)
    return maps[..., :rows, :columns]


def upsample_masks(logits: Tensor, valid_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(k, height, width) bool masks at the image's own ``size`` of logits (k, rows, columns), cropped to valid cells.

    One bilinear interpolation from the centres of cells to the centres of pixels, for each mask only around its
    positive cells: elsewhere no interpolated value is positive.
    """
    masks = torch.zeros((len(logits), *size), dtype=torch.bool, device=logits.device)
    positive = logits > 0
    ranges = zip(_positive_ranges(positive.any(2)), _positive_ranges(positive.any(1)), strict=True)
    y_axis, x_axis = (
        _Axis(*sides, device=logits.device) for sides in zip(logits.shape[1:], valid_size, size, strict=True)
    )
    for mask, cells, (rows, columns) in zip(masks, logits, ranges, strict=True):
        if rows is None or columns is None:
            continue
        (top, bottom), (left, right) = y_axis.pixel_range(rows), x_axis.pixel_range(columns)
        resized = x_axis.interpolate(cells.T, left, right).T.contiguous()
        mask[top:bottom, left:right] = y_axis.interpolate(resized, top, bottom) > 0
    return masks


class _Axis:
    """Positions of an image's pixels between the cells of a map, along one axis."""

    def __init__(self, num_cells: int, valid_size: int, num_pixels: int, device: torch.device) -> None:
        self.cells_per_pixel = valid_size / num_pixels / MASK_STRIDE
        positions = ((torch.arange(num_pixels, dtype=torch.float64) + 0.5) * self.cells_per_pixel - 0.5).clamp(
            0, num_cells - 1
        )
        lower = positions.long()
        self.weight = (positions - lower).float().to(device)
        self.lower = lower.to(device)
        self.upper = (self.lower + 1).clamp(max=num_cells - 1)

    def pixel_range(self, cells: tuple[int, int]) -> tuple[int, int]:
        """First and one after the last pixel whose interpolation may use the ``cells`` (first, last)."""
        low, high = cells[0] - 0.5, cells[1] + 1.5
        start = max(0, int(low / self.cells_per_pixel) - 1) if low > 0 else 0
        return start, min(len(self.lower), int(high / self.cells_per_pixel) + 2)

    def interpolate(self, values: Tensor, start: int, stop: int) -> Tensor:
        """(pixels, m) of (cells, m) values, for pixels ``start`` to ``stop``."""
        lower, upper = values[self.lower[start:stop]], values[self.upper[start:stop]]
        return lower.lerp_(upper, self.weight[start:stop, None])


def _positive_ranges(positive: Tensor) -> Iterator[tuple[int, int] | None]:
    """First and last True of each row of (k, m) bool, None for a row without."""
    first = positive.int().argmax(1)
    last = positive.shape[1] - 1 - positive.flip(1).int().argmax(1)
    for start, stop, exists in torch.stack([first, last, positive.any(1).long()], dim=1).tolist():
        yield (start, stop) if exists else None

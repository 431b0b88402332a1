"""Network inputs from images: longer side resized to one size, padded to multiples of 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.io.resize import resize_image
from masktree.models.pyramid.base import SIZE_DIVISOR
from masktree.types import RGB, checked


@dataclass(frozen=True)
class ModelInput:
    """One image as a network's input, padded with zeros on the right and below.

    Attributes:
        pixels: (3, H, W) float32 in [0, 1].
        cues: (NUM_CUES, H/2, W/2) float32, or None.
        valid_size: height and width of the image within the padding.
        size: height and width of the original image.
    """

    pixels: Tensor
    cues: Tensor | None
    valid_size: tuple[int, int]
    size: tuple[int, int]


@checked
def prepare_image(image: RGB, image_size: int, short_side: int = 0, *, cues: bool) -> ModelInput:
    """Resize an image, at least 1 x 1, and pad it: to a longer side of ``image_size`` pixels, or, unless that is 0, to
    a shorter side of ``short_side`` and a longer one of at most ``image_size``.

    The aspect ratio is kept to within half a pixel. Boundary cues are computed before padding, as the edge of the
    padding is no boundary. They take 0.5 s for 640 x 480 on one core, the rest milliseconds.
    """
    size = (image.shape[0], image.shape[1])
    if short_side:
        height, width = shortest_edge_size(size, short_side, image_size)
    else:
        height, width = (max(1, round(side * image_size / max(size))) for side in size)
    resized = resize_image(image, (height, width))
    H, W = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
    pixels = torch.zeros(3, H, W)
    pixels[:, :height, :width] = torch.tensor(resized).permute(2, 0, 1) / 255
    padded_cues = None
    if cues:
        maps = torch.from_numpy(np.ascontiguousarray(boundary_cues(resized).maps))
        padded_cues = torch.zeros(NUM_CUES, H // 2, W // 2)
        padded_cues[:, : maps.shape[1], : maps.shape[2]] = maps
    return ModelInput(pixels, padded_cues, (height, width), size)


def shortest_edge_size(size: tuple[int, int], short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) of an image of ``size`` whose shorter side is ``short_side``, or whose longer side is
    ``max_side`` where that is less; aspect kept to within half a pixel, halves rounded up. The rule of Detectron2."""
    factor = min(short_side / min(size), max_side / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def collate_inputs(inputs: Sequence[ModelInput], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Images (b, 3, H, W) and cues (b, NUM_CUES, H/2, W/2) or None, of inputs of one padded size, on ``device``."""
    images = torch.stack([item.pixels for item in inputs]).to(device)
    cues = [item.cues for item in inputs if item.cues is not None]
    return images, torch.stack(cues).to(device) if cues else None

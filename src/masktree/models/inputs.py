"""What a network sees of photographs: one size for the longer side, padded to multiples of 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.io.images import resize_image
from masktree.types import RGB, checked

STRIDE = 32


@dataclass(frozen=True)
class Input:
    """One image: ``pixels`` (3, H, W) float32 in [0, 1] and ``cues`` (NUM_CUES, H/2, W/2) float32 or None, 0 in the
    padding on the right and below; ``content``: height and width of the photograph in it; ``size``: of the original."""

    pixels: Tensor
    cues: Tensor | None
    valid_size: tuple[int, int]
    size: tuple[int, int]


@checked
def prepare(image: RGB, image_size: int, *, cues: bool) -> Input:
    """An image of any size from 1 x 1, with its longer side brought to ``image_size`` pixels, up or down.

    The aspect is kept to within half a pixel. The boundary cues are computed before padding: the edge of the padding is
    no boundary. The cues take 0.5 s for 640 x 480 on one core, the rest milliseconds.
    """
    size = (image.shape[0], image.shape[1])
    height, width = (max(1, round(side * image_size / max(size))) for side in size)
    seen = resize_image(image, (height, width))
    H, W = (-(-side // STRIDE) * STRIDE for side in (height, width))
    pixels = torch.zeros(3, H, W)
    pixels[:, :height, :width] = torch.tensor(seen).permute(2, 0, 1) / 255
    maps = None
    if cues:
        found = torch.from_numpy(np.ascontiguousarray(boundary_cues(seen).maps))
        maps = torch.zeros(NUM_CUES, H // 2, W // 2)
        maps[:, : found.shape[1], : found.shape[2]] = found
    return Input(pixels, maps, (height, width), size)


def stack(inputs: Sequence[Input], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Images (b, 3, H, W) and cues (b, NUM_CUES, H/2, W/2) or None, of inputs of one padded size, on ``device``."""
    images = torch.stack([item.pixels for item in inputs]).to(device)
    cues = [item.cues for item in inputs if item.cues is not None]
    return images, torch.stack(cues).to(device) if cues else None

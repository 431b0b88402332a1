"""Image embeddings, and the mask predictions of prompts as compact embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from masktree.models.mask2former.losses import sample_features
from masktree.models.mask_maps import MASK_STRIDE

NUM_MULTIMASK_OUTPUTS = 6  # masks of different granularity for one click (UnSAM, arXiv 2406.20081, section 3.3)
NUM_MASK_TOKENS = 1 + NUM_MULTIMASK_OUTPUTS


@dataclass(frozen=True)
class ImageEmbedding:
    """Encoder output of b images of one size, sufficient for any prompts. ``embedding[i]`` is that of one image, b = 1.

    Attributes:
        pixels: (b, hidden, H/4, W/4) pixel embeddings that masks are decoded from.
        cells: (b, hidden, h, w) map that prompt tokens attend to.
        cell_means: (b, hidden, h, w) mean pixel embedding of each cell.
        positions: (h w, hidden) position embeddings of the cells.
    """

    pixels: Tensor
    cells: Tensor
    cell_means: Tensor
    positions: Tensor

    def __getitem__(self, i: int) -> ImageEmbedding:
        return ImageEmbedding(self.pixels[i : i + 1], self.cells[i : i + 1], self.cell_means[i : i + 1], self.positions)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, including padding."""
        return self.pixels.shape[2] * MASK_STRIDE, self.pixels.shape[3] * MASK_STRIDE


@dataclass(frozen=True)
class MaskPredictions:
    """``NUM_MASK_TOKENS`` masks for each of n prompts, as embeddings and coarse maps.

    Mask 0 is for prompts that mean one mask; masks 1 to 6 are those of all granularities, in no order.

    Attributes:
        embeddings: (n, 7, hidden), whose products with ``pixels`` are the fine part of the mask logits.
        coarse: (n, 7, h, w) coarse part of the mask logits.
        ious: (n, 7) float32 predicted IoU in [0, 1].
        pixels: (hidden, H/4, W/4) pixel embeddings of the image.
        boxes: (n, 7, 4) float32, see ``masktree.models.promptable.box_losses``; None without box losses.
    """

    embeddings: Tensor
    coarse: Tensor
    ious: Tensor
    pixels: Tensor
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def logits(self, prompts: slice = slice(None), masks: slice = slice(None)) -> Tensor:
        """(k, m, H/4, W/4) float32 logits of some masks of some prompts, inside above 0; computed on each call.

        Takes k x m x H x W / 4 bytes: 29 MB for all masks of 16 prompts at 1024 pixels.
        """
        return mask_logits(self.embeddings[prompts, masks], self.coarse[prompts, masks], self.pixels)

    def selected_logits(self, index: Tensor) -> Tensor:
        """(n, H/4, W/4) float32 logits of mask ``index`` (n,) int64 of each prompt."""
        rows = torch.arange(len(index), device=index.device)
        return mask_logits(self.embeddings[rows, index, None], self.coarse[rows, index, None], self.pixels)[:, 0]

    def logits_at(self, points: Tensor, pixels: Tensor) -> Tensor:
        """(n, 7, p) float32 logits at (p, 2) points in [0, 1], fractions of width and height.

        Args:
            points: (p, 2).
            pixels: (hidden, p) pixel embeddings at the points.
        """
        fine = self.embeddings.float() @ pixels
        coarse = sample_features(self.coarse.float().flatten(0, 1), points)
        return fine + coarse.reshape(fine.shape)


def mask_logits(embeddings: Tensor, coarse: Tensor, pixels: Tensor) -> Tensor:
    """(n, m, H/4, W/4) float32 logits of (n, m, hidden) ``embeddings`` and (n, m, h, w) ``coarse`` maps.

    Coarse maps are interpolated between the centres of their cells.
    """
    fine = torch.einsum("nmd,dhw->nmhw", embeddings, pixels.to(embeddings.dtype)).float()
    return fine + functional.interpolate(coarse.float(), fine.shape[2:], mode="bilinear", align_corners=False)

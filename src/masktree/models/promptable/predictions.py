"""An image as it is asked about, and the masks that answer: vectors and small maps, made masks when they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from masktree.models.mask2former.losses import sample_features
from masktree.models.promptable.prompt_encoder import STRIDE

NUM_MULTIMASK_OUTPUTS = 6  # masks of different granularity for one click (UnSAM, arXiv 2406.20081, section 3.3)
NUM_MASK_TOKENS = 1 + NUM_MULTIMASK_OUTPUTS


@dataclass(frozen=True)
class ImageEmbedding:
    """What is kept of b images of one size to answer any questions about them.

    ``pixels`` (b, hidden, H/4, W/4): vectors that masks are made of; ``cells`` (b, hidden, h, w): the map that is
    asked; ``means`` (b, hidden, h, w): of the pixels' vectors in each cell; ``places`` (h w, hidden): where the cells
    are. ``encoded[i]`` is one image, with b = 1.
    """

    pixels: Tensor
    cells: Tensor
    means: Tensor
    places: Tensor

    def __getitem__(self, i: int) -> ImageEmbedding:
        return ImageEmbedding(self.pixels[i : i + 1], self.cells[i : i + 1], self.means[i : i + 1], self.places)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, padding included."""
        return self.pixels.shape[2] * STRIDE, self.pixels.shape[3] * STRIDE


@dataclass(frozen=True)
class MaskPredictions:
    """Of n questions: NUM_MASK_TOKENS masks each, as vectors and small maps; number 0 is the single answer, 1 to 6
    the masks of all granularities.

    ``vectors`` (n, 7, hidden): their products with the (hidden, H/4, W/4) ``pixels`` are the fine part of the masks'
    logits; ``coarse`` (n, 7, h, w): the coarse part. ``ious`` (n, 7) float32 in [0, 1]: how well each mask is expected
    to fit.
    """

    vectors: Tensor
    coarse: Tensor
    ious: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def logits(self, questions: slice = slice(None), masks: slice = slice(None)) -> Tensor:
        """(k, m, H/4, W/4) float32 logits of some masks of some questions, inside above 0; made when called.

        4 x k x m x H x W / 16 bytes: 28 MB for 16 questions at 1024 pixels.
        """
        return mask_logits(self.vectors[questions, masks], self.coarse[questions, masks], self.pixels)

    def chosen(self, which: Tensor) -> Tensor:
        """(n, H/4, W/4) float32 logits of mask ``which`` (n,) int64 of each question."""
        rows = torch.arange(len(which), device=which.device)
        return mask_logits(self.vectors[rows, which, None], self.coarse[rows, which, None], self.pixels)[:, 0]

    def at(self, points: Tensor, pixels: Tensor) -> Tensor:
        """(n, 7, p) float32 logits at (p, 2) points in [0, 1], fractions of width and height, where the image has the
        vectors ``pixels`` (hidden, p)."""
        fine = self.vectors.float() @ pixels
        coarse = sample_features(self.coarse.float().flatten(0, 1), points).unflatten(0, self.coarse.shape[:2])
        return fine + coarse


def mask_logits(vectors: Tensor, coarse: Tensor, pixels: Tensor) -> Tensor:
    """(n, m, H/4, W/4) float32 logits of (n, m, hidden) ``vectors`` and (n, m, h, w) ``coarse`` maps, which are
    interpolated between the centres of their cells."""
    fine = torch.einsum("nmd,dhw->nmhw", vectors, pixels.to(vectors.dtype)).float()
    return fine + functional.interpolate(coarse.float(), fine.shape[2:], mode="bilinear", align_corners=False)

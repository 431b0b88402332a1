"""Objectives on sampled points of masks, and where the points lie.

A mask is learned at points drawn at random, three quarters of them where the network is least sure (Kirillov et al.
2020, arXiv 1912.08193; Cheng et al. 2022, arXiv 2112.01527, section 3.3). Points are drawn once for an image, and
all of its masks and all decoder layers choose among the same candidates (our choice: each mask's points are
distributed as if it had its own, and the features under the candidates are read once; after that the logits of any
mask are a matrix product, and no map of a whole mask is ever made).

Points are (x, y) in [0, 1], as fractions of width and height.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

POINTS = 12544  # per mask (arXiv 2112.01527, section 4.1: 112 x 112)
OVERSAMPLE = 3  # candidates for each point (arXiv 1912.08193, section 3.1, as in arXiv 2112.01527)
IMPORTANCE = 0.75  # share of the points that is taken where the network is least sure (same sources)


@dataclass(frozen=True)
class LossPoints:
    """Random points of one image: ``uniform`` (p, 2), and ``candidates`` (OVERSAMPLE x p, 2) to choose from."""

    uniform: Tensor
    candidates: Tensor

    @classmethod
    def draw(cls, count: int, seed: int, device: torch.device) -> LossPoints:
        """``count`` points and their candidates, the same for the same seed on every device."""
        points = torch.rand(count * (1 + OVERSAMPLE), 2, generator=torch.Generator().manual_seed(seed)).to(device)
        return cls(points[:count], points[count:])

    @property
    def all(self) -> Tensor:
        """(p + OVERSAMPLE x p, 2)."""
        return torch.cat([self.uniform, self.candidates])


def sample_features(features: Tensor, points: Tensor) -> Tensor:
    """(d, p): a (d, h, w) map at (p, 2) points, bilinear; beyond the outer cells' centres their value goes on."""
    grid = (2 * points - 1)[None, None]
    return functional.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0, :, 0]


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """(n, p) bool: whether the pixel of each (n, H, W) mask that a point lies in belongs to the mask.

    (The authors blend neighbouring pixels; a mask is a set of points here, which needs a quarter of the reads.)
    """
    H, W = masks.shape[1:]
    x = (points[:, 0] * W).long().clamp(max=W - 1)
    y = (points[:, 1] * H).long().clamp(max=H - 1)
    return masks.flatten(1)[:, y * W + x]


def most_uncertain(logits: Tensor, count: int) -> Tensor:
    """(n, count) int64: for each of n masks the candidates whose (n, c) logits are nearest to 0, in no order."""
    return logits.detach().abs().topk(count, dim=1, largest=False, sorted=False).indices


def select_loss_points(logits: Tensor, targets: Tensor, points: LossPoints) -> tuple[Tensor, Tensor]:
    """Logits and targets, (n, p) each, at the points that the masks learn from.

    ``logits`` (n, points) and ``targets`` (n, points) bool stand at ``points.all``.
    """
    even = len(points.uniform)
    num_uncertain = int(IMPORTANCE * even)
    index = even + most_uncertain(logits[:, even:], num_uncertain)
    taken = torch.cat([logits[:, : even - num_uncertain], logits.gather(1, index)], dim=1)
    wanted = torch.cat([targets[:, : even - num_uncertain], targets.gather(1, index)], dim=1)
    return taken, wanted.to(logits.dtype)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,): binary cross-entropy of each mask, the mean over its (n, p) points."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,): 1 - (2 sum pt + 1) / (sum p + sum t + 1) over each mask's (n, p) points, p = sigmoid(logit).

    Milletari et al. 2016 (arXiv 1606.04797) with the smoothing of MaskFormer (arXiv 2107.06278).
    """
    probabilities = logits.sigmoid()
    both = (probabilities * targets).sum(1)
    return 1 - (2 * both + 1) / (probabilities.sum(1) + targets.sum(1) + 1)


def class_loss(logits: Tensor, matched: Tensor, none_weight: float) -> Tensor:
    """Sum of the weighted cross-entropies of (q, 2) logits (entity, none): 1 for matched queries, else ``none_weight``.

    ``matched`` (n,) int64: queries that are an entity.
    """
    surprise = -functional.log_softmax(logits, dim=1)
    none = torch.ones(len(logits), dtype=torch.bool, device=logits.device).index_fill(0, matched, False)
    return torch.where(none, none_weight * surprise[:, 1], surprise[:, 0]).sum()

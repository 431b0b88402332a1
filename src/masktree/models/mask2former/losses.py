"""Losses on sampled points of masks, and the assignment of queries to target masks.

A mask is trained on random points, three quarters of them where the network is most uncertain (Kirillov et al. 2020,
arXiv 1912.08193; Cheng et al. 2022, arXiv 2112.01527, section 3.3). Candidate points are drawn once per image and
shared by all of its masks and all decoder layers (our choice: the points of each mask have the same distribution as if
drawn for it alone, and the features under them are sampled once; the logits of any mask are then a matrix product, and
no map of a whole mask is made).

Points are (x, y) in [0, 1], as fractions of width and height.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

NUM_POINTS = 12544  # per mask (arXiv 2112.01527, section 4.1: 112 x 112)
OVERSAMPLE_RATIO = 3  # candidates per point (arXiv 1912.08193, section 3.1, as in arXiv 2112.01527)
IMPORTANCE_SAMPLE_RATIO = 0.75  # fraction of points taken where the network is most uncertain (same sources)
_NAN_COST = 1e6  # replaces NaN: the assignment goes on, and the loss reports it


@dataclass(frozen=True)
class LossPoints:
    """Random points of one image: ``uniform`` (p, 2), and ``candidates`` (OVERSAMPLE_RATIO x p, 2) to choose from."""

    uniform: Tensor
    candidates: Tensor

    @classmethod
    def draw(cls, count: int, seed: int, device: torch.device) -> LossPoints:
        """``count`` points and their candidates, the same for the same seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(count * (1 + OVERSAMPLE_RATIO), 2, generator=generator).to(device)
        return cls(points[:count], points[count:])

    @property
    def all(self) -> Tensor:
        """(p + OVERSAMPLE_RATIO x p, 2)."""
        return torch.cat([self.uniform, self.candidates])


def sample_features(features: Tensor, points: Tensor) -> Tensor:
    """(d, p) bilinear samples of a (d, h, w) map at (p, 2) points; constant beyond the centres of the outer cells."""
    grid = (2 * points - 1)[None, None]
    return functional.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0, :, 0]


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """(n, p) bool: the pixels of (n, H, W) masks that the points lie in.

    (The authors interpolate between pixels; nearest pixels need a quarter of the reads.)
    """
    H, W = masks.shape[1:]
    x = (points[:, 0] * W).long().clamp(max=W - 1)
    y = (points[:, 1] * H).long().clamp(max=H - 1)
    return masks.flatten(1)[:, y * W + x]


def most_uncertain(logits: Tensor, count: int) -> Tensor:
    """(n, count) int64: for each of n masks the points whose (n, c) logits are nearest to 0, in no order."""
    return logits.detach().abs().topk(count, dim=1, largest=False, sorted=False).indices


def select_loss_points(logits: Tensor, targets: Tensor, points: LossPoints) -> tuple[Tensor, Tensor]:
    """(n, p) logits and (n, p) float targets at the points that each mask is trained on.

    Args:
        logits, targets: (n, points) float and bool, at ``points.all``.
        points: of the image.
    """
    count = len(points.uniform)
    num_uncertain = int(IMPORTANCE_SAMPLE_RATIO * count)
    index = count + most_uncertain(logits[:, count:], num_uncertain)
    selected_logits = torch.cat([logits[:, : count - num_uncertain], logits.gather(1, index)], dim=1)
    selected_targets = torch.cat([targets[:, : count - num_uncertain], targets.gather(1, index)], dim=1)
    return selected_logits, selected_targets.to(logits.dtype)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) mean binary cross-entropy of (n, p) points."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) 1 - (2 sum pt + 1) / (sum p + sum t + 1) over (n, p) points, p = sigmoid(logit).

    Milletari et al. 2016 (arXiv 1606.04797) with the smoothing of MaskFormer (arXiv 2107.06278).
    """
    probabilities = logits.sigmoid()
    intersections = (probabilities * targets).sum(1)
    return 1 - (2 * intersections + 1) / (probabilities.sum(1) + targets.sum(1) + 1)


def class_loss(logits: Tensor, matched: Tensor, no_object_weight: float) -> Tensor:
    """Sum of the weighted cross-entropy of (q, 2) logits (object, no object) over queries.

    Args:
        logits: (q, 2).
        matched: (n,) int64 queries that are an object: weight 1.
        no_object_weight: of the other queries.
    """
    cross_entropy = -functional.log_softmax(logits, dim=1)
    no_object = torch.ones(len(logits), dtype=torch.bool, device=logits.device).index_fill(0, matched, False)
    return torch.where(no_object, no_object_weight * cross_entropy[:, 1], cross_entropy[:, 0]).sum()


def pair_costs(class_logits: Tensor, logits: Tensor, targets: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """(..., q, n) matching costs of queries and masks (arXiv 2112.01527).

    Weighted sum of -probability of an object; mean binary cross-entropy; dice loss.

    Args:
        class_logits: (..., q, 2) of object and no object.
        logits: (..., q, p) mask logits at p points.
        targets: (..., n, p) float, 0 or 1, at the same points.
        weights: of class, cross-entropy and dice.
    """
    probabilities = logits.sigmoid()
    # The cross-entropy of logit x and target t is softplus(x) - xt: all pairs are one matrix product.
    bce = (functional.softplus(logits).sum(-1, keepdim=True) - logits @ targets.mT) / logits.shape[-1]
    sums = probabilities.sum(-1, keepdim=True) + targets.sum(-1)[..., None, :]
    dice = 1 - (2 * probabilities @ targets.mT + 1) / (sums + 1)
    object_probability = class_logits.softmax(-1)[..., :1]
    return weights[1] * bce + weights[2] * dice - weights[0] * object_probability


def assign(costs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Minimum-cost one-to-one assignments (Carion et al. 2020, arXiv 2005.12872) of (l, q, n) costs.

    One transfer for all, then scipy's Jonker-Volgenant algorithm on the CPU (doi 10.1109/TAES.2016.140952), at most
    O(q n^2) for n <= q.

    Returns:
        For each of l: min(q, n) int64 indices of queries and of masks, on the costs' device.
    """
    arrays = torch.nan_to_num(costs.detach().float(), _NAN_COST, _NAN_COST, -_NAN_COST).cpu().numpy()
    pairs = [linear_sum_assignment(array) for array in arrays]
    return [(torch.from_numpy(rows).to(costs.device), torch.from_numpy(cols).to(costs.device)) for rows, cols in pairs]

"""Which query learns which mask: the cheapest one-to-one assignment (Carion et al. 2020, arXiv 2005.12872)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

UNKNOWN = 1e6  # cost in place of one that is not a number: assignment goes on, and the loss tells of it


def pair_costs(entity: Tensor, logits: Tensor, targets: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """(..., q, n): what each query costs for each mask, by the objectives that it would learn by (arXiv 2112.01527).

    Weighted sum of -probability of an entity; mean binary cross-entropy; 1 - (2 sum pt + 1) / (sum p + sum t + 1).

    Args:
        entity: (..., q, 2) logits of entity and none.
        logits: (..., q, p) of the queries' masks at p points.
        targets: (..., n, p) float, 0 or 1, at the same points.
        weights: of class, cross-entropy and dice.
    """
    probabilities = logits.sigmoid()
    # cross-entropy of logit x and target t is softplus(x) - xt, so that all pairs are one matrix product
    bce = (functional.softplus(logits).sum(-1, keepdim=True) - logits @ targets.mT) / logits.shape[-1]
    sizes = probabilities.sum(-1, keepdim=True) + targets.sum(-1)[..., None, :]
    dice = 1 - (2 * probabilities @ targets.mT + 1) / (sizes + 1)
    is_entity = entity.softmax(-1)[..., :1]
    return weights[1] * bce + weights[2] * dice - weights[0] * is_entity


def assign(costs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The cheapest assignment for each of (l, q, n) costs: l pairs of int64 indices of queries and of masks.

    min(q, n) pairs each, on the costs' device. One transfer for all, then the Jonker-Volgenant algorithm on the CPU
    (doi:10.1109/TAES.2016.140952), at most O(q n^2) for n <= q.
    """
    known = torch.nan_to_num(costs.detach().float(), UNKNOWN, UNKNOWN, -UNKNOWN).cpu().numpy()
    pairs = [linear_sum_assignment(cost) for cost in known]
    return [
        (torch.from_numpy(rows).to(costs.device), torch.from_numpy(columns).to(costs.device)) for rows, columns in pairs
    ]

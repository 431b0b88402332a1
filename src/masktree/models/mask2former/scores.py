"""Scores of the queries' masks: as published, or object probability, expected IoU, and soft suppression of duplicates.

Mask2Former (arXiv 2112.01527) multiplies the object probability with the mean probability inside the mask. In our own
score the second factor is the expected IoU, which also counts what the mask may have missed, and weighs more than the
first; and a mask that overlaps a better one by much loses most of its score, as in soft NMS (Bodla et al. 2017, arXiv
1704.04503), but for all masks at once, so that it can be exported. docs/log.md has what each of these is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor

DUPLICATE_IOU = 0.7  # IoU with a better mask above which a score is multiplied by 1 - IoU (our choice)
_BATCH_LOGITS = 2**24  # dense logits at a time: 64 MB


@torch.no_grad()
def published_scores(object_probabilities: Tensor, embeddings: Tensor, pixels: Tensor) -> Tensor:
    """(q,) object probability times the mean probability inside the mask, 0 for an empty mask; arguments as of
    ``mask_scores``.

    The mean is over cells of the map. The released code takes it over pixels of the image, after a bilinear resize of
    the logits, which costs as much as rendering all masks.
    """
    cells = pixels.flatten(1)
    batches = embeddings.split(max(1, _BATCH_LOGITS // cells.shape[1]))
    return object_probabilities * torch.cat([mean_inside((batch @ cells).float()) for batch in batches])


def mean_inside(logits: Tensor) -> Tensor:
    """(q,) mean probability of the cells of (q, cells) ``logits`` above 0; 0 for an empty mask."""
    masks = (logits > 0).float()
    return (logits.sigmoid() * masks).sum(1) / masks.sum(1).clamp(min=1e-6)


@torch.no_grad()
def mask_scores(object_probabilities: Tensor, embeddings: Tensor, pixels: Tensor) -> Tensor:
    """(q,) scores in [0, 1].

    Duplicates get lower scores instead of being dropped: the better one is not always the one that is wanted. Costs q^2
    products per cell of the map: three seconds of one core for 1000 masks at 1024 pixels.

    Args:
        object_probabilities: (q,).
        embeddings: (q, d) of the masks.
        pixels: (d, ...) pixel embeddings, whose products with ``embeddings`` are the mask logits.
    """
    cells, count = pixels.flatten(1), len(embeddings)
    batches = embeddings.split(max(1, _BATCH_LOGITS // cells.shape[1]))
    ious = [expected_iou((batch @ cells).float()) for batch in batches]
    intersections = embeddings.new_zeros((count, count), dtype=torch.float32)
    for some_cells in cells.split(max(1, _BATCH_LOGITS // count), dim=1):
        masks = (embeddings @ some_cells > 0).float()
        intersections += masks @ masks.T
    return suppress_duplicates(object_probabilities.sqrt() * torch.cat(ious), intersections)


def expected_iou(logits: Tensor) -> Tensor:
    """(q,) expected IoU of the masks of (q, cells) ``logits`` above 0 with masks drawn from the probabilities.

    The sum of the probabilities inside, divided by the number of cells inside plus the sum of the probabilities
    outside. 0 for an empty mask.
    """
    probabilities, masks = logits.sigmoid(), (logits > 0).float()
    intersections = (probabilities * masks).sum(1)
    return intersections / (masks.sum(1) + probabilities.sum(1) - intersections).clamp(min=1)


def suppress_duplicates(scores: Tensor, intersections: Tensor) -> Tensor:
    """(q,) ``scores``, times 1 - IoU with the most similar better mask where that is above ``DUPLICATE_IOU``.

    Of equal scores the first is the better.

    Args:
        scores: (q,).
        intersections: (q, q) float32 cells that two masks share; on the diagonal, the area of a mask.
    """
    areas, index = intersections.diagonal(), torch.arange(len(scores), device=scores.device)
    better = (scores[None] > scores[:, None]) | ((scores[None] == scores[:, None]) & (index[None] < index[:, None]))
    ious = intersections / (areas[:, None] + areas[None] - intersections).clamp(min=1)
    max_iou = torch.where(better, ious, 0.0).max(1).values
    return scores * torch.where(max_iou > DUPLICATE_IOU, 1 - max_iou, 1.0)

"""What a mask of a query is worth: how surely it is an entity, how well it is drawn, whether a better one is the same.

Mask2Former (arXiv 2112.01527) takes the probability of an entity times the mean probability inside the mask. Here (our
choice) the second is the expected IoU, which also counts what the mask may have missed, and weighs more than the first;
and of masks that overlap by much all but the best lose most of their score, as in soft NMS (Bodla et al. 2017, arXiv
1704.04503), but all at once, so that it can be exported. docs/log.md has what each of these is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor

COPY = 0.7  # IoU with a better mask above which a score is multiplied by 1 - IoU (our choice)
_AT_ONCE = 2**24  # logits that are dense at a time: 64 MB


@torch.no_grad()
def mask_scores(entity: Tensor, vectors: Tensor, pixels: Tensor) -> Tensor:
    """(q,) scores in [0, 1].

    Copies are lowered, not dropped: the better one is not always the one that is wanted. Costs q^2 products a cell of
    the map: three seconds of one core for 1000 masks at 1024 pixels.

    Args:
        entity: (q,) probability of being an entity.
        vectors, pixels: (q, d) and (d, ...), whose products are the logits of the masks.
    """
    cells, count = pixels.flatten(1), len(vectors)
    own = [expected_iou((some @ cells).float()) for some in vectors.split(max(1, _AT_ONCE // cells.shape[1]))]
    shared = vectors.new_zeros((count, count), dtype=torch.float32)
    for some in cells.split(max(1, _AT_ONCE // count), dim=1):
        inside = (vectors @ some > 0).float()
        shared += inside @ inside.T
    return lower_copies(entity.sqrt() * torch.cat(own), shared)


def expected_iou(logits: Tensor) -> Tensor:
    """(q,): of each mask, its (q, cells) ``logits`` above 0, the IoU to be expected with what the probabilities
    describe: the sum of those inside, over the cells inside and the sum of those outside. 0 for an empty mask."""
    probabilities, inside = logits.sigmoid(), (logits > 0).float()
    both = (probabilities * inside).sum(1)
    return both / (inside.sum(1) + probabilities.sum(1) - both).clamp(min=1)


def lower_copies(scores: Tensor, shared: Tensor) -> Tensor:
    """``scores`` (q,) times 1 - IoU with the most similar of the better masks, where that is above ``COPY``.

    Of equal scores the first is the better. ``shared`` (q, q) float32: cells that two masks have in common; on the
    diagonal, that a mask has.
    """
    areas, places = shared.diagonal(), torch.arange(len(scores), device=scores.device)
    better = (scores[None] > scores[:, None]) | ((scores[None] == scores[:, None]) & (places[None] < places[:, None]))
    ious = shared / (areas[:, None] + areas[None] - shared).clamp(min=1)
    most = torch.where(better, ious, 0.0).max(1).values
    return scores * torch.where(most > COPY, 1 - most, 1.0)

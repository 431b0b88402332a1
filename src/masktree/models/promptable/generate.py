"""All masks of an image, from a network that answers clicks: it is clicked everywhere, and copies are left out.

As the automatic mask generator of SAM (Kirillov et al. 2023, arXiv 2304.02643, appendix B), but copies are recognised
by their masks, not by their boxes: the parts of a tree often have the box of their whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.models.config import PromptableConfig
from masktree.models.mask2former.model import crop_to_valid, render_logits
from masktree.models.promptable.predictions import ImageEmbedding, MaskPredictions, mask_logits
from masktree.models.promptable.prompt_encoder import Prompts

NMS_IOU = 0.8  # IoU above which two masks are one (our choice: between the 0.7 of SAM's boxes and exact copies)
_MEMORY = 2**28  # bytes that the questions of one pass may take (our choice)
_POOL = 2  # candidates for each mask that is kept (our choice)
_SIDE = 128  # cells along a side on which masks are compared: every second one at 1024 pixels (our choice)
_ROWS = 256  # masks compared with all others at a time


@dataclass(frozen=True)
class PromptDetections:
    """n masks of one image, best score first; satisfies ``ModelDetections``.

    ``vectors`` (n, hidden), ``coarse`` (n, h, w) and ``pixels`` as in ``MaskPredictions``; ``valid_size``: height
    and width of the image within the padding. ``stabilities`` (n,): IoU of a mask's logits cut above and below 0; None
    if not asked for.
    """

    scores: Tensor
    vectors: Tensor
    coarse: Tensor
    pixels: Tensor
    valid_size: tuple[int, int]
    stabilities: Tensor | None = None
    ancestors: Tensor | None = None
    levels: Tensor | None = None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """(k, rows, columns) float32 logits of masks ``start`` to ``stop``, without cells that are only padding."""
        logits = mask_logits(self.vectors[start:stop, None], self.coarse[start:stop, None], self.pixels)[:, 0]
        return crop_to_valid(logits, self.valid_size)

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Masks ``start`` to ``stop`` at the image's own (height, width): (k, height, width) bool."""
        return render_logits(self.logits(start, stop), self.valid_size, size)


@torch.no_grad()
def generate_masks(
    decode: Callable[[ImageEmbedding, Prompts], MaskPredictions],
    encoded: ImageEmbedding,
    valid_size: tuple[int, int],
    config: PromptableConfig,
    *,
    points: Tensor | None = None,
    points_per_batch: int | None = None,
    pred_iou_thresh: float = 0.0,
    stability_score_thresh: float = 0.0,
    stability_score_offset: float | None = None,
) -> PromptDetections:
    """The masks of all granularities at points of an image, of which ``content`` (height, width) is no padding; best
    first by the IoU that the network expects.

    Of masks with an IoU above ``NMS_IOU`` the best stays; at most ``config.max_detections`` are kept. 6 x points masks
    are asked for, and never more than those of a pass are made at a time.

    Args:
        points: (k, 2) x and y in pixels of the network's input; None: ``config.points_per_side`` along the longer side.
        points_per_batch: points of a pass; None: as many as fit in ``_MEMORY``.
        pred_iou_thresh: of the expected IoU.
        stability_score_thresh: of the IoU of the logits cut at plus and minus the offset (arXiv 2304.02643, B).
        stability_score_offset: None: stabilities are not looked at.
    """
    points = (grid_points(valid_size, config.points_per_side) if points is None else points).to(encoded.pixels.device)
    points_per_batch = points_per_batch or max(1, _MEMORY // (20 * config.hidden_dim * len(encoded.places)))
    most = _POOL * config.max_detections
    best: list[Tensor] = []
    for some in points.split(points_per_batch):
        ones = torch.ones(len(some), 1, dtype=torch.int64, device=some.device)
        answers = decode(encoded, Prompts(some[:, None], ones))
        found = _candidates(answers, valid_size, pred_iou_thresh, stability_score_thresh, stability_score_offset)
        best = [torch.cat(pair) for pair in zip(best, found, strict=True)] if best else found
        first = best[0].argsort(descending=True, stable=True)[:most]
        best = [value[first] for value in best]
    kept = dense_mask_nms(best[-1])[: config.max_detections]
    scores, stabilities, vectors, coarse, _ = (value[kept] for value in best)
    known = None if stability_score_offset is None else stabilities
    return PromptDetections(scores, vectors, coarse, encoded.pixels[0], valid_size, known)


def _candidates(
    answers: MaskPredictions,
    valid_size: tuple[int, int],
    pred_iou_thresh: float,
    stability_score_thresh: float,
    stability_score_offset: float | None,
) -> list[Tensor]:
    """Scores, stabilities, vectors, coarse maps and small masks of what passes the thresholds and has a cell."""
    logits = crop_to_valid(answers.logits(masks=slice(1, None)), valid_size).flatten(0, 1)
    scores = answers.ious[:, 1:].flatten()
    stabilities = torch.ones_like(scores)
    if stability_score_offset is not None:
        # Mask by mask, as the numbers of cells of a pass may be those of a thousand images.
        inner, outer = (
            torch.stack([(one > cut).sum() for one in logits])
            for cut in (stability_score_offset, -stability_score_offset)
        )
        stabilities = inner / outer.clamp(min=1)
    step = -(-max(logits.shape[1:]) // _SIDE)
    small = (logits[:, ::step, ::step] > 0).flatten(1)
    wanted = ((scores >= pred_iou_thresh) & (stabilities >= stability_score_thresh) & small.any(1)).nonzero()[:, 0]
    parts = scores, stabilities, answers.vectors[:, 1:].flatten(0, 1), answers.coarse[:, 1:].flatten(0, 1), small
    return [part[wanted] for part in parts]


def dense_mask_nms(masks: Tensor, iou: float = NMS_IOU) -> Tensor:
    """(k,) int64: of (n, p) bool masks, best first, those with no IoU above ``iou`` with a better one that is kept.

    O(n^2 p) for the products of masks, in parts.
    """
    areas = masks.sum(1).float()
    own = masks.float()
    same = np.zeros((len(masks), len(masks)), bool)
    for first in range(0, len(masks), _ROWS):
        shared = own[first : first + _ROWS] @ own.T
        union = areas[first : first + _ROWS, None] + areas - shared
        same[first : first + _ROWS] = (shared > iou * union).cpu().numpy()
    alive = np.ones(len(masks), bool)
    for i in range(len(masks)):
        if alive[i]:
            alive[i + 1 :] &= ~same[i, i + 1 :]
    return torch.from_numpy(np.flatnonzero(alive)).to(masks.device)


def grid_points(size: tuple[int, int], count: int) -> Tensor:
    """(k, 2) x and y, ``count`` along the longer side of (height, width) and as far apart along the other."""
    step = max(size) / count
    x, y = ((torch.arange(max(1, round(side / step))) + 0.5) / max(1, round(side / step)) * side for side in size[::-1])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

"""All masks of an image from a promptable network: one click per point of a grid, then mask NMS.

As in the automatic mask generator of SAM (Kirillov et al. 2023, arXiv 2304.02643, appendix B), but duplicates are found
by the IoU of masks instead of boxes: the parts of a tree often have the box of their whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.models.config import PromptableConfig
from masktree.models.mask_maps import crop_to_valid, upsample_masks
from masktree.models.promptable.predictions import ImageEmbedding, MaskPredictions, mask_logits
from masktree.models.promptable.prompt_encoder import Prompts

NMS_IOU = 0.8  # (our choice: between the 0.7 of SAM's boxes and exact duplicates)
_BATCH_BYTES = 2**28  # memory of the prompts of a batch (our choice)
_CANDIDATES_PER_MASK = 2  # candidates kept for NMS per mask of the result (our choice)
_NMS_SIDE = 128  # cells along a side of the masks in NMS: every second one at 1024 pixels (our choice)
_NMS_ROWS = 256  # masks compared with all others at a time


@dataclass(frozen=True)
class PromptDetections:
    """n masks of one image, highest score first; ``ModelDetections``.

    Attributes:
        scores: (n,) predicted IoU.
        embeddings, coarse, pixels: (n, hidden), (n, h, w) and (hidden, H/4, W/4) as in ``MaskPredictions``.
        valid_size: height and width of the image within the padding.
        stabilities: (n,) IoU of a mask's logits thresholded above and below 0; None if not computed.
    """

    scores: Tensor
    embeddings: Tensor
    coarse: Tensor
    pixels: Tensor
    valid_size: tuple[int, int]
    stabilities: Tensor | None = None
    ancestors: Tensor | None = None
    levels: Tensor | None = None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """(k, rows, columns) float32 logits of masks ``start`` to ``stop``, without cells that are only padding."""
        logits = mask_logits(self.embeddings[start:stop, None], self.coarse[start:stop, None], self.pixels)[:, 0]
        return crop_to_valid(logits, self.valid_size)

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """(k, height, width) bool masks ``start`` to ``stop`` at the image's own (height, width)."""
        return upsample_masks(self.logits(start, stop), self.valid_size, size)


@torch.no_grad()
def generate_masks(
    decode: Callable[[ImageEmbedding, Prompts], MaskPredictions],
    embedding: ImageEmbedding,
    valid_size: tuple[int, int],
    config: PromptableConfig,
    *,
    points: Tensor | None = None,
    points_per_batch: int | None = None,
    pred_iou_thresh: float = 0.0,
    stability_score_thresh: float = 0.0,
    stability_score_offset: float | None = None,
) -> PromptDetections:
    """The masks of all granularities at the points of a grid, highest predicted IoU first.

    At most ``config.max_detections`` masks survive mask NMS at ``NMS_IOU``. Six masks are predicted per point; dense
    logits are made for one batch at a time.

    Args:
        decode: of the network.
        embedding: of one image.
        valid_size: height and width of the image within the padding.
        config: of the network.
        points: (k, 2) x and y in pixels of the network's input; None: ``config.points_per_side`` along the longer side.
        points_per_batch: None: as many as fit in ``_BATCH_BYTES``.
        pred_iou_thresh: lowest predicted IoU.
        stability_score_thresh: lowest IoU of the logits thresholded at plus and minus ``stability_score_offset`` (arXiv
            2304.02643, appendix B).
        stability_score_offset: None: stabilities are not computed.
    """
    if points is None:
        points = grid_points(valid_size, config.points_per_side)
    points = points.to(embedding.pixels.device)
    points_per_batch = points_per_batch or max(1, _BATCH_BYTES // (20 * config.hidden_dim * len(embedding.positions)))
    num_candidates = _CANDIDATES_PER_MASK * config.max_detections
    best: list[Tensor] = []
    for batch in points.split(points_per_batch):
        labels = torch.ones(len(batch), 1, dtype=torch.int64, device=batch.device)
        predictions = decode(embedding, Prompts(batch[:, None], labels))
        candidates = _filter_predictions(
            predictions, valid_size, pred_iou_thresh, stability_score_thresh, stability_score_offset
        )
        best = [torch.cat(pair) for pair in zip(best, candidates, strict=True)] if best else candidates
        order = best[0].argsort(descending=True, stable=True)[:num_candidates]
        best = [value[order] for value in best]
    kept = dense_mask_nms(best[-1])[: config.max_detections]
    scores, stabilities, embeddings, coarse, _ = (value[kept] for value in best)
    return PromptDetections(
        scores,
        embeddings,
        coarse,
        embedding.pixels[0],
        valid_size,
        None if stability_score_offset is None else stabilities,
    )


def _filter_predictions(
    predictions: MaskPredictions,
    valid_size: tuple[int, int],
    pred_iou_thresh: float,
    stability_score_thresh: float,
    stability_score_offset: float | None,
) -> list[Tensor]:
    """Scores, stabilities, embeddings, coarse maps and small flat masks of the non-empty masks above the thresholds."""
    logits = crop_to_valid(predictions.logits(masks=slice(1, None)), valid_size).flatten(0, 1)
    scores = predictions.ious[:, 1:].flatten()
    stabilities = torch.ones_like(scores)
    if stability_score_offset is not None:
        # Mask by mask, to bound memory: a batch has as many cells as a thousand images.
        cuts = (stability_score_offset, -stability_score_offset)
        inner, outer = (torch.stack([(mask > cut).sum() for mask in logits]) for cut in cuts)
        stabilities = inner / outer.clamp(min=1)
    step = -(-max(logits.shape[1:]) // _NMS_SIDE)
    small = (logits[:, ::step, ::step] > 0).flatten(1)
    kept = ((scores >= pred_iou_thresh) & (stabilities >= stability_score_thresh) & small.any(1)).nonzero()[:, 0]
    embeddings, coarse = predictions.embeddings[:, 1:].flatten(0, 1), predictions.coarse[:, 1:].flatten(0, 1)
    return [value[kept] for value in (scores, stabilities, embeddings, coarse, small)]


def dense_mask_nms(masks: Tensor, iou_threshold: float = NMS_IOU) -> Tensor:
    """(k,) int64 indices of (n, p) bool masks, best first, that greedy NMS keeps. O(n^2 p) products, in blocks of rows.

    A mask is dropped if its IoU with a better kept one is above ``iou_threshold``. ``trees.nms`` has the same for
    run-length masks, which these would have to be encoded to first.
    """
    areas = masks.sum(1).float()
    flat = masks.float()
    overlaps = np.zeros((len(masks), len(masks)), bool)
    for start in range(0, len(masks), _NMS_ROWS):
        rows = slice(start, start + _NMS_ROWS)
        intersections = flat[rows] @ flat.T
        unions = areas[rows, None] + areas - intersections
        overlaps[rows] = (intersections > iou_threshold * unions).cpu().numpy()
    keep = np.ones(len(masks), bool)
    for i in range(len(masks)):
        if keep[i]:
            keep[i + 1 :] &= ~overlaps[i, i + 1 :]
    return torch.from_numpy(np.flatnonzero(keep)).to(masks.device)


def grid_points(size: tuple[int, int], points_per_side: int) -> Tensor:
    """(k, 2) x and y of a grid of ``points_per_side`` along the longer side of (height, width), as dense along the
    other."""
    step = max(size) / points_per_side
    counts = [max(1, round(side / step)) for side in size]
    y, x = ((torch.arange(count) + 0.5) / count * side for count, side in zip(counts, size, strict=True))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

"""A promptable network that is clicked at every point of a grid, with segment-anything's filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from masktree.masks import MaskTree
from masktree.prompt.network import Network
from masktree.segmenter.everything import PromptDetections, grid_points, without_copies
from masktree.segmenter.mask2former import within
from masktree.segmenter.prompts import Prompts
from masktree.segmenter.trees import MIN_AREA, tree_of
from masktree.types import RGB

if TYPE_CHECKING:
    from masktree.predict import LearnedSegmenter

POINTS = 64  # that are clicked at a time, as in segment-anything
_POOL = 2  # candidates for each mask that is kept (our choice)
_SIDE = 128  # cells along a side on which masks are compared (our choice)


def tree_of_clicks(
    segmenter: LearnedSegmenter | Any,
    image: RGB,
    grid: np.ndarray | None,
    *,
    batch: int | None,
    least: float,
    stable: float,
    offset: float,
) -> MaskTree:
    """The masks of all granularities at each point, as a tree by coverage, best score first.

    Args:
        grid: (N, 2) x and y in [0, 1]; None: as the model is configured.
        batch: points at a time; None: ``POINTS``.
        least: of the IoU that the network expects, which is the score.
        stable: least stability: IoU of the logits cut at ``offset`` and at -``offset`` (Kirillov et al. 2023, arXiv
            2304.02643, appendix B).

    Masks below ``segmenter.min_area`` or ``segmenter.min_score``, and copies of better ones, are left out, and at most
    ``config.detections`` kept. Memory: the logits of
    a batch, and the vectors and coarse maps of the candidates.
    """
    network = Network(segmenter, image)
    config, content, device = network.model.config, network.content, network.encoded.pixels.device
    points = grid_points(content, config.grid)
    if grid is not None:
        points = torch.tensor(grid * (content[1], content[0]), dtype=torch.float32)
    best: list[Tensor] = []
    with torch.inference_mode(), network.precision():
        for some in points.to(device).split(batch or POINTS):
            found = _answers(network, some, max(least, segmenter.min_score), stable, offset)
            best = [torch.cat(pair) for pair in zip(best, found, strict=True)] if best else found
            first = best[0].argsort(descending=True, stable=True)[: _POOL * config.detections]
            best = [value[first] for value in best]
        kept = without_copies(best[-1])[: config.detections]
        scores, stabilities, vectors, coarse, _ = (value[kept] for value in best)
        pictures = PromptDetections(scores, vectors, coarse, network.encoded.pixels[0], content)
        area = MIN_AREA if segmenter.min_area is None else segmenter.min_area
        return tree_of(pictures, network.size, min_area=area, stabilities=stabilities.cpu().numpy())


def _answers(network: Network, points: Tensor, least: float, stable: float, offset: float) -> list[Tensor]:
    """Scores, stabilities, vectors, coarse maps and small masks of what passes the thresholds."""
    ones = torch.ones(len(points), 1, dtype=torch.int64, device=points.device)
    answers = network.model.decode(network.encoded, Prompts(points[:, None], ones))
    logits = within(answers.logits(masks=slice(1, None)), network.content).flatten(0, 1)
    # In parts, as the numbers of cells of a batch may be those of a thousand images.
    inner, outer = (torch.stack([(one > cut).sum() for one in logits]) for cut in (offset, -offset))
    stability = inner / outer.clamp(min=1)
    scores = answers.ious[:, 1:].flatten().float()
    step = -(-max(logits.shape[1:]) // _SIDE)
    small = (logits[:, ::step, ::step] > 0).flatten(1)
    wanted = ((scores >= least) & (stability >= stable) & small.any(1)).nonzero()[:, 0]
    parts = scores, stability, answers.vectors[:, 1:].flatten(0, 1), answers.coarse[:, 1:].flatten(0, 1), small
    return [part[wanted] for part in parts]

"""A promptable network that is clicked at every point of a grid, with segment-anything's filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from masktree.models.promptable.generate import generate_masks
from masktree.models.trees import MIN_AREA, tree_of
from masktree.prompt.model import Network
from masktree.trees.masktree import MaskTree
from masktree.trees.snap import snap_to_regions
from masktree.types import RGB

if TYPE_CHECKING:
    from masktree.predict import ModelSegmenter

POINTS = 64  # that are clicked at a time, as in segment-anything


def tree_of_clicks(
    segmenter: ModelSegmenter | Any,
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
    ``config.max_detections`` kept; then they are redrawn, if the segmenter has ``snap_backbone``. Memory: the
    logits of a batch, and the vectors and coarse maps of the candidates.
    """
    network = Network(segmenter, image)
    content = network.content
    points = None if grid is None else torch.tensor(grid * (content[1], content[0]), dtype=torch.float32)
    with torch.inference_mode(), network.precision():
        found = generate_masks(
            network.model.decode,
            network.encoded,
            content,
            network.model.config,
            points=points,
            points_per_batch=batch or POINTS,
            pred_iou_thresh=max(least, segmenter.min_score),
            stability_score_thresh=stable,
            stability_score_offset=offset,
        )
        assert found.stabilities is not None
        area = MIN_AREA if segmenter.min_area is None else segmenter.min_area
        tree = tree_of(found, network.size, min_area=area, stabilities=found.stabilities.cpu().numpy())
    return tree if network.dendrogram is None else snap_to_regions(tree, network.dendrogram)

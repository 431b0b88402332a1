"""Trees as ``Detections`` of the package supervision (supervision.roboflow.com)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.mask_selection import select_masks
from masktree.trees.masktree import LEVELS, MaskTree

if TYPE_CHECKING:
    from supervision import Detections


def to_detections(
    tree: MaskTree, *, levels: Sequence[str], min_score: float, min_area: float, compact: bool
) -> Detections:
    """See :meth:`masktree.MaskTree.to_detections`."""
    try:
        import supervision
    except ImportError as error:
        raise InputError(
            "expected the package supervision, which defines Detections; got none; pip install supervision"
        ) from error
    if compact and not hasattr(supervision, "CompactMask"):
        raise InputError(
            f"expected a supervision with CompactMask; got version {supervision.__version__}; "
            "leave out compact, or pip install --upgrade supervision"
        )
    keep = select_masks(tree, levels=levels, min_score=min_score, min_area=min_area)
    ids = np.flatnonzero(keep)
    parents = hierarchy.reparent(tree.parents, keep)  # among the kept masks
    kept = [tree.rles[index] for index in ids.tolist()]
    boxes = tree.boxes[ids]
    xyxy = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    if compact:
        records = [{"size": list(tree.size), "counts": text} for text in kept]
        # Its boxes end with the last pixel, those of Detections behind it
        mask = supervision.CompactMask.from_coco_rle(records, xyxy - [0, 0, 1, 1], tree.size)
    else:
        mask = np.zeros((len(kept), *tree.size), bool)
        for row, dense in zip(mask, rle.decode_runs(rle.runs(kept, tree.size), tree.size), strict=True):
            row[:] = dense
    names = np.array(LEVELS)[tree.levels[ids]]
    return supervision.Detections(
        xyxy=xyxy.astype(np.float32),
        mask=mask,
        confidence=tree.scores[ids],
        class_id=tree.levels[ids].astype(int),
        data={
            "id": ids,
            "parent_id": np.where(parents >= 0, ids[parents], -1) if len(ids) else ids,
            "level": names,
            "granularity": tree.granularities[ids],
            "class_name": names,
        },
    )

"""One image's tree as COCO annotations, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from masktree.errors import FormatError
from masktree.masks import LEVELS, MaskTree

CATEGORY_ID = 1
CATEGORY = {"id": CATEGORY_ID, "name": "entity", "supercategory": "entity"}
MAX_MASKS = 10_000  # annotation ids are image id * MAX_MASKS + index: unique without counting across shards


def annotations_of(tree: MaskTree, image_id: int) -> list[dict[str, Any]]:
    """COCO annotations with ids that are unique over the whole label set."""
    if len(tree) > MAX_MASKS:
        raise FormatError(f"expected at most {MAX_MASKS} masks per image; got {len(tree)}; raise min_area")
    return tree.to_coco(image_id=image_id, first_id=image_id * MAX_MASKS, category_id=CATEGORY_ID)


def tree_of(annotations: Sequence[dict[str, Any]], size: tuple[int, int]) -> MaskTree:
    """The tree of one image's annotations with compressed RLE.

    Raises:
        FormatError: an annotation has another size, no compressed RLE, or an unknown parent.
    """
    position: dict[int | None, int] = {annotation["id"]: index for index, annotation in enumerate(annotations)}
    position[None] = -1
    rles = []
    for annotation in annotations:
        segmentation = annotation["segmentation"]
        counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
        if not isinstance(counts, str) or segmentation.get("size") != list(size):
            raise FormatError(
                f"annotation {annotation['id']}: expected compressed RLE of size {list(size)}; got another segmentation"
            )
        if annotation.get("parent_id") not in position:
            raise FormatError(f"annotation {annotation['id']}: parent {annotation['parent_id']} is not in its image")
        rles.append(counts.encode("ascii"))
    columns = {
        key: np.array([annotation[key] for annotation in annotations], np.float32)
        for key in ("score", "granularity", "stability")
    }
    return MaskTree(
        size=size,
        rles=tuple(rles),
        parents=np.array([position[annotation.get("parent_id")] for annotation in annotations], np.int32),
        scores=columns["score"],
        granularities=columns["granularity"],
        stabilities=columns["stability"],
        levels=np.array([LEVELS.index(annotation["level"]) for annotation in annotations], np.int8),
    )

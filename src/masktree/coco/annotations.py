"""One image's tree as COCO annotations, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import FormatError
from masktree.trees.masktree import LEVELS, MaskTree, ceil_float32

CATEGORY_ID = 1
CATEGORY = {"id": CATEGORY_ID, "name": "entity", "supercategory": "entity"}
SHARD_SHAPE: dict[str, type] = {"info": dict, "images": list, "annotations": list}
MAX_MASKS = 10_000  # annotation ids are image id * MAX_MASKS + index: unique without counting across shards


def read_info(path: Path) -> dict[str, Any]:
    """The ``info`` record of a shard, from the beginning of the file: a shard has tens of megabytes.

    Raises:
        FormatError: no shard of ours.
    """
    head = b""
    with path.open("rb") as handle:
        while b', "images": [' not in head and (block := handle.read(1 << 16)):
            head += block
    try:
        info = json.loads(head.partition(b', "images": [')[0] + b"}")["info"]
        if not isinstance(info["failures"], list) or not isinstance(info["statistics"], dict):
            raise TypeError("failures or statistics")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected a COCO shard written by masktree; got {type(error).__name__}") from error
    return info


def group_by_image(document: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The annotations of a COCO document by image id; an image without annotations has an empty list.

    Raises:
        FormatError: an annotation of an image that is not in the document.
    """
    groups: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation["image_id"] not in groups:
            raise FormatError(f"annotation {annotation['id']}: image {annotation['image_id']} is not in its file")
        groups[annotation["image_id"]].append(annotation)
    return groups


def annotations_of(tree: MaskTree, image_id: int, sources: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """COCO annotations with ids that are unique over the whole label set; at most ``MAX_MASKS`` masks.

    ``sources``: number of each mask's source, in a merged set; becomes ``source`` of the annotation.

    Raises:
        FormatError: not one source per mask.
    """
    annotations = tree.to_coco(image_id=image_id, first_id=image_id * MAX_MASKS, category_id=CATEGORY_ID)
    if sources is None:
        return annotations
    if len(sources) != len(annotations):
        raise FormatError(f"expected a source for each of {len(annotations)} masks; got {len(sources)}")
    return [annotation | {"source": number} for annotation, number in zip(annotations, sources, strict=True)]


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
        key: np.array([annotation[key] for annotation in annotations], np.float64)
        for key in ("score", "granularity", "stability")
    }
    return MaskTree(
        size=size,
        rles=tuple(rles),
        parents=np.array([position[annotation.get("parent_id")] for annotation in annotations], np.int32),
        scores=columns["score"].astype(np.float32),
        granularities=ceil_float32(columns["granularity"]),
        stabilities=columns["stability"].astype(np.float32),
        levels=np.array([LEVELS.index(annotation["level"]) for annotation in annotations], np.int8),
    )

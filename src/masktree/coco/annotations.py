"""One image's tree of masks as COCO annotations, and back.

Beyond COCO's keys, annotations have ``parent_id``, ``level``, ``kind``, ``score``, ``granularity`` and
``stability``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from masktree.coco.masks import REMEDY, encode_segmentation
from masktree.errors import FormatError
from masktree.io.files import is_number, is_whole
from masktree.trees import hierarchy
from masktree.trees.decimals import ceil_float32
from masktree.trees.masktree import KINDS, LEVELS, MaskTree

MAX_MASKS = 10_000  # of an image: annotation ids are image id * MAX_MASKS + index, unique without a count over shards


def tree_to_annotations(tree: MaskTree, image_id: int, sources: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """COCO annotations with ids that are unique over the whole label set; at most ``MAX_MASKS`` masks.

    Args:
        tree: n masks.
        image_id: of the image, unique in the label set.
        sources: n numbers of the masks' sources, in a merged set; become ``source`` of the annotations.
    """
    annotations = tree.coco_annotations(image_id, first_id=image_id * MAX_MASKS)
    if sources is None:
        return annotations
    return [annotation | {"source": number} for annotation, number in zip(annotations, sources, strict=True)]


def read_sources(header: dict[str, Any], num_masks: int) -> list[int] | None:
    """The numbers of the masks' sources in the header of a tree file of a merged set; None in others.

    Raises:
        FormatError: not one number for each mask.
    """
    sources = header.get("sources")
    if sources is None:
        return None
    if not isinstance(sources, list) or len(sources) != num_masks or not all(map(is_whole, sources)):
        raise FormatError(f"expected a source for each of {num_masks} masks; got {reprlib.repr(sources)}")
    return sources


def tree_from_annotations(annotations: Sequence[dict[str, Any]], size: tuple[int, int], where: str) -> MaskTree:
    """The tree of one image's annotations; levels, granularities and stabilities are computed where they are missing.

    Args:
        annotations: each with a segmentation and a score in [0, 1].
        size: (height, width) of the image.
        where: file and image, for error messages.

    Raises:
        FormatError: a segmentation is missing or of another size, a parent is not in the image.
        InputError: a run-length string is damaged, the parents form a cycle, a score is out of range.
    """
    wheres = [f"{where}, annotation {annotation.get('id')}" for annotation in annotations]
    rles = tuple(encode_segmentation(a, size, w) for a, w in zip(annotations, wheres, strict=True))
    parents = read_parents(annotations, wheres)
    scores, granularities, stabilities = (
        _read_numbers(annotations, key, wheres) for key in ("score", "granularity", "stability")
    )
    if np.isnan(scores).any():
        raise FormatError(f"{wheres[np.isnan(scores).argmax()]}: expected a score in [0, 1]; got none; {REMEDY}")
    if np.isnan(granularities).any() or np.isnan(stabilities).any():
        return MaskTree.from_rles(rles, size, parents, scores=scores)
    levels, kinds = ([annotation.get(key) for annotation in annotations] for key in ("level", "kind"))
    has_kinds = all(kind in KINDS for kind in kinds)
    return MaskTree(
        size=size,
        rles=rles,
        parents=parents,
        scores=scores.astype(np.float32),
        granularities=ceil_float32(granularities),
        stabilities=stabilities.astype(np.float32),
        levels=np.array([LEVELS.index(level) for level in levels], np.int8)
        if all(level in LEVELS for level in levels)
        else hierarchy.levels(parents),
        kinds=np.array([KINDS.index(kind) if has_kinds else 0 for kind in kinds], np.int8),
    )


def _read_numbers(annotations: Sequence[dict[str, Any]], key: str, wheres: Sequence[str]) -> np.ndarray:
    """(n,) float64 numbers, NaN where there is none."""
    values = [annotation.get(key) for annotation in annotations]
    for value, where in zip(values, wheres, strict=True):
        if value is not None and not is_number(value):
            raise FormatError(f"{where}: expected {key} as a number; got {reprlib.repr(value)}; {REMEDY}")
    return np.array(values, np.float64)


def read_crowd(annotation: dict[str, Any], where: str) -> bool:
    """Whether an annotation is a region of many entities; some converters write null where it is none.

    Raises:
        FormatError: ``iscrowd`` is neither 0 nor 1.
    """
    value = annotation.get("iscrowd")
    if value not in (None, 0, 1):
        raise FormatError(f"{where}: expected iscrowd 0 or 1; got {reprlib.repr(value)}; {REMEDY}")
    return bool(value)


def parent_id(annotation: dict[str, Any]) -> Any:
    """``parent_id`` of an annotation; None where it has none."""
    return annotation.get("parent_id")


def read_parents(
    annotations: Sequence[dict[str, Any]],
    wheres: Sequence[str],
    parent_of: Callable[[dict[str, Any]], Any] = parent_id,
) -> np.ndarray:
    """(n,) int32 index of each annotation's parent, -1 for roots.

    Args:
        annotations: n annotations of one image.
        wheres: n places for error messages.
        parent_of: gives the id of an annotation's parent, None for roots.

    Raises:
        FormatError: ids are not unique, or a parent is not in the image.
    """
    parent_ids = [parent_of(annotation) for annotation in annotations]
    parents = np.full(len(annotations), -1, np.int32)
    if all(parent is None for parent in parent_ids):
        return parents
    index = {a.get("id"): i for i, a in enumerate(annotations) if not isinstance(a.get("id"), list | dict)}
    if len(index) < len(annotations):
        raise FormatError(f"{wheres[0]}: expected one id per annotation; got one twice, or no number; {REMEDY}")
    for i, parent in enumerate(parent_ids):
        if parent is None:
            continue
        if isinstance(parent, bool) or not isinstance(parent, int) or parent not in index:
            raise FormatError(
                f"{wheres[i]}: expected parent_id as the id of an annotation of the same image, or null; "
                f"got {reprlib.repr(parent)}; {REMEDY}"
            )
        parents[i] = index[parent]
    return parents
